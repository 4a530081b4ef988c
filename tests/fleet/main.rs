//! Tier 3: real Debian hosts with systemd, sshd, sudo and apt, in namespaces of their own. Needs root and the packages
//! that `tests/run` names; `cargo test` alone does not build it.

mod apt_lock;
mod drivers;
mod first_hour;
mod identity;
mod interrupted;
mod kit;
mod logins;
mod neuron;
mod packages;
mod preflight;
mod proxy;
