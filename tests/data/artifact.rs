//! Data tests of `artifact`: the lock file, and fetching from a server on loopback.

use provision::artifact::{ArtifactError, Lock, Locked, Needs, Wanted, fetch, resolve, wanted};
use provision::catalog::Catalog;
use provision::event::{Event, Events};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A server of a few files. Ends with the test.
struct Server {
    at: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn up(files: &[(&str, &str)]) -> Self {
        // reqwest is built without a provider of its own; the binary installs this one first thing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let at = listener.local_addr().expect("its address");
        let files: BTreeMap<_, _> =
            files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect();
        let (asked, files) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(files)));
        let (log, shared) = (asked.clone(), files.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let path = Self::answer(stream, &shared.lock().expect("files"));
                if path == "/quit" {
                    return;
                }
                log.lock().expect("a log").push(path);
            }
        });
        Self { at, asked, files, thread: Some(thread) }
    }

    fn answer(mut stream: TcpStream, files: &BTreeMap<String, Vec<u8>>) -> String {
        let mut lines = BufReader::new(stream.try_clone().expect("a stream")).lines();
        let first = lines.next().and_then(Result::ok).unwrap_or_default();
        while lines.next().and_then(Result::ok).is_some_and(|line| !line.is_empty()) {}
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let (status, body) = match files.get(&path) {
            Some(body) => ("200 OK", body.as_slice()),
            None => ("404 Not Found", b"".as_slice()),
        };
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        path
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at)
    }

    fn put(&self, path: &str, text: &str) {
        self.files.lock().expect("files").insert(path.to_owned(), text.as_bytes().to_vec());
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("a log"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(mut stream) = TcpStream::connect(self.at) {
            let _ = stream.write_all(b"GET /quit HTTP/1.1\r\n\r\n");
        }
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

fn sum(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

fn locked(urls: Vec<String>, text: &str) -> Locked {
    Locked { version: "v1".into(), urls, sha256: sum(text), size: text.len() as u64 }
}

fn want(server: &Server, version: &str, checksums: bool) -> Wanted {
    Wanted {
        name: "k0s".into(),
        version: version.into(),
        url: server.url(&format!("/{version}/k0s")),
        checksums: checksums.then(|| server.url(&format!("/{version}/sha256sums.txt"))),
    }
}

fn one(name: &str, locked: Locked) -> Lock {
    let mut lock = Lock::default();
    lock.artifacts.insert(name.to_owned(), locked);
    lock
}

fn why(error: ArtifactError) -> String {
    error.to_string()
}

#[test]
fn a_lock_file_reads_back_as_it_was_written_and_a_missing_one_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("provision.lock");
    let missing = Lock::load(&path).expect_err("missing").to_string();
    assert!(missing.contains("provision lock"), "{missing}");
    let entry = Locked {
        version: "v1.35.7+k0s.0".into(),
        urls: vec!["https://a/b".into(), "http://mirror/\"ü\"".into()],
        sha256: "0f".repeat(32),
        size: 7,
    };
    let lock = one("k0s-x86_64", entry);
    lock.save(&path).expect("saved");
    assert_eq!(Lock::load(&path).expect("read"), lock);
    insta::assert_snapshot!(std::fs::read_to_string(&path).expect("text"), @r##"
    # What provision fetches, pinned. Made by `provision lock`; commit it. Mirrors can be added under urls, in the order
    # in which they are tried; they stay when the file is made anew.
    artifacts:
      k0s-x86_64:
        version: "v1.35.7+k0s.0"
        urls:
        - "https://a/b"
        - "http://mirror/\"ü\""
        sha256: "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"
        size: 7
    "##);
}

#[test]
fn a_damaged_lock_file_says_what_and_where() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("provision.lock");
    let good = "artifacts:\n  a:\n    version: v1\n    urls: [https://x/a]\n    sha256: SUM\n    size: 1\n";
    let good = good.replace("SUM", &"a".repeat(64));
    for (from, to, expected) in [
        ("urls: [https://x/a]", "urls: []", "a: urls is empty"),
        ("https://x/a", "/srv/a", "a: \"/srv/a\" is no http or https URL"),
        ("aaaa", "AAAA", "a: sha256 is not 64 lower-case hex digits"),
        ("size: 1", "sise: 1", "line 6: unknown field"),
    ] {
        std::fs::write(&path, good.replace(from, to)).expect("written");
        let error = Lock::load(&path).expect_err(expected).to_string();
        assert!(error.contains("provision.lock: ") && error.contains(expected), "{error}");
    }
    std::fs::write(&path, &good).expect("written");
    Lock::load(&path).expect("the same without a mistake");
    std::fs::write(&path, "<<<<<<< ours\n").expect("written");
    assert!(Lock::load(&path).is_err(), "a merge conflict is no lock file");
}

#[test]
fn only_what_an_inventory_needs_is_fetched() {
    let catalog = Catalog::builtin().expect("the catalog");
    let needs = Needs {
        k0s_version: "v1.35.7+k0s.0".into(),
        nvidia: false,
        neuron: true,
        efa: false,
        router: false,
        inference_extension: false,
    };
    let names: Vec<String> = wanted(&needs, &catalog).into_iter().map(|w| w.name).collect();
    assert_eq!(names, ["k0s-x86_64", "k0s-aarch64", "neuron-key"]);
    let k0s = &wanted(&needs, &catalog)[0];
    assert!(k0s.url.contains("v1.35.7%2Bk0s.0/k0s-v1.35.7%2Bk0s.0-amd64"), "{}", k0s.url);
    assert!(k0s.checksums.as_ref().is_some_and(|u| u.ends_with("/v1.35.7%2Bk0s.0/sha256sums.txt")));
    let all = Needs { nvidia: true, efa: true, router: true, inference_extension: true, ..needs };
    assert_eq!(
        wanted(&all, &catalog).len(),
        catalog.artifacts().len(),
        "nothing in the catalog is out of reach"
    );
}

#[tokio::test]
async fn a_source_with_other_bytes_is_passed_over_and_a_fetched_file_is_not_fetched_again() {
    let server = Server::up(&[("/bad", "tampered"), ("/good", "the file")]);
    let cache = tempfile::tempdir().expect("a cache");
    let urls = vec![server.url("/gone"), server.url("/bad"), server.url("/good")];
    let locked = locked(urls, "the file");
    let path = fetch("k0s", &locked, cache.path(), &Events::none()).await.expect("fetched");
    assert_eq!(std::fs::read_to_string(&path).expect("a file"), "the file");
    assert_eq!(server.asked(), ["/gone", "/bad", "/good"]);
    fetch("k0s", &locked, cache.path(), &Events::none()).await.expect("from the cache");
    assert_eq!(server.asked(), [""; 0]);
    // A damaged file in the cache is not taken for the artifact.
    std::fs::write(&path, "bit rot").expect("written");
    fetch("k0s", &locked, cache.path(), &Events::none()).await.expect("fetched");
    assert_eq!(std::fs::read_to_string(&path).expect("a file"), "the file");
    assert_eq!(std::fs::read_dir(cache.path()).expect("a cache").count(), 1, "nothing temporary is left");
}

#[tokio::test]
async fn without_a_good_source_every_source_is_named_with_what_it_said() {
    let server = Server::up(&[("/bad", "tampered")]);
    let cache = tempfile::tempdir().expect("a cache");
    let locked = locked(vec![server.url("/bad"), server.url("/gone")], "the file");
    let error = why(fetch("k0s", &locked, cache.path(), &Events::none()).await.expect_err("no source"));
    let bad = format!(
        "{} has sha256 {}, provision.lock says {}",
        server.url("/bad"),
        sum("tampered"),
        sum("the file")
    );
    assert!(error.starts_with("cannot fetch k0s: ") && error.contains(&bad), "{error}");
    assert!(
        error.contains(&format!("{}: HTTP status client error (404 Not Found)", server.url("/gone"))),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(cache.path()).expect("a cache").count(), 0, "nothing half-done is left");
}

#[tokio::test]
async fn upstreams_published_sum_counts() {
    let list = format!("{}  other\n{}  k0s\n", sum("x"), sum("one"));
    let server = Server::up(&[("/v1/k0s", "one"), ("/v1/sha256sums.txt", &list)]);
    let cache = tempfile::tempdir().expect("a cache");
    let want = want(&server, "v1", true);
    let lock = resolve(std::slice::from_ref(&want), &Lock::default(), cache.path(), &Events::none())
        .await
        .expect("resolved");
    assert_eq!(lock.get("k0s"), Some(&locked(vec![server.url("/v1/k0s")], "one")));
    fetch("k0s", &lock.artifacts["k0s"], cache.path(), &Events::none()).await.expect("it is in the cache");
    assert_eq!(server.asked(), ["/v1/sha256sums.txt", "/v1/k0s"]);
    server.put("/v1/k0s", "evil");
    let error = resolve(std::slice::from_ref(&want), &Lock::default(), cache.path(), &Events::none())
        .await
        .expect_err("not it");
    assert!(why(error).contains(&format!("has sha256 {}, {} is expected", sum("evil"), sum("one"))));
    // No list, nothing known from before: nothing to trust.
    server.put("/v1/sha256sums.txt", "");
    let error = resolve(&[want], &Lock::default(), cache.path(), &Events::none()).await.expect_err("no sum");
    assert!(why(error).contains("sha256sums.txt does not name"));
}

#[tokio::test]
async fn mirrors_survive_and_stand_in_but_are_not_trusted() {
    let server = Server::up(&[
        ("/v1/k0s", "one"),
        ("/lan/v1/k0s", "one"),
        ("/v2/k0s", "two"),
        ("/lan/v2/k0s", "evil"),
    ]);
    let cache = tempfile::tempdir().expect("a cache");
    let mirrored = vec![server.url("/lan/v1/k0s"), server.url("/v1/k0s")];
    let previous = one("k0s", locked(mirrored.clone(), "one"));
    // Made anew: the mirror stays first, upstream is what is asked.
    let events = Events::none();
    let again =
        resolve(&[want(&server, "v1", false)], &previous, cache.path(), &events).await.expect("resolved");
    assert_eq!(again, previous);
    // Upstream out of reach: the mirror has the bytes that were locked.
    let mut away = want(&server, "v1", true);
    away.url = server.url("/away/v1/k0s");
    let lock = resolve(&[away], &previous, cache.path(), &events).await.expect("from the mirror");
    assert_eq!(lock.artifacts["k0s"].sha256, sum("one"));
    // Another version: the mirror moves on with it, and its bytes alone count for nothing.
    let next =
        resolve(&[want(&server, "v2", false)], &previous, cache.path(), &events).await.expect("resolved");
    assert_eq!(next.artifacts["k0s"].urls, [server.url("/lan/v2/k0s"), server.url("/v2/k0s")]);
    assert_eq!(next.artifacts["k0s"].sha256, sum("two"));
    let mut away = want(&server, "v2", false);
    away.url = server.url("/away/k0s");
    server.asked();
    resolve(&[away], &previous, cache.path(), &events).await.expect_err("a mirror alone is not believed");
    assert_eq!(server.asked(), ["/away/k0s"]);
}

#[tokio::test]
async fn other_bytes_under_a_locked_version_are_told() {
    let server = Server::up(&[("/v1/k0s", "new key")]);
    let cache = tempfile::tempdir().expect("a cache");
    let previous = one("k0s", locked(vec![server.url("/v1/k0s")], "old key"));
    let (events, mut told) = Events::channel();
    let lock =
        resolve(&[want(&server, "v1", false)], &previous, cache.path(), &events).await.expect("resolved");
    assert_eq!(lock.artifacts["k0s"].sha256, sum("new key"));
    drop(events);
    let mut warnings = Vec::new();
    while let Some(event) = told.recv().await {
        if let Event::Warning { message, .. } = event {
            warnings.push(message);
        }
    }
    let expected =
        format!("k0s v1 is no longer what was locked: sha256 {}, now {}", sum("old key"), sum("new key"));
    assert_eq!(warnings, [expected]);
}
