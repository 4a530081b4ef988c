//! Interruptions: of the client, of the link, by the operator; and runs over a slow and lossy link.

use crate::kit::{Host, Setup, Site, fleet, until};
use rustix::process::Signal;

/// A step that takes its time, so that the next run begins before it ends on a busy machine too, and shows that it ran once;
/// and one after it.
const SLOW: &str = "- command: {name: slow, wanted: done, guard: '[ -e /etc/slow ]', apply: 'echo begun; sleep 12; echo once >>/etc/slow; echo ended'}\n\
                    - file: {path: /etc/after, content: \"x\\n\"}\n";

fn once(host: &Host) {
    assert_eq!(host.sh("cat /etc/slow /etc/after"), "once\nx", "the step ran once and whole");
}

#[test]
fn a_laptop_that_dies_leaves_the_batch_running_and_the_next_run_finds_it() {
    let hosts = fleet().boot([Setup::new("h-1")]);
    let site = Site::only(&hosts, SLOW);
    let apply = site.start(&["apply", "--yes", "-v"]);
    apply.wait_for("begun");
    apply.signal(Signal::KILL);
    assert_eq!(apply.end().code, None);
    let text = site.expect(0, &["apply", "--yes"]);
    assert!(text.contains("waiting for batch"), "{text}");
    once(&hosts[0]);
    site.converge();
}

#[test]
fn a_machine_that_loses_its_power_is_observed_afresh() {
    let hosts = fleet().boot([Setup::new("h-1")]);
    let site = Site::only(&hosts, SLOW);
    let apply = site.start(&["apply", "--yes", "-v"]);
    apply.wait_for("begun");
    hosts[0].sh("systemctl --force --force reboot");
    let ran = apply.end();
    assert_eq!(ran.code, Some(1), "{}", ran.text);
    assert!(ran.text.contains("E-INTERRUPTED"), "{}", ran.text);
    site.converge();
    once(&hosts[0]);
}

#[test]
fn ctrl_c_once_lets_what_runs_finish_and_starts_nothing_new() {
    let hosts = fleet().boot([Setup::new("h-1")]);
    // A reboot ends a batch, so the file is in the next one.
    let role = format!(
        "{}- reboot: {{name: now, guard: '[ -e /run/never ]'}}\n- file: {{path: /etc/next, content: x}}\n",
        SLOW
    );
    let site = Site::only(&hosts, &role);
    let apply = site.start(&["apply", "--yes", "-v"]);
    apply.wait_for("begun");
    apply.signal(Signal::INT);
    let ran = apply.end();
    assert_eq!(ran.code, Some(130), "{}", ran.text);
    once(&hosts[0]);
    assert_eq!(hosts[0].sh("ls /etc/next 2>/dev/null || echo not there"), "not there");
}

#[test]
fn ctrl_c_twice_detaches_and_attach_follows_to_the_end() {
    let hosts = fleet().boot([Setup::new("h-1")]);
    let site = Site::only(&hosts, SLOW);
    let apply = site.start(&["apply", "--yes", "-v"]);
    apply.wait_for("begun");
    apply.signal(Signal::INT);
    // Two signals that are both pending are one.
    apply.wait_for("topping: ");
    apply.signal(Signal::INT);
    let ran = apply.end();
    assert_eq!(ran.code, Some(130), "{}", ran.text);
    assert!(!hosts[0].try_sh("ls /etc/after").status.success(), "it detached before the end: {}", ran.text);
    let text = site.expect(0, &["attach"]);
    assert!(text.contains("1 batch finished"), "{text}");
    once(&hosts[0]);
    site.converge();
}

#[test]
fn a_link_that_falls_silent_is_found_again() {
    let hosts = fleet().boot([Setup::new("h-1")]);
    let site = Site::only(&hosts, SLOW);
    let apply = site.start(&["apply", "--yes", "-v"]);
    apply.wait_for("begun");
    let link = hosts[0].link();
    link.silence();
    // Longer than the step: its end is told when the link is back.
    std::thread::sleep(std::time::Duration::from_secs(8));
    link.speak();
    let ran = apply.end();
    assert_eq!(ran.code, Some(0), "{}", ran.text);
    once(&hosts[0]);
}

#[test]
fn a_cable_pulled_out_is_found_again() {
    let hosts = fleet().boot([Setup::new("h-1")]);
    let site = Site::only(&hosts, SLOW);
    let apply = site.start(&["apply", "--yes", "-v"]);
    apply.wait_for("begun");
    let link = hosts[0].link();
    link.unplug();
    // Longer than the step, as above.
    std::thread::sleep(std::time::Duration::from_secs(8));
    link.plug();
    let ran = apply.end();
    assert_eq!(ran.code, Some(0), "{}", ran.text);
    once(&hosts[0]);
}

#[test]
fn a_tenth_of_a_second_and_one_percent_loss_only_take_longer() {
    let hosts = fleet().boot([Setup::new("cp-1"), Setup::new("h-1")]);
    let site = Site::new(&hosts);
    let lines: Vec<_> =
        hosts.iter().map(|host| host.link().lengthen(std::time::Duration::from_millis(100), 100)).collect();
    site.converge();
    let text = site.expect(0, &["status"]);
    assert!(text.contains("fleet"), "{text}");
    assert!(lines.iter().map(|line| line.lost()).sum::<u64>() > 0, "frames were lost");
}

#[test]
fn a_planned_reboot_is_proved_by_the_boot_id() {
    let hosts = fleet().boot([Setup::new("h-1")]);
    let role = "- file: {path: /etc/wants-reboot, content: \"x\\n\"}\n\
                - reboot: {name: kernel, guard: '[ ! -e /run/reboot-wanted ] || { echo a new kernel; exit 1; }'}\n\
                - file: {path: /etc/after, content: \"x\\n\"}\n";
    let site = Site::only(&hosts, role);
    hosts[0].sh(": >/run/reboot-wanted");
    let boot = || hosts[0].sh("cat /proc/sys/kernel/random/boot_id");
    let before = boot();
    let text = site.expect(2, &["plan"]);
    assert!(text.contains("reboot 1"), "{text}");
    site.converge();
    until("another boot", || (hosts[0].boots() == 2).then_some(()));
    assert_ne!(boot(), before);
    assert_eq!(hosts[0].sh("cat /etc/after"), "x");
}
