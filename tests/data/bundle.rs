//! Data tests of bundles: filled from a server on loopback, used as the only source, and handed over by somebody hostile.

use super::artifact::Server;
use provision::artifact::{
    BundleError, BundleMirror, Collected, Collecting, Defect, DefectKind, FileKind, INDEX, Index, Lock,
    Locked, MirrorPlace, SUMS, Wanted, resolve_from,
};
use provision::event::Events;
use sha2::{Digest, Sha256};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const K0S: &str = "binaries/k0s-x86_64/v1.35.7+k0s.0/k0s-v1.35.7+k0s.0-amd64";
const CRDS: &str = "crds/kthena-crds/v1.0.0/kthena-install.yaml";
const KEY: &str = "keys/nvidia-toolkit-key/stable/gpgkey";
const FILES: [(&str, &str, &str, &str); 3] = [
    ("k0s-x86_64", "v1.35.7+k0s.0", "/v1.35.7%2Bk0s.0/k0s-v1.35.7%2Bk0s.0-amd64", K0S),
    ("kthena-crds", "v1.0.0", "/v1.0.0/kthena-install.yaml", CRDS),
    ("nvidia-toolkit-key", "stable", "/gpgkey", KEY),
];

/// What upstream has at a path: some kilobytes, so that there is something to go on with.
fn content(url_path: &str) -> String {
    format!("{url_path} ").repeat(400)
}

fn sum(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

/// An upstream, a lock file of it, and folders.
struct Site {
    server: Server,
    lock: Lock,
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let texts = FILES.map(|(_, _, path, _)| content(path));
        let files: Vec<_> =
            FILES.iter().zip(&texts).map(|((_, _, path, _), text)| (*path, text.as_str())).collect();
        let server = Server::up(&files);
        let mut lock = Lock::default();
        for ((name, version, path, _), text) in FILES.iter().zip(&texts) {
            let (urls, size) = (vec![server.url(path)], text.len() as u64);
            let locked = Locked { version: (*version).to_owned(), urls, sha256: sum(text), size };
            lock.artifacts.insert((*name).to_owned(), locked);
        }
        Self { server, lock, dir: tempfile::tempdir().expect("a folder") }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn bundle(&self) -> PathBuf {
        self.at("bundle")
    }

    fn begin(&self) -> Result<Collecting, BundleError> {
        Collecting::begin(&self.bundle(), &self.lock, Default::default(), &[])
    }

    /// Fills the bundle, with a cache that has nothing.
    async fn collect(&self) -> Result<Collected, BundleError> {
        self.begin()?.run(&self.at("no-cache"), None, None, &Events::none()).await
    }

    async fn mirror(&self) -> Result<BundleMirror, BundleError> {
        BundleMirror::open(&MirrorPlace::Folder(self.bundle())).await
    }

    /// Returns what a command that uses the bundle is refused with.
    async fn refusal(&self) -> BundleError {
        let wanted: Vec<(&str, &Locked)> = self.lock.artifacts.iter().map(|(n, l)| (n.as_str(), l)).collect();
        match self.mirror().await {
            Err(error) => error,
            Ok(mirror) => mirror.check(&wanted).await.expect_err("refused"),
        }
    }

    async fn is_complete(&self) {
        let wanted: Vec<(&str, &Locked)> = self.lock.artifacts.iter().map(|(n, l)| (n.as_str(), l)).collect();
        let mirror = self.mirror().await.expect("a bundle");
        mirror.check(&wanted).await.expect("complete");
        let unnamed = mirror.verify(&self.at("cache"), &Events::none()).await.expect("as listed");
        assert_eq!(unnamed, Vec::<String>::new());
    }
}

fn defects(error: BundleError) -> Vec<Defect> {
    match error {
        BundleError::Incomplete { defects, .. } | BundleError::Fetch(defects) => defects,
        other => panic!("{other}"),
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a file")
}

#[tokio::test]
async fn a_bundle_has_every_artifact_with_sums_that_sha256sum_reads_and_is_fetched_once() {
    let site = Site::new();
    let collecting = site.begin().expect("a new folder");
    assert_eq!((collecting.files().len(), collecting.bytes()), (3, collecting.left()));
    drop(collecting);
    let collected = site.collect().await.expect("collected");
    assert_eq!((collected.fetched.len(), collected.others), (3, 0));
    for (_, _, url, path) in FILES {
        assert_eq!(read(&site.bundle().join(path)), content(url), "{path}");
    }
    let checked = std::process::Command::new("sha256sum")
        .args(["--check", "--strict", "--quiet", SUMS])
        .current_dir(site.bundle())
        .output()
        .expect("sha256sum");
    assert!(checked.status.success(), "{checked:?}");
    let index = Index::parse(&read(&site.bundle().join(INDEX))).expect("an index");
    assert_eq!(index.files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), [K0S, CRDS, KEY]);
    assert_eq!(site.server.asked().len(), 3);

    let again = site.begin().expect("ours");
    assert_eq!(again.left(), 0);
    drop(again);
    assert_eq!(site.collect().await.expect("complete").fetched, []);
    assert_eq!(site.server.asked(), Vec::<String>::new(), "nothing is fetched twice");
    site.is_complete().await;
}

#[tokio::test]
async fn only_some_kinds_are_collected_and_the_others_stay_as_they_are() {
    let site = Site::new();
    let run = async |only: &[FileKind]| {
        let collecting =
            Collecting::begin(&site.bundle(), &site.lock, Default::default(), only).expect("begun");
        collecting.run(&site.at("no-cache"), None, None, &Events::none()).await.expect("collected")
    };
    let keys = run(&[FileKind::Key]).await;
    assert_eq!(keys.index.files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), [KEY]);
    let rest = run(&[FileKind::Binary, FileKind::Crd]).await;
    assert_eq!((rest.index.files.len(), rest.fetched.len(), rest.others), (3, 2, 1));
    site.is_complete().await;
}

