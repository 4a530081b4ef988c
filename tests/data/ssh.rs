//! Data tests of `ssh`.
