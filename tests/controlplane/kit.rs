//! What tests of the reconciler share: a cluster target that reaches the control plane over loopback.

use super::contract::Site;
use super::contract::rest::Rest;
use super::servers::ControlPlane;
use async_trait::async_trait;
use provision::event::Events;
use provision::k0s::ControllerOutput;
use provision::plan::steps_of;
use provision::reconciler::{Access, ClusterSetup, ClusterTarget, Retired};
use provision::state::*;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::net::TcpStream;

/// The way to the control plane: what SSH does for a real one.
struct Loopback {
    port: u16,
    admin: String,
}

fn refused(what: String) -> Failure {
    Failure::new(FailureKind::Unobserved, "E-SSH-REFUSED", what)
}

#[async_trait]
impl Access for Loopback {
    async fn controller(&self, port: u16) -> Result<BoxStream, Failure> {
        assert_eq!(port, 6443, "nothing else is asked for");
        let stream =
            TcpStream::connect(("127.0.0.1", self.port)).await.map_err(|e| refused(e.to_string()))?;
        stream.set_nodelay(true).map_err(|e| refused(e.to_string()))?;
        Ok(Box::new(stream))
    }

    async fn worker(&self, port: u16) -> Result<BoxStream, Failure> {
        Err(refused(format!("node port {port}: no node runs anything here")))
    }

    async fn kubeconfig(&self) -> Result<Option<Vec<u8>>, Failure> {
        Ok(Some(self.admin.clone().into_bytes()))
    }

    async fn run_on_controllers(&self, _: &str) -> Vec<ControllerOutput> {
        // No host is behind this API, and no k0s.
        Vec::new()
    }

    async fn on_controller(&self, program: &str) -> Result<String, Failure> {
        panic!("nothing runs on a controller here: {program}")
    }
}

/// One test's view of the control plane.
pub struct Bench<'a> {
    pub plane: &'a ControlPlane,
    /// A client as an administrator, in a namespace of this test.
    pub rest: Rest,
}

impl<'a> Bench<'a> {
    /// Makes a namespace of its own.
    pub async fn new(plane: &'a ControlPlane, name: &str) -> Self {
        let case = super::contract::Case::new(plane, name).await;
        Self { plane, rest: case.rest }
    }

    /// Returns a target that wants these resources; its set is named after the namespace.
    pub fn target(&self, desired: Vec<Resource>) -> ClusterTarget {
        self.target_with(desired, Events::none())
    }

    pub fn target_with(&self, desired: Vec<Resource>, events: Events) -> ClusterTarget {
        target(self.plane, &self.rest.ns, desired, events)
    }

    /// Returns a ConfigMap of this test's namespace.
    pub fn config(&self, name: &str, value: &str) -> Resource {
        object(
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": self.rest.ns},
            "data": {"key": value}}),
        )
    }

    /// Returns an object of a namespaced core kind.
    pub async fn core(&self, rest: &str) -> Value {
        self.rest.get(&self.rest.core(rest)).await.expect(200)
    }
}

/// Returns a target under a name.
pub fn target(plane: &ControlPlane, name: &str, desired: Vec<Resource>, events: Events) -> ClusterTarget {
    ClusterTarget::new(setup(plane, name, desired, events))
}

/// Returns a target that wants nothing and forgets a retired host.
pub fn retiring(plane: &ControlPlane, name: &str, retired: Retired) -> ClusterTarget {
    ClusterTarget::new(ClusterSetup {
        retired: vec![retired],
        ..setup(plane, name, Vec::new(), Events::none())
    })
}

fn setup(plane: &ControlPlane, name: &str, desired: Vec<Resource>, events: Events) -> ClusterSetup {
    ClusterSetup {
        desired,
        access: Arc::new(Loopback { port: plane.port, admin: plane.kubeconfig() }),
        address: "10.0.0.1".into(),
        name: name.into(),
        retired: Vec::new(),
        events,
    }
}

/// Returns a manifest as a resource that is done when it is accepted.
pub fn object(manifest: Value) -> Resource {
    ready(manifest, Ready::Accepted)
}

/// Returns a manifest as a resource.
pub fn ready(manifest: Value, ready: Ready) -> Resource {
    let stage = if ready == Ready::Established { Stage::Crd } else { Stage::Base };
    let mut resource = Resource::new("test", Spec::Object(Box::new(Object { stage, manifest, ready })));
    resource.deadline_s = 60;
    resource
}

/// Observes, and returns the steps that a plan would have.
pub async fn steps(target: &ClusterTarget) -> Vec<Step> {
    let observed = target.observe().await.expect("observed");
    // Of fields that somebody else has set there is one, whose step fails.
    let others = observed.warnings.iter().filter(|warning| !warning.contains("E-K8S-CONFLICT"));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&String>::new());
    steps_of(&observed).0
}

/// Brings the cluster to what is wanted, and asserts that nothing is left to do.
pub async fn converge(target: &ClusterTarget) {
    let todo = steps(target).await;
    target.enact(&todo, &StepOutputs::new()).await.expect("enacted");
    assert_eq!(steps(target).await, [], "the second plan is empty");
}

/// Returns the resources that steps are about: `Deployment/models/a`.
pub fn names(steps: &[Step]) -> Vec<String> {
    steps.iter().map(|s| s.resource.what().replacen(' ', "/", 1)).collect()
}
