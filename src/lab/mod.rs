//! The lab room.

pub mod api;
pub mod cluster;
