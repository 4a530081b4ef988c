//! Data tests of `artifact`: the lock file, and fetching from a server on loopback.

use provision::artifact::{Lock, Locked, Mirror, Needs, Wanted, fetch, resolve, wanted};
use provision::catalog::Catalog;
use provision::event::{Event, Events};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A server of a few files. Ends with the test.
pub(crate) struct Server {
    at: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub(crate) fn up(files: &[(&str, &str)]) -> Self {
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
                let (path, range) = Self::asked_for(&stream);
                if path == "/quit" {
                    return;
                }
                // Before the answer: whoever has it looks at the log.
                let said = range.as_ref().map_or_else(|| path.clone(), |range| format!("{path} {range}"));
                log.lock().expect("a log").push(said);
                Self::answer(stream, shared.lock().expect("files").get(&path), range.as_deref());
            }
        });
        Self { at, asked, files, thread: Some(thread) }
    }

    /// Returns the path, and the range if only a part is asked for.
    fn asked_for(stream: &TcpStream) -> (String, Option<String>) {
        let mut lines = BufReader::new(stream.try_clone().expect("a stream")).lines();
        let first = lines.next().and_then(Result::ok).unwrap_or_default();
        let mut range = None;
        while let Some(line) = lines.next().and_then(Result::ok).filter(|line| !line.is_empty()) {
            if let Some(("range", value)) = line.to_lowercase().split_once(": ") {
                range = Some(value.to_owned());
            }
        }
        (first.split(' ').nth(1).unwrap_or_default().to_owned(), range)
    }

    /// Sends a file, or its end; a file that says `redirect URL` sends the client there.
    fn answer(mut stream: TcpStream, file: Option<&Vec<u8>>, range: Option<&str>) {
        let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let elsewhere = file.and_then(|body| std::str::from_utf8(body).ok()?.strip_prefix("redirect "));
        let (status, body) = match (file, from) {
            _ if elsewhere.is_some() => ("302 Found", b"".as_slice()),
            (Some(body), Some(from)) if from < body.len() => ("206 Partial Content", &body[from..]),
            (Some(body), _) => ("200 OK", body.as_slice()),
            (None, _) => ("404 Not Found", b"".as_slice()),
        };
        let mut head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
        if let (Some(file), Some(from)) = (file, from) {
            head += &format!("Content-Range: bytes {from}-{}/{}\r\n", file.len() - 1, file.len());
        }
        head += &elsewhere.map(|url| format!("Location: {url}\r\n")).unwrap_or_default();
        head += "\r\n";
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at)
    }

    pub fn put(&self, path: &str, text: &str) {
        self.files.lock().expect("files").insert(path.to_owned(), text.as_bytes().to_vec());
    }

    pub fn asked(&self) -> Vec<String> {
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
        ..Wanted::default()
    }
}

fn one(name: &str, locked: Locked) -> Lock {
    let mut lock = Lock::default();
    lock.artifacts.insert(name.to_owned(), locked);
    lock
}

fn why(error: impl std::error::Error) -> String {
    error.to_string()
}

#[test]
fn a_lock_file_reads_back_as_it_was_written_and_a_missing_one_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("provision.lock");
    let missing = Lock::load(&path).expect_err("missing").to_string();
    assert!(missing.contains("provision lock"), "{missing}");
    let entry = Locked {
        version: "v1.35.7+k0s.0 \"ü\"".into(),
        urls: vec!["https://a/b".into(), "http://mirror/a%20b".into()],
        sha256: "0f".repeat(32),
        size: 7,
    };
    let lock = one("k0s-x86_64", entry);
    lock.save(&path).expect("saved");
    assert_eq!(Lock::load(&path).expect("read"), lock);
    insta::assert_snapshot!(std::fs::read_to_string(&path).expect("text"), @r##"
    # Pinned downloads. Generated by `provision lock`; commit this file. Mirrors can be added under urls, in the order
    # in which to try them; they are kept when the file is updated.
    artifacts:
      k0s-x86_64:
        version: "v1.35.7+k0s.0 \"ü\""
        urls:
        - "https://a/b"
        - "http://mirror/a%20b"
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
        ("https://x/a", "/srv/a", "a: one of urls is not an http or https URL"),
        ("aaaa", "AAAA", "a: sha256 is not 64 lower-case hex digits"),
        ("size: 1", "sise: 1", "line 6: unknown field"),
    ] {
        std::fs::write(&path, good.replace(from, to)).expect("written");
        let error = Lock::load(&path).expect_err(expected).to_string();
        assert!(error.contains("provision.lock: ") && error.contains(expected), "{error}");
    }
    std::fs::write(&path, &good).expect("written");
    Lock::load(&path).expect("the same without a mistake");
    // What is no lock file at all is not shown: it may be anything that the name was made to lead to.
    for text in
        ["root:$6$canary:1:2\n", "canary: [\n", "artifacts: {canary: canary}\n", "canary\n", "- canary\n"]
    {
        std::fs::write(&path, text).expect("written");
        let error = Lock::load(&path).expect_err(text).to_string();
        assert!(!error.contains("canary"), "{error}");
    }
    let large = std::fs::File::create(&path).expect("made");
    large.set_len(1 << 40).expect("sparse");
    let error = Lock::load(&path).expect_err("a terabyte");
    assert!(format!("{error}").contains("larger than the limit of 4 MiB"), "{error}");
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&path, "<<<<<<< ours\n").expect("written");
    assert!(Lock::load(&path).is_err(), "a merge conflict is no lock file");
}

