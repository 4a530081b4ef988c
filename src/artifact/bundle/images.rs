//! Container images out of registries, as OCI image layouts: every manifest and blob is a file of the bundle with its digest as the
//! sum. All platforms of an image are kept, so that its digest stays what it was when it is pushed to the registry of a site.
//! (<https://github.com/opencontainers/distribution-spec/blob/main/spec.md>, image-layout.md of the image specification)

use super::FileKind;
use super::error::{Defect, DefectKind};
use super::index::{BundleFile, MOST_FILE_BYTES};
use crate::artifact::fetch::{chain, client, hex};
use crate::state::SecretText;
use base64::Engine as _;
use futures::StreamExt;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, RANGE, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use tokio::sync::Mutex;

/// A manifest is smaller than this, in bytes: registries refuse larger ones than 4 MiB.
const MOST_MANIFEST: usize = 4 << 20;
/// An image has fewer files than this.
const MOST_FILES: usize = 4096;
/// A request that is refused after so many logins is refused.
const MOST_LOGINS: usize = 3;
/// The kinds of manifests that are understood.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// How a registry is reached.
#[derive(Clone, Default)]
pub struct RegistryLogin {
    /// A mirror, which is asked first.
    pub mirror: Option<String>,
    /// `user:password`, for the mirror if there is one, otherwise for the registry.
    pub credentials: Option<SecretText>,
}

/// An image as files of a bundle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// Its files.
    pub files: Vec<BundleFile>,
    /// The content of those that are known already, by path.
    pub(super) texts: BTreeMap<String, String>,
}

/// An image's name, taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Reference {
    registry: String,
    repository: String,
    /// What a pod asks for: the digest if there is one, otherwise the tag.
    version: String,
}

impl Reference {
    /// Reads a name as containerd does: no registry is docker.io, and no tag is `latest`.
    fn parse(text: &str) -> Self {
        let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((rest, tag)) if !tag.contains('/') => (rest, tag),
            _ => (rest, "latest"),
        };
        let is_registry = |host: &str| host.contains(['.', ':']) || host == "localhost";
        let (registry, repository) = match rest.split_once('/') {
            Some((host, path)) if is_registry(host) => (host, path.to_owned()),
            None => ("docker.io", format!("library/{rest}")),
            _ => ("docker.io", rest.to_owned()),
        };
        Self { registry: registry.to_owned(), repository, version: digest.unwrap_or(tag).to_owned() }
    }

    fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

/// Returns the name and the version under which a bundle has an image.
pub fn image_key(image: &str) -> (String, String) {
    let reference = Reference::parse(image);
    (reference.name(), reference.version)
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
}

/// A manifest, or a list of them.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default, rename = "mediaType")]
    media_type: String,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// Where the API of a registry is, and the login there.
struct Base {
    url: String,
    credentials: Option<SecretText>,
}

/// Registries, with the tokens that they have issued.
pub struct Registries {
    client: reqwest::Client,
    logins: BTreeMap<String, RegistryLogin>,
    /// Values of the header, by the URL of a repository.
    tokens: Mutex<BTreeMap<String, HeaderValue>>,
}

/// Returns the URL of a repository, of one of its manifests or blobs.
fn repository_of(url: &str) -> &str {
    let end = url.rfind("/manifests/").or_else(|| url.rfind("/blobs/"));
    &url[..end.unwrap_or(url.len())]
}

/// Returns the hex digits of a digest; only SHA-256 is in use.
fn digits(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    (hex.len() == 64 && hex.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))).then_some(hex)
}

impl Registries {
    /// Returns registries with logins, by host.
    pub fn new(logins: BTreeMap<String, RegistryLogin>) -> Result<Self, String> {
        let client = client("images").map_err(|e| e.to_string())?;
        Ok(Self { client, logins, tokens: Mutex::default() })
    }

