//! Tier 2: the lab. Real SSH, real shell programs, simulated machines.

mod executor;
mod hosts;
mod kit;
mod reconciler;
mod scale;
mod scripts;
mod secrets;
mod story;
