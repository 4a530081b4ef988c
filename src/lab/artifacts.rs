//! What the lab's mirror serves instead of the upstream downloads: plain stand-ins, the same bytes every time.

use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The version that the stand-in of the EFA installer plays.
const EFA_INSTALLER: &str = "1.50.0";

/// The stand-in for the k0s binary: hands over to the lab's tool and says which version it plays.
fn k0s(version: &str) -> String {
    format!(
        "#!/bin/sh\n# LAB stand-in for k0s {version}\nK0S_LAB_VERSION={version} exec /opt/lab/tool k0s \"$@\"\n"
    )
}

/// Returns the version that a stand-in for the k0s binary plays.
pub(super) fn version_of(k0s: &str) -> Option<String> {
    let (_, rest) = k0s.split_once("K0S_LAB_VERSION=")?;
    let version = rest.split(char::is_whitespace).next()?;
    // A host may write anything there.
    let plain = |c: char| c.is_ascii_alphanumeric() || ".+-".contains(c);
    (version.len() <= 64 && version.chars().all(plain)).then(|| version.to_owned())
}

/// The stand-in for the EFA installer's archive: a folder with the script that hands over to the lab's tool.
fn efa_installer(version: &str) -> Vec<u8> {
    let script = format!(
        "#!/bin/sh\n# LAB stand-in for the EFA installer\nexec /opt/lab/tool efa-installer {version} \"$@\"\n"
    );
    let mut header = tar::Header::new_gnu();
    header.set_size(script.len() as u64);
    header.set_mode(0o755);
    let mut archive = tar::Builder::new(Vec::new());
    // Into memory: nothing can fail but the name, which is short.
    let _ = archive.append_data(&mut header, "aws-efa-installer/efa_installer.sh", script.as_bytes());
    archive.into_inner().unwrap_or_default()
}

/// A custom resource definition that takes anything.
fn crd(group: &str, kind: &str, plural: &str, version: &str, scope: &str) -> String {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}"), "annotations": {"api-approved.kubernetes.io": "unapproved"}},
        "spec": {"group": group, "scope": scope,
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")},
            "versions": [{"name": version, "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    format!("---\n{definition}\n")
}

/// Returns the files by path below the mirror, and for each artifact its name in the lock file, version and path. Artifacts of
/// the first version of k0s come before those of the others.
pub(super) fn files(k0s_versions: &[String]) -> (BTreeMap<String, Vec<u8>>, Vec<(String, String, String)>) {
    let gateway = "gateway.networking.k8s.io";
    let kthena = "networking.serving.volcano.sh";
    let texts = [
        (
            "gateway-api-crds",
            "v1.4.0",
            crd(gateway, "GatewayClass", "gatewayclasses", "v1", "Cluster")
                + &crd(gateway, "Gateway", "gateways", "v1", "Namespaced")
                + &crd(gateway, "HTTPRoute", "httproutes", "v1", "Namespaced"),
        ),
        (
            "inference-extension-crds",
            "v1.2.0",
            crd("inference.networking.k8s.io", "InferencePool", "inferencepools", "v1", "Namespaced"),
        ),
        (
            "kthena-crds",
            "v1.0.0",
            crd(kthena, "ModelRoute", "modelroutes", "v1alpha1", "Namespaced")
                + &crd(kthena, "ModelServer", "modelservers", "v1alpha1", "Namespaced"),
        ),
        ("nvidia-cuda-key", "lab", "LAB stand-in for NVIDIA's repository key\n".to_owned()),
        ("nvidia-toolkit-key", "lab", "LAB stand-in for the container toolkit's repository key\n".to_owned()),
        ("neuron-key", "lab", "LAB stand-in for the Neuron repository key\n".to_owned()),
    ];
    let k0s = k0s_versions
        .iter()
        .flat_map(|version| ["k0s-x86_64", "k0s-aarch64"].map(|name| (name, version.as_str(), k0s(version))));
    let mut files = BTreeMap::new();
    let mut artifacts = Vec::new();
    for (name, version, text) in k0s.chain(texts) {
        let path = format!("{name}/{version}");
        files.insert(path.clone(), text.into_bytes());
        artifacts.push((name.to_owned(), version.to_owned(), path));
    }
    let path = format!("efa-installer/{EFA_INSTALLER}");
    files.insert(path.clone(), efa_installer(EFA_INSTALLER));
    artifacts.push(("efa-installer".to_owned(), EFA_INSTALLER.to_owned(), path));
    (files, artifacts)
}

/// Returns the lower-case hex sha256 of bytes.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
