//! Packages with a real apt, and its obstacles: locks, interrupted operations, full disks, a first boot in progress.

use crate::kit::{MIRROR, Setup, Site, fleet};

const WIDGET: &str = "- package: {name: widget, version: \"1.0-1\", hold: true}\n";

#[test]
fn a_package_is_installed_held_upgraded_and_removed() {
    let hosts = fleet().boot([Setup::new("h-1")]);
    let site = Site::only(&hosts, WIDGET);
    let host = &hosts[0];
    site.converge();
    let version = || host.sh("dpkg-query -W -f '${Version}' widget");
    assert_eq!((version(), host.sh("apt-mark showhold")), ("1.0-1".to_owned(), "widget".to_owned()));
    // Held means that an admin's upgrade leaves it alone.
    host.sh("apt-get -qq -y upgrade");
    assert_eq!(version(), "1.0-1");
    site.role("base", &WIDGET.replace("1.0-1", "1.1-1"));
    let text = site.expect(2, &["plan"]);
    assert!(text.contains("package widget  1.0-1 -> 1.1-1"), "{text}");
    site.converge();
    assert_eq!((version(), host.sh("apt-mark showhold")), ("1.1-1".to_owned(), "widget".to_owned()));
    // Back again: a held package goes where the inventory says.
    site.role("base", WIDGET);
    site.converge();
    assert_eq!(version(), "1.0-1");
    // What no role wants any more is taken away, hold and all.
    site.role("base", "[]\n");
    let text = site.expect(2, &["plan"]);
    assert!(text.contains("- package widget"), "{text}");
    site.converge();
    assert_eq!(
        host.sh("apt-mark showhold; dpkg-query -W -f '${db:Status-Abbrev}' widget 2>/dev/null || true"),
        ""
    );
}

