//! Consistency checks of a catalog: contradictory rows, unknown names, malformed values. Reports all of them at once.

use super::query::{Catalog, CatalogError};
use super::types::*;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Finds every contradiction.
pub(super) fn check(catalog: &Catalog) -> Result<(), CatalogError> {
    let mut found = Vec::new();
    products(catalog, &mut found);
    nvidia(catalog, &mut found);
    neuron(catalog, &mut found);
    health(catalog, &mut found);
    mig(catalog, &mut found);
    artifacts(catalog, &mut found);
    match found.is_empty() {
        true => Ok(()),
        false => {
            /// More of them are no help.
            const MOST: usize = 20;
            let more = found.len().saturating_sub(MOST);
            found.truncate(MOST);
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            Err(CatalogError::Contradiction(found.join("; ") + &more))
        }
    }
}

fn hex(text: &str) -> bool {
    text.len() == 4 && text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
}

fn products(catalog: &Catalog, found: &mut Vec<String>) {
    let mut seen: Vec<(&PciId, &str)> = Vec::new();
    for product in catalog.products() {
        let slug = &product.slug;
        if slug.is_empty() || !slug.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        {
            found.push(format!("product `{slug}` is not kebab-case"));
        }
        if let (Some(min), Some(max)) = (product.min_branch, product.max_branch)
            && min > max
        {
            found.push(format!("{slug} needs branch {min} at least and {max} at most"));
        }
        if let (Some(min), Some(max)) = (&product.min_driver, &product.max_driver)
            && version_cmp(min, max) == Ordering::Greater
        {
            found.push(format!("{slug} needs Neuron driver {min} at least and {max} at most"));
        }
        let neuron = product.vendor == Vendor::Neuron;
        if neuron != (product.fabric == Fabric::NeuronLink) {
            found.push(format!(
                "{slug}: the fabric neuron-link is for Neuron devices only, and required for them"
            ));
        }
        if neuron && (product.min_branch.is_some() || product.max_branch.is_some()) {
            found.push(format!("{slug}: a Neuron device has no NVIDIA driver branch"));
        }
        if product.pci.is_empty() {
            found.push(format!("{slug} has no PCI id"));
        }
        for id in &product.pci {
            let parts = [Some(&id.vendor), Some(&id.device), id.subvendor.as_ref(), id.subdevice.as_ref()];
            if parts.into_iter().flatten().any(|part| !hex(part)) {
                found.push(format!("{slug}: a PCI id is four lower-case hex digits"));
            }
            if id.vendor != if neuron { "1d0f" } else { "10de" } {
                found.push(format!("{slug}: PCI vendor {} does not match its vendor", id.vendor));
            }
            if let Some((_, other)) = seen.iter().find(|(s, _)| *s == id) {
                found.push(format!("PCI id {}:{} is both {other} and {slug}", id.vendor, id.device));
            }
            seen.push((id, slug));
        }
    }
}

fn mig(catalog: &Catalog, found: &mut Vec<String>) {
    for row in catalog.mig_rows() {
        for slug in &row.products {
            match catalog.products().iter().find(|p| p.slug == *slug) {
                None => found.push(format!("MIG profiles of `{slug}`, which is not a product")),
                Some(product)
                    if product
                        .mig_instances
                        .is_some_and(|most| Some(most) != row.profiles.iter().map(|p| p.most).max()) =>
                {
                    found.push(format!("MIG profiles of {slug} and its most instances differ"));
                }
                Some(_) => {}
            }
        }
        for profile in row.profiles.iter().filter(|p| p.compute() == 0 || p.memory == 0 || p.most == 0) {
            found.push(format!("MIG profile `{}` has an invalid name or numbers", profile.name));
        }
    }
}

