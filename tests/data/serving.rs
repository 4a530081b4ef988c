//! Data tests of `serving`.
