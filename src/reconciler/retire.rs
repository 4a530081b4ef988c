//! Hosts that are retired: their node is drained and deleted, and their member leaves etcd. Nothing is done on the host
//! itself, which may be gone already.

use super::errors::{failure, is_missing};
use super::etcd;
use super::kinds::node_api;
use super::target::{ClusterTarget, Pause};
use crate::event::Event;
use crate::state::{Failure, FailureKind, HostName, Managed, Spec, Step};
use crate::template::quote;
use kube::api::DeleteParams;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A host that the cluster is to forget.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retired {
    /// The host, which is its node's name too.
    pub host: HostName,
    /// Its address as other controllers know it, if it was a controller.
    pub member: Option<String>,
    /// How long pods may take to leave its node.
    pub drain: Duration,
}

/// What a retired host leaves in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leftover {
    Node,
    Member,
}

impl Leftover {
    const ALL: [Self; 2] = [Self::Node, Self::Member];

    /// As in resource ids.
    fn kind(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Member => "etcd-member",
        }
    }

    /// Reads the id of a step that removes one.
    fn of(resource: &str) -> Option<(Self, &str)> {
        let (kind, host) = resource.split_once('/')?;
        Self::ALL.into_iter().find(|l| l.kind() == kind).map(|l| (l, host))
    }

    fn managed(self, host: &HostName) -> Managed {
        let kind = self.kind();
        Managed {
            kind: kind.to_owned(),
            id: format!("{kind}/{host}"),
            hash: String::new(),
            undo: None,
            adopted: false,
        }
    }
}

impl ClusterTarget {
    /// Returns what retired hosts have left in the cluster, and what could not be told.
    pub(super) async fn retired(&self, nodes: &BTreeMap<String, Value>) -> (Vec<Managed>, Vec<String>) {
        let (mut left, mut warnings) = (Vec::new(), Vec::new());
        let hosts = &self.setup.retired;
        // Removals go from the end: a node leaves before its member does.
        if hosts.iter().any(|r| r.member.is_some()) {
            let answers = self.setup.access.ask_controllers(etcd::QUESTION).await;
            match etcd::members(&answers) {
                Some(members) => left.extend(hosts.iter().filter_map(|r| {
                    etcd::find(&members, &r.host, r.member.as_deref()?)?;
                    Some(Leftover::Member.managed(&r.host))
                })),
                None => warnings.push(
                    "no controller answers for etcd: whether retired members are in it is not known"
                        .to_owned(),
                ),
            }
        }
        left.extend(
            hosts
                .iter()
                .filter(|r| nodes.contains_key(r.host.as_str()))
                .map(|r| Leftover::Node.managed(&r.host)),
        );
        (left, warnings)
    }

    /// Returns a warning for each node that was brought in by a provision and that the inventory does not name.
    pub(super) fn strangers(&self, nodes: &BTreeMap<String, Value>) -> Vec<String> {
        let named = |spec: &Spec| match spec {
            Spec::Node(node) => Some(node.name.clone()),
            _ => None,
        };
        let wanted: BTreeSet<String> = self.setup.desired.iter().filter_map(|r| named(&r.spec)).collect();
        let ours = |node: &Value| node["metadata"]["annotations"][super::nodes::MANAGED].is_string();
        let retired = |name: &str| self.setup.retired.iter().any(|r| r.host.as_str() == name);
        nodes
            .iter()
            .filter(|(name, node)| ours(node) && !wanted.contains(*name) && !retired(name))
            .map(|(name, _)| {
                format!(
                    "node {name} was brought in by provision and is not in the inventory; `{name}: {{state: retired}}` \
                     in its pool has it drained and deleted"
                )
            })
            .collect()
    }

    /// Takes what a retired host left out of the cluster; `None` if the step is about something else.
    pub(super) async fn forget(&self, client: &kube::Client, step: &Step) -> Option<Result<(), Failure>> {
        let (leftover, host) = Leftover::of(step.resource.as_str())?;
        Some(match leftover {
            Leftover::Node => self.forget_node(client, host).await,
            Leftover::Member => self.forget_member(&HostName::new(host)).await,
        })
    }

    async fn forget_node(&self, client: &kube::Client, host: &str) -> Result<(), Failure> {
        let deadline =
            self.setup.retired.iter().find(|r| r.host.as_str() == host).map_or(Duration::ZERO, |r| r.drain);
        self.drain(host, deadline).await?;
        let deleted = node_api(client).delete(host, &DeleteParams::default()).await;
        self.draining().remove(host);
        match deleted {
            Err(error) if !is_missing(&error) => Err(failure(&format!("deleting node {host}"), &error)),
            _ => Ok(()),
        }
    }

    /// Waits until etcd has a quorum without the member, then has it leave.
    async fn forget_member(&self, host: &HostName) -> Result<(), Failure> {
        let known = self.setup.retired.iter().find(|r| r.host == *host).and_then(|r| r.member.clone());
        let mut pause = Pause::new(etcd::ETCD_DEADLINE);
        let (mut said, mut answer) = (String::new(), String::new());
        loop {
            let answers = self.setup.access.ask_controllers(etcd::QUESTION).await;
            let mut why = "no controller answers for etcd".to_owned();
            if let Some(members) = etcd::members(&answers) {
                let Some(address) = etcd::find(&members, host, known.as_deref().unwrap_or_default()) else {
                    return Ok(());
                };
                match etcd::without(&answers, host, &address) {
                    Some(hindrance) => why = hindrance,
                    None => {
                        // Whether it has left is told by the next list of members, not by this.
                        let program =
                            format!("/usr/local/bin/k0s etcd leave --peer-address {} 2>&1", quote(&address));
                        let asked = self.setup.access.on_controller(&program).await;
                        let said = asked.unwrap_or_else(|failure| failure.message);
                        why = if answer.is_empty() { "it is leaving".to_owned() } else { answer };
                        answer = said.lines().last().unwrap_or_default().to_owned();
                    }
                }
            }
            if why != said {
                self.setup.events.emit(Event::Waiting { target: host.to_string(), reason: why.clone() });
                said.clone_from(&why);
            }
            if !pause.more().await {
                return Err(Failure::new(
                    FailureKind::Step,
                    "E-ETCD",
                    format!("{host} is still a member of etcd: {why}"),
                )
                .hint("on a controller: k0s etcd member-list; mend the members that are not healthy, then apply again"));
            }
        }
    }
}
