//! Fetching artifacts onto this machine, into a cache, always checked.

use super::lock::{Lock, Locked, Wanted};
use crate::event::{Event, Events};
use futures::StreamExt;
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why an artifact could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// No source gave it.
    #[error("cannot fetch {name}: {why}")]
    Fetch {
        /// The artifact.
        name: String,
        /// What each source said.
        why: String,
    },
    /// The cache cannot be written.
    #[error("cannot write into {path}: {source}")]
    Cache {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A source that cannot be connected to within this is given up.
const CONNECT_DEADLINE: Duration = Duration::from_secs(20);
/// A source that sends nothing for this long is given up.
const READ_DEADLINE: Duration = Duration::from_secs(60);
/// Progress is told once for so many bytes: often enough for a slow line, rarely enough for a log.
const PROGRESS_BYTES: u64 = 32 << 20;
/// A list of checksums is smaller than this, in bytes.
const MOST_CHECKSUMS: usize = 1 << 20;

fn client(name: &str) -> Result<reqwest::Client, ArtifactError> {
    reqwest::Client::builder()
        .connect_timeout(CONNECT_DEADLINE)
        .read_timeout(READ_DEADLINE)
        .build()
        .map_err(|e| ArtifactError::Fetch { name: name.to_owned(), why: chain(&e) })
}

/// Returns an error with all that is behind it: reqwest's own text stops at "error sending request".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text += &format!(": {inner_text}");
        }
        source = inner.source();
    }
    text
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// Downloads a URL into `file`; returns its sha256 and size.
async fn download(
    client: &reqwest::Client,
    name: &str,
    url: &str,
    file: &mut std::fs::File,
    events: &Events,
) -> Result<(String, u64), String> {
    let answer = client.get(url).send().await.map_err(|e| chain(&e.without_url()))?;
    let answer = answer.error_for_status().map_err(|e| chain(&e.without_url()))?;
    let whole = answer.content_length();
    let (mut hash, mut size, mut told) = (Sha256::new(), 0u64, 0u64);
    let mut body = answer.bytes_stream();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|e| chain(&e.without_url()))?;
        hash.update(&piece);
        size += piece.len() as u64;
        file.write_all(&piece).map_err(|e| e.to_string())?;
        if size - told >= PROGRESS_BYTES {
            told = size;
            let of = whole.map(|w| format!(" of {}", w >> 20)).unwrap_or_default();
            events.note(format!("fetching {name}: {}{of} MiB", size >> 20));
        }
    }
    Ok((hex(hash), size))
}

fn temporary(folder: &Path) -> Result<tempfile::NamedTempFile, ArtifactError> {
    let failed = |source| ArtifactError::Cache { path: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    tempfile::NamedTempFile::new_in(folder).map_err(failed)
}

/// Moves a complete download to its place in the cache; nothing incomplete ever has a final name.
fn keep(file: tempfile::NamedTempFile, cache: &Path, sha256: &str) -> Result<PathBuf, ArtifactError> {
    let path = cache.join(sha256);
    let failed = |source| ArtifactError::Cache { path: path.clone(), source };
    file.as_file().sync_all().map_err(failed)?;
    file.persist(&path).map_err(|e| failed(e.error))?;
    Ok(path)
}

/// Returns the sha256 of a file.
fn sum(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hex(hash)),
            n => hash.update(&piece[..n]),
        }
    }
}

/// Returns an artifact's file in the cache, fetching it if it is not there. A source that gives other bytes than the
/// lock file names is passed over, and so is a damaged file in the cache.
pub async fn fetch(
    name: &str,
    locked: &Locked,
    cache: &Path,
    events: &Events,
) -> Result<PathBuf, ArtifactError> {
    let path = cache.join(&locked.sha256);
    if sum(&path).is_ok_and(|sum| sum == locked.sha256) {
        return Ok(path);
    }
    events.note(format!("fetching {name} {}", locked.version));
    let client = client(name)?;
    let mut said = Vec::new();
    for url in &locked.urls {
        let mut file = temporary(cache)?;
        match download(&client, name, url, file.as_file_mut(), events).await {
            Ok((sum, _)) if sum == locked.sha256 => return keep(file, cache, &sum),
            Ok((sum, _)) => {
                said.push(format!("{url} has sha256 {sum}, provision.lock says {}", locked.sha256))
            }
            Err(why) => said.push(format!("{url}: {why}")),
        }
    }
    Err(ArtifactError::Fetch { name: name.to_owned(), why: said.join("; ") })
}

