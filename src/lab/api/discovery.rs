//! Discovery: what the API serves. Only in the plain form, which clients go on with where the aggregated one is not
//! answered.

use super::kinds::{Kind, Version};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

const VERBS: [&str; 7] = ["create", "delete", "get", "list", "patch", "update", "watch"];

/// Kinds and their version, by version name, by group.
type Groups<'a> = BTreeMap<&'a str, BTreeMap<&'a str, Vec<(&'a Kind, &'a Version)>>>;

fn groups(kinds: &[Arc<Kind>]) -> Groups<'_> {
    let mut groups = Groups::new();
    for kind in kinds {
        for version in &kind.versions {
            let versions = groups.entry(kind.group.as_str()).or_default();
            versions.entry(version.name.as_str()).or_default().push((kind, version));
        }
    }
    groups
}

/// `/api`.
pub(super) fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": "localhost:6443"}]})
}

/// `/apis`.
pub(super) fn group_list(kinds: &[Arc<Kind>]) -> Value {
    let names = groups(kinds).into_keys().filter(|name| !name.is_empty());
    let groups: Vec<_> = names.filter_map(|name| group(kinds, name)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`.
pub(super) fn group(kinds: &[Arc<Kind>], name: &str) -> Option<Value> {
    let groups = groups(kinds);
    let mut versions: Vec<_> = groups.get(name)?.keys().collect();
    versions.sort_by_key(|version| std::cmp::Reverse(kube::core::Version::parse(version).priority()));
    let version = |v: &&&str| json!({"groupVersion": format!("{name}/{v}"), "version": v});
    let versions: Vec<_> = versions.iter().map(version).collect();
    Some(json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": versions,
        "preferredVersion": versions.first()}))
}

/// `/api/v1` and `/apis/<group>/<version>`.
pub(super) fn resource_list(kinds: &[Arc<Kind>], group: &str, version: &str) -> Option<Value> {
    let groups = groups(kinds);
    let mut resources = Vec::new();
    for (kind, version) in groups.get(group)?.get(version)? {
        resources.push(json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
            "verbs": VERBS, "shortNames": kind.short_names,
        }));
        if version.status {
            resources.push(
                json!({"name": format!("{}/status", kind.plural), "singularName": "", "kind": kind.kind,
                "namespaced": kind.namespaced, "verbs": ["get", "patch", "update"]}),
            );
        }
        if kind.id == "pods" {
            resources.push(json!({"name": "pods/eviction", "singularName": "", "namespaced": true,
                "group": "policy", "version": "v1", "kind": "Eviction", "verbs": ["create"]}));
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}),
    )
}

/// `/version`, for a kubelet version such as `v1.35.7+k0s`.
pub(super) fn version(git_version: &str) -> Value {
    let mut parts = git_version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or("1"), parts.next().unwrap_or("0"));
    json!({
        "major": major, "minor": minor, "gitVersion": git_version, "gitCommit": "lab", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none (lab)", "compiler": "none", "platform": "linux/amd64",
    })
}
