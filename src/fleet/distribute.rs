//! Files from this machine to many hosts: each leaves it once, and hosts that have one pass it on, so that the number of those that
//! have it doubles. Where hosts cannot pass files on, this machine delivers to each.

use super::tasks::Tasks;
use crate::event::{Event, Events};
use crate::executor::{Delivered, HostTarget, PassSource};
use crate::run::Cancel;
use crate::ssh::KeyPair;
use crate::state::{Failure, HostName};
use futures::future::join_all;
use indicatif::HumanBytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

/// A host passes a file to so many others at once.
const AT_ONCE_BY_HOST: usize = 2;
/// This machine delivers to so many hosts at once where these cannot pass files on.
const AT_ONCE_FROM_HERE: usize = 8;
/// A host from which so many others could not take a file is no source any more.
const MOST_FAILURES: usize = 3;
/// A host that could not take a file from so many others gets it from this machine.
const MOST_TRIES: usize = 2;
/// How often progress is said.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// A host that files are delivered to, and how other hosts reach it.
#[derive(Clone)]
pub struct Peer {
    /// The host.
    pub host: Arc<HostTarget>,
    /// Its address for other hosts.
    pub address: String,
    /// The port of its SSH server.
    pub port: u16,
    /// The login.
    pub user: String,
}

/// A file to deliver, and the hosts that want it.
#[derive(Clone)]
pub struct Parcel {
    /// What a person calls it.
    pub title: String,
    /// Its sha256.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
    /// The file, whose content has been compared with the sum.
    pub file: Arc<File>,
    /// The hosts that want it.
    pub to: BTreeSet<HostName>,
}

/// What became of a distribution.
#[derive(Debug, Default)]
pub struct Distribution {
    /// The size of the files that any host lacked, each counted once.
    pub bytes: u64,
    /// Bytes of files that left this machine.
    pub sent: u64,
    /// Files that were delivered from this machine.
    pub from_here: usize,
    /// Files that a host took from another.
    pub passed: usize,
    /// Hosts to which something could not be delivered, and why.
    pub failures: BTreeMap<HostName, Failure>,
}

/// A part of a file, read without moving what others read.
struct From<'a> {
    file: &'a File,
    at: u64,
}

impl Read for From<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// How hosts reach each other in this run.
struct Passing {
    peers: BTreeMap<HostName, Peer>,
    key: KeyPair,
    mark: String,
    /// Sources that have let the key in, or why they did not.
    admitted: BTreeMap<HostName, OnceCell<Result<PassSource, Failure>>>,
    sent: AtomicU64,
    events: Events,
}

impl Passing {
    /// Delivers a file from this machine.
    async fn send(&self, to: &HostName, parcel: &Parcel, offset: u64) -> Result<(), Failure> {
        let Some(peer) = self.peers.get(to) else { return Ok(()) };
        let Parcel { title, sha256, size, file, .. } = parcel;
        let offset = if offset < *size { offset } else { 0 };
        let all = HumanBytes(*size);
        self.events.note(format!("{to}: delivering {title} ({all})"));
        let (mut said, mut before) = (Instant::now(), 0);
        let mut sent = |bytes: u64| {
            self.sent.fetch_add(bytes - before, Ordering::Relaxed);
            before = bytes;
            if said.elapsed() > SAY_EVERY {
                said = Instant::now();
                self.events
                    .note(format!("{to}: delivered {} of {all} of {title}", HumanBytes(offset + bytes)));
            }
        };
        let mut from = From { file, at: offset };
        peer.host.deliver(sha256, offset, size - offset, &mut from, &mut sent).await
    }

    /// Has a host take a file from another one.
    async fn pass(&self, from: &HostName, to: &HostName, parcel: &Parcel) -> Result<(), Failure> {
        let (Some(cell), Some(peer)) = (self.admitted.get(from), self.peers.get(to)) else { return Ok(()) };
        let source = cell.get_or_init(|| self.admit(from)).await.clone()?;
        peer.host.take_from(&source, &self.key, &parcel.sha256, parcel.size).await
    }

    /// Lets the key in on a source.
    async fn admit(&self, source: &HostName) -> Result<PassSource, Failure> {
        let unknown = |why: &str| {
            let message = format!("{source}: {why}");
            Failure::new(crate::state::FailureKind::Step, "E-DELIVERY", message)
        };
        let peer = self.peers.get(source).ok_or_else(|| unknown("not in this run"))?;
        let host_key = peer.host.host_key().await.ok_or_else(|| unknown("its host key is not known"))?;
        peer.host.admit(&self.key, &self.mark).await?;
        let Peer { address, port, user, .. } = peer.clone();
        Ok(PassSource { address, port, user, host_key })
    }

