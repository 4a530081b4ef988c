//! The cluster as a `Target`: observes by reading and dry-run, enacts step by step, waits with its own deadlines.

use super::apply::is_a_hand;
use super::applyset::MANAGER;
use super::cluster::{AT_ONCE, ClusterTarget, interrupted, locked};
use super::connect::Link;
use super::errors::{failure, is_missing, is_unreachable, phrase};
use super::kinds::Kind;
use super::{chat, chat_completion, nodes};
use crate::event::Event;
use crate::k0s::{etcd, token};
use crate::state::*;
use async_trait::async_trait;
use futures::StreamExt;
use futures::future::{BoxFuture, join_all};
use kube::api::{DeleteParams, DynamicObject, PostParams};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// An answer of a model that takes longer is none: observing only wants to know that there is one.
const CHAT_DEADLINE: Duration = Duration::from_secs(20);
/// Tokens of a completion whose only purpose is that it comes.
const PROBE_TOKENS: u32 = 8;
impl ClusterTarget {
    /// Returns all nodes by name, in one list however many resources ask.
    async fn live_nodes(&self, client: &kube::Client) -> Result<BTreeMap<String, Value>, String> {
        let none = self.setup.retired.is_empty();
        if none && !self.setup.desired.iter().any(|r| matches!(r.spec, Spec::Node(_))) {
            return Ok(BTreeMap::new());
        }
        self.all_nodes(client).await.map_err(|e| phrase(&e))
    }

    async fn observe_one(
        &self,
        client: &kube::Client,
        resource: &Resource,
        nodes: &Result<BTreeMap<String, Value>, String>,
    ) -> Observation {
        match &resource.spec {
            Spec::Object(object) => self.observe_object(client, resource, object).await,
            Spec::Node(node) => match nodes {
                Ok(live) => {
                    let draining = self.draining().contains(&node.name);
                    nodes::observe(node, live.get(&node.name), draining)
                }
                Err(why) => Observation::Unknown(why.clone()),
            },
            Spec::Chat(chat) => self.observe_chat(chat).await,
            _ => Observation::Present(Seen::default()),
        }
    }

    async fn observe_chat(&self, chat: &Chat) -> Observation {
        match self.chat(chat, "Say OK.", PROBE_TOKENS).await {
            Ok(_) => Observation::Present(Seen::default()),
            Err(failure) if chat::is_absent(&failure) => Observation::Absent,
            Err(failure) => {
                let field = |text: String| Fields::from([("answers".to_owned(), text)]);
                let fields = field(format!("no: {}", failure.message));
                Observation::Present(Seen {
                    fields,
                    wanted: Some(field("yes".to_owned())),
                    ..Seen::default()
                })
            }
        }
    }

    /// Sends a prompt to a model through a tenant's gateway; returns its response.
    pub async fn chat(&self, chat: &Chat, question: &str, most_tokens: u32) -> Result<String, Failure> {
        let asked = chat_completion(self.setup.access.as_ref(), chat, question, most_tokens);
        tokio::time::timeout(CHAT_DEADLINE, asked).await.unwrap_or_else(|_| {
            let message = format!(
                "tenant {}, model {}: no response within {} s",
                chat.tenant,
                chat.model,
                CHAT_DEADLINE.as_secs()
            );
            Err(Failure::new(FailureKind::Step, "E-CHAT", message))
        })
    }

    async fn make_token(&self, link: &Link, role: JoinRole) -> Result<SecretText, Failure> {
        let what = format!("creating a {} token", role.as_str());
        let failed = |why: String| Failure::new(FailureKind::Step, "E-TOKEN", format!("{what}: {why}"));
        // Not the first controller of the inventory whatever its state: it may be the one that joins.
        let answers = self.setup.access.run_on_controllers(&etcd::question()).await;
        let address = etcd::ready(&answers).unwrap_or(&self.setup.address);
        let token = token::make(role, &link.authority, address).map_err(|e| failed(e.to_string()))?;
        // Not the error's text: it could quote what could not be read.
        let object: DynamicObject =
            serde_json::from_value(token.secret).map_err(|_| failed("its Secret is malformed".to_owned()))?;
        let Some(kind) = Kind::core("Secret") else { return Err(failed("no Secret API".to_owned())) };
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        kind.api(&link.client, "kube-system")
            .create(&params, &object)
            .await
            .map_err(|e| failure(&what, &e))?;
        locked(&self.tokens).push(token.name);
        Ok(token.join)
    }

