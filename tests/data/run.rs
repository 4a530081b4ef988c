//! Data tests of `run`.