#[test]
fn only_what_an_inventory_needs_is_fetched() {
    let catalog = Catalog::builtin().expect("the catalog");
    let needs = Needs {
        k0s_version: "v1.35.7+k0s.0".into(),
        arches: ["x86_64".to_owned(), "aarch64".to_owned()].into(),
        neuron: true,
        ..Needs::default()
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
async fn without_a_good_source_every_source_is_listed_with_its_error() {
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
    assert!(why(error).contains(&format!("has sha256 {}, expected {}", sum("evil"), sum("one"))));
    // No list, nothing known from before: nothing to trust.
    server.put("/v1/sha256sums.txt", "");
    let error = resolve(&[want], &Lock::default(), cache.path(), &Events::none()).await.expect_err("no sum");
    assert!(why(error).contains("sha256sums.txt does not list"));
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
async fn changed_content_of_a_locked_version_is_reported() {
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
        format!("k0s v1 has changed since it was locked: sha256 {}, now {}", sum("old key"), sum("new key"));
    assert_eq!(warnings, [expected]);
}

/// Reads a request up to its blank line.
fn asked(stream: &TcpStream) {
    let mut lines = BufReader::new(stream.try_clone().expect("a stream")).lines();
    while lines.next().and_then(Result::ok).is_some_and(|line| !line.is_empty()) {}
}

/// A server whose answer never ends; it stops when nobody reads any more.
fn endless() -> (String, std::thread::JoinHandle<()>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let url = format!("http://{}/sums", listener.local_addr().expect("its address"));
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        asked(&stream);
        let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").is_ok();
        while sent {
            sent = stream.write_all(&[b'a'; 1 << 16]).is_ok();
        }
    });
    (url, thread)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_checksums_that_never_ends_is_given_up() {
    let server = Server::up(&[("/v1/k0s", "one")]);
    let (url, thread) = endless();
    let cache = tempfile::tempdir().expect("a cache");
    let want = Wanted { checksums: Some(url), ..want(&server, "v1", false) };
    let error = resolve(&[want], &Lock::default(), cache.path(), &Events::none()).await.expect_err("endless");
    let said = why(error);
    assert!(said.contains("is not a checksum file"), "{said}");
    thread.join().expect("the server saw its reader go");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_says_it_is_huge_is_not_fetched() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let url = format!("http://{}/k0s", listener.local_addr().expect("its address"));
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        asked(&stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5000000000\r\n\r\nbegins");
    });
    let cache = tempfile::tempdir().expect("a cache");
    let want = Wanted { name: "k0s".into(), version: "v1".into(), url, ..Wanted::default() };
    let error = resolve(&[want], &Lock::default(), cache.path(), &Events::none()).await.expect_err("huge");
    let said = why(error);
    assert!(said.contains("larger than 4 GiB"), "{said}");
    thread.join().expect("served");
}

#[tokio::test]
async fn an_air_gapped_site_can_lock_and_is_warned_about_unverified_sums() {
    let list = format!("{}  k0s\n", sum("one"));
    let server = Server::up(&[("/lan/k0s", "one"), ("/lan/sums", &list), ("/lan/key", "bytes")]);
    let cache = tempfile::tempdir().expect("a cache");
    let mirror = |path: &str, sums: Option<&str>| {
        Some(Mirror { url: server.url(path), checksums: sums.map(|path| server.url(path)) })
    };
    let k0s = Wanted { mirror: mirror("/lan/k0s", Some("/lan/sums")), ..want(&server, "v1", true) };
    let key = Wanted { name: "key".into(), mirror: mirror("/lan/key", None), ..want(&server, "v1", false) };
    let (events, mut told) = Events::channel();
    let lock = resolve(&[k0s.clone(), key], &Lock::default(), cache.path(), &events).await.expect("resolved");
    assert_eq!(lock.artifacts["k0s"].sha256, sum("one"));
    assert_eq!(lock.artifacts["k0s"].urls, [server.url("/lan/k0s"), server.url("/v1/k0s")]);
    assert_eq!(lock.artifacts["key"].sha256, sum("bytes"));
    drop(events);
    let mut warnings = Vec::new();
    while let Some(event) = told.recv().await {
        if let Event::Warning { message, .. } = event {
            warnings.push(message);
        }
    }
    assert_eq!(
        warnings,
        [format!("key v1: the sha256 is taken only from the mirror {}", server.url("/lan/key"))]
    );
    // A mirror with other bytes than upstream's list names is passed over.
    server.put("/lan/k0s", "evil");
    server.put("/v1/k0s", "one");
    let lock = resolve(&[k0s], &Lock::default(), cache.path(), &Events::none()).await.expect("from upstream");
    assert_eq!(lock.artifacts["k0s"].sha256, sum("one"));
}

#[tokio::test]
async fn everything_that_could_not_be_fetched_is_named() {
    let server = Server::up(&[("/v1/k0s", "one")]);
    let cache = tempfile::tempdir().expect("a cache");
    let gone = |name: &str| Wanted {
        name: name.into(),
        version: "v1".into(),
        url: server.url(&format!("/gone/{name}")),
        ..Wanted::default()
    };
    let wanted = [gone("a"), want(&server, "v1", false), gone("b")];
    let all =
        resolve(&wanted, &Lock::default(), cache.path(), &Events::none()).await.expect_err("two are gone");
    let names: Vec<&str> = all.0.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(all.0.iter().all(|one| one.why.contains("404 Not Found") && one.why.contains("/gone/")), "{all}");
}

#[tokio::test]
async fn a_key_that_is_not_pinned_is_not_locked() {
    // The smallest key of version 4 that has a fingerprint.
    let body = [4, 1, 2, 3, 4, 1, 9, 9];
    let key: Vec<u8> = [&[0x98, body.len() as u8][..], &body].concat();
    let hashed = [&[0x99, 0, body.len() as u8][..], &body].concat();
    let fingerprint: String = sha1::Sha1::digest(hashed).iter().map(|b| format!("{b:02X}")).collect();
    let server = Server::up(&[]);
    server.files.lock().expect("files").insert("/v1/k0s".to_owned(), key);
    let cache = tempfile::tempdir().expect("a cache");
    let pinned = |fingerprint: &str| Wanted {
        name: "neuron-key".into(),
        fingerprints: vec![fingerprint.to_owned()],
        ..want(&server, "v1", false)
    };
    let none = Lock::default();
    resolve(&[pinned(&fingerprint)], &none, cache.path(), &Events::none()).await.expect("its own key");
    let other = "0".repeat(40);
    let refused =
        resolve(&[pinned(&other)], &none, cache.path(), &Events::none()).await.expect_err("another");
    assert!(refused.0[0].foreign_key);
    let expected = format!("it contains the key {fingerprint}, expected {other}");
    assert!(why(refused).contains(&expected));
    server.put("/v1/k0s", "<html>");
    let refused = resolve(&[pinned(&other)], &none, cache.path(), &Events::none()).await.expect_err("no key");
    assert!(refused.0[0].foreign_key && why(refused).contains(&other));
}

/// Returns the names of the artifacts of an example with these pools.
fn names_of(pools: &str, more: &str) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a folder");
    let text = format!(
        "apiVersion: provision/v1\nkind: Inventory\nmetadata: {{name: a}}\nssh: {{user: root}}\n{more}cluster:\n  \
         k0s: {{version: v1.35.7+k0s.0}}\n  network: {{podCIDR: 10.240.0.0/16, serviceCIDR: 10.96.0.0/16}}\npools:\n{pools}"
    );
    std::fs::write(dir.path().join("site.yaml"), text).expect("written");
    let catalog = Catalog::builtin().expect("the catalog");
    let loaded = provision::inventory::load(&dir.path().join("site.yaml"), &catalog);
    let inventory = loaded.unwrap_or_else(|d| panic!("{d}")).inventory;
    provision::role::artifacts(&inventory, &catalog)
        .into_iter()
        .map(|want| want.name + if want.mirror.is_some() { " mirrored" } else { "" })
        .collect()
}

