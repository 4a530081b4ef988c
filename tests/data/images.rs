//! Data tests of container images in bundles, out of a registry on loopback that wants a login.

use provision::artifact::{
    BundleError, BundleMirror, Collecting, Defect, FileKind, Image, Lock, MirrorPlace, Registries,
    RegistryLogin,
};
use provision::event::Events;
use provision::state::SecretText;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Every token is good for so many requests.
const GOOD_FOR: usize = 8;

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[derive(Default)]
struct Content {
    files: BTreeMap<String, Vec<u8>>,
    asked: Vec<String>,
    /// How often each token that was issued was used.
    used: BTreeMap<String, usize>,
}

/// A registry that issues tokens to whoever knows the password.
struct Registry {
    at: SocketAddr,
    content: Arc<Mutex<Content>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Registry {
    fn up() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let at = listener.local_addr().expect("its address");
        let content = Arc::new(Mutex::new(Content::default()));
        let shared = content.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if !Self::answer(stream, at, &mut shared.lock().expect("content")) {
                    return;
                }
            }
        });
        Self { at, content, thread: Some(thread) }
    }

    /// Answers a request; returns whether there are more to come.
    fn answer(mut stream: TcpStream, at: SocketAddr, content: &mut Content) -> bool {
        let mut lines = BufReader::new(stream.try_clone().expect("a stream")).lines();
        let first = lines.next().and_then(Result::ok).unwrap_or_default();
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = BTreeMap::new();
        while let Some(line) = lines.next().and_then(Result::ok).filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").expect("a header");
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        if path == "/quit" {
            return false;
        }
        let header = |name: &str| headers.get(name).map(String::as_str).unwrap_or_default();
        let from: Option<usize> =
            header("range").strip_prefix("bytes=").and_then(|r| r.strip_suffix('-')?.parse().ok());
        let (status, more, body) = if path.starts_with("/token") {
            // eva:canary
            match header("authorization") == "Basic ZXZhOmNhbmFyeQ==" && path.contains("service=reg") {
                true => {
                    let token = format!("t{}", content.used.len());
                    content.used.insert(format!("Bearer {token}"), 0);
                    ("200 OK", String::new(), format!("{{\"token\":\"{token}\"}}").into_bytes())
                }
                false => ("401 Unauthorized", String::new(), Vec::new()),
            }
        } else if content.used.get(header("authorization")).is_none_or(|used| *used >= GOOD_FOR) {
            let realm = format!(
                "WWW-Authenticate: Bearer realm=\"http://{at}/token\",service=\"reg\",scope=\"repository:x:pull\"\r\n"
            );
            ("401 Unauthorized", realm, Vec::new())
        } else {
            content.used.entry(header("authorization").to_owned()).and_modify(|used| *used += 1);
            content.asked.push(match from {
                Some(from) => format!("{path} {from}-"),
                None => path.clone(),
            });
            match (content.files.get(&path), from) {
                (Some(body), Some(from)) if from < body.len() => {
                    let range = format!("Content-Range: bytes {from}-{}/{}\r\n", body.len() - 1, body.len());
                    ("206 Partial Content", range, body[from..].to_vec())
                }
                (Some(body), _) => ("200 OK", String::new(), body.clone()),
                (None, _) => ("404 Not Found", String::new(), Vec::new()),
            }
        };
        let head =
            format!("HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        true
    }

    fn put(&self, path: &str, body: &[u8]) {
        self.content.lock().expect("content").files.insert(path.to_owned(), body.to_vec());
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.content.lock().expect("content").asked)
    }

    /// Adds a blob; returns its descriptor.
    fn blob(&self, kind: &str, body: &[u8]) -> serde_json::Value {
        let digest = format!("sha256:{}", sum(body));
        self.put(&format!("/v2/acme/tool/{kind}/{digest}"), body);
        serde_json::json!({"mediaType": "application/vnd.oci.x", "digest": digest, "size": body.len()})
    }

    /// Adds an image of two platforms with a layer in common; returns its digest.
    fn image(&self, tag: &str) -> String {
        let common = self.blob("blobs", &b"common ".repeat(3000));
        let platforms: Vec<_> = ["amd64", "arm64"]
            .iter()
            .map(|arch| {
                let config = self.blob("blobs", format!("{{\"architecture\":\"{arch}\"}}").as_bytes());
                let layer = self.blob("blobs", arch.repeat(2000).as_bytes());
                let manifest =
                    serde_json::json!({"schemaVersion": 2, "config": config, "layers": [common, layer]});
                self.blob("manifests", manifest.to_string().as_bytes())
            })
            .collect();
        let list = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": platforms});
        let text = list.to_string();
        self.put(&format!("/v2/acme/tool/manifests/{tag}"), text.as_bytes());
        self.blob("manifests", text.as_bytes());
        sum(text.as_bytes())
    }

    fn registries(&self, password: &str) -> Registries {
        let login = RegistryLogin {
            mirror: Some(format!("http://{}", self.at)),
            credentials: Some(SecretText::new(format!("eva:{password}"))),
        };
        // Nothing listens there: the registry itself is asked after its mirror.
        Registries::new(BTreeMap::from([("127.0.0.1:1".to_owned(), login)])).expect("a client")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Ok(mut stream) = TcpStream::connect(self.at) {
            let _ = stream.write_all(b"GET /quit HTTP/1.1\r\n\r\n");
        }
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

const TOOL: &str = "127.0.0.1:1/acme/tool";

async fn collect(
    to: &std::path::Path,
    registries: &Registries,
    images: Vec<Image>,
) -> Result<usize, BundleError> {
    let collecting = Collecting::begin(to, &Lock::default(), (images, Vec::new()), &[FileKind::Image])?;
    let none = to.join("../no-cache");
    let collected = collecting.run(&none, None, Some(registries), &Events::none()).await?;
    Ok(collected.fetched.len())
}

fn defects(error: BundleError) -> Vec<Defect> {
    match error {
        BundleError::Fetch(defects) => defects,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_image_becomes_a_layout_with_all_of_its_platforms_and_the_same_digest() {
    let (registry, dir) = (Registry::up(), tempfile::tempdir().expect("a folder"));
    let (registries, to) = (registry.registries("canary"), dir.path().join("bundle"));
    let digest = registry.image("v1");
    let image = registries.image(&format!("{TOOL}:v1")).await.expect("read");
    // A list, two manifests, two configurations, three layers, oci-layout and index.json.
    assert_eq!(image.files.len(), 10);
    let size: u64 = image.files.iter().map(|file| file.size).sum();
    assert!(size > 30_000, "known before anything is fetched: {size}");
    assert_eq!(collect(&to, &registries, vec![image.clone()]).await.expect("collected"), 10);
    let layout = to.join(format!("images/127.0.0.1_1_acme_tool/v1-{}", &digest[..16]));
    let read = |path: &str| std::fs::read_to_string(layout.join(path)).expect("a file");
    assert_eq!(read("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}\n");
    let index: serde_json::Value = serde_json::from_str(&read("index.json")).expect("JSON");
    assert_eq!(index["manifests"][0]["digest"], format!("sha256:{digest}"));
    assert_eq!(
        index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"],
        format!("{TOOL}:v1")
    );
    let mut blobs = 0;
    for entry in std::fs::read_dir(layout.join("blobs/sha256")).expect("a folder").flatten() {
        let bytes = std::fs::read(entry.path()).expect("a blob");
        assert_eq!(sum(&bytes), entry.file_name().to_string_lossy());
        blobs += 1;
    }
    assert_eq!(blobs, 8);
    // Nothing is fetched twice.
    registry.asked();
    assert_eq!(collect(&to, &registries, vec![image]).await.expect("complete"), 0);
    assert_eq!(registry.asked(), Vec::<String>::new());
    let same = registries.image(&format!("{TOOL}:v1@sha256:{digest}")).await.expect("read");
    assert_eq!(collect(&to, &registries, vec![same]).await.expect("collected"), 10);

    // A second bundle takes it from the first.
    let mirror = BundleMirror::open(&MirrorPlace::Folder(to)).await.expect("a bundle");
    let by_digest = format!("{TOOL}@sha256:{digest}");
    let found = mirror.images([by_digest.as_str(), "127.0.0.1:1/acme/tool:v1", "acme/other:v1"]);
    assert_eq!((found.0.len(), found.1.len()), (2, 1));
    assert_eq!(found.0[0].files.len(), 10);
    assert_eq!(found.1[0].artifact, "docker.io/acme/other v1");
}

#[tokio::test]
async fn a_layer_that_was_cut_off_is_gone_on_with_and_a_changed_one_refused() {
    let (registry, dir) = (Registry::up(), tempfile::tempdir().expect("a folder"));
    let (registries, to) = (registry.registries("canary"), dir.path().join("bundle"));
    registry.image("v1");
    let image = registries.image(&format!("{TOOL}:v1")).await.expect("read");
    collect(&to, &registries, vec![image.clone()]).await.expect("collected");
    let layer = image.files.iter().max_by_key(|file| file.size).expect("a layer");
    let (at, url) = (to.join(&layer.path), format!("/v2/acme/tool/blobs/sha256:{}", layer.sha256));
    let bytes = std::fs::read(&at).expect("a layer");
    std::fs::remove_file(&at).expect("removed");
    std::fs::write(at.with_file_name(format!("{}.part", layer.sha256)), &bytes[..1000]).expect("written");
    registry.asked();
    assert_eq!(collect(&to, &registries, vec![image.clone()]).await.expect("completed"), 1);
    assert_eq!(registry.asked(), [format!("{url} 1000-")]);

    std::fs::remove_file(&at).expect("removed");
    registry.put(&url, &b"c".repeat(bytes.len()));
    let found = defects(collect(&to, &registries, vec![image]).await.expect_err("refused"));
    assert!(found.len() == 1 && found[0].artifact == "127.0.0.1:1/acme/tool v1", "{found:?}");
    assert!(found[0].why.contains("its manifest says"), "{found:?}");
    assert!(!at.exists());
}

#[tokio::test]
async fn a_registry_that_gives_another_manifest_or_wants_another_password_is_refused() {
    let registry = Registry::up();
    let digest = registry.image("v1");
    let image = format!("{TOOL}@sha256:{digest}");
    registry.put(&format!("/v2/acme/tool/manifests/sha256:{digest}"), b"{\"layers\": []}");
    let why =
        async |registries: &Registries, image: &str| registries.image(image).await.expect_err("refused");
    let found = why(&registry.registries("canary"), &image).await;
    assert!(found.why.contains("returns another manifest"), "{found}");
    assert_eq!(found.artifact, format!("127.0.0.1:1/acme/tool sha256:{digest}"));
    let found = why(&registry.registries("wrong-canary"), &format!("{TOOL}:v1")).await;
    assert!(found.why.contains("401") && !found.to_string().contains("canary"), "{found}");
    let found = why(&registry.registries("canary"), &format!("{TOOL}:v2")).await;
    assert!(found.why.contains("404"), "{found}");
    for (text, wanted) in [
        ("[]", "none"),
        ("{\"fsLayers\": []}", "not supported"),
        ("{\"config\": {\"digest\": \"sha256:../../etc\", \"size\": 1}}", "not SHA-256"),
        ("{\"config\": {\"digest\": \"sha512:aa\", \"size\": 1}}", "not SHA-256"),
    ] {
        registry.put("/v2/acme/tool/manifests/v3", text.as_bytes());
        let found = why(&registry.registries("canary"), &format!("{TOOL}:v3")).await;
        assert!(found.why.contains(wanted), "{text}: {found}");
    }
    let large = b" ".repeat((4 << 20) + 1);
    registry.put("/v2/acme/tool/manifests/v4", &large);
    let found = why(&registry.registries("canary"), &format!("{TOOL}:v4")).await;
    assert!(found.why.contains("too large"), "{found}");
}