fn nvidia(catalog: &Catalog, found: &mut Vec<String>) {
    for branch in catalog.branches() {
        let number = branch.branch;
        if branch.latest.split('.').next() != Some(&number.to_string()) {
            found.push(format!("branch {number}: its latest release is {}", branch.latest));
        }
        if !["long-term", "production", "new-feature"].contains(&branch.kind.as_str()) {
            found.push(format!("branch {number}: `{}` is not a kind of branch", branch.kind));
        }
        if let Some(cuda) = branch.cuda
            && catalog.cuda_floors().iter().any(|f| f.cuda == cuda && f.branch > number)
        {
            found.push(format!("branch {number} runs CUDA {cuda}, whose first branch is newer"));
        }
        for row in catalog.nvidia_packages() {
            for system in &row.systems {
                if catalog.packages_of(system, number).is_none() {
                    found.push(format!("branch {number} has no package names on {system}"));
                }
            }
        }
    }
    found.dedup();
    for product in catalog.products().iter().filter(|p| p.vendor == Vendor::Nvidia) {
        let fits = |b: &&DriverBranch| {
            product.min_branch.is_none_or(|m| b.branch >= m)
                && product.max_branch.is_none_or(|m| b.branch <= m)
        };
        if !catalog.branches().iter().any(|b| fits(&b)) {
            found.push(format!("no branch of the catalog fits {}", product.slug));
        }
    }
}

fn neuron(catalog: &Catalog, found: &mut Vec<String>) {
    for sdk in catalog.neuron_sdks() {
        for slug in sdk.products.iter().chain(&sdk.host_products) {
            let Some(product) = catalog.product(slug).filter(|p| p.vendor == Vendor::Neuron) else {
                found.push(format!("Neuron SDK {} names the unknown product {slug}", sdk.sdk));
                continue;
            };
            let Some(driver) = &sdk.driver else { continue };
            let older = product.min_driver.as_ref().filter(|m| version_cmp(driver, m) == Ordering::Less);
            let newer = product.max_driver.as_ref().filter(|m| version_cmp(driver, m) == Ordering::Greater);
            if let Some(bound) = older.or(newer) {
                found.push(format!(
                    "Neuron SDK {} has driver {driver}, outside the bound {bound} of {slug}",
                    sdk.sdk
                ));
            }
        }
    }
    for row in catalog.engine_images() {
        if let Some(unknown) = row.products.iter().find(|p| catalog.product(p).is_none()) {
            found.push(format!("engine image {} names the unknown product {unknown}", row.image));
        }
        if let Some(cuda) = row.cuda.filter(|c| !catalog.cuda_floors().iter().any(|f| f.cuda == *c)) {
            found.push(format!("engine image {} needs CUDA {cuda}, which is not in the catalog", row.image));
        }
    }
}

fn artifacts(catalog: &Catalog, found: &mut Vec<String>) {
    let arch = |arch: &Option<String>| arch.as_ref().is_some_and(|a| a != "x86_64" && a != "aarch64");
    for artifact in catalog.artifacts() {
        let hex = |f: &String| f.len() == 40 && f.chars().all(|c| matches!(c, '0'..='9' | 'A'..='F'));
        if !artifact.fingerprints.iter().all(hex) {
            found.push(format!("{}: a fingerprint is 40 upper-case hex digits", artifact.name));
        }
        if arch(&artifact.arch) {
            found.push(format!("{}: arch is x86_64 or aarch64", artifact.name));
        }
    }
    for product in catalog.products().iter().filter(|p| arch(&p.host_arch)) {
        found.push(format!("{}: hostArch is x86_64 or aarch64", product.slug));
    }
}

fn health(catalog: &Catalog, found: &mut Vec<String>) {
    let mut actions: BTreeMap<u32, Action> = BTreeMap::new();
    for row in catalog.xids() {
        for xid in &row.xids {
            if actions.insert(*xid, row.action).is_some_and(|other| other != row.action) {
                found.push(format!("Xid {xid} has two actions"));
            }
        }
    }
    for floor in catalog.floors() {
        if let Some(unknown) = floor.products.iter().find(|p| catalog.product(p).is_none()) {
            found.push(format!("floor of {} names the unknown product {unknown}", floor.test));
        }
        if floor.floor <= 0.0 {
            found.push(format!("floor of {} is not above 0", floor.test));
        }
    }
}
