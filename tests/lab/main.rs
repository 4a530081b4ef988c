//! Tier 2: the lab. Real SSH, real shell programs, simulated machines.

mod accelerators;
mod commands;
mod contract;
mod executor;
mod fabric;
mod health;
mod hosts;
mod killed;
mod kit;
mod preflight;
mod reconciler;
mod retired;
mod runs;
mod scale;
mod scripts;
mod secrets;
mod storage;
mod story;
mod twin;
