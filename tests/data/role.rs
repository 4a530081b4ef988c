//! Data tests of `role`.
