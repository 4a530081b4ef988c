//! Data tests of `inventory`.