    /// Returns where a registry is asked, in order.
    fn bases(&self, registry: &str) -> Vec<Base> {
        let login = self.logins.get(registry).cloned().unwrap_or_default();
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let upstream = format!("https://{host}/v2");
        let Some(mirror) = login.mirror else {
            return vec![Base { url: upstream, credentials: login.credentials }];
        };
        // As containerd reads it (role/k0s.rs).
        let path =
            mirror.split("://").nth(1).and_then(|rest| rest.split_once('/')).map_or("", |(_, path)| path);
        let mirror = mirror.trim_end_matches('/');
        let url =
            if path.split('/').any(|part| part == "v2") { mirror.to_owned() } else { format!("{mirror}/v2") };
        vec![Base { url, credentials: login.credentials }, Base { url: upstream, credentials: None }]
    }

    /// Returns the files of an image, having read its manifests.
    pub async fn image(&self, image: &str) -> Result<Image, Defect> {
        let reference = Reference::parse(image);
        let mut said = Vec::new();
        for base in self.bases(&reference.registry) {
            let repository = format!("{}/{}", base.url, reference.repository);
            match self.layout(&reference, &repository, image).await {
                Ok(image) => return Ok(image),
                Err(why) => said.push((repository, why)),
            }
        }
        let text: Vec<String> = said.iter().map(|(at, why)| format!("{at}: {why}")).collect();
        let (artifact, why) = (format!("{} {}", reference.name(), reference.version), text.join("; "));
        Err(Defect { kind: DefectKind::Unreadable, artifact, file: image.to_owned(), why })
    }

    async fn layout(&self, reference: &Reference, repository: &str, image: &str) -> Result<Image, String> {
        let mut layout = Layout::new(reference, repository);
        let text = self.manifest(repository, &reference.version).await?;
        let digest = layout.manifest(text.clone());
        layout.put_in_order(&digest)?;
        let top = read(&text)?;
        let mut manifests = Vec::new();
        for child in &top.manifests {
            digits(&child.digest).ok_or("a manifest has a digest that is not SHA-256")?;
            let text = self.manifest(repository, &child.digest).await?;
            layout.manifest(text.clone());
            manifests.push(read(&text)?);
            if manifests.len() > MOST_FILES {
                return Err("it has too many manifests".to_owned());
            }
        }
        let media_type = top.media_type.clone();
        manifests.push(top);
        for manifest in &manifests {
            for blob in manifest.config.iter().chain(&manifest.layers) {
                layout.blob(blob)?;
            }
        }
        layout.end(image, &media_type, &digest, text.len())
    }

    /// Reads a manifest, whose content must be that of its digest where it is asked for by one.
    async fn manifest(&self, repository: &str, version: &str) -> Result<String, String> {
        let answer = self.get(&format!("{repository}/manifests/{version}"), None).await?;
        if !answer.status().is_success() {
            return Err(format!("the registry returns {} for {version}", answer.status()));
        }
        let (mut body, mut bytes) = (answer.bytes_stream(), Vec::new());
        while let Some(piece) = body.next().await {
            bytes.extend_from_slice(&piece.map_err(|e| chain(&e.without_url()))?);
            if bytes.len() > MOST_MANIFEST {
                return Err("its manifest is too large".to_owned());
            }
        }
        if let Some(wanted) = digits(version)
            && hex(Sha256::new_with_prefix(&bytes)) != wanted
        {
            return Err(format!("the registry returns another manifest for {version}"));
        }
        String::from_utf8(bytes).map_err(|_| "its manifest is not text".to_owned())
    }

