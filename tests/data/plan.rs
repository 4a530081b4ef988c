//! Data tests of `plan`.
