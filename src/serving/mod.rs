//! The serving room.