    /// Carries out a step up to where the API has accepted it.
    async fn begin(&self, link: &Link, step: &Step, outputs: &mut StepOutputs) -> Result<(), Failure> {
        if let ResourceId::JoinToken(role) = step.resource {
            outputs.insert(StepOutput::JoinToken(role), self.make_token(link, role).await?);
            return Ok(());
        }
        if step.change.verb == Verb::Remove {
            return match self.forget(&link.client, step).await {
                Some(forgotten) => forgotten,
                None => self.remove(&link.client, step).await,
            };
        }
        let Some(resource) = step.wanted() else {
            let message = format!("{} belongs to a plan that was not made by this run", step.what);
            return Err(Failure::new(FailureKind::Step, "E-PLAN", message).hint("Plan again"));
        };
        match &resource.spec {
            Spec::Object(object) => self.accept(&link.client, step, resource, object).await,
            Spec::Node(node) => self.bring_node(&link.client, step, node).await,
            Spec::Chat(chat) => {
                let deadline = Duration::from_secs(step.deadline_s);
                self.until(step, deadline, || {
                    Box::pin(async move {
                        self.chat(chat, "Say OK.", PROBE_TOKENS).await.map(|_| ()).map_err(|f| f.message)
                    })
                })
                .await
            }
            _ => Ok(()),
        }
    }

    /// Returns the object whose readiness a step ends with, if it has one.
    fn awaited(step: &Step) -> Option<&Object> {
        match &step.wanted()?.spec {
            Spec::Object(object) if object.ready != Ready::Accepted => Some(object),
            _ => None,
        }
    }

    fn started(&self, step: &Step) {
        self.setup.events.emit(Event::StepStarted {
            target: TargetId::Cluster.to_string(),
            step: step.resource.to_string(),
            what: step.what.clone(),
        });
    }

    /// Reports how a step ended.
    fn ended(&self, step: &Step, began: Instant, result: Result<(), Failure>) -> Result<(), Failure> {
        let (target, id) = (TargetId::Cluster.to_string(), step.resource.to_string());
        let elapsed = began.elapsed();
        match result {
            Ok(()) => {
                let change = match step.change.verb {
                    Verb::Create => "created",
                    Verb::Update => "changed",
                    Verb::Remove => "removed",
                    Verb::Run => "done",
                };
                self.setup.events.emit(Event::StepDone {
                    target,
                    step: id,
                    kind: step.resource.kind(),
                    what: step.what.clone(),
                    change: change.to_owned(),
                    elapsed,
                });
                Ok(())
            }
            Err(mut failure) => {
                failure.step = Some(step.id.clone());
                failure.after = Some(elapsed);
                self.setup.events.emit(Event::StepFailed {
                    target,
                    step: id,
                    code: failure.code.clone(),
                    message: failure.message.clone(),
                    exit: None,
                    elapsed,
                });
                Err(failure)
            }
        }
    }

    /// Waits for steps that the API has accepted, all at once: engines load side by side.
    async fn settle(&self, link: &Link, waiting: &mut Vec<(&Step, Instant)>) -> Result<(), Failure> {
        let waits = waiting.drain(..).map(|(step, began)| async move {
            let result = match Self::awaited(step) {
                Some(object) => self.await_ready(&link.client, step, object).await,
                None => Ok(()),
            };
            self.ended(step, began, result)
        });
        join_all(waits).await.into_iter().collect()
    }
}

#[async_trait]
impl Target for ClusterTarget {
    fn id(&self) -> TargetId {
        TargetId::Cluster
    }