#[test]
fn nothing_goes_that_the_plan_does_not_name() {
    let hosts = fleet().boot([Setup::new("h-1")]);
    let host = &hosts[0];
    // Somebody's own: one that widget cannot be beside, and one that needs it.
    host.sh("cd /tmp; for p in 'rival Conflicts:widget' 'rival-tools Depends:rival' 'gadget Depends:widget'; do set -- $p; mkdir -p $1/DEBIAN
             printf 'Package: %s\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@example.com>\\nDescription: x\\n%s: %s\\n' $1 ${2%:*} ${2#*:} >$1/DEBIAN/control
             dpkg-deb -b $1 >/dev/null; done; dpkg -i rival.deb rival-tools.deb");
    let there = || {
        let all = host.sh("dpkg-query -W -f '${db:Status-Abbrev}${Package}\\n' rival rival-tools gadget widget 2>/dev/null || true");
        all.lines().filter(|line| !line.starts_with("un ")).collect::<Vec<_>>().join(", ")
    };
    let site = Site::only(&hosts, WIDGET);
    let text = site.expect(1, &["apply", "--yes"]);
    assert!(
        text.contains("[E-PACKAGE-REMOVES]") && text.contains("would also remove rival-tools rival,"),
        "{text}"
    );
    assert_eq!(there(), "ii rival, ii rival-tools");
    // What the role declares absent may go.
    let absent = |name: &str| format!("- package: {{name: {name}, ensure: absent}}\n");
    site.role("base", &format!("{WIDGET}{}{}", absent("rival"), absent("rival-tools")));
    site.converge();
    // The plan takes widget away, and gadget would go with it.
    host.sh("dpkg -i /tmp/gadget.deb");
    site.role("base", "[]\n");
    let text = site.expect(1, &["apply", "--yes"]);
    assert!(text.contains("removing widget would also remove gadget,"), "{text}");
    assert_eq!((there().as_str(), host.sh("apt-mark showhold").as_str()), ("ii gadget, hi widget", "widget"));
}

#[test]
fn what_was_there_before_us_is_never_removed() {
    let hosts = fleet().boot([Setup::new("h-1").file("/etc/theirs", "644", "theirs\n")]);
    let site = Site::only(
        &hosts,
        "- package: {name: curl, hold: true}\n- file: {path: /etc/theirs, content: \"ours\\n\"}\n- file: {path: /etc/ours, content: \"ours\\n\"}\n",
    );
    site.converge();
    site.role("base", "[]\n");
    site.converge();
    let host = &hosts[0];
    assert_eq!(
        host.sh("cat /etc/theirs; command -v curl; ls /etc/ours 2>&1 || true"),
        "ours\n/usr/bin/curl\nls: cannot access '/etc/ours': No such file or directory"
    );
}

#[test]
fn a_repository_is_added_used_and_removed() {
    let hosts = fleet().boot([Setup::new("h-1").prepare(": >/etc/apt/sources.list")]);
    let role = format!(
        "- package-repository:\n    name: local\n    definition: |\n      Types: deb\n      URIs: {MIRROR}/debian/\n      Suites: ./\n      Trusted: yes\n{WIDGET}"
    );
    let site = Site::only(&hosts, &role);
    site.converge();
    assert_eq!(hosts[0].sh("dpkg-query -W -f '${Version}' widget"), "1.0-1");
    // A definition changed by hand is put right.
    hosts[0].sh("echo >>/etc/apt/sources.list.d/local.sources");
    assert_eq!(site.pending(), ["package-repository/local"]);
    site.converge();
    site.role("base", "[]\n");
    assert_eq!(site.pending(), ["package-repository/local", "package/widget"]);
    site.converge();
    assert_eq!(hosts[0].sh("ls /etc/apt/sources.list.d"), "");
    // One that cannot be reached is told before anything is done.
    site.role("base", &role.replace(":8000", ":8001"));
    let text = site.expect(1, &["apply", "--yes"]);
    assert!(
        text.contains("[E-REPOSITORY-UNREACHABLE]") && text.contains("(10.77.0.1:8001, packages): refused"),
        "{text}"
    );
    // One whose server has no such lists is a failure, and is not left there.
    site.role("base", &role.replace("/debian/", "/nowhere/"));
    let text = site.expect(1, &["apply", "--yes"]);
    assert!(text.contains("package-repository/local") && text.contains("404"), "{text}");
    assert_eq!(hosts[0].sh("ls /etc/apt/sources.list.d"), "");
}

/// A vendor's guide has been followed before us: its list has the same repository with a key of its own, and apt reads no list at
/// all when two entries of one repository differ in their keys.
#[test]
fn another_list_of_the_same_repository_is_turned_off_and_comes_back() {
    let hosts = fleet().boot([Setup::new("h-1").prepare(": >/etc/apt/sources.list")]);
    let host = &hosts[0];
    let line = format!("deb [signed-by=/usr/share/keyrings/vendor.gpg] {MIRROR}/debian/ ./");
    host.sh(&format!("echo '{line}' >/etc/apt/sources.list.d/vendor.list"));
    let role = format!(
        "- package-repository:\n    name: local\n    definition: |\n      Types: deb\n      URIs: {MIRROR}/debian/\n      Suites: ./\n      Trusted: yes\n{WIDGET}"
    );
    let site = Site::only(&hosts, &role);
    site.converge();
    assert_eq!(host.sh("dpkg-query -W -f '${Version}' widget"), "1.0-1");
    assert_eq!(
        host.sh("cat /etc/apt/sources.list.d/vendor.list"),
        format!("# replaced by provision: {line}")
    );
    host.sh("apt-get -qq update");
    // Somebody turns it on again: that is seen, and put right.
    host.sh(&format!("echo '{line}' >/etc/apt/sources.list.d/vendor.list"));
    assert_eq!(site.pending(), ["package-repository/local"]);
    site.converge();
    site.role("base", "[]\n");
    site.converge();
    assert_eq!(host.sh("cat /etc/apt/sources.list.d/vendor.list"), line);
}

/// A list of somebody else whose key the host does not have: `apt-get update` fails on the whole host, and what is wanted is there.
#[test]
fn a_foreign_list_that_fails_is_no_failure_of_ours() {
    let hosts = fleet().boot([Setup::new("h-1")]);
    let line = format!("deb [signed-by=/usr/share/keyrings/wrong.gpg] {MIRROR}/nowhere/ ./");
    hosts[0].sh(&format!("echo '{line}' >/etc/apt/sources.list.d/kubernetes.list"));
    let site = Site::only(&hosts, WIDGET);
    site.converge();
    assert_eq!(hosts[0].sh("dpkg-query -W -f '${Version}' widget"), "1.0-1");
}

#[test]
fn a_package_whose_script_fails_is_reported_with_its_last_lines() {
    let hosts = fleet().boot([Setup::new("h-1")]);
    let site = Site::only(&hosts, "- package: {name: broken}\n- file: {path: /etc/after, content: x}\n");
    let text = site.expect(1, &["apply", "--yes"]);
    assert!(text.contains("h-1 failed at package/broken (exit 100"), "{text}");
    assert!(text.contains("  | broken: this machine is not to my liking"), "{text}");
    assert_eq!(
        hosts[0].sh("ls /etc/after 2>/dev/null || echo not there"),
        "not there",
        "nothing after it ran"
    );
    // Not installed is not "as wanted": the half-configured package is still to be done.
    assert_eq!(site.pending(), ["file//etc/after", "package/broken"]);
}

#[test]
fn dpkg_that_was_cut_off_is_ended_first() {
    let hosts = fleet().boot([Setup::new("h-1")]);
    let site = Site::only(&hosts, WIDGET);
    let host = &hosts[0];
    host.sh("apt-get -qq update; cd /tmp; apt-get -qq download slow >/dev/null 2>&1");
    // Unpacked but not configured, and a journal of updates that was never merged: what a power cut leaves.
    host.sh("dpkg --unpack /tmp/slow_*.deb; cp /var/lib/dpkg/status /var/lib/dpkg/updates/0001");
    let refused = host.try_sh("apt-get -y install widget");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("dpkg was interrupted"), "the fault is there");
    site.converge();
    assert_eq!(host.sh("dpkg-query -W -f '${db:Status-Abbrev}' slow"), "ii");
}

#[test]
fn cloud_init_that_still_runs_is_waited_for() {
    let status = "#!/bin/sh\ncase $* in\n'status --wait') until [ -e /run/cloud-init-done ]; do sleep 0.2; done; echo; echo 'status: done';;\n\
                  status) [ -e /run/cloud-init-done ] && echo 'status: done' || echo 'status: running';;\nesac\n";
    let hosts = fleet().boot([Setup::new("h-1").file("/usr/bin/cloud-init", "755", status)]);
    let site = Site::only(&hosts, WIDGET);
    let text = site.expect(2, &["plan"]);
    assert!(text.contains("cloud-init is still running"), "{text}");
    let apply = site.start(&["apply", "--yes"]);
    apply.wait_for("waiting for cloud-init");
    let host = &hosts[0];
    assert!(!host.try_sh("dpkg-query -W widget").status.success(), "nothing is installed beside it");
    host.sh(": >/run/cloud-init-done");
    let ran = apply.end();
    assert_eq!(ran.code, Some(0), "{}", ran.text);
    assert_eq!(host.sh("dpkg-query -W -f '${Version}' widget"), "1.0-1");
}

/// `full` is where the file system is mounted, without the slash at its end. 3 GiB are what k0s would take and a little.
fn a_full_disk(setup: Setup, full: &str) {
    let hosts = fleet().boot([setup]);
    let host = &hosts[0];
    let site = Site::only(&hosts, "- file: {path: /var/lib/x/y, content: \"x\\n\"}\n");
    host.sh(&format!("head -c 1500M /dev/zero >{full}/ballast"));
    let text = site.expect(1, &["plan"]);
    assert!(text.contains("E-NO-SPACE") && text.contains("df -h"), "{text}");
    // What fills up while a run is under way.
    host.sh(&format!("rm {full}/ballast"));
    site.role(
        "base",
        &format!("- command: {{name: fill, wanted: full, guard: '[ -e {full}/ballast ]', apply: 'cat /dev/zero >{full}/ballast || true'}}\n- file: {{path: {full}/opt/y, content: {long}}}\n", long = "x".repeat(100_000)),
    );
    let text = site.expect(1, &["apply", "--yes"]);
    assert!(text.contains("No space left on device") && text.contains("E-NO-SPACE"), "{text}");
    assert_eq!(
        host.sh("find / -xdev -name '*.provision-new'; find /var -xdev -name '*.provision-new'"),
        "",
        "nothing is left half-written"
    );
    // Room again, and it goes on where it was.
    host.sh(&format!(": >{full}/ballast"));
    site.converge();
    assert_eq!(host.sh(&format!("wc -c <{full}/opt/y")), "100000");
}

#[test]
fn a_full_root_is_reported_before_and_during() {
    a_full_disk(Setup::new("h-1").disk("3g"), "");
}

#[test]
fn a_full_var_is_reported_before_and_during() {
    a_full_disk(Setup::new("h-1").var("3g"), "/var");
}
