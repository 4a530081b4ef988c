//! The downloads that an inventory needs. `artifact` resolves them.

use crate::artifact::{Needs, Wanted, wanted};
use crate::catalog::Catalog;
use crate::inventory::{Accelerator, Inventory};

/// The architectures that k0s is published for and hosts can have, as printed by `uname -m`.
const ARCHES: [&str; 2] = ["x86_64", "aarch64"];

/// Returns what an inventory needs. A pool without an accelerator, or with one that goes into any host, can have hosts of
/// either architecture.
fn needs(inventory: &Inventory, catalog: &Catalog) -> Needs {
    let pools = || inventory.pools.values();
    let accelerators = || pools().filter_map(|pool| pool.accelerator.as_ref());
    let arches = pools().flat_map(|pool| {
        let product = pool.accelerator.as_ref().and_then(|a| catalog.product(a.product()));
        match product.and_then(|product| product.host_arch.clone()) {
            Some(arch) => vec![arch],
            None => ARCHES.map(str::to_owned).to_vec(),
        }
    });
    Needs {
        k0s_version: inventory.cluster.k0s_version.clone(),
        arches: arches.collect(),
        nvidia: accelerators().any(|a| matches!(a, Accelerator::Nvidia { .. })),
        neuron: accelerators().any(|a| matches!(a, Accelerator::Neuron { .. })),
        efa: pools().any(|pool| pool.efa.is_some()),
        router: inventory.router.is_some(),
        inference_extension: inventory.router.as_ref().is_some_and(|r| r.inference_extension),
        mirrors: inventory.repositories.clone(),
    }
}

/// Returns the artifacts that an inventory needs: what its lock file has to hold.
pub fn artifacts(inventory: &Inventory, catalog: &Catalog) -> Vec<Wanted> {
    wanted(&needs(inventory, catalog), catalog)
}
