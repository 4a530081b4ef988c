//! `provision lock`: resolves artifacts to exact versions, downloads each once and records its sha256.

use super::bundle::Mirror;
use super::fetch::{ArtifactError, chain, client, download, keep, temporary};
use super::lock::{Lock, Locked, Wanted};
use super::openpgp;
use crate::event::{Event, Events};
use futures::StreamExt;
use std::io::Read;
use std::path::Path;

/// A list of checksums is smaller than this, in bytes.
const MOST_CHECKSUMS: usize = 1 << 20;
/// A file of keys is smaller than this, in bytes: the largest known has 20 KiB.
const MOST_KEY_BYTES: u64 = 1 << 20;
/// So many artifacts are fetched at once: where nothing answers, each waits for its deadline.
const AT_ONCE: usize = 4;

/// An artifact that could not be locked, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unresolved {
    /// Its name.
    pub name: String,
    /// The error of each source.
    pub why: String,
    /// A source served it with a key that is not pinned.
    pub foreign_key: bool,
}

/// All artifacts that could not be locked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", said(.0))]
pub struct UnresolvedAll(pub Vec<Unresolved>);

fn said(all: &[Unresolved]) -> String {
    all.iter().map(|one| format!("{}: {}", one.name, one.why)).collect::<Vec<_>>().join("; ")
}

/// Resolves artifacts into a lock file: downloads each once and records its sha256. Upstream's published sha256 counts,
/// otherwise the content that it serves. The inventory's mirrors are tried first, and trusted if upstream's sum is not
/// available, as the operator chose them. Other mirrors of the lock file are used only if their content is known from
/// upstream or from `previous`, the old lock file. Every artifact is tried, even if others fail.
pub async fn resolve(
    wanted: &[Wanted],
    previous: &Lock,
    cache: &Path,
    events: &Events,
) -> Result<Lock, UnresolvedAll> {
    let pins = wanted.iter().map(|want| pin(want, previous.get(&want.name), cache, events));
    let pinned: Vec<_> = futures::stream::iter(pins).buffered(AT_ONCE).collect().await;
    let (mut lock, mut failed) = (Lock::default(), Vec::new());
    for (want, result) in wanted.iter().zip(pinned) {
        match result {
            Ok(locked) => {
                lock.artifacts.insert(want.name.clone(), locked);
            }
            Err(unresolved) => failed.push(unresolved),
        }
    }
    if failed.is_empty() { Ok(lock) } else { Err(UnresolvedAll(failed)) }
}

/// Resolves artifacts from a bundle alone: each must be in it, with the content that its index says, and the content that was
/// locked before if the version is the same. Whoever names a bundle trusts its index where nothing was locked.
pub async fn resolve_from(
    wanted: &[Wanted],
    previous: &Lock,
    bundle: &Mirror,
    cache: &Path,
    events: &Events,
) -> Result<Lock, UnresolvedAll> {
    let (mut lock, mut failed) = (Lock::default(), Vec::new());
    for want in wanted {
        match pin_from(want, previous.get(&want.name), bundle, cache, events).await {
            Ok(locked) => {
                lock.artifacts.insert(want.name.clone(), locked);
            }
            Err(unresolved) => failed.push(unresolved),
        }
    }
    if failed.is_empty() { Ok(lock) } else { Err(UnresolvedAll(failed)) }
}

async fn pin_from(
    want: &Wanted,
    old: Option<&Locked>,
    bundle: &Mirror,
    cache: &Path,
    events: &Events,
) -> Result<Locked, Unresolved> {
    let Wanted { name, version, .. } = want;
    let failed = |why: String, foreign_key| Unresolved { name: name.clone(), why, foreign_key };
    let found = bundle.index().get(name, version);
    let found = found.ok_or_else(|| failed(format!("{} does not have {version}", bundle.place()), false))?;
    let (sha256, size) = (found.sha256.clone(), found.size);
    if let Some(before) = old.filter(|old| old.version == *version && old.sha256 != sha256) {
        let why = format!("{} has sha256 {sha256}, provision.lock says {}", bundle.place(), before.sha256);
        return Err(failed(why, false));
    }
    let locked = Locked { version: version.clone(), urls: places(want, old), sha256, size };
    let file = bundle.file(name, &locked, cache, events).await;
    let mut file = file.map_err(|error| failed(error.to_string(), false))?;
    if let Some(why) = key_refusal(&want.fingerprints, &mut file) {
        return Err(failed(why, true));
    }
    Ok(locked)
}

