//! Stand-ins for tools that tell of the machine: its kernel, processors, memory, processes, sockets, disks. The real ones
//! would tell of the machine that the lab runs on.

use super::common::{Ended, fail, here};
use crate::lab::machine::{ARCHITECTURE, CPUS, MEMORY_KIB, UPTIME_S, VERSION, release};
use std::os::unix::process::CommandExt;
use std::process::Command;

fn host_name() -> String {
    std::fs::read_to_string("/etc/hostname").unwrap_or_default().trim().to_owned()
}

/// `uname`, with short options.
pub(super) fn uname(arguments: &[&str]) -> Ended {
    let mut wanted: String = arguments.iter().map(|word| word.trim_start_matches('-')).collect();
    if let Some(odd) = wanted.chars().find(|c| !"asnrvmpio".contains(*c)) {
        return fail(1, format!("uname: invalid option -- '{odd}'"));
    }
    if wanted.is_empty() {
        wanted.push('s');
    } else if wanted.contains('a') {
        "snrvmo".clone_into(&mut wanted);
    }
    // In this order, however they were asked for.
    let all = [
        ('s', "Linux".to_owned()),
        ('n', host_name()),
        ('r', release(here())),
        ('v', VERSION.to_owned()),
        ('m', ARCHITECTURE.to_owned()),
        ('p', "unknown".to_owned()),
        ('i', "unknown".to_owned()),
        ('o', "GNU/Linux".to_owned()),
    ];
    let said: Vec<&str> = all.iter().filter(|(c, _)| wanted.contains(*c)).map(|(_, t)| t.as_str()).collect();
    println!("{}", said.join(" "));
    Ok(())
}

/// `arch`, `nproc`, `uptime`, `free`, `ps`, `ss`, `lsblk`, `findmnt`, `chronyc tracking`, `cloud-init status`: one answer each,
/// whatever the arguments.
pub(super) fn fixed(name: &str) -> Ended {
    match name {
        "nproc" => println!("{CPUS}"),
        "arch" => println!("{ARCHITECTURE}"),
        "uptime" => println!(" up {} day, 0:00, 0 users, load average: 0.00, 0.00, 0.00", UPTIME_S / 86_400),
        "free" => {
            let mib = MEMORY_KIB >> 10;
            println!("        total  used  free  shared  buff/cache  available");
            println!("Mem:    {mib}  {}  {}  0  0  {}", mib / 4, mib / 4 * 3, mib / 4 * 3);
        }
        "ps" => println!(
            "PID PPID STAT ELAPSED RSS COMMAND\n1 0 Ss 1-00:00:00 12000 /sbin/init\n2 1 Ss 1-00:00:00 9000 sshd"
        ),
        "ss" => println!("Netid State Local Address:Port Process\ntcp LISTEN 0.0.0.0:22 sshd"),
        "chronyc" => println!("Leap status     : Normal"),
        "cloud-init" => println!("status: done"),
        "lsblk" => println!("NAME SIZE TYPE FSTYPE MOUNTPOINT MODEL\nlab 256G disk ext4 / LAB"),
        _ => println!("TARGET SOURCE FSTYPE OPTIONS\n/ /dev/lab ext4 rw,relatime"),
    }
    Ok(())
}

/// `getconf`: the number of processors is the host's, all else the libc's.
pub(super) fn getconf(arguments: &[&str]) -> Ended {
    if matches!(arguments, ["_NPROCESSORS_ONLN" | "_NPROCESSORS_CONF"]) {
        println!("{CPUS}");
        return Ok(());
    }
    let error = Command::new("/usr/bin/getconf").args(arguments).exec();
    fail(1, format!("getconf: {error}"))
}