/// Every state in which a killed call leaves the folder.
#[tokio::test]
async fn whatever_a_killed_call_left_the_next_one_completes_it() {
    let site = Site::new();
    let (bundle, text) = (site.bundle(), content(FILES[0].2));
    let half = &text[..text.len() / 2];
    let part = |name: &str| bundle.join(format!("{name}.part"));
    let begun = || {
        std::fs::create_dir_all(&bundle).expect("made");
        std::fs::write(part(INDEX), "{\"format\"").expect("written");
    };
    begun();
    assert_eq!(site.collect().await.expect("collected").fetched.len(), 3, "without an index");
    site.is_complete().await;

    // Half of a file: only the rest is fetched.
    site.server.asked();
    std::fs::remove_file(bundle.join(K0S)).expect("removed");
    std::fs::write(part(K0S), half).expect("written");
    let left = site.begin().expect("ours").left();
    assert_eq!(left, (text.len() - half.len()) as u64);
    assert_eq!(site.collect().await.expect("collected").fetched.len(), 1);
    assert_eq!(site.server.asked(), [format!("{} bytes={}-", FILES[0].2, half.len())]);
    site.is_complete().await;

    // All of it, but not renamed; a part of something else; more than the whole; a damaged file; no sums yet.
    let cases: [(&str, String); 5] = [
        ("whole", text.clone()),
        ("foreign", "x".repeat(half.len())),
        ("too long", text.clone() + "x"),
        ("damaged", String::new()),
        ("sums", String::new()),
    ];
    for (case, left) in cases {
        match case {
            "sums" => std::fs::remove_file(bundle.join(SUMS)).expect("removed"),
            "damaged" => std::fs::write(bundle.join(K0S), text.replace('v', "w")).expect("written"),
            _ => {
                std::fs::remove_file(bundle.join(K0S)).expect("removed");
                std::fs::write(part(K0S), left).expect("written");
            }
        }
        site.collect().await.unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(read(&bundle.join(K0S)), text, "{case}");
        site.is_complete().await;
    }
}

