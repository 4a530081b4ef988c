//! The reconciler room.
