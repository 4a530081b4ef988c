//! Tier 2: the lab. Real SSH, real shell programs, simulated machines.

// Functions around tests fail as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod accelerators;
mod backup;
mod bundle;
mod ci_output;
mod commands;
mod contexts;
mod contract;
mod drift;
mod escape;
mod executor;
mod fabric;
mod fan_out;
mod gitops;
mod health;
mod hostile;
mod hosts;
mod killed;
mod kit;
mod kubeconfig;
mod library;
mod life;
mod machine;
mod preflight;
mod reconciler;
mod records;
mod retired;
mod runs;
mod scale;
mod scripts;
mod secrets;
mod state;
mod storage;
mod story;
mod stuck;
mod tenants;
mod twin;
mod upgrade;
