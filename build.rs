//! Links programs of the dev profile at a fixed address. In a lab each call of a tool starts the program anew, and an
//! unoptimized one that may lie anywhere has 250,000 addresses to set right before its first instruction. Release builds
//! stay relocatable, and with that hard to predict for whoever attacks them.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|v| v == value);
    if is("PROFILE", "debug") && is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo::rustc-link-arg=-no-pie");
    }
}
