//! Static checks of accelerators: products, driver branches, module flavors, SDK releases, engine images, and containerd
//! drop-ins. Every error has its own code and the source of its rule.

use super::diagnostic::{Diagnostic, Problems};
use super::model::*;
use super::tree::Node;
use crate::catalog::{Catalog, DriverBranch, OpenModule, Product, Vendor, version_cmp};
use std::cmp::Ordering;
use std::collections::BTreeMap;

struct Checker<'a> {
    inventory: &'a Inventory,
    top: &'a Node,
    catalog: &'a Catalog,
    problems: &'a mut Problems,
}

/// Adds every problem found.
pub(super) fn check(inventory: &Inventory, top: &Node, catalog: &Catalog, problems: &mut Problems) {
    let mut checker = Checker { inventory, top, catalog, problems };
    for pool in inventory.pools.values() {
        checker.pool(pool);
        checker.fabric(pool);
    }
    for model in inventory.models.values() {
        checker.engine(model);
        checker.instance(model);
        checker.neuron_engine(model);
    }
    checker.drop_ins();
}

/// GPU memory is handed to network devices as DMA-BUF from this kernel on (GPU Operator documents, GPUDirect RDMA).
pub const DMA_BUF_KERNEL: &str = "5.12";

fn module_given(pool: &Pool) -> bool {
    matches!(pool.accelerator, Some(Accelerator::Nvidia { module: Some(_), .. }))
}

/// Returns the branch of a driver version such as `580.178.04`.
fn branch_of(driver: &str) -> Option<u32> {
    let parts: Vec<&str> = driver.split('.').collect();
    let numbers =
        parts.len() >= 2 && parts.iter().all(|p| !p.is_empty() && p.chars().all(|c| c.is_ascii_digit()));
    numbers.then(|| parts[0].parse().ok()).flatten()
}

/// Returns the newest branch that a product takes; a long-term one, if there is one.
pub(super) fn best<'a>(catalog: &'a Catalog, product: &Product) -> Option<&'a DriverBranch> {
    let fits = |b: &&DriverBranch| {
        product.min_branch.is_none_or(|m| b.branch >= m) && product.max_branch.is_none_or(|m| b.branch <= m)
    };
    let fitting = || catalog.branches().iter().filter(fits);
    fitting().rfind(|b| b.kind == "long-term").or_else(|| fitting().next_back())
}

