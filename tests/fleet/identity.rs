//! Hosts that are not who they seem to be.

use crate::kit::{Setup, Site, fleet};

#[test]
#[ignore = "its site has a controller that nobody answers at, and --limit looks at the cluster: see docs/verification.md"]
fn two_hosts_with_one_machine_id_both_stop_and_the_third_goes_on() {
    let id = "0123456789abcdef0123456789abcdef\n";
    let cloned = |name: &str| Setup::new(name).prepare(&format!("echo {} >/etc/machine-id", id.trim()));
    let hosts = fleet().boot([cloned("w-1"), cloned("w-2"), Setup::new("w-3")]);
    let mut site = Site::only(&hosts[0], "- file: {path: /etc/x, content: x}\n");
    add(&mut site, &hosts[1..]);
    let text = site.expect(1, &["apply", "--yes"]);
    assert!(text.contains("E-MACHINE-ID") && text.contains("it has the machine id of w-2"), "{text}");
    assert!(text.contains("tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id"), "what to do: {text}");
    let there = |n: usize| hosts[n].try_sh("ls /etc/x").status.success();
    assert_eq!([there(0), there(1), there(2)], [false, false, true]);
    // The command that the message names puts it right.
    hosts[1].sh("tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id");
    site.converge();
}

fn add(site: &mut Site, hosts: &[crate::kit::Host]) {
    let mut known = std::fs::read_to_string(site.path("known_hosts")).expect("read");
    for host in hosts {
        known += &format!("{} {}\n", host.address, host.host_key);
        site.hosts.push((host.name.clone(), "general".to_owned(), host.address.to_string(), String::new()));
    }
    std::fs::write(site.path("known_hosts"), known).expect("written");
    site.limit = Some("general".to_owned());
    site.write();
}
