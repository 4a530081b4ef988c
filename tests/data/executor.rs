//! Data tests of `executor`.
