//! The API stand-in.
