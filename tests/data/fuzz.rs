//! Runs every parser of external input on damaged seeds for some seconds: none may panic. The seeds are those of
//! `fuzz/seeds`, which `cargo fuzz` also uses. To run for longer:
//! PROVISION_FUZZ_RUNS=1000000 cargo test --test data fuzz

use provision::fuzz::TARGETS;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::path::Path;

/// Inputs of one target, where nothing else is asked for.
const RUNS: usize = 500;
/// The largest input, in bytes; libFuzzer's own limit.
const MOST: usize = 4096;
/// What parsers of ours may stumble over.
const PIECES: [&str; 30] = [
    "\u{1e}",
    "\u{1e}end 0\n",
    "\u{1e}step a/b\n",
    "\u{1e}done a/b 1\n",
    "\u{1e}waiting 18446744073709551615 x\n",
    "[",
    "]",
    "[1-99999]",
    "[001-",
    ",",
    "{",
    "}",
    ":",
    "- ",
    "\"",
    "é",
    "“",
    "\u{202e}",
    "\u{1f6ab}",
    "\u{feff}",
    "\0",
    "\r\n",
    "\t",
    "&a ",
    "*a",
    "<<: ",
    "!!int ",
    "|\n  ",
    "99999999999999999999",
    "-1",
];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(&folder).expect("seeds").flatten().map(|e| e.path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a seed")).collect()
}

fn damaged(seeds: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut input = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=input.len());
        let to = random.random_range(at..=input.len().min(at + 40));
        match random.random_range(0..5) {
            0 => drop(input.splice(at..to, PIECES[random.random_range(0..PIECES.len())].bytes())),
            1 => drop(input.splice(at..at, PIECES[random.random_range(0..PIECES.len())].bytes())),
            2 => drop(input.drain(at..to)),
            3 if at < input.len() => input[at] = random.random(),
            _ => {
                let other = &seeds[random.random_range(0..seeds.len())];
                let from = random.random_range(0..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
    input.truncate(MOST);
    input
}

#[test]
fn no_input_makes_a_parser_panic() {
    let runs = std::env::var("PROVISION_FUZZ_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(RUNS);
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        for seed in &seeds {
            target(seed);
        }
        let mut random = StdRng::seed_from_u64(u64::from(std::process::id()));
        for _ in 0..runs {
            let input = damaged(&seeds, &mut random);
            let ended = std::panic::catch_unwind(|| target(&input));
            assert!(ended.is_ok(), "{name} panics at {:?}", String::from_utf8_lossy(&input));
        }
    }
}

#[test]
fn libfuzzer_has_a_target_for_each_parser() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).expect("a manifest");
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml does not name {name}");
    }
}
