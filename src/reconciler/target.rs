//! The cluster as a `Target`: observes by reading and dry-run, enacts by server-side apply, waits with deadlines of its
//! own.

use super::objects::{self, KINDS, MANAGER, PART_OF};
use super::{connect, nodes, tokens};
use crate::event::{Event, Events};
use crate::ssh::{BoxStream, SshError};
use crate::state::*;
use async_trait::async_trait;
use futures::StreamExt;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Requests under way at once while observing.
const AT_ONCE: usize = 16;
/// Between two looks at something that is awaited.
const POLL: Duration = Duration::from_millis(200);
/// An answer of a model that takes longer is none: observing only wants to know that there is one.
const CHAT_DEADLINE: Duration = Duration::from_secs(20);

/// How the cluster is reached.
#[async_trait]
pub trait Access: Send + Sync {
    /// Opens a stream to a port on a live controller's own loopback; any will do.
    async fn controller(&self, port: u16) -> Result<BoxStream, SshError>;
    /// Opens a stream to a node port on a worker; any will do.
    async fn worker(&self, port: u16) -> Result<BoxStream, SshError>;
    /// Returns the admin kubeconfig of a controller that has one; `None` where there is no cluster yet.
    async fn kubeconfig(&self) -> Result<Option<Vec<u8>>, Failure>;
}

/// What a cluster target needs.
pub struct ClusterSetup {
    /// What is wanted, in the order in which it is enacted.
    pub desired: Vec<Resource>,
    /// How it is reached.
    pub access: Arc<dyn Access>,
    /// A controller's address, as nodes reach it.
    pub address: String,
    /// The inventory's name; it names the ApplySet.
    pub name: String,
    /// Where events go.
    pub events: Events,
}

/// The cluster behind the Kubernetes API.
pub struct ClusterTarget {
    setup: ClusterSetup,
    client: tokio::sync::Mutex<Option<(kube::Client, String)>>,
    tokens: Mutex<Vec<String>>,
}

fn api_failure(what: &str, error: &kube::Error) -> Failure {
    if let kube::Error::Api(status) = error
        && status.code == 409
    {
        return Failure::new(FailureKind::Step, "E-K8S-CONFLICT", format!("{what}: {}", status.message))
            .hint("another field manager owns the field: give it up there, or take it out of the inventory");
    }
    Failure::new(FailureKind::Step, "E-K8S-API", format!("{what}: {error}"))
}

fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

impl ClusterTarget {
    /// Returns the target; nothing is contacted yet.
    pub fn new(mut setup: ClusterSetup) -> Self {
        let set = format!("applyset-{}-v1", setup.name);
        for resource in &mut setup.desired {
            if let Spec::Object(object) = &mut resource.spec {
                object.manifest["metadata"]["labels"][PART_OF] = json!(set);
            }
        }
        Self { setup, client: tokio::sync::Mutex::new(None), tokens: Mutex::default() }
    }

    /// Returns a client and the cluster's authority (base64); `None` where there is no cluster yet.
    async fn client(&self) -> Result<Option<(kube::Client, String)>, Failure> {
        let mut slot = self.client.lock().await;
        if let Some(client) = slot.as_ref() {
            return Ok(Some(client.clone()));
        }
        let Some(kubeconfig) = self.setup.access.kubeconfig().await? else { return Ok(None) };
        let text = String::from_utf8_lossy(&kubeconfig).into_owned();
        let ca = text
            .lines()
            .find_map(|l| l.trim().strip_prefix("certificate-authority-data: "))
            .unwrap_or_default()
            .to_owned();
        let client = connect::client(&kubeconfig, self.setup.access.clone()).await?;
        *slot = Some((client.clone(), ca.clone()));
        Ok(Some((client, ca)))
    }

