//! Tier 1: data tests. Files in, golden text out; no host, no network beyond loopback. One module a room; most rooms keep theirs beside the code.

mod accelerators;
mod artifact;
mod catalog;
mod cli;
mod executor;
mod health;
mod house;
mod inventory;
mod mistakes;
mod plan;
mod planner;
mod preflight;
mod role;
mod run;
mod screens;
mod secrets;
mod serving;
mod ssh;
