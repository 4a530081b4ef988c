//! The status of a running lab.

use super::walls::Wall;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What a host's SSH server has counted.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct Counters {
    /// TCP connections accepted.
    pub connections: u64,
    /// Session channels opened.
    pub channels: u64,
    /// Programs started.
    pub execs: u64,
    /// Bytes that programs were given as input.
    #[serde(default)]
    pub received: u64,
}

/// The status of a running lab.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Status {
    /// The inventory's name.
    pub name: String,
    /// Its hosts.
    pub hosts: BTreeMap<String, HostStatus>,
    /// Programs of a real control plane that run in place of stand-ins.
    #[serde(default)]
    pub real: Vec<String>,
    /// Walls that are not there.
    #[serde(default)]
    pub without: Vec<Wall>,
}

/// A host of a running lab.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct HostStatus {
    /// Address of its SSH server.
    pub address: IpAddr,
    /// Port of its SSH server.
    pub port: u16,
    /// What its SSH server has counted.
    pub counters: Counters,
}
