//! Cloned, swapped and misconfigured hosts.

use crate::kit::{Setup, Site, fleet};

const FILE: &str = "- file: {path: /etc/x, content: x}\n";

#[test]
fn two_hosts_with_one_machine_id_both_stop_and_the_third_goes_on() {
    let id = "0123456789abcdef0123456789abcdef\n";
    let cloned = |name: &str| Setup::new(name).prepare(&format!("echo {} >/etc/machine-id", id.trim()));
    let hosts = fleet().boot([cloned("h-1"), cloned("h-2"), Setup::new("h-3")]);
    let site = Site::only(&hosts, FILE);
    let text = site.expect(1, &["apply", "--yes"]);
    assert!(text.contains("E-MACHINE-ID") && text.contains("same machine id as h-2"), "{text}");
    assert!(text.contains("tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id"), "what to do: {text}");
    let there = |n: usize| hosts[n].try_sh("ls /etc/x").status.success();
    assert_eq!([there(0), there(1), there(2)], [false, false, true]);
    // The command that the message names puts it right.
    hosts[1].sh("tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id");
    site.converge();
}

/// A `date` that is off by so much, as faketime has it: the kernel's clock is one for all containers and the machine.
fn clock(setup: Setup, off: &str) -> Setup {
    let library = "/usr/lib/*/faketime/libfaketime.so.1";
    let date = format!(
        "#!/bin/sh\nexec env LD_PRELOAD=\"$(echo {library})\" FAKETIME='{off}' /usr/bin/date \"$@\"\n"
    );
    setup.file("/usr/local/bin/date", "755", &date)
}

#[test]
fn a_clock_a_year_off_stops_its_host_alone() {
    let hosts = fleet().boot([Setup::new("h-1"), clock(Setup::new("h-2"), "-365d"), Setup::new("h-3")]);
    let site = Site::only(&hosts, FILE);
    let text = site.expect(1, &["apply", "--yes"]);
    assert!(text.contains("h-2 failed preflight [E-CLOCK]: its clock is 3153"), "{text}");
    assert!(text.contains("s behind this machine's") && text.contains("timedatectl set-ntp true"), "{text}");
    let there = |n: usize| hosts[n].try_sh("ls /etc/x").status.success();
    assert_eq!([there(0), there(1), there(2)], [true, false, true]);
    let text = site.expect(1, &["preflight"]);
    assert!(text.contains("s behind most other hosts'") && text.contains("2/3 hosts"), "{text}");
    hosts[1].sh("rm /usr/local/bin/date");
    site.converge();
}

#[test]
fn clocks_within_the_limit_of_this_machine_can_be_too_far_apart() {
    let hosts = fleet().boot([clock(Setup::new("h-1"), "+200"), clock(Setup::new("h-2"), "-200")]);
    let site = Site::only(&hosts, FILE);
    let text = site.expect(1, &["apply", "--yes"]);
    assert_eq!(text.matches("failed preflight [E-CLOCK]").count(), 2, "{text}");
    assert!(text.contains("ahead of h-2's; it is unknown which one is right"), "{text}");
    assert!(text.contains("behind h-1's") && text.contains("Compare `date -u` on both"), "{text}");
    hosts[0].sh("rm /usr/local/bin/date");
    hosts[1].sh("rm /usr/local/bin/date");
    site.converge();
}

#[test]
fn a_host_that_calls_itself_as_another_stops_and_the_other_goes_on() {
    let hosts = fleet().boot([Setup::new("h-1"), Setup::new("h-2")]);
    let mut site = Site::only(&hosts, FILE);
    hosts[1].sh("hostnamectl set-hostname h-1");
    let text = site.expect(1, &["apply", "--yes"]);
    assert!(
        text.contains("h-2 failed preflight [E-HOSTNAME]: hostname h-1 collides with host h-1"),
        "{text}"
    );
    assert!(text.contains("hostnamectl set-hostname"), "what to do: {text}");
    let there = |n: usize| hosts[n].try_sh("ls /etc/x").status.success();
    assert_eq!([there(0), there(1)], [true, false]);
    // Names that are kept as they are must be distinct, whatever they are: here both are the image's.
    hosts[0].sh("hostnamectl set-hostname image");
    hosts[1].sh("hostnamectl set-hostname image");
    site.os = "{ntp: [], hostname: keep}".to_owned();
    site.write();
    let text = site.expect(1, &["plan"]);
    assert_eq!(text.matches("[E-HOSTNAME]: hostname image collides").count(), 2, "{text}");
    hosts[1].sh("hostnamectl set-hostname another");
    site.converge();
}