/// Returns why a file is not the key that it should be; whatever fits where no fingerprint is known.
fn key_refusal(fingerprints: &[String], file: &mut dyn Read) -> Option<String> {
    if fingerprints.is_empty() {
        return None;
    }
    let mut bytes = Vec::new();
    match file.take(MOST_KEY_BYTES + 1).read_to_end(&mut bytes) {
        Ok(read) if read as u64 <= MOST_KEY_BYTES => openpgp::refusal(&bytes, fingerprints),
        Ok(_) => Some("too large for a key".to_owned()),
        Err(error) => Some(format!("it cannot be read: {error}")),
    }
}

/// Returns the sha256 that a list of checksums has for the file at `url`: lines of sha256sum, `SHA256 (NAME) = SUM` of BSD and
/// openssl, or nothing but the sum.
fn published(list: &str, url: &str) -> Option<String> {
    let file = url.rsplit('/').next()?.replace("%2B", "+");
    let is_sum = |sum: &str| sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit());
    let tagged = |line: &str| {
        let (name, sum) = line.strip_prefix("SHA256")?.trim_start().strip_prefix('(')?.rsplit_once(')')?;
        // Often with the folder in which it was made.
        let name = name.rsplit('/').next().unwrap_or(name);
        Some((sum.trim_start().strip_prefix('=')?.trim().to_owned(), name.to_owned()))
    };
    let listed = list.lines().find_map(|line| {
        let plain =
            || line.split_once(char::is_whitespace).map(|(sum, name)| (sum.to_owned(), name.to_owned()));
        let (sum, name) = tagged(line).or_else(plain)?;
        let name = name.trim().trim_start_matches('*').trim_start_matches("./");
        (name == file && is_sum(&sum)).then(|| sum.to_lowercase())
    });
    listed.or_else(|| Some(list.trim()).filter(|sum| is_sum(sum)).map(str::to_lowercase))
}

