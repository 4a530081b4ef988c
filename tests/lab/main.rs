//! Tier 2: the lab. Real SSH, real shell programs, simulated machines.

mod accelerators;
mod contract;
mod executor;
mod hosts;
mod kit;
mod reconciler;
mod runs;
mod story;
