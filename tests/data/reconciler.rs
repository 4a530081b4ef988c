//! Data tests of `reconciler`.
