//! Tier 1: data tests. Files in, golden text out; no host, no network beyond loopback. One file per module; most modules keep theirs next to the code.

// Functions around tests fail as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod accelerators;
mod architecture;
mod artifact;
mod bundle;
mod catalog;
mod cli;
mod edge;
mod executor;
mod fuzz;
mod health;
mod hostile;
mod images;
mod import;
mod imports;
mod inventory;
mod markdown;
mod mistakes;
mod plan;
mod planner;
mod policy;
mod preflight;
mod published;
mod redaction;
mod removals;
mod role;
mod run;
mod schemas;
mod screens;
mod secrets;
mod serving;
mod ssh;
