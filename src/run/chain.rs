//! The chain of records: each names the hash of the one before it, so that none can be edited, removed, inserted or moved without
//! all later ones telling. Owns the chain's file and what is wrong with one. Whoever can write everything that keeps a copy can write
//! another chain: that is why hosts and the cluster keep theirs.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The chain's file in its folder.
const FILE: &str = "chain";
/// The longest line of a chain, in bytes.
const MOST_LINE: usize = 4096;
/// The largest chain, in bytes: a million runs.
const MOST_CHAIN: u64 = 1 << 30;

/// What of a run a record is about.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum RecordKind {
    /// It began: who, what, and why it was allowed.
    Begun,
    /// It ended: every step.
    Ended,
}

impl RecordKind {
    /// Returns its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Ended => "ended",
        }
    }
}

/// A link of the chain.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Its number, from 1.
    pub sequence: u64,
    /// The hash of the link before it; empty for the first.
    pub previous: String,
    /// The link before it is one that the cluster told of, of a run from another machine.
    pub continued: bool,
    /// The run.
    pub run: String,
    /// What of it.
    pub kind: RecordKind,
    /// When, as RFC 3339 in UTC.
    pub at: String,
    /// The machine that it was made on.
    pub machine: String,
    /// sha256 of the record, hex.
    pub content: String,
}

/// The end of a chain.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The number of the last link.
    pub sequence: u64,
    /// Its hash.
    pub hash: String,
}

/// A link as it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// The link.
    pub link: Link,
    /// The hash of its text.
    pub hash: String,
    /// Its text, without the line break.
    pub text: String,
}

/// Returns a text's sha256, hex.
pub fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Line {
    /// Reads a line.
    pub fn read(text: &str) -> Result<Self, String> {
        if text.len() > MOST_LINE {
            return Err("it is too long".to_owned());
        }
        let link: Link = serde_json::from_str(text).map_err(|error| error.to_string())?;
        Ok(Self { link, hash: sha256(text), text: text.to_owned() })
    }

    /// Returns the chain's end with this line as its last.
    pub fn head(&self) -> Head {
        Head { sequence: self.link.sequence, hash: self.hash.clone() }
    }
}

/// Records of one inventory on this machine.
#[derive(Clone, Debug)]
pub struct Chain {
    folder: PathBuf,
}

fn nofollow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits() as i32
}

impl Chain {
    /// Returns the chain in a folder, which need not be there.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Returns where a record is kept.
    fn record(&self, run: &str, kind: RecordKind) -> PathBuf {
        self.folder.join(format!("{run}.{}.json", kind.as_str()))
    }

    /// Returns where the steps of a target are kept.
    pub fn steps(&self, run: &str, target: &str) -> PathBuf {
        self.folder.join(run).join(format!("{target}.json"))
    }

    /// Returns the text of a record; `None` if there is none.
    pub fn read(&self, run: &str, kind: RecordKind) -> Option<String> {
        std::fs::read_to_string(self.record(run, kind)).ok()
    }