impl Checker<'_> {
    fn push(&mut self, diagnostic: Diagnostic, path: &[&str]) {
        self.problems.push(match self.problems.is_full(diagnostic.code) {
            true => diagnostic,
            false => diagnostic.at(&self.top.at(path).span),
        });
    }

    fn pool(&mut self, pool: &Pool) {
        let Some(accelerator) = &pool.accelerator else { return };
        let catalog = self.catalog;
        let slug = accelerator.product();
        let (word, vendor) = match accelerator {
            Accelerator::Nvidia { .. } => ("nvidia", Vendor::Nvidia),
            Accelerator::Neuron { .. } => ("neuron", Vendor::Neuron),
        };
        let path = |key: &'static str| ["pools", pool.name.as_str(), "accelerator", word, key];
        let Some(product) = catalog.product(slug).filter(|p| p.vendor == vendor) else {
            let near = catalog
                .products()
                .iter()
                .filter(|p| p.vendor == vendor)
                .map(|p| (strsim::osa_distance(&p.slug, slug), p.slug.as_str()))
                .min()
                .filter(|(distance, _)| *distance <= 4);
            let hint = match near {
                Some((_, name)) => format!("Did you mean `{name}`?"),
                None => "Run `provision catalog` for the list, or add a row in a file in catalog/ next to the inventory"
                    .to_owned(),
            };
            let problem =
                Diagnostic::error("E-PRODUCT", format!("`{slug}` is not in the catalog")).hint(hint);
            return self.push(problem, &path("product"));
        };
        if accelerator.count() == 0 {
            let problem = Diagnostic::error("E-VALUE", "`count` of this pool is 0")
                .hint("Remove `accelerator` for hosts without accelerators");
            self.push(problem, &path("count"));
        }
        match accelerator {
            Accelerator::Nvidia { driver, module, mig, .. } => {
                self.nvidia(&product, driver, *module, &path);
                if let Some(layout) = mig {
                    self.mig(&product, driver, layout, &path);
                }
            }
            Accelerator::Neuron { sdk, lnc, .. } => self.neuron(&product, sdk, *lnc, &path),
        }
    }

    fn nvidia<'p>(
        &mut self,
        product: &Product,
        driver: &str,
        module: Option<ModuleFlavour>,
        path: &dyn Fn(&'static str) -> [&'p str; 5],
    ) {
        let (catalog, slug) = (self.catalog, &product.slug);
        let Some(branch) = branch_of(driver) else {
            let message = format!("`{driver}` is not a driver version such as 580.178.04");
            let hint = best(catalog, product)
                .map_or("no driver for this product in the catalog".to_owned(), |b| {
                    format!("driver: \"{}\"", b.latest)
                });
            return self.push(Diagnostic::error("E-NV-DRIVER", message).hint(hint), &path("driver"));
        };
        let hint = best(catalog, product)
            .map(|b| format!("Use driver: \"{}\", the newest {} release in the catalog", b.latest, b.kind))
            .unwrap_or_else(|| format!("the catalog has no branch for {slug}"));
        if catalog.products().iter().all(|p| p.slug != *slug) {
            let message = format!("{slug} is not in the catalog");
            let hint = "Add a row for it in a file in catalog/ next to the inventory";
            let problem =
                Diagnostic::warning("W-NV-UNKNOWN", message).source(product.source.clone()).hint(hint);
            self.push(problem, &path("product"));
        }
        if let Some(min) = product.min_branch.filter(|min| branch < *min) {
            let message = format!("{slug} needs NVIDIA driver branch {min} or newer, got {driver}");
            let problem = Diagnostic::error("E-NV-BRANCH", message).source(product.source.clone()).hint(hint);
            return self.push(problem, &path("driver"));
        }
        if let Some(max) = product.max_branch.filter(|max| branch > *max) {
            let message = format!("NVIDIA driver branch {max} is the last one for {slug}, got {driver}");
            let problem =
                Diagnostic::error("E-NV-BRANCH-LAST", message).source(product.source.clone()).hint(hint);
            return self.push(problem, &path("driver"));
        }
        match catalog.branch(branch) {
            None => {
                let message = format!("NVIDIA driver branch {branch} is not in the catalog");
                self.push(Diagnostic::error("E-NV-BRANCH-UNKNOWN", message).hint(hint), &path("driver"));
            }
            Some(row) => {
                if let Some(eol) = row.eol.as_ref().filter(|eol| eol.as_str() < catalog.as_of()) {
                    let message = format!("NVIDIA driver branch {branch} reached end of life in {eol}");
                    let problem =
                        Diagnostic::warning("W-NV-EOL", message).source(row.source.clone()).hint(hint);
                    self.push(problem, &path("driver"));
                }
            }
        }
        self.flavour(product, branch, module, path);
    }

    fn flavour<'p>(
        &mut self,
        product: &Product,
        branch: u32,
        module: Option<ModuleFlavour>,
        path: &dyn Fn(&'static str) -> [&'p str; 5],
    ) {
        let slug = &product.slug;
        let open_only = self.catalog.open_only_from().filter(|o| branch >= o.branch);
        let (message, source, hint) = match (module, product.open_module) {
            (Some(ModuleFlavour::Closed), OpenModule::Required) => (
                format!("{slug} supports only the open kernel modules, but `module` is closed"),
                product.source.clone(),
                "Set module: open, or remove `module`",
            ),
            (Some(ModuleFlavour::Open), OpenModule::Unsupported) => (
                format!("{slug} supports only the closed kernel modules, but `module` is open"),
                product.source.clone(),
                "Set module: closed, or remove `module`",
            ),
            (Some(ModuleFlavour::Open), _) if !product.open_by_default(branch) => (
                format!("the open kernel modules support {slug} only from a branch newer than {branch}"),
                product.source.clone(),
                "Set module: closed, or use a newer branch",
            ),
            (Some(ModuleFlavour::Closed), _) if open_only.is_some() => (
                format!("NVIDIA driver branch {branch} has only open kernel modules"),
                open_only.map(|o| o.source.clone()).unwrap_or_default(),
                "Set module: open, or remove `module`",
            ),
            _ => return,
        };
        let at = path("module");
        self.push(Diagnostic::error("E-NV-MODULE", message).source(source).hint(hint), &at);
    }

    /// Networks between hosts. GPU memory reaches them by DMA-BUF alone: modules that do it another way (nvidia-peermem,
    /// efa-nv-peermem) are not rebuilt with the driver (amazon-eks-ami#2672).
    fn fabric(&mut self, pool: &Pool) {
        const SOURCE: &str = "GPU Operator documents, GPUDirect RDMA: DMA-BUF requires the open kernel modules, kernel 5.12 and Turing";
        let wanted = [("efa", pool.efa), ("rdma", pool.rdma)];
        for (key, count) in wanted {
            let Some(count) = count else { continue };
            let path = ["pools", pool.name.as_str(), key];
            if count == 0 {
                let problem = Diagnostic::error("E-VALUE", format!("`{key}.count` of this pool is 0"))
                    .hint(format!("Remove `{key}` for hosts without any"));
                self.push(problem, &["pools", pool.name.as_str(), key, "count"]);
            }
            let fits = match &pool.accelerator {
                Some(Accelerator::Nvidia { .. }) => true,
                Some(Accelerator::Neuron { .. }) => key == "efa",
                None => false,
            };
            if !fits {
                let who = if key == "efa" { "GPUs or Neuron devices" } else { "NVIDIA GPUs" };
                let problem = Diagnostic::error(
                    "E-RDMA-POOL",
                    format!("`{key}` requires hosts with {who}, but pool `{}` has none", pool.name),
                )
                .source(
                    "AWS documents: AWS instances have EFA; mlx5 devices are used with NVIDIA GPUs"
                        .to_owned(),
                )
                .hint(format!("Remove `{key}`, or set the pool's `accelerator`"));
                self.push(problem, &path);
            }
        }
        let Some(key) = wanted.iter().find_map(|(key, count)| count.map(|_| *key)) else { return };
        let Some(Accelerator::Nvidia { product, driver, module, .. }) = &pool.accelerator else { return };
        let (Some(product), Some(branch)) = (self.catalog.product(product), branch_of(driver)) else {
            return;
        };
        let open = match module {
            Some(flavour) => *flavour == ModuleFlavour::Open,
            None => product.open_by_default(branch),
        };
        if !open {
            let (why, hint) = match product.open_module {
                OpenModule::Unsupported => (
                    format!("{} supports only the closed ones", product.slug),
                    format!("Remove `{key}`: this product is older than Turing"),
                ),
                _ => ("`module` is closed".to_owned(), "module: open".to_owned()),
            };
            let message = format!("`{key}` requires the open kernel modules, but {why}");
            let problem = Diagnostic::error("E-RDMA-MODULE", message).source(SOURCE.to_owned()).hint(hint);
            let module = ["pools", pool.name.as_str(), "accelerator", "nvidia", "module"];
            let at: &[&str] = if module_given(pool) { &module } else { &["pools", pool.name.as_str(), key] };
            self.push(problem, at);
        }
        let older = |kernel: &&String| version_cmp(kernel, DMA_BUF_KERNEL) == Ordering::Less;
        if let Some(kernel) = pool.kernel.as_ref().filter(older) {
            let message = format!("`{key}` requires kernel {DMA_BUF_KERNEL} or newer, got {kernel}");
            let problem = Diagnostic::error("E-RDMA-KERNEL", message)
                .source(SOURCE.to_owned())
                .hint("Set `kernel` to a newer release of the distribution");
            self.push(problem, &["pools", pool.name.as_str(), "kernel"]);
        }
    }

    fn neuron<'p>(
        &mut self,
        product: &Product,
        sdk: &str,
        lnc: Option<u32>,
        path: &dyn Fn(&'static str) -> [&'p str; 5],
    ) {
        let (catalog, slug) = (self.catalog, &product.slug);
        let usable = |s: &&crate::catalog::NeuronSdk| {
            s.driver.is_some() && s.products.iter().chain(&s.host_products).any(|p| p == slug)
        };
        let fitting: Vec<&str> =
            catalog.neuron_sdks().iter().filter(usable).map(|s| s.sdk.as_str()).collect();
        let hint = format!("SDK releases for {slug}: {}", fitting.join(", "));
        match catalog.neuron_sdk(sdk) {
            None => {
                let message = format!("Neuron SDK {sdk} is not in the catalog");
                self.push(Diagnostic::error("E-NEURON-SDK", message).hint(hint), &path("sdk"));
            }
            Some(row) if !row.products.iter().chain(&row.host_products).any(|p| p == slug) => {
                let because = match (&product.max_driver, &row.driver) {
                    (Some(last), Some(driver)) if version_cmp(driver, last) == Ordering::Greater => {
                        format!(": its driver is {driver}, but {slug} is supported up to {last}")
                    }
                    _ => String::new(),
                };
                let message = format!("Neuron SDK {sdk} does not support {slug}{because}");
                let source = format!("{}; {}", row.source, product.source);
                let problem = Diagnostic::error("E-NEURON-CHIP", message).source(source).hint(hint);
                self.push(problem, &path("sdk"));
            }
            Some(row) if row.driver.is_none() => {
                let message = format!("the catalog has no driver package for Neuron SDK {sdk}");
                let problem =
                    Diagnostic::error("E-NEURON-SDK", message).source(row.source.clone()).hint(hint);
                self.push(problem, &path("sdk"));
            }
            Some(_) => {}
        }
        if let Some(lnc) = lnc.filter(|lnc| !product.logical_cores.contains(lnc)) {
            let message = format!("{slug} does not support logical core size {lnc}");
            let hint = match product.logical_cores.is_empty() {
                true => "Remove `lnc`: its cores cannot be combined".to_owned(),
                false => "Set lnc: 1 or 2".to_owned(),
            };
            self.push(Diagnostic::error("E-NEURON-LNC", message).hint(hint), &path("lnc"));
        }
    }

    /// A MIG layout against the product's profiles and slices.
    fn mig<'p>(
        &mut self,
        product: &Product,
        driver: &str,
        layout: &BTreeMap<String, u32>,
        path: &dyn Fn(&'static str) -> [&'p str; 5],
    ) {
        let slug = &product.slug;
        let Some(row) = self.catalog.mig(slug) else {
            let message = match product.mig_instances {
                Some(_) => format!("the catalog has no MIG profiles of {slug}"),
                None => format!("{slug} does not support MIG"),
            };
            let hint =
                "Remove `mig`, or add profiles with a row `mig` in a file in catalog/ next to the inventory";
            let problem = Diagnostic::error("E-MIG-PRODUCT", message).source(product.source.clone());
            return self.push(problem.hint(hint), &path("mig"));
        };
        let older = |least: &&String| version_cmp(driver, least) == Ordering::Less;
        if let Some(least) = row.min_driver.as_ref().filter(older) {
            let message = format!("MIG on {slug} needs driver {least} or newer, got {driver}");
            let problem = Diagnostic::error("E-MIG-DRIVER", message)
                .source(row.source.clone())
                .hint("Use a newer driver, or remove `mig`");
            self.push(problem, &path("driver"));
        }
        let names: Vec<&str> = row.profiles.iter().map(|p| p.name.as_str()).collect();
        for name in layout.keys().filter(|name| !names.contains(&name.as_str())) {
            let problem = Diagnostic::error("E-MIG-PROFILE", format!("{slug} has no MIG profile `{name}`"))
                .source(row.source.clone())
                .hint(format!("Use one of its profiles: {}", names.join(", ")));
            let [a, b, c, d, e] = path("mig");
            self.push(problem, &[a, b, c, d, e, name]);
        }
        if let Some(why) = row.refuses(layout) {
            let problem =
                Diagnostic::error("E-MIG-LAYOUT", format!("{slug} does not support this layout: {why}"))
                    .source(row.source.clone())
                    .hint("Use fewer or smaller instances per GPU");
            self.push(problem, &path("mig"));
        }
    }

    /// A replica on split GPUs is one instance, and there is one kind to ask for.
    fn instance(&mut self, model: &Model) {
        let Some(pool) = self.inventory.pools.get(&model.pool) else { return };
        let Some(layout) = pool.accelerator.as_ref().and_then(Accelerator::mig) else { return };
        let path = |key: &'static str| ["models", model.name.as_str(), "placement", key];
        let kinds = layout.values().filter(|n| **n > 0).count();
        if kinds > 1 {
            let message = format!("pool `{}` has {kinds} kinds of MIG instances", model.pool);
            let hint = "Place models on pools with at most one MIG profile; other workloads can request any";
            self.push(Diagnostic::error("E-MIG-PLACEMENT", message).hint(hint), &path("pool"));
        } else if model.accelerators_per_replica > 1 {
            let wanted = model.accelerators_per_replica;
            let message =
                format!("a replica needs {wanted} MIG instances, but an engine cannot span instances");
            let hint = "Set acceleratorsPerReplica: 1, with a larger MIG profile if the model does not fit";
            self.push(
                Diagnostic::error("E-MIG-PLACEMENT", message).hint(hint),
                &path("acceleratorsPerReplica"),
            );
        }
    }

    /// A replica on Neuron devices. The kubelet hands out devices in any order, and the runtime takes only contiguous ones
    /// (aws-neuron-sdk deploy/faq.rst, deploy/troubleshooting.rst).
    fn neuron_engine(&mut self, model: &Model) {
        let Some(pool) = self.inventory.pools.get(&model.pool) else { return };
        let Some(Accelerator::Neuron { count, .. }) = &pool.accelerator else { return };
        let wanted = model.accelerators_per_replica;
        if wanted > 1 && wanted < *count {
            let message = format!(
                "a replica needs {wanted} of the {count} Neuron devices of a host, which are not handed out contiguously"
            );
            let problem = Diagnostic::error("E-NEURON-CONTIGUOUS", message)
                .source("aws-neuron-sdk deploy/faq.rst: the device plugin alone does not guarantee contiguous devices".to_owned())
                .hint(format!("Set acceleratorsPerReplica: 1 or {count}"));
            self.push(problem, &["models", model.name.as_str(), "placement", "acceleratorsPerReplica"]);
        }
        if wanted > 0 && model.engine.kind == EngineKind::Vllm && !model.engine.has_arg("--max-model-len") {
            let message = format!(
                "model `{}` has no --max-model-len: vLLM on Neuron compiles for the longest context of the model",
                model.name
            );
            let problem = Diagnostic::warning("W-NEURON-LENGTH", message)
                .hint("Add it to engine.vllm.args: [\"--max-model-len\", \"8192\"]");
            self.push(problem, &["models", model.name.as_str(), "engine", "vllm"]);
        }
    }

    /// The image against the hosts that it runs on: users meet a wrong pair as an engine that never starts.
    fn engine(&mut self, model: &Model) {
        let catalog = self.catalog;
        let Some(needs) = catalog.engine_needs(&model.engine.image) else { return };
        let Some(pool) = self.inventory.pools.get(&model.pool) else { return };
        let Some(accelerator) = &pool.accelerator else { return };
        let word = if model.engine.kind == EngineKind::Vllm { "vllm" } else { "sglang" };
        let path = ["models", model.name.as_str(), "engine", word, "image"];
        let row = needs.row;
        match accelerator {
            Accelerator::Nvidia { driver, .. } => {
                let Some(branch) = branch_of(driver) else { return };
                if needs.sdk.is_some() {
                    let message = format!("image for Neuron devices on pool `{}`, which has GPUs", pool.name);
                    let problem = Diagnostic::error("E-ENGINE-VENDOR", message)
                        .source(row.source.clone())
                        .hint("Use an image for CUDA, or a pool of Neuron devices");
                    return self.push(problem, &path);
                }
                let floor = catalog.cuda_floors().iter().find(|f| Some(f.cuda) == row.cuda);
                if let Some(floor) = floor.filter(|f| branch < f.branch) {
                    let message = format!(
                        "an image with CUDA {} needs driver branch {} or newer, pool `{}` has {driver}",
                        floor.cuda, floor.branch, pool.name
                    );
                    let source = format!("{}; {}", floor.source, row.source);
                    let hint = "Use another branch on the pool, or an image with an older CUDA";
                    let problem = Diagnostic::error("E-ENGINE-CUDA", message).source(source).hint(hint);
                    self.push(problem, &path);
                }
            }
            Accelerator::Neuron { product, sdk, .. } => {
                if row.cuda.is_some() {
                    let message = format!("image for CUDA on pool `{}`, which has Neuron devices", pool.name);
                    let problem = Diagnostic::error("E-ENGINE-VENDOR", message)
                        .source(row.source.clone())
                        .hint("Use an image for Neuron, or a pool of GPUs");
                    return self.push(problem, &path);
                }
                if !row.products.is_empty() && !row.products.contains(product) {
                    let message = format!(
                        "this image runs on {}, pool `{}` has {product}",
                        row.products.join(" and "),
                        pool.name
                    );
                    let hint = "Use an image of an older SDK, or another pool; the host can keep its SDK";
                    let problem =
                        Diagnostic::error("E-ENGINE-CHIP", message).source(row.source.clone()).hint(hint);
                    return self.push(problem, &path);
                }
                self.window(pool, sdk, needs.sdk.as_deref(), &path);
            }
        }
    }

    /// The two-sided window: the host's driver takes images from some runtime on, the image wants some driver.
    fn window(&mut self, pool: &Pool, host: &str, image: Option<&str>, path: &[&str]) {
        let catalog = self.catalog;
        let Some((image_sdk, image)) = image.and_then(|i| Some((i, catalog.neuron_sdk(i)?))) else { return };
        let Some(host_row) = catalog.neuron_sdk(host) else { return };
        let older = |a: &Option<String>, b: &Option<String>| match (a, b) {
            (Some(a), Some(b)) if version_cmp(a, b) == Ordering::Less => Some((a.clone(), b.clone())),
            _ => None,
        };
        let message = if let Some((driver, least)) = older(&host_row.driver, &image.min_driver) {
            format!(
                "an image of SDK {image_sdk} needs driver {least} or newer, pool `{}` has {driver} of SDK {host}",
                pool.name
            )
        } else if let Some((runtime, least)) = older(&image.runtime, &host_row.min_runtime) {
            format!(
                "driver {} of SDK {host} on pool `{}` needs runtime {least} or newer, an image of SDK {image_sdk} has {runtime}",
                host_row.driver.as_deref().unwrap_or_default(),
                pool.name
            )
        } else {
            return;
        };
        let source = format!("{}; {}", image.source, host_row.source);
        let hint = "Use the same SDK release for host and image";
        self.push(Diagnostic::error("E-ENGINE-SDK", message).source(source).hint(hint), path);
    }

    /// A drop-in of the other containerd's form keeps k0s from starting.
    fn drop_ins(&mut self) {
        let cluster = &self.inventory.cluster;
        let Some(line) = self.catalog.k0s_line(&cluster.k0s_version) else { return };
        let mut problems = Vec::new();
        for (name, text) in &cluster.containerd {
            let path = ["cluster", "k0s", "containerd", name.as_str()];
            if !super::grammar::is_dns_label(name) {
                let message = format!("`{name}` is not a valid drop-in name");
                let hint = "Use lower-case letters, digits and `-`; .toml is added";
                problems.push((Diagnostic::error("E-NAME", message).hint(hint), path));
            }
            if matches!(name.as_str(), "nvidia" | "registries") {
                let message = format!("the drop-in name `{name}` is reserved for provision");
                problems.push((Diagnostic::error("E-NAME", message).hint("Choose another name"), path));
            }
            if let Some(why) = line.refuses(text) {
                let message = format!("the containerd drop-in `{name}` {why}");
                let hint = if line.containerd > 1 {
                    "version = 3 and plugins.\"io.containerd.cri.v1.runtime\" or .images"
                } else {
                    "version = 2 and plugins.\"io.containerd.grpc.v1.cri\""
                };
                let source = format!("k0s docs/runtime.md; {}", line.source);
                problems.push((
                    Diagnostic::error("E-CONTAINERD-DROPIN", message).source(source).hint(hint),
                    path,
                ));
            }
        }
        for (problem, path) in problems {
            self.push(problem, &path);
        }
    }
}