#[tokio::test]
async fn what_upstream_changed_is_refused_and_what_else_was_fetched_stays() {
    let site = Site::new();
    site.server.put(FILES[0].2, "something else");
    let found = defects(site.collect().await.expect_err("refused"));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].artifact, "k0s-x86_64 v1.35.7+k0s.0");
    assert!(found[0].why.contains("provision.lock says"), "{}", found[0]);
    assert!(!site.bundle().join(K0S).exists());
    assert_eq!(read(&site.bundle().join(CRDS)), content(FILES[1].2));
    site.server.put(FILES[0].2, &content(FILES[0].2));
    assert_eq!(site.collect().await.expect("completed").fetched.len(), 1);
}

#[tokio::test]
async fn a_folder_with_something_else_is_refused_and_left_alone() {
    let site = Site::new();
    std::fs::create_dir(site.bundle()).expect("made");
    std::fs::write(site.bundle().join("thesis.tex"), "x").expect("written");
    let error = site.begin().err().expect("refused");
    assert!(matches!(&error, BundleError::Foreign { found, .. } if found == "thesis.tex"), "{error}");
    assert_eq!(std::fs::read_dir(site.bundle()).expect("read").count(), 1);
}

#[tokio::test]
async fn two_calls_do_not_write_one_bundle_at_once() {
    let site = Site::new();
    let first = site.begin().expect("begun");
    assert!(matches!(site.begin().err(), Some(BundleError::Busy(_))));
    drop(first);
    assert!(site.begin().is_ok());
}

#[tokio::test]
async fn any_one_file_that_is_missing_or_damaged_is_named_with_its_artifact() {
    let site = Site::new();
    site.collect().await.expect("collected");
    for (name, version, _, path) in FILES {
        let (at, text) = (site.bundle().join(path), read(&site.bundle().join(path)));
        std::fs::remove_file(&at).expect("removed");
        let found = defects(site.refusal().await);
        let wanted = Defect {
            kind: DefectKind::Missing,
            artifact: format!("{name} {version}"),
            file: at.display().to_string(),
            why: "does not exist".to_owned(),
        };
        assert_eq!(found, [wanted]);
        let damaged = "x".repeat(text.len());
        for (bad, why) in [("short", "has 5 bytes, expected"), (damaged.as_str(), "has sha256")] {
            std::fs::write(&at, bad).expect("written");
            let found = defects(site.refusal().await);
            assert!(found.len() == 1 && found[0].why.starts_with(why), "{found:?}");
            assert_eq!(
                (found[0].kind, found[0].artifact.as_str()),
                (DefectKind::Content, &*format!("{name} {version}"))
            );
        }
        std::fs::write(&at, text).expect("written");
    }
    let sums = read(&site.bundle().join(SUMS));
    std::fs::write(site.bundle().join(SUMS), sums.replace('a', "b")).expect("written");
    assert_eq!(defects(site.refusal().await)[0].artifact, SUMS);
    std::fs::remove_file(site.bundle().join(SUMS)).expect("removed");
    assert_eq!(defects(site.refusal().await)[0].artifact, SUMS);
    std::fs::write(site.bundle().join(SUMS), sums).expect("written");
    site.is_complete().await;
    std::fs::remove_file(site.bundle().join(INDEX)).expect("removed");
    assert!(site.refusal().await.to_string().contains("it has no bundle.json"));
}

#[tokio::test]
async fn what_the_bundle_does_not_list_is_named() {
    let mut site = Site::new();
    site.collect().await.expect("collected");
    let newer = Locked {
        version: "v1.36.0+k0s.0".into(),
        sha256: "0".repeat(64),
        ..site.lock.artifacts["k0s-x86_64"].clone()
    };
    site.lock.artifacts.insert("k0s-x86_64".into(), newer);
    let found = defects(site.refusal().await);
    assert_eq!(found[0].artifact, "k0s-x86_64 v1.36.0+k0s.0");
    assert!(found[0].why.contains("does not list"), "{}", found[0]);
}