    async fn observe_one(&self, client: &kube::Client, resource: &Resource) -> Observation {
        match &resource.spec {
            Spec::Object(object) => self.observe_object(client, object).await,
            Spec::Node(node) => {
                let Some(api) = node_api(client) else {
                    return Observation::Unknown("no node API".to_owned());
                };
                match api.get_opt(&node.name).await {
                    Ok(live) => {
                        nodes::observe(node, live.and_then(|l| serde_json::to_value(l).ok()).as_ref())
                    }
                    Err(error) => Observation::Unknown(error.to_string()),
                }
            }
            Spec::Chat(chat) => match self.chat(chat, "Say OK.", 8).await {
                Ok(_) => Observation::Present(Seen::default()),
                Err(_) => Observation::Absent,
            },
            _ => Observation::Present(Seen::default()),
        }
    }

    async fn observe_object(&self, client: &kube::Client, object: &Object) -> Observation {
        let (kind, namespace, name) = place(&object.manifest);
        let Some(api) = objects::api(client, &kind, Some(&namespace)) else {
            return Observation::Unknown(format!("{kind} is no kind of ours"));
        };
        let live = match api.get_opt(&name).await {
            Ok(Some(live)) => live,
            Ok(None) => return Observation::Absent,
            Err(error) if is_missing(&error) => return Observation::Absent,
            Err(error) => return Observation::Unknown(error.to_string()),
        };
        let params = PatchParams {
            dry_run: true,
            force: true,
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match api.patch(&name, &params, &Patch::Apply(&object.manifest)).await {
            Ok(then) => {
                let json = |o: &DynamicObject| serde_json::to_value(o).unwrap_or_default();
                let (mut fields, mut wanted) = objects::differing(&json(&live), &json(&then));
                let mut full = json(&live);
                full["kind"] = json!(kind);
                if let Some(why) = objects::unready(&full, object.ready) {
                    fields.insert("ready".to_owned(), why);
                    wanted.insert("ready".to_owned(), "yes".to_owned());
                }
                Observation::Present(Seen { fields, wanted: Some(wanted), text: None })
            }
            Err(error) => Observation::Deferred(format!("the API cannot preview it: {error}")),
        }
    }

    async fn orphans(&self, client: &kube::Client) -> Vec<Managed> {
        let wanted: BTreeSet<String> = self.setup.desired.iter().map(|r| r.id.to_string()).collect();
        let params = ListParams::default().labels(&format!("{PART_OF}=applyset-{}-v1", self.setup.name));
        let mut lists: Vec<BoxFuture<'_, _>> = Vec::new();
        for kind in KINDS.iter().filter(|k| k.5).map(|k| k.2) {
            let params = params.clone();
            lists.push(Box::pin(async move {
                let api = objects::api(client, kind, None)?;
                Some((kind, api.list(&params).await.ok()?))
            }));
        }
        let found: Vec<_> = futures::stream::iter(lists).buffer_unordered(AT_ONCE).collect().await;
        let mut orphans = Vec::new();
        for (kind, list) in found.into_iter().flatten() {
            for object in list {
                let name = object.metadata.name.unwrap_or_default();
                let id = match object.metadata.namespace {
                    Some(namespace) => format!("{kind}/{namespace}/{name}"),
                    None => format!("{kind}/{name}"),
                };
                if !wanted.contains(&id) {
                    orphans.push(Managed {
                        kind: "object".to_owned(),
                        id,
                        hash: String::new(),
                        undo: None,
                        adopted: false,
                    });
                }
            }
        }
        orphans.sort();
        orphans
    }

    fn progress(&self, step: &Step, note: String) {
        self.setup.events.emit(Event::StepProgress {
            target: "cluster".to_owned(),
            step: step.resource.to_string(),
            note,
        });
    }

    async fn enact_one(&self, step: &Step, lates: &mut Lates) -> Result<(), Failure> {
        let no_cluster =
            || Failure::new(FailureKind::Step, "E-NO-CLUSTER", "no controller has an admin kubeconfig yet");
        let (client, ca) = self.client().await?.ok_or_else(no_cluster)?;
        if let Some(role) = step.resource.as_str().strip_prefix("token/") {
            let role = if role == "controller" { JoinRole::Controller } else { JoinRole::Worker };
            return self.make_token(&client, &ca, role, lates).await;
        }
        if step.change.verb == Verb::Remove {
            return self.remove(&client, step.resource.as_str()).await;
        }
        let resource = self.setup.desired.iter().find(|r| r.id == step.resource);
        match resource.map(|r| &r.spec) {
            Some(Spec::Object(object)) => self.apply(&client, step, object).await,
            Some(Spec::Node(node)) => self.bring_node(&client, step, node).await,
            Some(Spec::Chat(chat)) => {
                let deadline = Duration::from_secs(step.deadline_s);
                let asked = self.until(step, deadline, || {
                    Box::pin(async move { self.chat(chat, "Who are you?", 32).await.map_err(|f| f.message) })
                });
                asked.await.map(|_| ())
            }
            _ => Ok(()),
        }
    }

    /// Tries until it works or the time is over.
    async fn until<'a, T>(
        &self,
        step: &Step,
        deadline: Duration,
        mut attempt: impl FnMut() -> BoxFuture<'a, Result<T, String>> + Send,
    ) -> Result<T, Failure> {
        let began = Instant::now();
        let mut said = String::new();
        loop {
            let failed = attempt().await;
            match failed {
                Ok(value) => return Ok(value),
                Err(why) if began.elapsed() > deadline => {
                    return Err(Failure::new(
                        FailureKind::Step,
                        "E-K8S-DEADLINE",
                        format!("{}: {why} after {} s", step.what, deadline.as_secs()),
                    )
                    .hint("on a controller: k0s kubectl describe it, and look at its pods and events"));
                }
                Err(why) => {
                    if why != said {
                        self.progress(step, why.clone());
                        said = why;
                    }
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn apply(&self, client: &kube::Client, step: &Step, object: &Object) -> Result<(), Failure> {
        let (kind, namespace, name) = place(&object.manifest);
        let api = objects::api(client, &kind, Some(&namespace)).ok_or_else(|| {
            Failure::new(FailureKind::Step, "E-K8S-KIND", format!("{kind} is no kind of ours"))
        })?;
        let params = PatchParams::apply(MANAGER);
        // A kind may be a moment from being served, a webhook from answering: tried again; anything else is final.
        let mut last = None;
        let deadline = Duration::from_secs(step.deadline_s);
        let began = Instant::now();
        loop {
            match api.patch(&name, &params, &Patch::Apply(&object.manifest)).await {
                Ok(_) => break,
                Err(error) => {
                    let passing = is_missing(&error)
                        || matches!(&error, kube::Error::Api(s) if s.code >= 500 && s.message.contains("failed calling webhook"));
                    if !passing || began.elapsed() > deadline {
                        return Err(last.unwrap_or_else(|| api_failure(&step.what, &error)));
                    }
                    last = Some(api_failure(&step.what, &error));
                }
            }
            tokio::time::sleep(POLL).await;
        }
        let (api, kind, name) = (&api, &kind, &name);
        self.until(step, deadline, || {
            Box::pin(async move {
                let live = api.get(name).await.map_err(|e| e.to_string())?;
                let mut live = serde_json::to_value(live).unwrap_or_default();
                live["kind"] = json!(kind);
                objects::unready(&live, object.ready).map_or(Ok(()), Err)
            })
        })
        .await
    }

    async fn bring_node(&self, client: &kube::Client, step: &Step, node: &Node) -> Result<(), Failure> {
        let api =
            node_api(client).ok_or_else(|| Failure::new(FailureKind::Step, "E-K8S-KIND", "no node API"))?;
        let nodes_api = &api;
        let live = self
            .until(step, Duration::from_secs(step.deadline_s), || {
                Box::pin(async move {
                    let live = nodes_api.get_opt(&node.name).await.map_err(|e| e.to_string())?;
                    let live = serde_json::to_value(live.ok_or("waiting for the node to register")?)
                        .unwrap_or_default();
                    if !nodes::ready(&live) {
                        return Err("waiting for the node to be ready".to_owned());
                    }
                    for (resource, count) in &node.allocatable {
                        let have = nodes::allocatable(&live, resource);
                        if have != *count {
                            return Err(format!(
                                "waiting for the device plugin: {have} of {count} {resource} allocatable"
                            ));
                        }
                    }
                    Ok(live)
                })
            })
            .await?;
        api.patch(&node.name, &PatchParams::default(), &Patch::Merge(nodes::patch(node, &live)))
            .await
            .map(|_| ())
            .map_err(|e| api_failure(&step.what, &e))
    }

    async fn make_token(
        &self,
        client: &kube::Client,
        ca: &str,
        role: JoinRole,
        lates: &mut Lates,
    ) -> Result<(), Failure> {
        let failed = |why: String| {
            Failure::new(FailureKind::Step, "E-TOKEN", format!("cannot make a join token: {why}"))
        };
        let token = tokens::make(role, ca, &self.setup.address)
            .ok_or_else(|| failed("encoding failed".to_owned()))?;
        let api = objects::api(client, "Secret", Some("kube-system"))
            .ok_or_else(|| failed("no Secret API".to_owned()))?;
        let object: DynamicObject =
            serde_json::from_value(token.secret).map_err(|e| failed(e.to_string()))?;
        api.create(&PostParams::default(), &object).await.map_err(|e| failed(e.to_string()))?;
        self.tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(token.name);
        lates.insert(role.late(), token.join);
        Ok(())
    }

    async fn remove(&self, client: &kube::Client, id: &str) -> Result<(), Failure> {
        let parts: Vec<&str> = id.split('/').collect();
        let (kind, namespace, name) = match parts[..] {
            [kind, namespace, name] => (kind, Some(namespace), name),
            [kind, name] => (kind, None, name),
            _ => return Ok(()),
        };
        let Some(api) = objects::api(client, kind, namespace) else { return Ok(()) };
        match api.delete(name, &DeleteParams::default()).await {
            Err(error) if !is_missing(&error) => Err(api_failure(id, &error)),
            _ => Ok(()),
        }
    }

    /// Asks a model through a tenant's gateway; returns what it said.
    pub async fn chat(&self, chat: &Chat, question: &str, most_tokens: u32) -> Result<String, Failure> {
        tokio::time::timeout(CHAT_DEADLINE, ask(self.setup.access.as_ref(), chat, question, most_tokens))
            .await
            .unwrap_or_else(|_| {
                Err(Failure::new(FailureKind::Step, "E-CHAT", "the model did not answer in time"))
            })
    }
}

fn node_api(client: &kube::Client) -> Option<kube::Api<DynamicObject>> {
    let resource = kube::api::ApiResource::from_gvk_with_plural(
        &kube::api::GroupVersionKind::gvk("", "v1", "Node"),
        "nodes",
    );
    Some(kube::Api::all_with(client.clone(), &resource))
}

fn place(manifest: &Value) -> (String, String, String) {
    let text =
        |pointer: &str| manifest.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    (text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
}

/// Asks a model through a tenant's gateway on a worker.
pub async fn ask(
    access: &dyn Access,
    chat: &Chat,
    question: &str,
    most_tokens: u32,
) -> Result<String, Failure> {
    let failed = |why: String| {
        Failure::new(
            FailureKind::Step,
            "E-CHAT",
            format!("tenant {}, model {}: {why}", chat.tenant, chat.model),
        )
    };
    let stream = access.worker(chat.node_port).await.map_err(|e| failed(e.message))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed(e.to_string()))?;
    let body = json!({"model": chat.model, "max_tokens": most_tokens, "messages": [{"role": "user", "content": question}]});
    let request = http::Request::post("/v1/chat/completions")
        .header("host", "gateway")
        .header("content-type", "application/json")
        .body(Full::new(bytes::Bytes::from(body.to_string())))
        .map_err(|e| failed(e.to_string()))?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|e| failed(e.to_string()))?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|e| failed(e.to_string()))?.to_bytes();
        Ok((status, body))
    };
    let (status, body) = tokio::select! {
        result = exchange => result?,
        ended = connection => return Err(failed(format!("the gateway closed the connection: {ended:?}"))),
    };
    let text = String::from_utf8_lossy(&body).into_owned();
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    match value.pointer("/choices/0/message/content").and_then(Value::as_str).filter(|c| !c.is_empty()) {
        Some(content) if status.is_success() => Ok(content.to_owned()),
        // The router's own errors are bare JSON strings.
        _ => Err(failed(format!("{status}: {}", value.as_str().unwrap_or(&text)))),
    }
}

#[async_trait]
impl Target for ClusterTarget {
    fn id(&self) -> TargetId {
        TargetId::Cluster
    }

