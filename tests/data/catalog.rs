//! Data tests of `catalog`.