    /// Writes a text into the folder, as a new file.
    pub fn write(&self, path: &Path, text: &str) -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(&self.folder);
        for folder in [self.folder.as_path(), folder] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            // A umask may have removed bits of the owner too.
            std::fs::set_permissions(folder, PermissionsExt::from_mode(0o700))?;
        }
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.as_file().set_permissions(PermissionsExt::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path).map_err(|error| error.error)?;
        Ok(())
    }

    /// Adds a record. `known` is the end of the chain as the cluster tells of it: if that is ahead, the chain goes on from there.
    pub fn append(
        &self,
        run: &str,
        kind: RecordKind,
        machine: &str,
        content: &str,
        known: Option<&Head>,
    ) -> std::io::Result<Line> {
        self.write(&self.record(run, kind), content)?;
        let path = self.folder.join(FILE);
        let mut open = OpenOptions::new();
        open.create(true).truncate(false).read(true).write(true).mode(0o600).custom_flags(nofollow());
        let mut file = open.open(path)?;
        file.set_permissions(PermissionsExt::from_mode(0o600))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
        let last = last_line(&mut file)?;
        let own = last.as_ref().map(Line::head);
        let continued = known.filter(|known| own.as_ref().is_none_or(|own| own.sequence < known.sequence));
        let before = continued.or(own.as_ref());
        let link = Link {
            sequence: before.map_or(0, |head| head.sequence).saturating_add(1),
            previous: before.map(|head| head.hash.clone()).unwrap_or_default(),
            continued: continued.is_some(),
            run: run.to_owned(),
            kind,
            at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            machine: machine.to_owned(),
            content: sha256(content),
        };
        let text = serde_json::to_string(&link)?;
        file.write_all(format!("{text}\n").as_bytes())?;
        file.sync_all()?;
        Ok(Line { hash: sha256(&text), link, text })
    }

    /// Returns the lines of the chain, with what is wrong where one cannot be read.
    pub fn lines(&self) -> std::io::Result<Vec<Result<Line, String>>> {
        let file = OpenOptions::new().read(true).custom_flags(nofollow()).open(self.folder.join(FILE));
        let mut text = String::new();
        match file {
            Ok(file) => file.take(MOST_CHAIN).read_to_string(&mut text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        Ok(text.lines().map(Line::read).collect())
    }
}

/// Returns the last line of a chain, and leaves the file at its end. A line that was cut off by a crash is dropped: nothing relied on it.
fn last_line(file: &mut File) -> std::io::Result<Option<Line>> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(2 * MOST_LINE as u64);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let end = from + whole as u64;
    file.set_len(end)?;
    file.seek(SeekFrom::Start(end))?;
    let text = String::from_utf8_lossy(&tail[..whole]).into_owned();
    let Some(last) = text.lines().next_back() else { return Ok(None) };
    Line::read(last).map(Some).map_err(|why| {
        let message = format!("the last record of the chain cannot be read: {why}");
        std::io::Error::new(std::io::ErrorKind::InvalidData, message)
    })
}

/// What is known of a chain, from everywhere.
#[derive(Default)]
pub struct Evidence<'a> {
    /// The lines on this machine.
    pub local: &'a [Result<Line, String>],
    /// Lines elsewhere, each with the host that has it.
    pub copies: &'a [(String, Line)],
    /// Its end as the cluster tells of it.
    pub head: Option<&'a Head>,
    /// This machine's name.
    pub machine: &'a str,
}

/// What came of verifying a chain.
#[derive(Clone, PartialEq, Eq, Serialize, Debug, Default)]
pub struct ChainReport {
    /// Records on this machine.
    pub records: usize,
    /// Records that hosts have as well.
    pub copies: usize,
    /// The end of the chain, as far as it is known.
    pub head: Option<Head>,
    /// What is wrong; a phrase each.
    pub wrong: Vec<String>,
    /// What to know; a phrase each.
    pub notes: Vec<String>,
}

fn range(from: u64, to: u64) -> String {
    if from == to { format!("record {from} is") } else { format!("records {from} to {to} are") }
}

