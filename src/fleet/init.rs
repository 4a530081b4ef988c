//! Creates a first inventory from a few answers, and never one that `validate` would reject.

use super::error::{Error, Result, coded};
use crate::catalog::Catalog;
use crate::inventory::{
    Accelerator, K0S, NodeRole, POD_CIDR, SERVICE_CIDR, Snapshot, Starter, StarterPool, StarterSsh,
    load_from, newest, starter_text,
};
use std::path::Path;

/// What a person answers.
#[derive(Clone, Debug)]
pub struct FirstInventory {
    /// The cluster's name.
    pub name: String,
    /// Login name.
    pub user: String,
    /// Addresses of controllers.
    pub controllers: Vec<String>,
    /// Addresses of workers; without any, the controllers also run workloads.
    pub workers: Vec<String>,
    /// Catalog slug of the accelerator, if there is one.
    pub accelerator: Option<String>,
    /// Accelerators per host.
    pub count: u32,
}

impl FirstInventory {
    /// Returns the inventory as YAML, or the mistakes that it would have.
    pub fn text(self) -> Result<String> {
        let catalog = Catalog::builtin()?;
        let accelerator: Option<Accelerator> = match &self.accelerator {
            None => None,
            Some(slug) => {
                let product = catalog.product(slug).ok_or_else(|| no_product(&catalog, slug))?;
                let fitting = newest(&catalog, &product, self.count);
                Some(fitting.ok_or_else(|| {
                    let message = format!("the catalog has no driver or SDK for `{slug}`");
                    coded("E-PRODUCT", message, format!("Run `provision catalog {slug}` for details"))
                })?)
            }
        };
        let text = starter_text(&Starter {
            pools: self.pools(accelerator),
            name: self.name,
            ssh: StarterSsh { user: Some(self.user), ..StarterSsh::default() },
            k0s: K0S.to_owned(),
            sans: Vec::new(),
            external: None,
            pod_cidr: POD_CIDR.to_owned(),
            service_cidr: SERVICE_CIDR.to_owned(),
            notes: Vec::new(),
        });
        let answers = Path::new("the given answers");
        load_from(&Snapshot::from_iter([(answers, text.clone())]), answers, &catalog)
            .map_err(Error::Inventory)?;
        Ok(text)
    }

    fn pools(&self, accelerator: Option<Accelerator>) -> Vec<StarterPool> {
        if self.workers.is_empty() {
            let role =
                if self.controllers.len() == 1 { NodeRole::Single } else { NodeRole::ControllerWorker };
            let all = StarterPool::of("all", role, "node", &self.controllers);
            return vec![StarterPool { accelerator, ..all }];
        }
        let workers = StarterPool::of("workers", NodeRole::Worker, "w", &self.workers);
        let control = StarterPool::of("control", NodeRole::Controller, "cp", &self.controllers);
        vec![control, StarterPool { accelerator, ..workers }]
    }
}

/// Returns the error of a product that is not in a catalog, with the nearest name that is.
pub fn no_product(catalog: &Catalog, slug: &str) -> Error {
    let near = catalog.products().iter().min_by_key(|p| strsim::osa_distance(&p.slug, slug));
    let near = near.map(|p| format!("Did you mean {}? ", p.slug)).unwrap_or_default();
    let hint = format!(
        "{near}Run `provision catalog` for the list, or add a row in a file in catalog/ next to the inventory"
    );
    coded("E-PRODUCT", format!("`{slug}` is not in the catalog"), hint)
}