    /// Takes the key away wherever it was let in.
    async fn end(&self) {
        let admitted = self.admitted.iter().filter(|(_, cell)| cell.get().is_some_and(Result::is_ok));
        let hosts = admitted.filter_map(|(name, _)| Some((name, self.peers.get(name)?)));
        let dismissed = hosts.map(|(name, peer)| async move { (name, peer.host.dismiss(&self.mark).await) });
        for (name, result) in join_all(dismissed).await {
            if let Err(failure) = result {
                let message = format!("{}; it expires within an hour", failure.message);
                self.events.emit(Event::Warning { target: Some(name.to_string()), message });
            }
        }
    }
}

/// How a host gets a file.
#[derive(Clone, Debug)]
enum Way {
    FromHere,
    Passed(HostName),
}

/// Delivers files to hosts, one file after the other, until `cancel` stops it. `mark` names the run.
pub async fn distribute(
    peers: BTreeMap<HostName, Peer>,
    parcels: Vec<Parcel>,
    mark: &str,
    events: &Events,
    mut cancel: Cancel,
) -> Distribution {
    let mut done = Distribution::default();
    let asked = there(&peers, &parcels, &mut done.failures).await;
    let key = match KeyPair::generate() {
        Ok(key) => key,
        Err(why) => {
            let message = format!("cannot generate a key for the run: {why}");
            let failure = Failure::new(crate::state::FailureKind::Step, "E-DELIVERY", message);
            done.failures.extend(peers.keys().map(|host| (host.clone(), failure.clone())));
            return done;
        }
    };
    let passing = Arc::new(Passing {
        admitted: peers.keys().map(|name| (name.clone(), OnceCell::new())).collect(),
        peers,
        key,
        mark: format!("provision-delivery-{mark}"),
        sent: AtomicU64::new(0),
        events: events.clone(),
    });
    let mut passes = true;
    for parcel in &parcels {
        let one = Parcelling::new(&passing, parcel, &asked, &done.failures, passes);
        tokio::select! {
            still = one.run(&mut done) => passes = still,
            () = cancel.reached(1) => break,
        }
    }
    passing.end().await;
    done.sent = passing.sent.load(Ordering::Relaxed);
    done
}

/// What hosts have already, by host and sum.
type There = BTreeMap<HostName, BTreeMap<String, Delivered>>;

/// Asks every host what it has of the files that it wants.
async fn there(
    peers: &BTreeMap<HostName, Peer>,
    parcels: &[Parcel],
    failures: &mut BTreeMap<HostName, Failure>,
) -> There {
    let asked = peers.iter().map(|(name, peer)| {
        let sums = parcels.iter().filter(|parcel| parcel.to.contains(name));
        let sums: BTreeSet<String> = sums.map(|parcel| parcel.sha256.clone()).collect();
        let host = peer.host.clone();
        (name.clone(), async move { host.delivered(&sums).await })
    });
    let mut found = There::new();
    for (name, result) in super::tasks::on_each(asked).await {
        match result {
            Ok(there) => drop(found.insert(name, there)),
            Err(failure) => drop(failures.insert(name, failure)),
        }
    }
    found
}

/// One file on its way.
struct Parcelling<'a> {
    passing: &'a Arc<Passing>,
    parcel: &'a Parcel,
    waiting: VecDeque<HostName>,
    /// Bytes that a host has already.
    parts: BTreeMap<HostName, u64>,
    /// Hosts that have it, with the number of those that take it from them now, and of those that could not.
    holders: BTreeMap<HostName, (usize, usize)>,
    /// Hosts that could not take it from another: how often, and from which the last time.
    refused: BTreeMap<HostName, (usize, HostName)>,
    /// Hosts pass files on.
    passes: bool,
}

impl<'a> Parcelling<'a> {
    fn new(
        passing: &'a Arc<Passing>,
        parcel: &'a Parcel,
        there: &There,
        failed: &BTreeMap<HostName, Failure>,
        passes: bool,
    ) -> Self {
        let (mut waiting, mut parts, mut holders) = (VecDeque::new(), BTreeMap::new(), BTreeMap::new());
        for host in parcel.to.iter().filter(|host| !failed.contains_key(*host)) {
            match there.get(host).and_then(|there| there.get(&parcel.sha256)) {
                Some(Delivered::Whole) => drop(holders.insert(host.clone(), (0, 0))),
                found => {
                    if let Some(Delivered::Part(size)) = found {
                        parts.insert(host.clone(), *size);
                    }
                    waiting.push_back(host.clone());
                }
            }
        }
        Self { passing, parcel, waiting, parts, holders, refused: BTreeMap::new(), passes }
    }

