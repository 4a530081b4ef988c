//! Data tests of `report`.
