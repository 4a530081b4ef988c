//! The catalog: accelerators by PCI id, driver branches, Neuron SDK releases, k0s lines, component versions and the
//! artifacts behind them. All facts are data in `catalog/*.yaml`, each with its source; files next to an inventory extend
//! or override them by key.

mod check;
mod load;
mod query;
mod types;

pub use query::{Catalog, CatalogError};
pub use types::*;
