//! Discovery: what the API serves, in the plain and the aggregated form.

use super::kinds::{Kind, Version, age};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// What can be done to a kind: a namespace goes with all its content, never many at once.
fn verbs(kind: &Kind) -> Vec<&'static str> {
    VERBS.into_iter().filter(|verb| kind.id != "namespaces" || *verb != "deletecollection").collect()
}

/// Kinds and their version, by version name, by group.
type Groups = BTreeMap<String, BTreeMap<String, Vec<(Arc<Kind>, Version)>>>;

fn groups(kinds: &[Arc<Kind>]) -> Groups {
    let mut groups = Groups::new();
    for kind in kinds {
        for version in &kind.versions {
            let versions = groups.entry(kind.group.clone()).or_default();
            versions.entry(version.name.clone()).or_default().push((kind.clone(), version.clone()));
        }
    }
    groups
}

fn ordered(versions: &BTreeMap<String, Vec<(Arc<Kind>, Version)>>) -> Vec<&String> {
    let mut names: Vec<_> = versions.keys().collect();
    names.sort_by_key(|name| std::cmp::Reverse(age(name)));
    names
}

/// `/api`.
pub fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": "localhost:6443"}]})
}

/// `/apis`.
pub fn group_list(kinds: &[Arc<Kind>]) -> Value {
    let groups: Vec<_> = groups(kinds)
        .iter()
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, versions)| group_entry(name, versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`.
pub fn group(kinds: &[Arc<Kind>], name: &str) -> Option<Value> {
    let groups = groups(kinds);
    let mut entry = group_entry(name, groups.get(name)?);
    entry["kind"] = json!("APIGroup");
    entry["apiVersion"] = json!("v1");
    Some(entry)
}

fn group_entry(name: &str, versions: &BTreeMap<String, Vec<(Arc<Kind>, Version)>>) -> Value {
    let all: Vec<_> = ordered(versions)
        .into_iter()
        .map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v}))
        .collect();
    json!({"name": name, "versions": all, "preferredVersion": all.first()})
}

/// `/api/v1` and `/apis/<group>/<version>`.
pub fn resource_list(kinds: &[Arc<Kind>], group: &str, version: &str) -> Option<Value> {
    let groups = groups(kinds);
    let mut resources = Vec::new();
    for (kind, version) in groups.get(group)?.get(version)? {
        resources.push(json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
            "verbs": verbs(kind), "shortNames": kind.short_names,
        }));
        for (name, verbs) in kind.subresources(version) {
            let mut entry = json!({
                "name": format!("{}/{name}", kind.plural), "singularName": "", "namespaced": kind.namespaced,
                "kind": kind.kind, "verbs": verbs,
            });
            if let Some((group, version, other)) = other_kind(name) {
                entry["group"] = json!(group);
                entry["version"] = json!(version);
                entry["kind"] = json!(other);
            }
            resources.push(entry);
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}),
    )
}

fn other_kind(subresource: &str) -> Option<(&'static str, &'static str, &'static str)> {
    match subresource {
        "scale" => Some(("autoscaling", "v1", "Scale")),
        "eviction" => Some(("policy", "v1", "Eviction")),
        "binding" => Some(("", "v1", "Binding")),
        _ => None,
    }
}

/// `/api` or `/apis` in the aggregated form (`apidiscovery.k8s.io/v2`).
pub fn aggregated(kinds: &[Arc<Kind>], core: bool) -> Value {
    let items: Vec<_> = groups(kinds)
        .iter()
        .filter(|(name, _)| name.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<_> = ordered(versions)
                .into_iter()
                .map(|name| {
                    let resources: Vec<_> =
                        versions[name].iter().map(|(k, v)| aggregated_resource(k, v)).collect();
                    json!({"version": name, "freshness": "Current", "resources": resources})
                })
                .collect();
            let metadata = if core { json!({"creationTimestamp": null}) } else { json!({"name": group}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resource(kind: &Kind, version: &Version) -> Value {
    // Group and version are those of what it is listed under.
    let response = json!({"group": "", "version": "", "kind": kind.kind});
    let subresources: Vec<_> = kind
        .subresources(version)
        .into_iter()
        .map(|(name, verbs)| {
            let response = other_kind(name)
                .map_or_else(|| response.clone(), |(g, v, k)| json!({"group": g, "version": v, "kind": k}));
            json!({"subresource": name, "responseKind": response, "verbs": verbs})
        })
        .collect();
    json!({
        "resource": kind.plural, "responseKind": response,
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular, "verbs": verbs(kind), "shortNames": kind.short_names,
        "subresources": subresources,
    })
}

/// `/version`, for a kubelet version such as `v1.35.7+k0s`.
pub fn version(git_version: &str) -> Value {
    let mut parts = git_version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or("1"), parts.next().unwrap_or("0"));
    json!({
        "major": major, "minor": minor, "gitVersion": git_version, "gitCommit": "lab", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none (lab)", "compiler": "none", "platform": "linux/amd64",
    })
}