    async fn observe(&self) -> Result<Observed, Failure> {
        let desired = self.setup.desired.clone();
        let every = |seen: Observation| desired.iter().map(|r| (r.id.clone(), seen.clone())).collect();
        let mut observed = Observed {
            target: TargetId::Cluster,
            facts: Facts::default(),
            desired: desired.clone(),
            seen: BTreeMap::new(),
            orphans: Vec::new(),
            warnings: Vec::new(),
        };
        let Some(link) = self.link().await? else {
            observed.seen = every(Observation::Absent);
            return Ok(observed);
        };
        if let Err(error) = link.client.apiserver_version().await {
            // The kubeconfig may be of a cluster that is no more: read again next time.
            self.unlink().await;
            if !is_unreachable(&error) {
                let mut failure = failure("querying the Kubernetes API", &error);
                failure.kind = FailureKind::Unobserved;
                return Err(failure);
            }
            // There is a controller, but its API is down, such as a stopped k0s that the host's own plan starts.
            let why = format!("the Kubernetes API does not respond: {}", phrase(&error));
            observed.warnings.push(why.clone());
            observed.seen = every(Observation::Deferred(why));
            return Ok(observed);
        }
        let client = &link.client;
        let nodes = &self.live_nodes(client).await;
        let mut looks: Vec<BoxFuture<'_, _>> = Vec::new();
        for resource in &desired {
            looks.push(Box::pin(async move {
                (resource.id.clone(), self.observe_one(client, resource, nodes).await)
            }));
        }
        observed.seen = futures::stream::iter(looks).buffer_unordered(AT_ONCE).collect().await;
        for (id, seen) in &observed.seen {
            let Observation::Present(seen) = seen else { continue };
            let others: Vec<&str> =
                seen.changed_by.iter().map(String::as_str).filter(|manager| !is_a_hand(manager)).collect();
            if !others.is_empty() {
                observed.warnings.push(format!(
                    "{} was changed by {}: apply does not take fields from other controllers and will fail there (E-K8S-CONFLICT)",
                    id.what(),
                    others.join(", ")
                ));
            }
        }
        if !self.partial {
            let (orphans, warnings) = self.orphans(client).await;
            observed.orphans = orphans;
            observed.warnings.extend(warnings);
        }
        match nodes {
            Ok(nodes) => {
                let (left, warnings) = self.retired(nodes).await;
                // Before what is pruned, and removals go from the end.
                observed.orphans.extend(left);
                observed.warnings.extend(warnings);
                if !self.partial {
                    observed.warnings.extend(self.strangers(nodes));
                }
            }
            Err(why) if !self.setup.retired.is_empty() => {
                observed.warnings.push(format!("nodes of retired hosts may remain: {why}"));
            }
            Err(_) => {}
        }
        Ok(observed)
    }

    async fn enact(&self, steps: &[Step], _: &StepOutputs) -> Result<StepOutputs, Failure> {
        let mut made = StepOutputs::new();
        let no_cluster =
            || Failure::new(FailureKind::Step, "E-NO-CLUSTER", "no controller has an admin kubeconfig yet");
        let link = self.link().await?.ok_or_else(no_cluster)?;
        // The first controller may have made the cluster a moment ago.
        self.hold().await?;
        let mut waiting: Vec<(&Step, Instant)> = Vec::new();
        // What a retired host left goes independently: etcd does not wait for pods, nor one node for another.
        let mut first: Option<Failure> = None;
        for step in steps {
            // Objects that are awaited may be applied together; everything else comes after what is before it.
            if Self::awaited(step).is_none() {
                self.settle(&link, &mut waiting).await?;
            }
            if *self.stopped.borrow() {
                // Report the progress of what was applied before.
                self.settle(&link, &mut waiting).await?;
                return Err(interrupted());
            }
            self.started(step);
            let began = Instant::now();
            match self.begin(&link, step, &mut made).await {
                Ok(()) if Self::awaited(step).is_some() => waiting.push((step, began)),
                result => {
                    if let Err(failure) = self.ended(step, began, result) {
                        if is_leftover(step) && failure.kind != FailureKind::Interrupted {
                            first.get_or_insert(failure);
                            continue;
                        }
                        // Still wait for what was applied before, to report how it ended.
                        let _ = self.settle(&link, &mut waiting).await;
                        return Err(failure);
                    }
                }
            }
        }
        self.settle(&link, &mut waiting).await?;
        first.map_or(Ok(made), Err)
    }

    fn stop(&self) {
        self.stopped.send_replace(true);
    }

    async fn finish(&self) -> Result<(), Failure> {
        let lease = match &self.holder {
            Some(me) => self.drop_lease(me).await,
            None => Ok(()),
        };
        self.end_tokens().await?;
        lease
    }
}

/// Returns whether a step takes away what a retired host left.
fn is_leftover(step: &Step) -> bool {
    step.change.verb == Verb::Remove
        && matches!(step.resource, ResourceId::Node(_) | ResourceId::EtcdMember(_))
}

impl ClusterTarget {
    /// Invalidates the join tokens of this run.
    async fn end_tokens(&self) -> Result<(), Failure> {
        let names = std::mem::take(&mut *locked(&self.tokens));
        if names.is_empty() {
            return Ok(());
        }
        let (Some(link), Some(kind)) = (self.link().await?, Kind::core("Secret")) else { return Ok(()) };
        let api = kind.api(&link.client, "kube-system");
        let mut failed = None;
        for name in names {
            if let Err(error) = api.delete(&name, &DeleteParams::default()).await
                && !is_missing(&error)
            {
                locked(&self.tokens).push(name);
                failed = Some(failure("revoking a join token", &error));
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
