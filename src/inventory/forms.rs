//! Validates all texts of an inventory against `grammar`. Hosts are validated where they are read, as there are many.

use super::diagnostic::{Diagnostic, Problems};
use super::grammar::{self as form, PATH, USER};
use super::model::*;
use super::tree::Node;
use crate::state::shortened;

/// What bypasses a proxy is compared with every host, so there is a bound.
const MOST_NO_PROXY: usize = 1_000;

/// What a bastion is, for hints.
const BASTION: &str = "Use [user@]host[:port], with brackets around an IPv6 address: eva@[fd00::1]:22";

/// What a folder of one's own is, for hints.
const OWN_FOLDER: &str = "Use a folder of its own: /data/models";

struct Forms<'a> {
    top: &'a Node,
    problems: &'a mut Problems,
}

impl Forms<'_> {
    /// Refuses a text at a path; `hint` says what it must be.
    fn wrong(&mut self, code: &'static str, path: &[&str], what: &str, text: &str, hint: &str) {
        let problem = Diagnostic::error(code, format!("`{}` is not {what}", shortened(text, 80))).hint(hint);
        self.problems.push(match self.problems.is_full(code) {
            true => problem,
            false => problem.at(&self.top.at(path).span),
        });
    }

    fn check(&mut self, fits: bool, path: &[&str], what: &str, text: &str, hint: &str) {
        if !fits {
            self.wrong("E-FORM", path, what, text, hint);
        }
    }

    fn address(&mut self, path: &[&str], text: &str) {
        if let Some(hint) = form::address_fault(text) {
            self.wrong("E-ADDRESS", path, "an address", text, hint);
        }
    }

    fn ssh(&mut self, ssh: &Ssh) {
        if let Some(user) = ssh.user.as_ref().filter(|user| !form::is_user(user)) {
            self.wrong("E-USER", &["ssh", "user"], "a login name", user, USER);
        }
        for bastion in ssh.bastions.iter().filter(|b| !form::is_bastion(b)) {
            self.wrong("E-BASTION", &["ssh", "bastions"], "a bastion", bastion, BASTION);
        }
    }

    fn pool_ssh(&mut self, pool: &str, ssh: &PoolSsh) {
        if let Some(user) = ssh.user.as_ref().filter(|user| !form::is_user(user)) {
            self.wrong("E-USER", &["pools", pool, "ssh", "user"], "a login name", user, USER);
        }
        for bastion in ssh.bastions.iter().flatten().filter(|b| !form::is_bastion(b)) {
            self.wrong("E-BASTION", &["pools", pool, "ssh", "bastions"], "a bastion", bastion, BASTION);
        }
    }

    fn secrets(&mut self, inventory: &Inventory) {
        for (name, source) in &inventory.secrets {
            let at = ["secrets", name.as_str()];
            self.check(
                form::is_name(name),
                &at,
                "a secret name",
                name,
                "Use letters, digits and `.`, `_`, `-`",
            );
            if let SecretSource::Env(variable) = source {
                let fits = form::is_variable(variable);
                self.check(
                    fits,
                    &at,
                    "an environment variable",
                    variable,
                    "Use letters, digits and `_`: HF_TOKEN",
                );
            }
        }
    }

    fn network(&mut self, inventory: &Inventory) {
        let rules = &inventory.network.no_proxy;
        let path = ["network", "noProxy"];
        if rules.len() > MOST_NO_PROXY {
            let hint = "Use networks and .domains to cover many hosts";
            self.wrong(
                "E-NO-PROXY",
                &path,
                "a number of entries up to 1,000",
                &rules.len().to_string(),
                hint,
            );
        }
        for rule in rules.iter().filter(|rule| !form::is_no_proxy(rule)) {
            let hint = "Use an address, a network, a name, .domain or *.domain";
            self.wrong("E-NO-PROXY", &path, "an entry of noProxy", rule, hint);
        }
        for (name, registry) in &inventory.registries {
            let at = ["registries", name.as_str()];
            let hint = "Use a host, with its port if it is not the default: registry.example.net:5000";
            self.check(form::is_registry(name), &at, "a registry", name, hint);
            if let Some((mirror, hint)) =
                registry.mirror.as_ref().and_then(|m| Some((m, form::url_fault(m)?)))
            {
                self.wrong("E-MIRROR", &["registries", name, "mirror"], "a mirror URL", mirror, hint);
            }
        }
        for (name, mirror) in &inventory.repositories {
            if form::address_fault(name).is_some() {
                let hint = "Use the repository's host as in its role, such as developer.download.nvidia.com";
                self.wrong("E-MIRROR", &["repositories", name], "a host name", name, hint);
            }
            if let Some(hint) = form::url_fault(mirror) {
                self.wrong("E-MIRROR", &["repositories", name, "mirror"], "a mirror URL", mirror, hint);
            }
        }
        for server in &inventory.os.ntp {
            self.address(&["os", "ntp"], server);
        }
        for (name, value) in &inventory.os.sysctls {
            let at = ["os", "sysctls", name.as_str()];
            self.check(
                form::is_sysctl(name),
                &at,
                "a sysctl key",
                name,
                "Use a sysctl key: vm.max_map_count",
            );
            self.check(form::is_note(value), &at, "a sysctl value", value, "Use a single line");
        }
        if let Endpoint::External { address } = &inventory.cluster.endpoint {
            self.address(&["cluster", "endpoint", "external", "address"], address);
        }
        if let Endpoint::Vip { interface: Some(name), .. } = &inventory.cluster.endpoint {
            let at = ["cluster", "endpoint", "vip", "interface"];
            self.check(
                form::is_interface(name),
                &at,
                "an interface name",
                name,
                "Use a name shown by `ip link`: bond0",
            );
        }
    }

    fn pool(&mut self, pool: &Pool) {
        let name = pool.name.as_str();
        if let Some(ssh) = &pool.ssh {
            self.pool_ssh(name, ssh);
        }
        self.check(
            form::is_name(name),
            &["pools", name],
            "a pool name",
            name,
            "Use letters, digits and `.`, `_`, `-`",
        );
        if let Some(interface) = &pool.cluster_interface {
            let at = ["pools", name, "clusterInterface"];
            self.check(
                form::is_interface(interface),
                &at,
                "an interface name",
                interface,
                "Use a name shown by `ip link`: bond0",
            );
        }
        if let Some(kernel) = &pool.kernel {
            let at = ["pools", name, "kernel"];
            self.check(
                form::is_kernel(kernel),
                &at,
                "a kernel release",
                kernel,
                "Use a release as printed by `uname -r`",
            );
        }
        let (path, at) = (&pool.models_path, ["pools", name, "storage", "models", "path"]);
        if !form::is_path(path) {
            self.wrong("E-PATH", &at, "an absolute path", path, PATH);
        } else if form::is_system_path(path) {
            self.wrong("E-PATH", &at, "a folder for models", path, OWN_FOLDER);
        }
        for (key, disk) in [("data", &pool.data_disk), ("models", &pool.models_disk)] {
            let Some(disk) = disk else { continue };
            if !form::is_path(&disk.disk) {
                self.wrong(
                    "E-DISK-NAME",
                    &["pools", name, "storage", key, "disk"],
                    "an absolute path",
                    &disk.disk,
                    PATH,
                );
            }
            if let Some(erase) = &disk.erase {
                let at = ["pools", name, "storage", key, "erase"];
                let hint = "Use a type as printed by blkid: ext4, gpt, LVM2_member";
                self.check(form::is_name(erase), &at, "a blkid type", erase, hint);
            }
        }
    }

    fn model(&mut self, model: &Model) {
        let name = model.name.as_str();
        match &model.source {
            ModelSource::HuggingFace { repo, revision, .. } => {
                let at = |key: &'static str| ["models", name, "source", "huggingFace", key];
                self.check(form::is_repository(repo), &at("repo"), "a repository", repo, "Use owner/name");
                let hint = "Use a commit (recommended), a tag or a branch";
                self.check(form::is_revision(revision), &at("revision"), "a revision", revision, hint);
            }
            ModelSource::Path { path } => {
                let at = ["models", name, "source", "path"];
                if !form::is_path(path) {
                    self.wrong("E-PATH", &at, "an absolute path", path, PATH);
                } else if form::is_system_path(path) {
                    self.wrong("E-PATH", &at, "a folder of weights", path, OWN_FOLDER);
                }
            }
        }
        let image = &model.engine.image;
        let hint = "Use a repository with a tag or a digest: vllm/vllm-openai@sha256:…";
        self.check(form::is_image(image), &["models", name, "engine"], "an image", image, hint);
        let word = if model.engine.kind == EngineKind::Vllm { "vllm" } else { "sglang" };
        for variable in model.engine.env.keys() {
            let at = ["models", name, "engine", word, "env", variable.as_str()];
            let hint = "Use letters, digits and `_`: VLLM_LOGGING_LEVEL";
            self.check(form::is_variable(variable), &at, "an environment variable", variable, hint);
            if variable == "HF_TOKEN" {
                let hint = "Use source.huggingFace.token with a secret: inventories must not contain tokens";
                self.wrong("E-FORM", &at, "a variable that can be set here", variable, hint);
            }
        }
        let resources = &model.engine.resources;
        let all = [("cpu", &resources.cpu), ("memory", &resources.memory), ("shm", &resources.shm)];
        for (key, quantity) in all.into_iter().filter_map(|(key, q)| Some((key, q.as_ref()?))) {
            let at = ["models", name, "engine", word, "resources", key];
            let hint = "Use a number with an optional unit: 4, 500m, 64Gi";
            self.check(form::is_quantity(quantity), &at, "a quantity", quantity, hint);
        }
    }

    fn tenant(&mut self, tenant: &Tenant) {
        for served in tenant.routes.keys() {
            let at = ["tenants", tenant.name.as_str(), "routes", served.as_str()];
            let hint = "Use letters, digits and `.`, `_`, `-`, `/`, `:`, starting with a letter or a digit";
            self.check(form::is_served_name(served), &at, "a served model name", served, hint);
        }
    }
}

/// Adds every text that has not the form that it must have.
pub(super) fn check(inventory: &Inventory, top: &Node, problems: &mut Problems) {
    let mut forms = Forms { top, problems };
    forms.ssh(&inventory.ssh);
    forms.secrets(inventory);
    forms.network(inventory);
    for pool in inventory.pools.values() {
        forms.pool(pool);
    }
    for model in inventory.models.values() {
        forms.model(model);
    }
    for tenant in inventory.tenants.values() {
        forms.tenant(tenant);
    }
}
