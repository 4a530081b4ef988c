//! Exit codes, one meaning each (`docs/reference/exit-codes.md`).

/// In sync, or done.
pub(super) const DONE: u8 = 0;
/// Failed, hosts unobserved, or wrong input or usage.
pub(super) const FAILED: u8 = 1;
/// Changes pending (`plan`, `diff`).
pub(super) const PENDING: u8 = 2;
/// Refused by policy: a stale plan, a hazard beyond the approved ones.
pub(super) const REFUSED: u8 = 3;
/// Another run is in progress.
pub(super) const LOCKED: u8 = 4;
/// Interrupted by a signal.
pub(super) const INTERRUPTED: u8 = 130;