/// Returns a list of checksums; no more of it is read than one can have.
async fn list(client: &reqwest::Client, url: &str) -> Result<String, String> {
    let fail = |e: reqwest::Error| format!("{url}: {}", chain(&e.without_url()));
    let answer = client.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(fail)?;
    let mut body = answer.bytes_stream();
    let mut text = Vec::new();
    while let Some(piece) = body.next().await {
        text.extend_from_slice(&piece.map_err(fail)?);
        if text.len() > MOST_CHECKSUMS {
            return Err(format!("{url} is not a checksum file"));
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Returns the URLs of an artifact: the inventory's mirror, upstream, and the mirrors of the lock file as it was. A
/// mirror whose URL names the version moves on with it.
fn places(want: &Wanted, old: Option<&Locked>) -> Vec<String> {
    let escaped = |version: &str| version.replace('+', "%2B");
    let mut urls: Vec<String> = want.mirror.iter().map(|mirror| mirror.url.clone()).collect();
    let mut add = |url: String| {
        if !urls.contains(&url) {
            urls.push(url);
        }
    };
    if let Some(old) = old {
        let moved = |url: &String| {
            url.replace(&old.version, &want.version).replace(&escaped(&old.version), &escaped(&want.version))
        };
        old.urls.iter().map(moved).for_each(&mut add);
    }
    add(want.url.clone());
    urls
}

/// Locking one artifact.
struct Pin<'a> {
    want: &'a Wanted,
    /// The sha256 that the lock file as it was has for this version.
    before: Option<String>,
    client: reqwest::Client,
    cache: &'a Path,
    events: &'a Events,
    /// The errors of sources that failed.
    said: Vec<String>,
    foreign_key: bool,
}

async fn pin(
    want: &Wanted,
    old: Option<&Locked>,
    cache: &Path,
    events: &Events,
) -> Result<Locked, Unresolved> {
    let name = &want.name;
    events.note(format!("resolving {name} {}", want.version));
    let failed = |why: String| Unresolved { name: name.clone(), why, foreign_key: false };
    let client = client(name).map_err(|e| failed(e.to_string()))?;
    let before = old.filter(|old| old.version == want.version).map(|old| old.sha256.clone());
    let mut pin = Pin { want, before, client, cache, events, said: Vec::new(), foreign_key: false };
    let urls = places(want, old);
    match pin.from(&urls).await {
        Ok(Some((sha256, size))) => Ok(Locked { version: want.version.clone(), urls, sha256, size }),
        Ok(None) => {
            Err(Unresolved { name: name.clone(), why: pin.said.join("; "), foreign_key: pin.foreign_key })
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

impl Pin<'_> {
    /// Returns upstream's published sum, from the inventory's mirror or from upstream.
    async fn sum(&mut self) -> Option<String> {
        let mirrored = self.want.mirror.as_ref().and_then(|mirror| mirror.checksums.as_ref());
        for url in mirrored.into_iter().chain(&self.want.checksums) {
            match list(&self.client, url).await {
                Ok(list) => match published(&list, &self.want.url) {
                    Some(sum) => return Some(sum),
                    None => self.said.push(format!("{url} does not list {}", self.want.url)),
                },
                Err(why) => self.said.push(why),
            }
        }
        None
    }

    /// Returns sha256 and size of what the first source gives that can be believed.
    async fn from(&mut self, urls: &[String]) -> Result<Option<(String, u64)>, ArtifactError> {
        let published = self.sum().await;
        // Upstream publishes a sum that cannot be fetched: only an earlier pin can be trusted.
        let unproven = self.want.checksums.is_some() && published.is_none();
        let mirror = self.want.mirror.as_ref().map(|mirror| &mirror.url);
        let ours = urls.iter().filter(|url| Some(*url) == mirror);
        let others = urls.iter().filter(|url| Some(*url) != mirror && **url != self.want.url);
        for url in ours.chain([&self.want.url]).chain(others) {
            let upstream = *url == self.want.url;
            let expected = match &published {
                None if !upstream || unproven => self.before.clone(),
                published => published.clone(),
            };
            let believed = Some(url) == mirror || (upstream && !unproven);
            if expected.is_none() && !believed {
                continue;
            }
            if let Some(came) = self.try_source(url, expected.as_deref()).await? {
                if expected.is_none() && !upstream {
                    let Wanted { name, version, .. } = self.want;
                    let message = format!("{name} {version}: the sha256 is taken only from the mirror {url}");
                    self.events.emit(Event::Warning { target: None, message });
                }
                return Ok(Some(came));
            }
        }
        Ok(None)
    }

    /// Downloads from one source; `None`, with the reason noted, if that is not the artifact.
    async fn try_source(
        &mut self,
        url: &str,
        expected: Option<&str>,
    ) -> Result<Option<(String, u64)>, ArtifactError> {
        let mut file = temporary(self.cache)?;
        let name = &self.want.name;
        let (sha256, size) = match download(&self.client, name, url, file.as_file_mut(), self.events).await {
            Ok(came) => came,
            Err(why) => {
                self.said.push(format!("{url}: {why}"));
                return Ok(None);
            }
        };
        if let Some(expected) = expected.filter(|expected| *expected != sha256) {
            self.said.push(format!("{url} has sha256 {sha256}, expected {expected}"));
            return Ok(None);
        }
        let refusal = match std::fs::File::open(file.path()) {
            Ok(mut file) => key_refusal(&self.want.fingerprints, &mut file),
            Err(error) => Some(format!("it cannot be read: {error}")),
        };
        if let Some(why) = refusal {
            self.said.push(format!("{url}: {why}"));
            self.foreign_key = true;
            return Ok(None);
        }
        if let Some(before) = self.before.as_ref().filter(|before| **before != sha256) {
            let message = format!(
                "{name} {} has changed since it was locked: sha256 {before}, now {sha256}",
                self.want.version
            );
            self.events.emit(Event::Warning { target: None, message });
        }
        keep(file, self.cache, &sha256)?;
        Ok(Some((sha256, size)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_sum_is_found_by_file_name() {
        let sum = "a".repeat(64);
        let list = format!("{}  k0s-v1+k0s.0-amd64.exe\n{sum} *k0s-v1+k0s.0-amd64\n", "b".repeat(64));
        assert_eq!(published(&list, "https://x/v1%2Bk0s.0/k0s-v1%2Bk0s.0-amd64"), Some(sum));
        assert_eq!(published(&list, "https://x/k0s-v1%2Bk0s.0-arm64"), None);
    }

    #[test]
    fn mirrors_stay_in_their_order_and_move_on_with_the_version() {
        let old = Locked {
            version: "v1+k0s.0".to_owned(),
            urls: vec!["http://lan/k0s/v1+k0s.0/k0s".to_owned(), "https://up/v1%2Bk0s.0/k0s".to_owned()],
            sha256: String::new(),
            size: 0,
        };
        let want = Wanted {
            name: "k0s".to_owned(),
            version: "v2+k0s.0".to_owned(),
            url: "https://up/v2%2Bk0s.0/k0s".to_owned(),
            ..Wanted::default()
        };
        assert_eq!(places(&want, Some(&old)), ["http://lan/k0s/v2+k0s.0/k0s", "https://up/v2%2Bk0s.0/k0s"]);
        assert_eq!(places(&want, None), ["https://up/v2%2Bk0s.0/k0s"]);
    }
}
