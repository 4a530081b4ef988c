//! The real Kthena router as the rendered Deployment starts it: with its arguments, environment and files, the token of its
//! service account, and nothing else of the file system.

use super::super::contract::Site;
use super::super::contract::rest::{Rest, text};
use super::super::servers::{ControlPlane, Program, tail};
use super::sandbox::{API, Sandbox};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Where a container finds what its service account is.
const ACCOUNT: &str = "var/run/secrets/kubernetes.io/serviceaccount";

/// A running router.
pub struct Router {
    /// The container's root, and the log.
    dir: tempfile::TempDir,
    program: Program,
}

impl Router {
    /// Starts the container of a Deployment that the cluster has.
    pub async fn start(plane: &ControlPlane, program: &Path, deployment: &Value) -> Self {
        let command = Command::new("unshare");
        Self::run(plane, program, deployment, command, (Ipv4Addr::LOCALHOST, plane.port), Ipv4Addr::LOCALHOST)
            .await
    }

    /// Starts it in a pod's network.
    pub async fn start_in(
        sandbox: &Sandbox,
        plane: &ControlPlane,
        program: &Path,
        deployment: &Value,
    ) -> Self {
        Self::run(plane, program, deployment, sandbox.command("unshare"), (API, 443), sandbox.address).await
    }

    async fn run(
        plane: &ControlPlane,
        program: &Path,
        deployment: &Value,
        mut command: Command,
        api: (Ipv4Addr, u16),
        address: Ipv4Addr,
    ) -> Self {
        let rest = Rest::new(&plane.kubeconfig(), "");
        let namespace = text(deployment, "/metadata/namespace");
        let spec = &deployment["spec"]["template"]["spec"];
        let container = &spec["containers"][0];
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().join("root");
        let write = |path: PathBuf, text: &str| {
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            let at = root.join(text(mount, "/mountPath").trim_start_matches('/'));
            let volume =
                spec["volumes"].as_array().into_iter().flatten().find(|v| v["name"] == mount["name"]);
            let volume = volume.expect("the volume of a mount");
            let Some(map) = volume["configMap"]["name"].as_str() else {
                std::fs::create_dir_all(&at).expect("made");
                continue;
            };
            let map = rest.get(&format!("/api/v1/namespaces/{namespace}/configmaps/{map}")).await.expect(200);
            if let Some(key) = mount["subPath"].as_str() {
                write(at, map["data"][key].as_str().expect("the key of a mount"));
                continue;
            }
            for (key, value) in map["data"].as_object().into_iter().flatten() {
                write(at.join(key), value.as_str().unwrap_or_default());
            }
        }
        let account = text(spec, "/serviceAccountName");
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}});
        let token = text(&rest.post(&path, &request).await.expect(201), "/status/token");
        write(root.join(ACCOUNT).join("token"), &token);
        write(root.join(ACCOUNT).join("namespace"), &namespace);
        write(root.join(ACCOUNT).join("ca.crt"), &plane.authority());
        // As the kubelet writes it.
        write(root.join("etc/hosts"), "127.0.0.1 localhost\n");
        std::fs::create_dir_all(root.join("tmp")).expect("made");
        std::fs::copy(program, root.join("router")).expect("copied");

        command.arg("--root").arg(&root).arg("/router").env_clear();
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.env("KUBERNETES_SERVICE_HOST", api.0.to_string());
        command.env("KUBERNETES_SERVICE_PORT", api.1.to_string());
        let address = address.to_string();
        for variable in container["env"].as_array().into_iter().flatten() {
            let field = variable.pointer("/valueFrom/fieldRef/fieldPath").and_then(Value::as_str);
            let value = match field {
                Some("metadata.namespace") => namespace.as_str(),
                Some("status.podIP" | "status.hostIP") => address.as_str(),
                Some(_) => "router-0",
                None => variable["value"].as_str().expect("a value"),
            };
            command.env(text(variable, "/name"), value);
        }
        let args = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let program = Program::spawn(dir.path(), "kthena-router", command.args(args)).expect("started");
        Self { dir, program }
    }

    /// Asserts that it runs.
    pub fn runs(&mut self) {
        if let Some(status) = self.program.ended() {
            panic!("the router ended: {status}\n{}", self.log());
        }
    }

    /// Ends it as a kubelet does after the pod's hook.
    pub async fn terminate(&mut self, grace: Duration) {
        self.program.terminate(grace).await;
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.program.kill();
    }

    /// Returns the last lines of its log.
    pub fn log(&self) -> String {
        tail(self.dir.path(), "kthena-router")
    }
}