#[test]
fn only_architectures_that_the_pools_can_have_are_asked_for() {
    let single = |product: &str, driver: &str| {
        format!(
            "  all:\n    role: single\n    accelerator: {{nvidia: {{product: {product}, count: 4, driver: \"{driver}\"}}}}\n    \
             hosts: {{h-1: {{address: 10.0.0.1}}}}\n"
        )
    };
    let keys = ["nvidia-cuda-key", "nvidia-cuda-rpm-key", "nvidia-toolkit-key"];
    let with = |k0s: &[&str]| k0s.iter().chain(&keys).map(|n| (*n).to_owned()).collect::<Vec<_>>();
    assert_eq!(names_of(&single("gb200", "580.178.04"), ""), with(&["k0s-aarch64"]));
    assert_eq!(names_of(&single("h100-sxm5-80gb", "580.178.04"), ""), with(&["k0s-x86_64"]));
    assert_eq!(names_of(&single("l40s", "580.178.04"), ""), with(&["k0s-x86_64", "k0s-aarch64"]));
    let plain = "  all:\n    role: single\n    hosts: {h-1: {address: 10.0.0.1}}\n";
    let mirror = "repositories: {github.com: {mirror: \"http://mirror.lan/github\"}}\n";
    assert_eq!(names_of(plain, mirror), ["k0s-x86_64 mirrored", "k0s-aarch64 mirrored"]);
}

