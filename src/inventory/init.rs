//! The commented inventory that `provision init` writes.

/// What `init` was told.
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
    /// Catalog slug of the workers' accelerator, and how many a host has.
    pub accelerator: Option<(String, u32)>,
    /// It is a Neuron device.
    pub neuron: bool,
}

/// Returns the inventory's text.
pub fn init_text(init: &Init) -> String {
    let pool = |name: &str, role: &str, prefix: &str, addresses: &[String], accelerator: bool| {
        let mut text = format!("  {name}:\n    role: {role}\n");
        if let Some((product, count)) = init.accelerator.as_ref().filter(|_| accelerator) {
            text += &if init.neuron {
                format!(
                    "    accelerator: {{neuron: {{product: {product}, count: {count}, sdk: \"2.32.0\"}}}}\n"
                )
            } else {
                format!(
                    "    accelerator: {{nvidia: {{product: {product}, count: {count}, driver: \"580.178.04\"}}}}\n"
                )
            };
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
         # How hosts are reached. Host keys are checked: provision trust scans and records them.\n\
         ssh: {{user: {}}}\n\n\
         cluster:\n  k0s: {{version: v1.35.7+k0s.0}}\n  # No host may be inside these networks; each node takes a /24 of podCIDR.\n  \
         network: {{podCIDR: 10.240.0.0/13, serviceCIDR: 10.96.0.0/16}}\n\n\
         # Hosts that are alike. Ranges work too: \"h-[001-064]\": {{address: \"10.20.1.[1-64]\"}}\npools:\n{pools}\n\
         # What serves models; uncomment and fill in.\n\
         # router: {{kthena: {{version: v1.0.0}}}}\n\
         # models:\n#   my-model:\n#     source: {{huggingFace: {{repo: owner/name, revision: \"<commit>\"}}}}\n\
         #     engine: {{vllm: {{image: \"vllm/vllm-openai@sha256:<digest>\"}}}}\n\
         #     placement: {{pool: workers, acceleratorsPerReplica: 1, replicas: 1}}\n\
         # tenants:\n#   me: {{gateway: {{port: 8081}}, routes: {{my-model: {{to: {{my-model: 100}}}}}}}}\n",
        init.name, init.user
    )
}
