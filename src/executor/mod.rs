//! The executor room.
