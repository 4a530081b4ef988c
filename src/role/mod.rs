//! The role room.
