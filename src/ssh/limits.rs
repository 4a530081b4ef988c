//! Timeouts and limits of this module, and the limit on open files.

use std::time::Duration;

/// How much is done at once, and how long is waited. The defaults fit a fleet; tests want smaller ones.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Handshakes under way at once, bastions included. Measured on two cores: 127 to 135 connections a second with 32,
    /// no more without a limit; 64 leaves room for far hosts, whose handshakes mostly wait.
    pub handshakes: usize,
    /// Handshakes under way behind one bastion. sshd drops unauthenticated connections at random beyond MaxStartups 10.
    pub bastion_handshakes: usize,
    /// Sessions of one connection. sshd's MaxSessions is 10; the rest is left to a person who looks in meanwhile.
    pub sessions: usize,
    /// Unread output of one program or tunnel that is buffered; beyond that its channel is closed, since
    /// the alternative blocks every other channel of the connection (russh pull request 730).
    pub unread_bytes: usize,
    /// Waiting for a free session where the server allows fewer than `sessions`, and for its answer to a request.
    pub answer: Duration,
    /// A silent connection is asked for a sign of life after this long; after three without answer it is lost.
    pub keepalive: Duration,
    /// New keys are agreed on after so many bytes in one direction; 1 GiB as OpenSSH, and the most that russh takes.
    pub rekey_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: 64,
            bastion_handshakes: 8,
            sessions: 8,
            unread_bytes: 64 << 20,
            answer: Duration::from_secs(30),
            keepalive: Duration::from_secs(15),
            rekey_bytes: 1 << 30,
        }
    }
}

/// Enough for 20,000 hosts with a socket, a pipe and a log each. Not the hard limit itself: at 2^30 of some
/// distributions, programs that close every possible descriptor before they start would take minutes.
const WANTED_FILES: u64 = 65_536;
/// What macOS grants, regardless of its hard limit (`OPEN_MAX`).
const MODEST_FILES: u64 = 10_240;

/// Raises the soft limit on open files: 2,000 hosts are 2,000 sockets, and shells start with 256 to 1,024.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    for wanted in [WANTED_FILES, MODEST_FILES] {
        let wanted = limit.maximum.map_or(wanted, |most| most.min(wanted));
        if limit.current.is_none_or(|now| now >= wanted) {
            return;
        }
        let mut raised = limit;
        raised.current = Some(wanted);
        // Refusal leaves what there was; handshakes are limited anyway.
        if setrlimit(Resource::Nofile, raised).is_ok() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_limit_only_grows() {
        use rustix::process::{Resource, getrlimit};
        let before = getrlimit(Resource::Nofile);
        raise_file_limit();
        let after = getrlimit(Resource::Nofile);
        assert_eq!(after.maximum, before.maximum);
        let expected = before.maximum.map_or(WANTED_FILES, |most| most.min(WANTED_FILES));
        assert!(after.current.is_none_or(|now| now >= expected), "{after:?}");
    }
}
