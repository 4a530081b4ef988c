//! The binary: a stand-in tool if it runs as one inside the lab, else the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    match provision::lab::entry() {
        Some(code) => code,
        None => provision::cli::main(),
    }
}
