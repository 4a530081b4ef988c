//! The catalog, as text: every product, or one in full.

use super::layout::{Columns, Last};
use crate::catalog::{Catalog, NeuronSdk, OpenModule, Product, Vendor, version_cmp};

/// Returns which driver branches, or SDK releases, a product can have.
fn window(catalog: &Catalog, product: &Product) -> String {
    if product.vendor == Vendor::Neuron {
        let fits = |s: &&NeuronSdk| s.products.iter().chain(&s.host_products).any(|p| *p == product.slug);
        let sdks: Vec<&str> = catalog.neuron_sdks().iter().filter(fits).map(|s| s.sdk.as_str()).collect();
        return format!("SDK {}", sdks.join(", "));
    }
    match (product.min_branch, product.max_branch) {
        (Some(min), Some(max)) => format!("branch {min} to {max}"),
        (Some(min), None) => format!("branch {min} or newer"),
        (None, Some(max)) => format!("branch {max} or older"),
        (None, None) => "any branch".to_owned(),
    }
}

fn word(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Returns one product in full, wrapped to at most so many columns.
pub fn product_text(catalog: &Catalog, product: &Product, width: Option<usize>) -> String {
    let mut rows: Vec<(&str, String)> = vec![("product", product.name.clone())];
    let ids = product.pci.iter().map(|id| match (&id.subvendor, &id.subdevice) {
        (Some(v), Some(d)) => format!("{}:{} of subsystem {v}:{d}", id.vendor, id.device),
        _ => format!("{}:{}", id.vendor, id.device),
    });
    rows.push(("PCI ids", ids.collect::<Vec<_>>().join(", ")));
    rows.push(("architecture", product.arch.clone()));
    if let Some(memory) = product.memory_gib {
        rows.push(("memory", format!("{memory} GiB")));
    }
    if product.vendor == Vendor::Nvidia {
        rows.push(("driver", window(catalog, product)));
        let flavour = match product.open_module {
            OpenModule::Unsupported => "closed only".to_owned(),
            OpenModule::Required => "open only".to_owned(),
            OpenModule::Supported => match product.open_from {
                Some(from) => format!("closed; open from branch {from}"),
                None => "open, or closed".to_owned(),
            },
        };
        rows.push(("kernel module", flavour));
        for branch in catalog.branches() {
            let fits = product.min_branch.is_none_or(|m| branch.branch >= m)
                && product.max_branch.is_none_or(|m| branch.branch <= m);
            if fits {
                let eol = branch.eol.as_deref().map_or("end of life unknown".to_owned(), |e| {
                    if e < catalog.as_of() { format!("end of life since {e}") } else { format!("until {e}") }
                });
                rows.push((
                    "",
                    format!("{} {}, newest {}, {eol}", branch.branch, branch.kind, branch.latest),
                ));
            }
        }
    } else {
        let fits = |s: &&NeuronSdk| s.products.iter().chain(&s.host_products).any(|p| *p == product.slug);
        for sdk in catalog.neuron_sdks().iter().filter(fits) {
            let driver = sdk.driver.as_deref().unwrap_or("unknown");
            let serves = if sdk.products.contains(&product.slug) {
                ""
            } else {
                "; hosts only, not for serving models"
            };
            rows.push(("SDK", format!("{}, driver {driver}{serves}", sdk.sdk)));
        }
        if let Some(last) = &product.max_driver {
            rows.push(("last driver", format!("{last}.*")));
        }
    }
    rows.push(("fabric", word(product.fabric)));
    if let Some(most) = product.mig_instances {
        let profiles = catalog.mig(&product.slug).map(|row| {
            row.profiles.iter().map(|p| format!("{} x {}", p.most, p.name)).collect::<Vec<_>>().join(", ")
        });
        let profiles = profiles.unwrap_or_else(|| "profiles unknown".to_owned());
        rows.push(("MIG", format!("up to {most} instances: {profiles}")));
    }
    rows.push(("reboot", format!("within {} min", product.reboot_deadline_s / 60)));
    for floor in catalog.floors().iter().filter(|f| f.products.contains(&product.slug)) {
        let gpus = floor.gpus.map(|g| format!(" on {g}")).unwrap_or_default();
        rows.push((
            "floor",
            format!("{}{gpus} {} {} ({})", floor.test, floor.floor, floor.unit, floor.source),
        ));
    }
    rows.push(("source", product.source.clone()));
    // Of other rows, what concerns this product.
    let mig = catalog.mig(&product.slug).and_then(|row| row.unconfirmed.as_ref());
    let sdks = catalog.neuron_sdks().iter().filter(|s| {
        product.vendor == Vendor::Neuron
            && s.products.iter().chain(&s.host_products).any(|p| *p == product.slug)
    });
    let sdks = sdks.filter_map(|s| Some(format!("SDK {}: {}", s.sdk, s.unconfirmed.as_ref()?)));
    let own = product.unconfirmed.iter().cloned().chain(mig.map(|why| format!("MIG: {why}"))).chain(sdks);
    rows.extend(own.map(|why| ("not confirmed", why)));
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    let columns = Columns { indent: 0, most: &[usize::MAX], below: 1, last: Last::Wrap };
    format!("{}\n", product.slug) + &columns.rows(&rows, width).concat()
}

/// Returns the list of products, as a table of at most so many columns, and below it the releases.
pub fn catalog_text(catalog: &Catalog, width: Option<usize>) -> String {
    let mut rows = Vec::new();
    for product in catalog.products() {
        let memory = product.memory_gib.map(|m| format!("{m} GiB")).unwrap_or_default();
        let fabric = word(product.fabric);
        let (slug, arch) = (product.slug.clone(), product.arch.clone());
        rows.push(vec![slug, arch, format!("{memory:>8}"), fabric, window(catalog, product)]);
    }
    let columns = Columns { indent: 0, most: &[usize::MAX; 4], below: 3, last: Last::Wrap };
    let mut text = columns.rows(&rows, width).concat();
    text += "\nNVIDIA driver branches: ";
    let branches: Vec<String> =
        catalog.branches().iter().map(|b| format!("{} ({}, {})", b.branch, b.kind, b.latest)).collect();
    text += &branches.join(", ");
    let mut sdks: Vec<&NeuronSdk> = catalog.neuron_sdks().iter().collect();
    sdks.sort_by(|a, b| version_cmp(&a.sdk, &b.sdk));
    let sdks: Vec<&str> = sdks.iter().map(|s| s.sdk.as_str()).collect();
    text += &format!("\nNeuron SDK: {}\n", sdks.join(", "));
    let lines: Vec<String> = catalog
        .k0s_lines()
        .iter()
        .map(|l| {
            let eol = l.eol.as_ref().map(|eol| format!(", end of life {eol}")).unwrap_or_default();
            format!("{} (containerd {}{eol}): {}", l.minor, l.containerd_version, l.versions.join(", "))
        })
        .collect();
    text += &format!("k0s: {}\nFacts as of {}\n", lines.join("; "), catalog.as_of());
    let unconfirmed = catalog.unconfirmed();
    if !unconfirmed.is_empty() {
        text += &format!("\nNot confirmed ({}):\n", unconfirmed.len());
        text += &unconfirmed.iter().map(|(what, why)| format!("  {what}: {why}\n")).collect::<String>();
    }
    text
}