impl Evidence<'_> {
    /// Verifies the chain.
    pub fn verify(&self) -> ChainReport {
        let mut report =
            ChainReport { records: self.local.len(), copies: self.copies.len(), ..ChainReport::default() };
        let wrong = &mut report.wrong;
        // By number; what this machine has comes first.
        let mut known: BTreeMap<u64, (&Line, &str)> = BTreeMap::new();
        let mut last = 0;
        for (at, line) in self.local.iter().enumerate() {
            let line = match line {
                Ok(line) => line,
                Err(why) => {
                    wrong.push(format!("line {} of the chain cannot be read: {why}", at + 1));
                    continue;
                }
            };
            let number = line.link.sequence;
            if number <= last {
                wrong.push(format!("record {number} is out of order"));
            }
            last = last.max(number);
            if known.insert(number, (line, "")).is_some() {
                wrong.push(format!("record {number} is there twice"));
            }
        }
        for (host, line) in self.copies {
            let number = line.link.sequence;
            match known.get(&number) {
                Some((other, _)) if other.hash == line.hash => {}
                Some((_, "")) => wrong.push(format!("record {number} is not as {host} has it")),
                Some((_, other)) => wrong.push(format!("record {number} differs on {host} and {other}")),
                None => {
                    if line.link.machine == self.machine {
                        wrong.push(format!("record {number} was made on this machine and is only on {host}"));
                    }
                    known.insert(number, (line, host));
                }
            }
        }
        let mut before: Option<&Line> = None;
        for (number, (line, _)) in &known {
            let from = before.map_or(0, |line| line.link.sequence) + 1;
            let follows = match before {
                Some(before) => line.link.previous == before.hash,
                None => line.link.previous.is_empty(),
            };
            match (*number == from, line.link.continued) {
                (true, _) if follows => {}
                (true, _) => wrong.push(format!("record {number} does not follow the one before it")),
                (false, true) => {
                    let what = range(from, number - 1);
                    report.notes.push(format!("{what} of runs from other machines, and not known here"));
                }
                (false, false) => wrong.push(format!("{} missing", range(from, number - 1))),
            }
            before = Some(line);
        }
        let newest = before.map_or(0, |line| line.link.sequence);
        report.head = before.map(Line::head);
        if let Some(head) = self.head {
            match known.get(&head.sequence) {
                Some((line, _)) if line.hash == head.hash => {}
                Some(_) => {
                    wrong.push(format!("record {} is not the one that the cluster knows", head.sequence))
                }
                None if head.sequence > newest => {
                    let what = range(newest + 1, head.sequence);
                    wrong.push(format!("{what} missing: the cluster knows of {}", head.sequence));
                }
                None => report
                    .notes
                    .push(format!("the cluster's head, record {}, is not known here", head.sequence)),
            }
            if head.sequence < newest {
                let what = range(head.sequence + 1, newest);
                report.notes.push(format!("{what} newer than the head in the cluster"));
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain of runs on this machine.
    fn chain(runs: usize) -> (tempfile::TempDir, Chain, Vec<Line>) {
        let dir = tempfile::tempdir().expect("a folder");
        let chain = Chain::at(dir.path().join("records"));
        let mut lines = Vec::new();
        for run in 0..runs {
            for kind in [RecordKind::Begun, RecordKind::Ended] {
                lines.push(chain.append(&format!("R{run}"), kind, "here", "{}", None).expect("written"));
            }
        }
        (dir, chain, lines)
    }

    fn verify(local: &[Result<Line, String>], copies: &[(String, Line)], head: Option<&Head>) -> Vec<String> {
        Evidence { local, copies, head, machine: "here" }.verify().wrong
    }

    fn rewritten(line: &Line, change: impl Fn(&mut Link)) -> Line {
        let mut link = line.link.clone();
        change(&mut link);
        Line::read(&serde_json::to_string(&link).expect("JSON")).expect("a line")
    }

    #[test]
    fn a_chain_that_nobody_touched_is_whole() {
        let (_dir, chain, lines) = chain(3);
        let read = chain.lines().expect("read");
        assert_eq!(read.iter().flatten().cloned().collect::<Vec<_>>(), lines);
        assert_eq!((lines[0].link.sequence, lines[0].link.previous.as_str()), (1, ""));
        assert_eq!(verify(&read, &[], Some(&lines[5].head())), [""; 0]);
        let copies: Vec<(String, Line)> = lines.iter().map(|line| ("h-1".to_owned(), line.clone())).collect();
        assert_eq!(verify(&read, &copies, None), [""; 0]);
        assert_eq!(
            chain.append("R0", RecordKind::Begun, "here", "{}", None).map_err(|e| e.kind()).err(),
            Some(std::io::ErrorKind::AlreadyExists)
        );
    }

    #[test]
    fn an_edited_removed_or_moved_record_is_found_without_anybody_else() {
        let (_dir, _, lines) = chain(3);
        let ok = |lines: &[Line]| lines.iter().cloned().map(Ok).collect::<Vec<Result<Line, String>>>();
        let edited = rewritten(&lines[2], |link| link.content = sha256("{\"exit\":0}"));
        let with = |at: usize, line: Line| {
            let mut lines = lines.clone();
            lines[at] = line;
            ok(&lines)
        };
        assert_eq!(verify(&with(2, edited), &[], None), ["record 4 does not follow the one before it"]);
        let without: Vec<Line> = lines.iter().filter(|l| l.link.sequence != 3).cloned().collect();
        assert_eq!(verify(&ok(&without), &[], None), ["record 3 is missing"]);
        assert_eq!(verify(&ok(&lines[2..]), &[], None), ["records 1 to 2 are missing"]);
        let mut moved = lines.clone();
        moved.swap(1, 3);
        assert_eq!(verify(&ok(&moved), &[], None)[0], "record 3 is out of order");
        // Renumbered, so that nothing seems to be missing.
        let renumbered: Vec<Line> = without
            .iter()
            .enumerate()
            .map(|(n, l)| rewritten(l, |link| link.sequence = n as u64 + 1))
            .collect();
        assert_eq!(verify(&ok(&renumbered), &[], None).len(), 3, "every link from there on");
        assert!(verify(&[Err("no JSON".to_owned())], &[], None)[0].contains("line 1"));
    }

    #[test]
    fn a_chain_that_was_cut_off_or_written_anew_is_found_by_the_cluster_and_the_hosts() {
        let (_dir, _, lines) = chain(3);
        let ok = |lines: &[Line]| lines.iter().cloned().map(Ok).collect::<Vec<Result<Line, String>>>();
        let head = lines[5].head();
        assert_eq!(verify(&ok(&lines[..4]), &[], None), [""; 0], "nobody else was asked");
        let cut = verify(&ok(&lines[..4]), &[], Some(&head));
        assert_eq!(cut, ["records 5 to 6 are missing: the cluster knows of 6"]);
        let copy = [("h-1".to_owned(), lines[4].clone())];
        let cut = verify(&ok(&lines[..4]), &copy, None);
        assert_eq!(cut, ["record 5 was made on this machine and is only on h-1"]);
        assert!(!verify(&[], &copy, Some(&head)).is_empty(), "all of it is gone");
        // Another chain that is whole in itself.
        let (_other, _, anew) = chain(3);
        let anew: Vec<Line> = {
            let mut previous = String::new();
            anew.iter()
                .map(|line| {
                    let line = rewritten(line, |link| {
                        link.previous.clone_from(&previous);
                        link.run = "X".to_owned();
                    });
                    previous.clone_from(&line.hash);
                    line
                })
                .collect()
        };
        assert_eq!(verify(&ok(&anew), &[], None), [""; 0]);
        assert_eq!(verify(&ok(&anew), &[], Some(&head)), ["record 6 is not the one that the cluster knows"]);
        assert_eq!(
            verify(&ok(&anew), &[("h-1".to_owned(), lines[1].clone())], None),
            ["record 2 is not as h-1 has it"]
        );
    }

    #[test]
    fn machines_that_take_turns_have_one_chain() {
        let (_dir, _, lines) = chain(1);
        let there = tempfile::tempdir().expect("a folder");
        let theirs = Chain::at(there.path());
        let head = lines[1].head();
        let third = theirs.append("S0", RecordKind::Begun, "there", "{}", Some(&head)).expect("written");
        assert_eq!((third.link.sequence, third.link.continued), (3, true));
        let fourth = theirs.append("S0", RecordKind::Ended, "there", "{}", Some(&head)).expect("written");
        assert_eq!((fourth.link.sequence, fourth.link.continued), (4, false));
        let read = theirs.lines().expect("read");
        let report =
            Evidence { local: &read, head: Some(&fourth.head()), machine: "there", ..Evidence::default() }
                .verify();
        assert!(report.wrong.is_empty() && report.notes.len() == 1, "{report:?}");
        // The hosts have what the first machine did.
        let copies: Vec<(String, Line)> = lines.iter().map(|line| ("h-1".to_owned(), line.clone())).collect();
        let report =
            Evidence { local: &read, copies: &copies, machine: "there", ..Evidence::default() }.verify();
        assert!(report.wrong.is_empty() && report.notes.is_empty(), "{report:?}");
    }

    #[test]
    fn a_line_that_a_crash_cut_off_is_dropped() {
        let (dir, chain, lines) = chain(1);
        let path = dir.path().join("records").join(FILE);
        let mut file = OpenOptions::new().append(true).open(&path).expect("there");
        file.write_all(b"{\"sequence\":3,\"prev").expect("written");
        let next = chain.append("R9", RecordKind::Begun, "here", "{}", None).expect("written");
        assert_eq!((next.link.sequence, &next.link.previous), (3, &lines[1].hash));
        assert_eq!(verify(&chain.lines().expect("read"), &[], None), [""; 0]);
    }
}