    /// Asks for a URL of a repository, from an offset on; logs in where the registry wants that.
    pub(super) async fn get(&self, url: &str, from: Option<u64>) -> Result<Response, String> {
        let key = repository_of(url).to_owned();
        let mut tries = 0;
        loop {
            let token = self.tokens.lock().await.get(&key).cloned();
            let mut request = self.client.get(url).header(ACCEPT, ACCEPTED);
            if let Some(token) = &token {
                request = request.header(AUTHORIZATION, token);
            }
            if let Some(from) = from {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let answer = request.send().await.map_err(|e| chain(&e.without_url()))?;
            tries += 1;
            if answer.status() != StatusCode::UNAUTHORIZED || tries > MOST_LOGINS {
                return Ok(answer);
            }
            // A token lasts for minutes, a large image takes longer. Another file may have had to log in meanwhile.
            let mut tokens = self.tokens.lock().await;
            if tokens.get(&key) == token.as_ref() {
                let fresh = self.login(&key, &answer).await?;
                tokens.insert(key.clone(), fresh);
            }
        }
    }

    /// Returns the header that a registry wants.
    async fn login(&self, repository: &str, refused: &Response) -> Result<HeaderValue, String> {
        let asked =
            refused.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let bases = self.logins.keys().flat_map(|registry| self.bases(registry));
        let base = bases
            .filter(|base| base.credentials.is_some())
            .find(|base| repository.strip_prefix(&base.url).is_some_and(|rest| rest.starts_with('/')));
        let credentials = base.and_then(|base| base.credentials);
        let basic = credentials.map(|text| {
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text.expose().trim()))
        });
        let secret = |value: &str| {
            let mut value =
                HeaderValue::from_str(value).map_err(|_| "the credentials are no header".to_owned())?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        };
        let (scheme, parameters) = asked.split_once(' ').unwrap_or((asked, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return secret(&basic.ok_or("the registry wants a login: set `registries` in the inventory")?);
        }
        let value = |name: &str| {
            let (_, rest) = parameters.split_once(&format!("{name}=\""))?;
            rest.split('"').next()
        };
        let realm = value("realm").filter(|_| scheme.eq_ignore_ascii_case("bearer"));
        let realm = realm.ok_or("the registry wants a login of an unknown kind")?;
        // Credentials leave this machine only as they would have for the registry itself.
        if !realm.starts_with("https://") && repository.starts_with("https://") {
            return Err(format!("the registry wants a login at {realm}, which is not encrypted"));
        }
        let mut parameters: Vec<(&str, &str)> = Vec::new();
        parameters.extend(value("service").map(|service| ("service", service)));
        parameters.extend(value("scope").map(|scope| ("scope", scope)));
        let url = Url::parse_with_params(realm, parameters).map_err(|e| format!("{realm}: {e}"))?;
        let mut request = self.client.get(url);
        if let Some(basic) = &basic {
            request = request.header(AUTHORIZATION, secret(basic)?);
        }
        #[derive(Deserialize)]
        struct Issued {
            token: Option<String>,
            access_token: Option<String>,
        }
        let answer = request.send().await.and_then(Response::error_for_status);
        let answer = answer.map_err(|e| format!("{realm}: {}", chain(&e.without_url())))?;
        let issued: Issued =
            answer.json().await.map_err(|e| format!("{realm}: {}", chain(&e.without_url())))?;
        let token = issued.token.or(issued.access_token).ok_or_else(|| format!("{realm} issued no token"))?;
        secret(&format!("Bearer {token}"))
    }
}

fn read(text: &str) -> Result<Manifest, String> {
    let manifest: Manifest = serde_json::from_str(text).map_err(|_| "its manifest is none".to_owned())?;
    match manifest.manifests.is_empty() && manifest.config.is_none() {
        true => Err("its manifest is of a kind that is not supported".to_owned()),
        false => Ok(manifest),
    }
}

/// An image layout in the making.
struct Layout {
    name: String,
    version: String,
    /// URL of the repository.
    repository: String,
    /// Its folder in the bundle.
    folder: String,
    files: BTreeMap<String, BundleFile>,
    texts: BTreeMap<String, String>,
}

