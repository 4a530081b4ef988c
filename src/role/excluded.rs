//! Packages of drivers that dnf's configuration hides, before anything is changed.

use super::input::{RoleInput, stop};
use crate::catalog::glob;
use crate::state::{Ensure, Facts, Failure, Headers, PackageFilter, PackageManager, Resource, Spec};

/// Returns the first line of dnf's configuration that hides a package, as a person finds it there. Filters of other
/// repositories than `repository` do not matter: packages come from it.
fn hides<'a>(
    filters: &'a [PackageFilter],
    repository: &str,
    name: &str,
    version: &str,
) -> Option<&'a PackageFilter> {
    let switched_off = |of: &PackageFilter| {
        let off = filters.iter().filter(|f| f.option == "disable_excludes" && f.repository == "main");
        off.flat_map(|f| &f.patterns).any(|what| what == "all" || *what == of.repository)
    };
    // A pattern is of a name, or goes on with its version: `nvidia-driver*`, `nvidia-driver-580.*`. Those with other wildcards are
    // left to dnf.
    let named = |f: &PackageFilter| {
        let full = format!("{name}-{version}");
        f.patterns
            .iter()
            .any(|p| glob(p, name) || glob(p, &full) || (p.contains(['?', '[']) && f.option == "includepkgs"))
    };
    filters.iter().find(|f| {
        (f.repository == "main" || f.repository == repository)
            && !switched_off(f)
            && match f.option.as_str() {
                "exclude" | "excludepkgs" => named(f),
                // Several lines of one section are one list.
                "includepkgs" => {
                    let all = filters.iter().filter(|o| o.option == f.option && o.repository == f.repository);
                    !all.into_iter().any(named)
                }
                _ => false,
            }
    })
}

/// Returns the name of the package that has the headers of the running kernel: newer kernels of Amazon Linux have their own.
fn headers(facts: &Facts) -> String {
    let mut parts = facts.kernel.split('.');
    let line = format!("{}.{}", parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match facts.os.get("ID").map(String::as_str) {
        Some("amzn") if line != "6.1" => format!("kernel{line}-devel"),
        _ => "kernel-devel".to_owned(),
    }
}

/// Returns which packages of the driver's roles dnf cannot see, unless they are installed.
pub(super) fn hidden(input: &RoleInput<'_>, resources: &[Resource]) -> Option<Failure> {
    let facts = input.facts;
    let dnf = facts.package_manager == Some(PackageManager::Dnf);
    let installed = facts.installed.as_ref().filter(|_| dnf)?;
    let mut wanted: Vec<(&str, &str, &str)> = vec![("epel", "dkms", "")];
    // Those of other kernels may be installed.
    let devel = headers(facts);
    if facts.headers != Some(Headers::Present) {
        wanted.push(("main", &devel, &facts.kernel));
    }
    for resource in resources.iter().filter(|r| matches!(r.role.as_str(), "nvidia" | "neuron")) {
        if let Spec::Package(package) = &resource.spec
            && package.ensure == Ensure::Present
        {
            let version = package.version.as_deref().unwrap_or_default();
            wanted.push(("main", &package.name, version.trim_end_matches(['-', '*'])));
        }
    }
    let there = |name: &str, version: &str| {
        let is = |v: &str| v.starts_with(version) || (!v.is_empty() && version.starts_with(v));
        name != devel && installed.iter().any(|(n, v)| n == name && is(v))
    };
    let mut lines: Vec<String> = Vec::new();
    let mut packages: Vec<&str> = Vec::new();
    for (repository, name, version) in wanted {
        let Some(filter) = hides(&facts.package_filters, repository, name, version) else { continue };
        if there(name, version) || packages.contains(&name) {
            continue;
        }
        packages.push(name);
        let line = format!("{}={} in [{}]", filter.option, filter.patterns.join(" "), filter.repository);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    let message = format!("dnf's configuration hides {}: {}", packages.join(", "), lines.join("; "));
    (!packages.is_empty()).then(|| {
        stop("E-DNF-EXCLUDED", message)
            .hint("Change that line in /etc/dnf/dnf.conf or /etc/yum.repos.d (check with: dnf --disableexcludes=all list)")
    })
}