/// Returns the sha256 that a list of checksums has for the file at `url`.
fn published(list: &str, url: &str) -> Option<String> {
    let file = url.rsplit('/').next()?.replace("%2B", "+");
    list.lines().find_map(|line| {
        let (sum, name) = line.split_once(char::is_whitespace)?;
        let name = name.trim().trim_start_matches('*').trim_start_matches("./");
        (name == file && sum.len() == 64).then(|| sum.to_lowercase())
    })
}

/// Returns what upstream says an artifact's sha256 is; `None` if it publishes none.
async fn upstream_sum(client: &reqwest::Client, want: &Wanted) -> Result<Option<String>, String> {
    let Some(url) = &want.checksums else { return Ok(None) };
    let fail = |e: reqwest::Error| format!("{url}: {}", chain(&e.without_url()));
    let answer = client.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(fail)?;
    let list = answer.text().await.map_err(fail)?;
    if list.len() > MOST_CHECKSUMS {
        return Err(format!("{url} is no list of checksums"));
    }
    published(&list, &want.url).map(Some).ok_or_else(|| format!("{url} does not name {}", want.url))
}

/// Returns where an artifact can be had: upstream, and the mirrors of the lock file as it was. A mirror whose URL names
/// the version moves on with it.
fn places(want: &Wanted, old: Option<&Locked>) -> Vec<String> {
    let Some(old) = old else { return vec![want.url.clone()] };
    let escaped = |version: &str| version.replace('+', "%2B");
    let moved = |url: &String| {
        url.replace(&old.version, &want.version).replace(&escaped(&old.version), &escaped(&want.version))
    };
    let mut urls: Vec<String> = old.urls.iter().map(moved).collect();
    if !urls.contains(&want.url) {
        urls.push(want.url.clone());
    }
    urls
}

/// Resolves what is wanted into a lock file: downloads each once and records what came. Upstream's word counts: its
/// published sha256, else the bytes that it serves. A mirror's bytes are taken only if they are known from either, or
/// from `previous`, the lock file as it was.
pub async fn resolve(
    wanted: &[Wanted],
    previous: &Lock,
    cache: &Path,
    events: &Events,
) -> Result<Lock, ArtifactError> {
    let mut lock = Lock::default();
    for want in wanted {
        let locked = pin(want, previous.get(&want.name), cache, events).await?;
        lock.artifacts.insert(want.name.clone(), locked);
    }
    Ok(lock)
}

async fn pin(
    want: &Wanted,
    old: Option<&Locked>,
    cache: &Path,
    events: &Events,
) -> Result<Locked, ArtifactError> {
    let name = &want.name;
    events.note(format!("resolving {name} {}", want.version));
    let client = client(name)?;
    let before = old.filter(|old| old.version == want.version).map(|old| old.sha256.clone());
    let mut said = Vec::new();
    let mut known = match upstream_sum(&client, want).await {
        Ok(sum) => sum,
        Err(why) => {
            said.push(why);
            if before.is_none() {
                return Err(ArtifactError::Fetch { name: name.clone(), why: said.join("; ") });
            }
            before.clone()
        }
    };
    let urls = places(want, old);
    let mirrors = urls.iter().filter(|url| **url != want.url);
    for url in std::iter::once(&want.url).chain(mirrors) {
        if *url != want.url {
            known = known.or_else(|| before.clone());
            if known.is_none() {
                break;
            }
        }
        let mut file = temporary(cache)?;
        let (sha256, size) = match download(&client, name, url, file.as_file_mut(), events).await {
            Ok(came) => came,
            Err(why) => {
                said.push(format!("{url}: {why}"));
                continue;
            }
        };
        if let Some(known) = known.as_ref().filter(|known| **known != sha256) {
            said.push(format!("{url} has sha256 {sha256}, {known} is expected"));
            continue;
        }
        if let Some(before) = before.filter(|before| *before != sha256) {
            let message = format!(
                "{name} {} is no longer what was locked: sha256 {before}, now {sha256}",
                want.version
            );
            events.emit(Event::Warning { target: None, message });
        }
        keep(file, cache, &sha256)?;
        return Ok(Locked { version: want.version.clone(), urls, sha256, size });
    }
    Err(ArtifactError::Fetch { name: name.clone(), why: said.join("; ") })
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
            checksums: None,
        };
        assert_eq!(places(&want, Some(&old)), ["http://lan/k0s/v2+k0s.0/k0s", "https://up/v2%2Bk0s.0/k0s"]);
        assert_eq!(places(&want, None), ["https://up/v2%2Bk0s.0/k0s"]);
    }
}
