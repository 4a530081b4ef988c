//! The binary: a simulated tool inside the lab, otherwise the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    match provision::lab::entry() {
        Some(code) => code,
        None => provision::cli::main(),
    }
}