#[tokio::test]
async fn links_pipes_and_folders_in_a_bundle_are_neither_followed_nor_waited_for() {
    let site = Site::new();
    site.collect().await.expect("collected");
    let at = site.bundle().join(K0S);
    let text = read(&at);
    let secret = site.at("secret");
    std::fs::write(&secret, &text).expect("written");
    let refused = async |why: &str| {
        let found = defects(site.refusal().await);
        assert!(found.len() == 1 && found[0].why.contains(why), "{found:?}");
    };
    std::fs::remove_file(&at).expect("removed");
    symlink(&secret, &at).expect("a link");
    refused("symbolic link").await;
    std::fs::remove_file(&at).expect("removed");
    assert!(std::process::Command::new("mkfifo").arg(&at).status().expect("mkfifo").success());
    refused("not a regular file").await;
    std::fs::remove_file(&at).expect("removed");
    std::fs::create_dir(&at).expect("made");
    refused("not a regular file").await;
    std::fs::remove_dir(&at).expect("removed");
    // A folder on the way.
    let folder = at.parent().expect("a folder");
    std::fs::remove_dir(folder).expect("removed");
    symlink(site.dir.path(), folder).expect("a link");
    refused("a folder on its path is a link").await;
    std::fs::remove_file(folder).expect("removed");

    // Whoever writes a bundle writes through no link either.
    std::fs::create_dir(folder).expect("made");
    symlink(&secret, site.bundle().join(format!("{K0S}.part"))).expect("a link");
    std::fs::write(&secret, "mine").expect("written");
    site.collect().await.expect("completed");
    assert_eq!((read(&secret).as_str(), read(&at)), ("mine", text));
    site.is_complete().await;
}

#[tokio::test]
async fn an_index_that_leads_out_of_the_bundle_or_is_none_is_refused() {
    let site = Site::new();
    site.collect().await.expect("collected");
    let good = read(&site.bundle().join(INDEX));
    let cases = [
        (good.replace(CRDS, "crds/../../secret/x"), "path"),
        (good.replace(CRDS, "/etc/crds/kthena/passwd"), "path"),
        (good.replace(CRDS, "crds/a/b/.hidden"), "path"),
        (good.replace(CRDS, "crds/a/b/c.part"), "path"),
        (good.replace(CRDS, "keys/a/b/c"), "path"),
        (good.replace(CRDS, "crds/a/b\\nc/d"), "path"),
        (good.replace(CRDS, K0S), "path"),
        (good.replace("\"format\": 1", "\"format\": 2"), "format 2 is not supported"),
        (good.replace("\"sha256\": \"", "\"sha256\": \"X"), "sha256"),
        (good.replace("\"size\"", "\"bytes\""), "not the index"),
        ("[]".to_owned(), "not the index"),
        (" ".repeat(17 << 20), "too large"),
        ("\u{fffd}".to_owned(), "not the index"),
    ];
    for (text, why) in cases {
        std::fs::write(site.bundle().join(INDEX), &text).expect("written");
        let error = site.mirror().await.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(why), "{why}: {error}");
        assert!(site.begin().is_err(), "{why}: nothing is written into it");
    }
    std::fs::remove_file(site.bundle().join(INDEX)).expect("removed");
    symlink("/dev/zero", site.bundle().join(INDEX)).expect("a link");
    assert!(site.refusal().await.to_string().contains("symbolic link"));
}

#[tokio::test]
async fn files_that_the_index_does_not_name_are_told() {
    let site = Site::new();
    site.collect().await.expect("collected");
    std::fs::write(site.bundle().join("keys/extra"), "x").expect("written");
    let mirror = site.mirror().await.expect("a bundle");
    let unnamed = mirror.verify(&site.at("cache"), &Events::none()).await.expect("as listed");
    assert_eq!(unnamed, ["keys/extra"]);
}

