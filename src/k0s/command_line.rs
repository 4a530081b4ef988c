//! `k0s install`: the command line of a host, as k0s writes it into its unit.

use super::paths::{BINARY, CONFIG, DATA_DIR, KUBELET_DIR, TOKEN};

/// How k0s is installed on a host.
///
/// Only what stays the same for the life of a node is here, as any change restarts k0s: further labels and taints are kept
/// through the API, which a kubelet's own flags would not change after it has registered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Install {
    /// A controller, or else a worker.
    pub controller: bool,
    /// A controller that runs pods too.
    pub enable_worker: bool,
    /// The only host of its cluster: no etcd, no joins.
    pub single: bool,
    /// Labels of the node, `key=value`; `None` where there is no kubelet.
    pub labels: Option<Vec<String>>,
    /// What the node is tainted with when it joins, where there is a kubelet.
    pub taint: String,
    /// The node's address, where its kubelet must not choose one by itself.
    pub node_ip: Option<String>,
    /// It joins with a token.
    pub token: bool,
}

impl Install {
    /// Returns the subcommand: `controller` or `worker`.
    pub fn role(&self) -> &'static str {
        if self.controller { "controller" } else { "worker" }
    }

    /// Returns ` --name=value …` exactly as k0s writes it into its unit: sorted by name, and labels sorted too, because
    /// k0s keeps them in a map (k0s cmd/install/util.go, pkg/config/cli.go). In any other order the unit would never be as
    /// wanted.
    pub fn flags(&self) -> String {
        let mut flags: Vec<(&str, String)> = vec![("data-dir", DATA_DIR.to_owned())];
        if self.controller {
            flags.push(("config", CONFIG.to_owned()));
        }
        if self.enable_worker {
            flags.extend([("enable-worker", "true".to_owned()), ("no-taints", "true".to_owned())]);
        }
        if self.single {
            flags.push(("single", "true".to_owned()));
        }
        if let Some(labels) = &self.labels {
            let mut labels = labels.clone();
            labels.sort();
            if let Some(address) = &self.node_ip {
                flags.push(("kubelet-extra-args", format!("--node-ip={address}")));
            }
            // It can be set only at the first start.
            flags.push(("kubelet-root-dir", KUBELET_DIR.to_owned()));
            flags.push(("labels", labels.join(",")));
            flags.push(("taints", self.taint.clone()));
        }
        if self.token {
            flags.push(("token-file", TOKEN.to_owned()));
        }
        flags.sort();
        flags.iter().map(|(name, value)| format!(" --{name}={value}")).collect()
    }

    /// Returns the line of the unit that starts k0s.
    pub fn exec_start(&self) -> String {
        format!("ExecStart={BINARY} {}{}", self.role(), self.flags())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_in_the_order_in_which_k0s_writes_them() {
        let worker = Install {
            controller: false,
            enable_worker: false,
            single: false,
            labels: Some(vec!["z=1".to_owned(), "a=2".to_owned()]),
            taint: "starting:NoSchedule".to_owned(),
            node_ip: Some("10.0.0.1".to_owned()),
            token: true,
        };
        assert_eq!(
            worker.exec_start(),
            "ExecStart=/usr/local/bin/k0s worker --data-dir=/var/lib/k0s --kubelet-extra-args=--node-ip=10.0.0.1 \
             --kubelet-root-dir=/var/lib/kubelet --labels=a=2,z=1 --taints=starting:NoSchedule \
             --token-file=/etc/k0s/k0stoken"
        );
        let controller = Install { controller: true, labels: None, token: false, ..worker };
        assert_eq!(controller.flags(), " --config=/etc/k0s/k0s.yaml --data-dir=/var/lib/k0s");
    }
}
