//! Template values of the rdma role: the EFA installer, and the modules of the links.

use super::health::{Links, links_gate};
use super::input::{RoleInput, download};
use crate::catalog::Fabric;
use crate::state::Failure;
use serde_json::{Value, json};

/// Where the installer's archive lies on a host.
const ARCHIVE: &str = "/var/lib/provision/aws-efa-installer.tar.gz";

/// Returns the links that a host should have.
pub(super) fn links(input: &RoleInput<'_>) -> Links {
    let pool = input.inventory.pool_of(input.host);
    Links { efa: pool.efa, rdma: pool.rdma }
}

/// Returns `rdma`: null on hosts without a network of that kind.
pub(super) fn rdma(input: &RoleInput<'_>) -> Result<Value, Failure> {
    let links = links(input);
    if links.is_empty() {
        return Ok(Value::Null);
    }
    let product = input.inventory.pool_of(input.host).accelerator.as_ref();
    let product = product.and_then(|a| input.catalog.product(a.product()));
    // Fabric Manager wants some of them too, and that role loads these.
    let loaded = product.is_some_and(|p| p.fabric == Fabric::FabricManagerNvlsm);
    let mut modules = vec!["ib_uverbs"];
    if links.rdma.is_some() {
        modules.extend(["mlx5_core", "mlx5_ib", "ib_umad"].iter().filter(|_| !loaded));
        modules.push("rdma_ucm");
    }
    let efa = match links.efa {
        Some(_) => {
            let version = input.lock.get("efa-installer").map(|l| l.version.as_str());
            json!({"archive": download(input, "efa-installer", ARCHIVE, 0o644)?, "version": version})
        }
        None => Value::Null,
    };
    let id = input.facts.os.get("ID").map(String::as_str).unwrap_or_default();
    Ok(json!({
        "efa": efa,
        "modules": modules,
        // Debian's one kernel package has all modules; an EFA host elsewhere needs none of mlx5.
        "modules_extra": !loaded && (id == "ubuntu" || id != "debian" && links.rdma.is_some()),
        "health": links_gate(links, false),
        "health_gate": links_gate(links, true),
    }))
}
