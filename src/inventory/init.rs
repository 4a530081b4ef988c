//! The commented inventory that `provision init` writes.

use super::Accelerator;
use super::accelerators::best;
use crate::catalog::{Catalog, Product, Vendor};

/// Returns so many of a product, with the newest driver or SDK of the catalog that fits it; `None` if none does.
pub fn newest(catalog: &Catalog, product: &Product, count: u32) -> Option<Accelerator> {
    let slug = product.slug.clone();
    match product.vendor {
        Vendor::Nvidia => best(catalog, product).map(|b| Accelerator::Nvidia {
            product: slug,
            count,
            driver: b.latest.clone(),
            module: None,
            mig: None,
        }),
        Vendor::Neuron => catalog
            .neuron_sdks()
            .iter()
            .rfind(|s| s.driver.is_some() && s.products.iter().chain(&s.host_products).any(|p| *p == slug))
            .map(|s| Accelerator::Neuron { product: slug, count, sdk: s.sdk.clone(), lnc: None }),
    }
}

/// The answers given to `init`.
#[derive(Clone, Debug)]
pub struct Init {
    /// The cluster's name.
    pub name: String,
    /// Login name.
    pub user: String,
    /// Controllers' addresses.
    pub controllers: Vec<String>,
    /// Workers' addresses; none makes the controllers workers too.
    pub workers: Vec<String>,
    /// The workers' accelerator.
    pub accelerator: Option<Accelerator>,
}

/// Returns the inventory's text.
pub fn init_text(init: &Init) -> String {
    let pool = |name: &str, role: &str, prefix: &str, addresses: &[String], accelerator: bool| {
        let mut text = format!("  {name}:\n    role: {role}\n");
        match init.accelerator.as_ref().filter(|_| accelerator) {
            Some(Accelerator::Nvidia { product, count, driver, .. }) => {
                text += &format!(
                    "    accelerator: {{nvidia: {{product: {product}, count: {count}, driver: \"{driver}\"}}}}\n"
                );
            }
            Some(Accelerator::Neuron { product, count, sdk, .. }) => {
                text += &format!(
                    "    accelerator: {{neuron: {{product: {product}, count: {count}, sdk: \"{sdk}\"}}}}\n"
                );
            }
            None => {}
        }
        text += "    hosts:\n";
        for (n, address) in addresses.iter().enumerate() {
            text += &format!("      {prefix}-{}: {{address: \"{address}\"}}\n", n + 1);
        }
        text
    };
    let pools = match (init.controllers.len(), init.workers.is_empty()) {
        (1, true) => pool("all", "single", "node", &init.controllers, true),
        (_, true) => pool("all", "controller+worker", "node", &init.controllers, true),
        _ => {
            pool("control", "controller", "cp", &init.controllers, false)
                + &pool("workers", "worker", "w", &init.workers, true)
        }
    };
    format!(
        "# yaml-language-server: $schema=schema.json   (provision schema > schema.json)\n\
         apiVersion: provision/v1\nkind: Inventory\nmetadata: {{name: {}}}\n\n\
         # SSH access to hosts. Record their host keys with `provision trust`.\n\
         ssh: {{user: {}}}\n\n\
         cluster:\n  k0s: {{version: v1.35.7+k0s.0}}\n  # These networks must not contain host addresses; each node takes a /24 of podCIDR.\n  \
         network: {{podCIDR: 10.240.0.0/13, serviceCIDR: 10.96.0.0/16}}\n\n\
         # Pools of hosts with identical configuration. Ranges are supported: \"h-[001-064]\": {{address: \"10.20.1.[1-64]\"}}\npools:\n{pools}\n\
         # Router, models and tenants: uncomment and fill in.\n\
         # router: {{kthena: {{version: v1.0.0}}}}\n\
         # models:\n#   my-model:\n#     source: {{huggingFace: {{repo: owner/name, revision: \"<commit>\"}}}}\n\
         #     engine: {{vllm: {{image: \"vllm/vllm-openai@sha256:<digest>\"}}}}\n\
         #     placement: {{pool: workers, acceleratorsPerReplica: 1, replicas: 1}}\n\
         # tenants:\n#   me: {{gateway: {{port: 8081}}, routes: {{my-model: {{to: {{my-model: 100}}}}}}}}\n",
        init.name, init.user
    )
}