#[tokio::test]
async fn a_bundle_on_a_web_server_is_used_alone_and_goes_nowhere_else() {
    let site = Site::new();
    site.collect().await.expect("collected");
    site.server.asked();
    let paths = [INDEX, SUMS, K0S, CRDS, KEY];
    let texts = paths.map(|path| read(&site.bundle().join(path)));
    let urls = paths.map(|path| format!("/ams/{}", path.replace('+', "%2B")));
    let files: Vec<_> = urls.iter().zip(&texts).map(|(url, text)| (url.as_str(), text.as_str())).collect();
    let web = Server::up(&files);
    let place = web.url("/ams/").parse::<MirrorPlace>().expect("a URL");
    let mirror = BundleMirror::open(&place).await.expect("a bundle");
    let wanted: Vec<(&str, &Locked)> = site.lock.artifacts.iter().map(|(n, l)| (n.as_str(), l)).collect();
    mirror.check(&wanted).await.expect("complete");
    let mut file = mirror
        .file("kthena-crds", &site.lock.artifacts["kthena-crds"], &site.at("cache"), &Events::none())
        .await
        .expect("fetched");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut file, &mut text).expect("read");
    assert_eq!(text, content(FILES[1].2));

    web.put(&urls[2], "damaged");
    let found = defects(mirror.check(&wanted).await.expect_err("refused"));
    assert_eq!(found[0].artifact, "k0s-x86_64 v1.35.7+k0s.0");
    web.put(&urls[2], &format!("redirect {}", site.server.url(FILES[0].2)));
    let found = defects(mirror.check(&wanted).await.expect_err("refused"));
    assert!(found[0].why.contains("the server returns 302"), "{}", found[0]);
    assert_eq!(site.server.asked(), Vec::<String>::new(), "upstream is not asked");
}

#[tokio::test]
async fn a_lock_file_is_made_from_a_bundle_alone() {
    let site = Site::new();
    site.collect().await.expect("collected");
    site.server.asked();
    let mirror = site.mirror().await.expect("a bundle");
    let wanted = FILES.map(|(name, version, path, _)| Wanted {
        name: name.to_owned(),
        version: version.to_owned(),
        url: site.server.url(path),
        ..Wanted::default()
    });
    let resolve = async |wanted: &[Wanted], previous: &Lock| {
        resolve_from(wanted, previous, &mirror, &site.at("cache"), &Events::none()).await
    };
    assert_eq!(resolve(&wanted, &Lock::default()).await.expect("locked"), site.lock);
    let mut tampered = site.lock.clone();
    tampered.artifacts.entry("kthena-crds".into()).and_modify(|l| l.sha256 = "0".repeat(64));
    let error = resolve(&wanted, &tampered).await.expect_err("refused");
    assert!(error.0.len() == 1 && error.0[0].why.contains("provision.lock says"), "{error}");
    let newer = Wanted { version: "v2.0.0".into(), ..wanted[1].clone() };
    let error = resolve(&[newer], &Lock::default()).await.expect_err("refused");
    assert!(error.0[0].why.contains("does not have v2.0.0"), "{error}");
    let pinned = Wanted { fingerprints: vec!["AB".repeat(20)], ..wanted[2].clone() };
    let error = resolve(&[pinned], &Lock::default()).await.expect_err("refused");
    assert!(error.0[0].foreign_key, "{error}");
    assert_eq!(site.server.asked(), Vec::<String>::new(), "upstream is not asked");
}

#[tokio::test]
async fn a_bundle_is_made_from_another_one() {
    let site = Site::new();
    site.collect().await.expect("collected");
    site.server.asked();
    let mirror = site.mirror().await.expect("a bundle");
    let copy =
        Collecting::begin(&site.at("copy"), &site.lock, Default::default(), &[FileKind::Crd]).expect("begun");
    let copied = copy.run(&site.at("no-cache"), Some(&mirror), None, &Events::none()).await.expect("copied");
    assert_eq!(copied.fetched.len(), 1);
    assert_eq!(read(&site.at("copy").join(CRDS)), content(FILES[1].2));
    assert_eq!(site.server.asked(), Vec::<String>::new(), "upstream is not asked");
}

#[test]
fn a_mirror_is_a_folder_or_a_plain_web_address() {
    let place = |text: &str| text.parse::<MirrorPlace>();
    assert_eq!(place("/media/usb"), Ok(MirrorPlace::Folder("/media/usb".into())));
    assert_eq!(
        place("https://web.example.net/ams/"),
        Ok(MirrorPlace::Url("https://web.example.net/ams".into()))
    );
    for wrong in ["", "ftp://x/y", "https://user:secret@x/y", "https://x/y?z", "https://"] {
        assert!(place(wrong).is_err(), "{wrong}");
    }
}