    async fn observe(&self) -> Result<Observed, Failure> {
        let desired = self.setup.desired.clone();
        let client = self.client().await?;
        let (seen, orphans): (BTreeMap<ResourceId, Observation>, _) = match &client {
            None => (desired.iter().map(|r| (r.id.clone(), Observation::Absent)).collect(), Vec::new()),
            Some((client, _)) => {
                let mut looks: Vec<BoxFuture<'_, _>> = Vec::new();
                for resource in &desired {
                    looks.push(Box::pin(async move {
                        (resource.id.clone(), self.observe_one(client, resource).await)
                    }));
                }
                let seen = futures::stream::iter(looks).buffer_unordered(AT_ONCE).collect().await;
                (seen, self.orphans(client).await)
            }
        };
        Ok(Observed {
            target: TargetId::Cluster,
            facts: Facts::default(),
            desired,
            seen,
            orphans,
            warnings: Vec::new(),
        })
    }

    async fn enact(&self, steps: &[Step], _: &Lates) -> Result<Lates, Failure> {
        let mut made = Lates::new();
        for step in steps {
            let (target, id) = ("cluster".to_owned(), step.resource.to_string());
            self.setup.events.emit(Event::StepStarted {
                target: target.clone(),
                step: id.clone(),
                what: step.what.clone(),
            });
            let began = Instant::now();
            if let Err(mut failure) = self.enact_one(step, &mut made).await {
                failure.step = Some(step.id.clone());
                failure.after = Some(began.elapsed());
                self.setup.events.emit(Event::StepFailed {
                    target,
                    step: id,
                    code: failure.code.clone(),
                    message: failure.message.clone(),
                    exit: None,
                    elapsed: began.elapsed(),
                });
                return Err(failure);
            }
            let change = match step.change.verb {
                Verb::Create => "created",
                Verb::Update => "changed",
                Verb::Remove => "removed",
                Verb::Run => "done",
            };
            self.setup.events.emit(Event::StepDone {
                target,
                step: id,
                what: step.what.clone(),
                change: change.to_owned(),
                elapsed: began.elapsed(),
            });
        }
        Ok(made)
    }

    async fn finish(&self) -> Result<(), Failure> {
        let names =
            std::mem::take(&mut *self.tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        if names.is_empty() {
            return Ok(());
        }
        let Some((client, _)) = self.client().await? else { return Ok(()) };
        let Some(api) = objects::api(&client, "Secret", Some("kube-system")) else { return Ok(()) };
        for name in names {
            if let Err(error) = api.delete(&name, &DeleteParams::default()).await
                && !is_missing(&error)
            {
                return Err(api_failure("invalidating a join token", &error));
            }
        }
        Ok(())
    }
}
