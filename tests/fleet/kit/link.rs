//! A host's connection to the others: made, cut, mended.

use super::fleet::{Fleet, HUB};
use std::net::Ipv4Addr;

/// One host's link.
pub struct Link {
    pub(super) fleet: &'static Fleet,
    pub(super) number: u16,
    pub(super) address: Ipv4Addr,
}

/// Makes a host's network namespace and its link to the bridge.
pub(super) fn connect(fleet: &Fleet, number: u16, address: Ipv4Addr) {
    fleet.sh(&format!("ip netns add h{number}; ip -n h{number} link set lo up"));
    plug(fleet, number, address);
}

fn plug(fleet: &Fleet, number: u16, address: Ipv4Addr) {
    fleet.sh(&format!(
        "ip link add v{number} type veth peer name host0 netns h{number}; ip link set v{number} master br0 up
         ip -n h{number} addr add {address}/16 dev host0; ip -n h{number} link set host0 up
         ip -n h{number} route add default via {HUB}"
    ));
}

impl Link {
    /// Lets nothing through, in either direction, with both ends up: packets vanish, and nobody is told.
    pub fn silence(&self) {
        // A token bucket that no packet fits into; netem is not in every kernel.
        let n = self.number;
        let nothing = "root tbf rate 8bit burst 1 limit 1";
        self.fleet.sh(&format!(
            "tc qdisc replace dev v{n} {nothing}; ip netns exec h{n} tc qdisc replace dev host0 {nothing}"
        ));
    }

    /// Ends `silence`.
    pub fn speak(&self) {
        let n = self.number;
        self.fleet.sh(&format!("tc qdisc del dev v{n} root; ip netns exec h{n} tc qdisc del dev host0 root"));
    }

    /// Takes the cable out: the host's interface is gone.
    pub fn unplug(&self) {
        self.fleet.sh(&format!("ip link del v{}", self.number));
    }

    /// Puts a new cable in.
    pub fn plug(&self) {
        plug(self.fleet, self.number, self.address);
    }
}