impl Layout {
    fn new(reference: &Reference, repository: &str) -> Self {
        Self {
            name: reference.name(),
            version: reference.version.clone(),
            repository: repository.to_owned(),
            folder: String::new(),
            files: BTreeMap::new(),
            texts: BTreeMap::new(),
        }
    }

    fn add(&mut self, path: &str, sha256: &str, size: u64, urls: Vec<String>) {
        let (name, version, path) = (self.name.clone(), self.version.clone(), path.to_owned());
        let file = BundleFile {
            kind: FileKind::Image,
            name,
            version,
            path: path.clone(),
            sha256: sha256.to_owned(),
            size,
            urls,
        };
        self.files.insert(path, file);
    }

    /// Adds a manifest; returns the digits of its digest.
    fn manifest(&mut self, text: String) -> String {
        let sum = hex(Sha256::new_with_prefix(text.as_bytes()));
        let url = format!("{}/manifests/sha256:{sum}", self.repository);
        let path = format!("blobs/sha256/{sum}");
        self.add(&path, &sum, text.len() as u64, vec![url]);
        self.texts.insert(path, text);
        sum
    }

    /// Names the folder: by the image, and by the digest that its tag has now.
    fn put_in_order(&mut self, digest: &str) -> Result<(), String> {
        let name = BundleFile::clean_name(&self.name.replace('/', "_"));
        let short = digest.get(..16).ok_or("it has no digest")?;
        let version = if self.version.starts_with("sha256:") { "sha256" } else { &self.version };
        let version = BundleFile::clean_name(&format!("{version}-{short}"));
        self.folder = format!("{}/{name}/{version}", FileKind::Image.folder());
        Ok(())
    }

    fn blob(&mut self, blob: &Descriptor) -> Result<(), String> {
        let sum = digits(&blob.digest).ok_or("a layer has a digest that is not SHA-256")?;
        if blob.size > MOST_FILE_BYTES || self.files.len() > MOST_FILES {
            return Err("it is too large".to_owned());
        }
        let url = format!("{}/blobs/{}", self.repository, blob.digest);
        self.add(&format!("blobs/sha256/{sum}"), sum, blob.size, vec![url]);
        Ok(())
    }

    /// Adds the layout's own files.
    fn end(mut self, image: &str, media_type: &str, digest: &str, size: usize) -> Result<Image, String> {
        let top = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size,
                "annotations": {"org.opencontainers.image.ref.name": image}}]});
        let texts = [
            ("oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}\n".to_owned()),
            ("index.json", format!("{top:#}\n")),
        ];
        for (path, text) in texts {
            self.add(path, &hex(Sha256::new_with_prefix(text.as_bytes())), text.len() as u64, Vec::new());
            self.texts.insert(path.to_owned(), text);
        }
        let Self { folder, files, texts, .. } = self;
        let inside = |path: String| format!("{folder}/{path}");
        let files = files.into_values().map(|file| BundleFile { path: inside(file.path), ..file }).collect();
        let texts = texts.into_iter().map(|(path, text)| (inside(path), text)).collect();
        Ok(Image { files, texts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_containerd_reads_them() {
        let parse = |text: &str| {
            let Reference { registry, repository, version } = Reference::parse(text);
            format!("{registry} {repository} {version}")
        };
        assert_eq!(parse("busybox"), "docker.io library/busybox latest");
        assert_eq!(parse("vllm/vllm-openai:v1"), "docker.io vllm/vllm-openai v1");
        assert_eq!(parse("vllm/vllm-openai:v1@sha256:ab"), "docker.io vllm/vllm-openai sha256:ab");
        assert_eq!(parse("localhost:5000/a/b"), "localhost:5000 a/b latest");
        assert_eq!(
            parse("nvcr.io/nvidia/k8s/dcgm-exporter:4.6.0-4.8.3"),
            "nvcr.io nvidia/k8s/dcgm-exporter 4.6.0-4.8.3"
        );
    }
}