/// Runs the binary on an inventory with this lock file beside it; returns exit code and all that was printed.
fn run(arguments: &[&str], k0s: &str, lock: Option<&Lock>) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().expect("a folder");
    let text = format!(
        "apiVersion: provision/v1\nkind: Inventory\nmetadata: {{name: a}}\nssh: {{user: root, agent: false}}\ncluster:\n  \
         k0s: {{version: {k0s}}}\n  network: {{podCIDR: 10.240.0.0/16, serviceCIDR: 10.96.0.0/16}}\npools:\n  all:\n    role: single\n    \
         hosts: {{h-1: {{address: 127.0.0.1, port: 1}}}}\n"
    );
    std::fs::write(dir.path().join("site.yaml"), text).expect("written");
    if let Some(lock) = lock {
        lock.save(&dir.path().join("provision.lock")).expect("saved");
    }
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_provision"))
        .args(arguments)
        .args(["-i", "site.yaml"])
        .current_dir(dir.path())
        .env("HOME", dir.path())
        .env("XDG_STATE_HOME", dir.path().join("state"))
        .output()
        .expect("it runs");
    (
        output.status.code(),
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
    )
}

#[test]
fn a_lock_file_that_does_not_fit_is_refused_with_what_is_locked_and_what_is_wanted() {
    let entry = |version: &str| Locked {
        version: version.into(),
        urls: vec!["https://a/b".into()],
        sha256: "0f".repeat(32),
        size: 7,
    };
    let mut lock = one("k0s-x86_64", entry("v1.35.7+k0s.0"));
    lock.artifacts.insert("k0s-aarch64".to_owned(), entry("v1.35.7+k0s.0"));
    for command in [&["validate"][..], &["plan"], &["apply", "--yes"]] {
        let (code, said) = run(command, "v1.36.3+k0s.2", Some(&lock));
        let expected = "k0s-x86_64 is locked at v1.35.7+k0s.0, but the inventory needs v1.36.3+k0s.2; k0s-aarch64 is locked";
        assert!(
            code == Some(1) && said.contains("error[E-LOCK-VERSION]") && said.contains(expected),
            "{command:?}: {said}"
        );
        assert!(said.contains("provision lock"), "{said}");
    }
    let (code, said) = run(&["validate"], "v1.35.7+k0s.0", Some(&lock));
    assert!(code == Some(0) && !said.contains("next:"), "{said}");
    lock.artifacts.remove("k0s-aarch64");
    let (code, said) = run(&["validate"], "v1.35.7+k0s.0", Some(&lock));
    assert!(code == Some(1) && said.contains("k0s-aarch64 v1.35.7+k0s.0 is not locked"), "{said}");
}

#[test]
fn without_a_lock_file_validate_says_what_is_next_and_what_only_reads_goes_on() {
    let (code, said) = run(&["validate"], "v1.35.7+k0s.0", None);
    assert!(code == Some(0) && said.contains("next: provision lock -i site.yaml"), "{said}");
    let (code, said) = run(&["plan"], "v1.35.7+k0s.0", None);
    assert!(code == Some(1) && said.contains("E-LOCK-FILE"), "{said}");
    for command in ["preflight", "facts", "verify", "attach"] {
        let (_, said) = run(&[command], "v1.35.7+k0s.0", None);
        assert!(!said.contains("E-LOCK"), "{command}: {said}");
    }
}
