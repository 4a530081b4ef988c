//! Tier 2: the lab. Real SSH, real shell programs, simulated machines.

mod contract;
mod executor;
mod hosts;
mod kit;
mod reconciler;
mod story;
