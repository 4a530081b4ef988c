//! A host's network link: created, cut, restored.

use super::fleet::{Fleet, HUB};
use super::until;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

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

/// A host keeps its network card whatever cable is in it; with another each time, others would send to the old one until
/// they ask again (tens of seconds).
fn card(number: u16) -> String {
    format!("02:77:00:00:{:02x}:{:02x}", number >> 8, number & 0xff)
}

fn plug(fleet: &Fleet, number: u16, address: Ipv4Addr) {
    let card = card(number);
    fleet.sh(&format!(
        "ip link add v{number} type veth peer name host0 address {card} netns h{number}; ip link set v{number} master br0 up
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

    /// Puts a long and lossy line in the cable's place, for as long as the value lives: every frame takes half of
    /// `round_trip`, and one in `lost_one_in` never arrives, in each direction. (netem would do it, but is not in every
    /// kernel: here two TAP devices are joined by a thread that lets frames wait and forgets some.)
    pub fn lengthen(&self, round_trip: Duration, lost_one_in: u64) -> Line {
        let (n, fleet) = (self.number, self.fleet);
        self.unplug();
        let port = 20_000 + 4 * n;
        let tap = |name: &str, near: u16, far: u16| {
            let device = format!("TUN,tun-type=tap,tun-name={name},iff-no-pi");
            let socket = format!("UDP4:127.0.0.1:{far},bind=127.0.0.1:{near}");
            let mut command = fleet.command("setpriv");
            command.args(["--pdeathsig", "KILL", "socat", &device, &socket]).spawn().expect("socat")
        };
        let (near, far) = fleet.inside(move || {
            let join = |own: u16, other: u16| {
                let socket = UdpSocket::bind(("127.0.0.1", own)).expect("a port");
                socket.connect(("127.0.0.1", other)).expect("joined");
                socket.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
                socket
            };
            (join(port, port + 1), join(port + 2, port + 3))
        });
        let ends = [tap(&format!("v{n}"), port + 1, port), tap(&format!("t{n}"), port + 3, port + 2)];
        for name in [format!("v{n}"), format!("t{n}")] {
            until(&format!("device {name}"), || {
                let shown = fleet.command("ip").args(["link", "show", "dev", &name]).output().expect("ip");
                shown.status.success().then_some(())
            });
        }
        let stop = Arc::new(AtomicBool::new(false));
        let lost = Arc::new(AtomicU64::new(0));
        let copy = |socket: &UdpSocket| socket.try_clone().expect("a copy");
        for (from, to) in [(copy(&near), copy(&far)), (far, near)] {
            let (stop, lost) = (stop.clone(), lost.clone());
            std::thread::spawn(move || carry(&from, to, round_trip / 2, lost_one_in, &stop, &lost));
        }
        fleet.sh(&format!(
            "ip link set v{n} master br0 up; ip link set t{n} address {card} netns h{n} name host0
             ip -n h{n} addr add {address}/16 dev host0; ip -n h{n} link set host0 up; ip -n h{n} route add default via {HUB}",
            address = self.address,
            card = card(n)
        ));
        Line { ends, stop, lost }
    }
}

/// A long line; gone with its value.
pub struct Line {
    ends: [Child; 2],
    stop: Arc<AtomicBool>,
    lost: Arc<AtomicU64>,
}

impl Line {
    /// Returns how many frames were lost on it.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for end in &mut self.ends {
            let _ = end.kill();
            let _ = end.wait();
        }
    }
}

/// Carries frames one way.
fn carry(
    from: &UdpSocket,
    to: UdpSocket,
    delay: Duration,
    lost_one_in: u64,
    stop: &AtomicBool,
    lost: &AtomicU64,
) {
    let (sender, waiting) = mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        for (due, frame) in waiting {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            // A frame that finds nobody is lost, as on any wire.
            let _ = to.send(&frame);
        }
    });
    let mut frame = vec![0; 4096];
    // A fixed sequence: which frames are lost is chance enough through what else happens.
    let mut dice: u64 = 0x2545_f491_4f6c_dd1d;
    while !stop.load(Ordering::Relaxed) {
        let Ok(length) = from.recv(&mut frame) else { continue };
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if (dice >> 33).is_multiple_of(lost_one_in) {
            lost.fetch_add(1, Ordering::Relaxed);
        } else if sender.send((Instant::now() + delay, frame[..length].to_vec())).is_err() {
            return;
        }
    }
}
