//! apt's locks, held by other processes. First by name, as one of these tests takes two minutes.

use crate::kit::{Host, Setup, Site, fleet, until};

const WIDGET: &str = "- package: {name: widget, version: \"1.0-1\", hold: true}\n";

/// Takes a lock as apt and dpkg take it, by fcntl, for some seconds, and waits until it is held.
fn hold(host: &Host, path: &str, seconds: u32) {
    let program = format!(
        "use Fcntl; open(my $f, \">\", \"{path}\"); my $l = pack(\"s s x4 q q i x4\", F_WRLCK, 0, 0, 0, 0); \
         fcntl($f, F_SETLK, $l) or die; open(my $t, \">\", \"/run/held\"); close $t; sleep {seconds}"
    );
    host.sh(&format!("systemd-run --quiet --unit=holder perl -e '{program}'"));
    until("the lock", || host.try_sh("[ -e /run/held ]").status.success().then_some(()));
}

fn refused(host: &Host, command: &str) {
    let refused = host.try_sh(command);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("Could not get lock"), "the fault is there: {refused:?}");
}

#[test]
fn one_held_for_two_minutes_is_waited_for() {
    let hosts = fleet().boot([Setup::new("h-1")]);
    let site = Site::only(&hosts, WIDGET);
    let host = &hosts[0];
    host.sh("apt-get -qq update");
    hold(host, "/var/lib/dpkg/lock-frontend", 120);
    refused(host, "apt-get -y install widget");
    site.expect(0, &["apply", "--yes"]);
    assert_eq!(
        host.sh("dpkg-query -W -f '${Version}\\n' widget; systemctl is-active holder || true"),
        "1.0-1\ninactive"
    );
    let text = site.expect(0, &["plan"]);
    assert!(text.contains("in sync"), "{text}");
}

#[test]
fn package_lists_updated_by_another_process_are_waited_for() {
    let hosts = fleet().boot([Setup::new("h-1")]);
    let site = Site::only(&hosts, WIDGET);
    // The lock of the lists is another one than dpkg's; apt-daily holds it for as long as a mirror is slow.
    hold(&hosts[0], "/var/lib/apt/lists/lock", 6);
    refused(&hosts[0], "apt-get update");
    site.expect(0, &["apply", "--yes"]);
    assert_eq!(hosts[0].sh("dpkg-query -W -f '${Version}' widget"), "1.0-1");
}

#[test]
fn one_that_a_slow_package_holds_is_waited_for() {
    let hosts = fleet().boot([Setup::new("h-1")]);
    let site = Site::only(&hosts, WIDGET);
    let host = &hosts[0];
    host.sh("apt-get -qq update");
    host.sh("systemd-run --quiet --unit=other apt-get -y install slow");
    until("the lock", || host.try_sh("pgrep -f 'postinst configure'").status.success().then_some(()));
    site.expect(0, &["apply", "--yes"]);
    assert_eq!(host.sh("cat /etc/slow.done; dpkg-query -W -f '${Version}' widget"), "whole\n1.0-1");
}
