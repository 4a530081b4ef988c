//! What was found in another tool's inventory, whatever its format, and the notes on what was left out.

use crate::inventory::{Accelerator, MOST_HOSTS, NodeRole};
use crate::state::{plain_line, shortened};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The longest name of anything that a note repeats, in characters.
const MOST_NAME: usize = 120;
/// Names that one line lists; the others are counted.
const MOST_NAMES: usize = 6;

/// Where something stands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: usize,
}

impl Place {
    /// Returns a place.
    pub(super) fn of(file: &Arc<str>, line: usize) -> Self {
        Self { file: file.clone(), line }
    }
}

/// What a note is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum NoteKind {
    /// Only a person can fill it in.
    FillIn,
    /// Nothing says so, so it was assumed.
    Assumed,
    /// A host has another name now.
    Renamed,
    /// It is not in the inventory.
    LeftOut,
}

/// What a person should know of an import.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// What it is about.
    pub kind: NoteKind,
    /// Where it stands in the source; `None` for what concerns the whole.
    pub place: Option<Place>,
    /// The host, variable or key; never its value.
    pub what: String,
    /// Why, and what to do.
    pub why: String,
}

/// A host as another tool knows it. What is not said is `None`.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct FoundHost {
    /// Where it stands.
    pub place: Place,
    /// Its name; empty if it has only an address.
    pub name: String,
    /// Address for SSH.
    pub address: Option<String>,
    /// SSH port.
    pub port: Option<u16>,
    /// Login name.
    pub user: Option<String>,
    /// Private key files.
    pub identities: Vec<String>,
    /// `[user@]host[:port]`, in hop order.
    pub bastions: Vec<String>,
    /// Address of etcd, kubelet and API.
    pub cluster_address: Option<String>,
    /// The interface of etcd, kubelet and API.
    pub cluster_interface: Option<String>,
    /// What it does in the cluster.
    pub role: Option<NodeRole>,
    /// A name for the pool of hosts like it.
    pub pool: Option<String>,
    /// Rack.
    pub rack: Option<String>,
    /// BMC address.
    pub bmc: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Its accelerator.
    pub accelerator: Option<FoundAccelerator>,
    /// Node labels.
    pub labels: BTreeMap<String, String>,
    /// Node taints.
    pub taints: Vec<String>,
    /// Its address in the cluster is that of another host too.
    pub shares_address: bool,
}

/// An accelerator as another tool names it.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum FoundAccelerator {
    /// One of the catalog, with the newest driver or SDK that fits.
    Known(Accelerator),
    /// Something that a person has to look up; why.
    Unclear(String),
}

impl FoundHost {
    /// Returns a host of which only the name is known.
    pub(super) fn of(name: impl Into<String>, place: Place) -> Self {
        Self {
            place,
            name: name.into(),
            address: None,
            port: None,
            user: None,
            identities: Vec::new(),
            bastions: Vec::new(),
            cluster_address: None,
            cluster_interface: None,
            role: None,
            pool: None,
            rack: None,
            bmc: None,
            serial: None,
            accelerator: None,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            shares_address: false,
        }
    }
}

/// Everything that was found.
#[derive(Default)]
pub(super) struct Found {
    /// The cluster's name.
    pub name: Option<String>,
    /// The k0s release.
    pub k0s: Option<(String, Place)>,
    /// Further names and addresses of the API.
    pub sans: Vec<String>,
    /// The address of an external load balancer of the API.
    pub external: Option<String>,
    /// The pod network.
    pub pod_cidr: Option<String>,
    /// The service network.
    pub service_cidr: Option<String>,
    /// The hosts, in the order of the source.
    pub hosts: Vec<FoundHost>,
    /// What was left out.
    pub notes: Vec<Note>,
}

impl Found {
    /// Notes that something was left out.
    pub(super) fn left_out(&mut self, place: &Place, what: impl Into<String>, why: impl Into<String>) {
        self.notes.push(Note::of(NoteKind::LeftOut, Some(place.clone()), what, why));
    }

    /// Returns whether there is room for so many hosts more.
    pub(super) fn has_room(&self, hosts: usize) -> bool {
        self.hosts.len().saturating_add(hosts) <= MOST_HOSTS
    }
}

impl Note {
    /// Returns a note.
    pub(super) fn of(
        kind: NoteKind,
        place: Option<Place>,
        what: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        let line = |text: String| plain_line(&shortened(&text, 4 * MOST_NAME)).into_owned();
        Self {
            kind,
            place,
            what: shortened(&line(what.into()), MOST_NAME).into_owned(),
            why: line(why.into()),
        }
    }
}

impl NoteKind {
    /// Returns the heading of such notes.
    fn heading(self) -> &'static str {
        match self {
            Self::FillIn => "Fill in",
            Self::Assumed => "Assumed",
            Self::Renamed => "Renamed",
            Self::LeftOut => "Left out",
        }
    }
}

/// Returns notes as lines under headings. What was left out of one file for one reason shares a line.
pub fn note_lines(notes: &[Note]) -> Vec<String> {
    let mut lines = Vec::new();
    for kind in [NoteKind::FillIn, NoteKind::Assumed, NoteKind::Renamed, NoteKind::LeftOut] {
        let mut groups: Vec<Vec<&Note>> = Vec::new();
        let mut known = BTreeMap::new();
        for note in notes.iter().filter(|note| note.kind == kind) {
            let file = note.place.as_ref().map(|place| &place.file);
            // Each renaming and each gap is told.
            let alone = (kind != NoteKind::LeftOut).then_some(groups.len());
            let at = *known.entry((file, &note.why, alone)).or_insert(groups.len());
            match groups.get_mut(at) {
                Some(group) => group.push(note),
                None => groups.push(vec![note]),
            }
        }
        if !groups.is_empty() {
            lines.push(format!("{}:", kind.heading()));
        }
        lines.extend(groups.iter().map(|group| format!("  {}", line(group))));
    }
    lines
}

fn line(group: &[&Note]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for note in group {
        if !names.contains(&note.what.as_str()) && names.len() <= MOST_NAMES {
            names.push(&note.what);
        }
    }
    let first = group.first();
    let place = first.and_then(|note| note.place.as_ref());
    let place =
        place.map(|place| format!("{}:{}: ", plain_line(&place.file), place.line)).unwrap_or_default();
    let shown = names.iter().take(MOST_NAMES).copied().collect::<Vec<_>>().join(", ");
    // Of several with one name, the lines count.
    let more =
        match group.iter().filter(|note| !names.iter().take(MOST_NAMES).any(|n| *n == note.what)).count() {
            0 if group.len() > names.len() => format!(" ({} times)", group.len()),
            0 => String::new(),
            more => format!(" and {more} more"),
        };
    format!("{place}{shown}{more}: {}", first.map_or("", |note| &note.why))
}
