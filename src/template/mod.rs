//! The template room.
