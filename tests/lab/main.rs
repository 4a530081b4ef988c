//! Tier 2: the lab. Real SSH, real shell programs, simulated machines.

mod accelerators;
mod executor;
mod hosts;
mod kit;
mod preflight;
mod reconciler;
mod runs;
mod storage;
mod story;
