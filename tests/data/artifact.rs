//! Data tests of `artifact`.