    /// Delivers it to every host that lacks it. Returns whether hosts pass files on.
    async fn run(mut self, done: &mut Distribution) -> bool {
        if self.waiting.is_empty() {
            return self.passes;
        }
        done.bytes += self.parcel.size;
        let (mut tasks, mut from_here) = (Tasks::new(), 0);
        loop {
            while let Some((to, way)) = self.next(from_here) {
                from_here += usize::from(matches!(way, Way::FromHere));
                let (passing, parcel) = (self.passing.clone(), self.parcel.clone());
                let offset = self.parts.get(&to).copied().unwrap_or(0);
                tasks.spawn((to.clone(), way.clone()), async move {
                    match &way {
                        Way::FromHere => passing.send(&to, &parcel, offset).await,
                        Way::Passed(from) => passing.pass(from, &to, &parcel).await,
                    }
                });
            }
            let Some(((to, way), result)) = tasks.next().await else { return self.passes };
            let result = result.and_then(|result| result);
            match (way, result) {
                (Way::FromHere, result) => {
                    from_here -= 1;
                    match result {
                        Ok(()) => {
                            done.from_here += 1;
                            self.holders.insert(to, (0, 0));
                        }
                        Err(failure) => drop(done.failures.insert(to, failure)),
                    }
                }
                (Way::Passed(from), result) => {
                    let failed = result.is_err();
                    if let Some((taking, refused)) = self.holders.get_mut(&from) {
                        *taking -= 1;
                        *refused += usize::from(failed);
                    }
                    match result {
                        Ok(()) => {
                            done.passed += 1;
                            self.holders.insert(to, (0, 0));
                        }
                        Err(failure) => self.again(&to, &from, &failure, done.passed > 0).await,
                    }
                }
            }
        }
    }

    /// Puts a host back that could not take the file from another.
    async fn again(&mut self, to: &HostName, from: &HostName, failure: &Failure, passed: bool) {
        let events = &self.passing.events;
        let unfit = self.holders.values().filter(|(_, refused)| *refused >= MOST_FAILURES).count();
        // One source can have a fault of its own.
        if self.passes && !passed && unfit > 1 {
            self.passes = false;
            let message = format!(
                "hosts cannot pass files to each other, so this machine delivers to each: {}",
                failure.message
            );
            events.emit(Event::Warning { target: None, message });
        }
        let tries = self.refused.get(to).map_or(1, |(tries, _)| tries + 1);
        self.refused.insert(to.clone(), (tries, from.clone()));
        // What it has got by now is not sent again.
        if let Some(peer) = self.passing.peers.get(to)
            && let Ok(there) = peer.host.delivered(&BTreeSet::from([self.parcel.sha256.clone()])).await
            && let Some(Delivered::Part(size)) = there.get(&self.parcel.sha256)
        {
            self.parts.insert(to.clone(), *size);
        }
        self.waiting.push_back(to.clone());
    }

    /// Returns the next host that can be served now, and how.
    fn next(&mut self, from_here: usize) -> Option<(HostName, Way)> {
        let to = self.waiting.front()?.clone();
        let source = if self.takes(&to) { self.source(&to) } else { None };
        let way = match source {
            Some(from) => Way::Passed(from),
            None if self.waits(&to, from_here) => return None,
            None => Way::FromHere,
        };
        self.waiting.pop_front();
        if let Way::Passed(from) = &way
            && let Some((taking, _)) = self.holders.get_mut(from)
        {
            *taking += 1;
        }
        Some((to, way))
    }

    /// Returns whether a host is to take the file from another one.
    fn takes(&self, to: &HostName) -> bool {
        self.passes && self.refused.get(to).is_none_or(|(tries, _)| *tries < MOST_TRIES)
    }

    /// Returns a host that has the file and can pass it on now: the one that is the least busy, and another one than the last time.
    fn source(&self, to: &HostName) -> Option<HostName> {
        let last = self.refused.get(to).map(|(_, last)| last);
        let fit = |(_, (taking, refused)): &(&HostName, &(usize, usize))| {
            *taking < AT_ONCE_BY_HOST && *refused < MOST_FAILURES
        };
        let best = |(name, (taking, refused)): &(&HostName, &(usize, usize))| {
            (Some(*name) == last, *taking, *refused)
        };
        self.holders.iter().filter(fit).min_by_key(best).map(|(name, _)| name.clone())
    }

    /// Returns whether a host waits for another one instead of getting the file from this machine now.
    fn waits(&self, to: &HostName, from_here: usize) -> bool {
        if !self.takes(to) {
            return from_here >= AT_ONCE_FROM_HERE;
        }
        // Somebody has it or is about to.
        from_here > 0 || self.holders.values().any(|(_, refused)| *refused < MOST_FAILURES)
    }
}
