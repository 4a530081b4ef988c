//! Tier 3: real Debian hosts with systemd, sshd, sudo and apt, in their own namespaces. Needs root and the packages
//! that `tests/run` names; `cargo test` alone does not build it.

// Functions around tests fail as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod apt_lock;
mod dead_node;
mod drivers;
mod first_hour;
mod identity;
mod interrupted;
mod kit;
mod life;
mod logins;
mod neuron;
mod packages;
mod preflight;
mod proxy;
mod units;
