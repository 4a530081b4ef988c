//! The contract suite of the API stand-in.
