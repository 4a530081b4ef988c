//! Small stand-ins: sudo, hostnamectl, swapoff, sysctl, curl, df.

use super::common::{Ended, Settings, fail, plain};
use crate::lab::spec::FaultKind;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// `sudo`: with the lab's password where one is set.
pub(super) fn sudo(settings: &Settings, arguments: &[&str]) -> Ended {
    let mut reads = false;
    let mut command = arguments;
    while let [option, rest @ ..] = command
        && option.starts_with('-')
    {
        reads |= *option == "-S";
        command = if *option == "-p" { rest.get(1..).unwrap_or_default() } else { rest };
        if *option == "--" {
            break;
        }
    }
    if let Some(sha256) = &settings.sudo_sha256 {
        if !reads {
            return fail(1, "sudo: a password is required");
        }
        if crate::lab::artifacts::sha256(&line()) != *sha256 {
            return fail(1, "sudo: no password was provided\nsudo: 1 incorrect password attempt");
        }
    }
    let Some((program, rest)) = command.split_first() else { return fail(1, "usage: sudo command") };
    let error = Command::new(program).args(rest).exec();
    fail(1, format!("sudo: {program}: {error}"))
}

/// Reads a line from standard input byte by byte, as sudo does: what follows it is the command's.
fn line() -> Vec<u8> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    let mut input = std::io::stdin();
    // Rust's own buffer would take more than the line.
    while rustix::io::read(&mut input, &mut byte).is_ok_and(|n| n == 1) && byte != *b"\n" {
        line.push(byte[0]);
    }
    line
}

/// `hostnamectl set-hostname NAME`.
pub(super) fn hostnamectl(arguments: &[&str]) -> Ended {
    let words = plain(arguments, &[]);
    let [_, name, ..] = words[..] else { return Ok(()) };
    std::fs::write("/etc/hostname", format!("{name}\n"))
        .or_else(|error| fail(1, format!("Could not set static hostname: {error}")))
}

/// `swapoff -a`.
pub(super) fn swapoff() -> Ended {
    std::fs::write("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n")
        .or_else(|error| fail(255, format!("swapoff: {error}")))
}

/// `sysctl KEY` and `sysctl -w KEY=VALUE`.
pub(super) fn sysctl(arguments: &[&str]) -> Ended {
    for word in arguments.iter().filter(|a| !a.starts_with('-')) {
        let (key, value) = word.split_once('=').map_or((*word, None), |(k, v)| (k, Some(v)));
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        let result = match value {
            Some(value) => std::fs::write(&path, format!("{value}\n")).map(|()| value.to_owned()),
            None => std::fs::read_to_string(&path),
        };
        match result {
            Ok(text) => println!("{key} = {}", text.trim()),
            Err(_) => return fail(255, format!("sysctl: cannot stat {path}: No such file or directory")),
        }
    }
    Ok(())
}

/// `curl -o FILE URL` over plain HTTP, which is all that the lab's mirror speaks.
pub(super) fn curl(arguments: &[&str]) -> Ended {
    let file = arguments.iter().skip_while(|a| **a != "-o").nth(1);
    let words = plain(arguments, &["-o", "--connect-timeout", "--retry", "--max-time"]);
    let Some((place, path)) =
        words.last().and_then(|u| u.strip_prefix("http://")).and_then(|u| u.split_once('/'))
    else {
        return fail(6, "curl: (6) LAB: only the lab's own mirror can be reached");
    };
    let get = || -> std::io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(crate::lab::net::MIRROR)?;
        write!(stream, "GET /{path} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer =
        get().or_else(|error| fail(7, format!("curl: (7) Failed to connect to {place}: {error}")))?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        return fail(22, "curl: (22) The requested URL returned error: 404");
    }
    let body = answer.windows(4).position(|w| w == b"\r\n\r\n").map(|n| &answer[n + 4..]).unwrap_or_default();
    let result = match file {
        Some(file) => std::fs::write(file, body),
        None => std::io::stdout().write_all(body),
    };
    result.or_else(|error| fail(23, format!("curl: (23) {error}")))
}

/// `df -Pk`: a roomy disk, or a full one.
pub(super) fn df(settings: &Settings, arguments: &[&str]) -> Ended {
    let free = if settings.faults.contains(&FaultKind::DiskFull) { 1024 } else { 200u64 << 20 };
    println!("Filesystem     1024-blocks      Used Available Capacity Mounted on");
    for path in arguments.iter().filter(|a| !a.starts_with('-')) {
        println!("/dev/lab         268435456  10485760 {free}       5% {path}");
    }
    Ok(())
}
