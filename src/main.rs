//! The binary: hands the command line to `cli` and exits with its code.

fn main() {}
