//! Kubernetes objects: observed by reading and a server-side dry-run, enacted by server-side apply, awaited until they
//! are ready, and pruned when they are no longer wanted.

use super::applyset::{ApplySet, MANAGER};
use super::cluster::{AT_ONCE, ClusterTarget, Pause, locked};
use super::errors::{self, claims, failure, is_busy, is_missing, is_unreachable, may_pass, phrase};
use super::kinds::{KINDS, Kind, Leftovers};
use super::pods::{self, Hopeless, Watched};
use super::{differ, ready};
use crate::state::{
    Failure, FailureKind, Object, ObjectId, Observation, Orphan, Ready, Resource, ResourceId, Seen, Step,
};
use futures::StreamExt;
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, ValidationDirective};
use serde_json::{Value, json};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a read is tried again that the API was too busy for: the storage of a kind whose definition has just
/// changed is initialised again, which takes seconds (429, "storage is (re)initializing").
const READ_PATIENCE: Duration = Duration::from_secs(15);
/// How often an object is read again that another client wrote between reading it and the dry-run.
const LOOKS: usize = 5;

/// Whether an apply takes fields from other managers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Force {
    Yes,
    No,
}

fn params(force: Force) -> PatchParams {
    PatchParams {
        force: force == Force::Yes,
        field_manager: Some(MANAGER.to_owned()),
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::default()
    }
}

fn to_json(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// Returns why a Secret's data is not known here; `None` for everything else.
fn unresolved(resource: &Resource, object: &Object) -> Option<String> {
    let secret = object.manifest["kind"] == "Secret" && object.manifest["data"].is_null();
    secret.then(|| resource.why.clone().unwrap_or_else(|| "its data is not readable".to_owned()))
}

/// Returns whether a manager is a person with kubectl. A field set by hand is drift, shown in the plan and taken back;
/// a field that another controller sets would be taken back for ever, so it is a failure.
pub(super) fn is_a_hand(manager: &str) -> bool {
    manager.starts_with("kubectl")
}

/// Returns a supported kind by name.
fn kind_of(object_id: &ObjectId) -> Result<&'static Kind, Failure> {
    Kind::of(object_id).ok_or_else(|| {
        Failure::new(
            FailureKind::Step,
            "E-K8S-KIND",
            format!("{} is not a kind that provision applies", object_id.kind),
        )
    })
}

/// Returns an object if it is there. One whose kind is not served is not there either: the API then says 404 in plain
/// text, which `get_opt` takes for an error.
async fn live_of(api: &kube::Api<DynamicObject>, name: &str) -> Result<Option<DynamicObject>, kube::Error> {
    match api.get(name).await {
        Ok(live) => Ok(Some(live)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads, and tries again for a while what the API was too busy for.
async fn read<'a, T>(
    mut attempt: impl FnMut() -> BoxFuture<'a, Result<T, kube::Error>> + Send,
) -> Result<T, kube::Error> {
    let mut pause = Pause::new(READ_PATIENCE);
    loop {
        match attempt().await {
            Err(error) if is_busy(&error) && pause.more().await => {}
            answer => return answer,
        }
    }
}

/// Returns the version that an object was read at.
fn version(object: &Value) -> &Value {
    &object["metadata"]["resourceVersion"]
}

impl ClusterTarget {
    /// Compares an object with its server-side dry-run.
    pub(super) async fn observe_object(
        &self,
        client: &kube::Client,
        resource: &Resource,
        object: &Object,
    ) -> Observation {
        let object_id = ObjectId::of(&object.manifest);
        let kind = match kind_of(&object_id) {
            Ok(kind) => kind,
            Err(failure) => return Observation::Unknown(failure.message),
        };
        let api = &kind.api(client, &object_id.namespace);
        for _ in 0..LOOKS {
            if let Some(seen) = self.look_at(api, &object_id, resource, object).await {
                return seen;
            }
        }
        Observation::Unknown(format!("another writer keeps changing it: {LOOKS} attempts met {LOOKS} writes"))
    }

    /// Looks once; `None` if the object was written between reading it and the dry-run.
    async fn look_at(
        &self,
        api: &kube::Api<DynamicObject>,
        object_id: &ObjectId,
        resource: &Resource,
        object: &Object,
    ) -> Option<Observation> {
        let live = match read(|| Box::pin(live_of(api, &object_id.name))).await {
            Ok(Some(live)) => to_json(&live),
            Ok(None) => {
                let absent = unresolved(resource, object).map_or(Observation::Absent, Observation::Deferred);
                return Some(absent);
            }
            Err(error) if is_unreachable(&error) => return Some(Observation::Deferred(phrase(&error))),
            Err(error) => return Some(Observation::Unknown(phrase(&error))),
        };
        if unresolved(resource, object).is_some() {
            return Some(Observation::Present(Seen::default()));
        }
        let wanted = self.set.applied(&object.manifest, Some(&live));
        let dry_run = PatchParams { dry_run: true, ..params(Force::Yes) };
        Some(match api.patch(&object_id.name, &dry_run, &Patch::Apply(&wanted)).await {
            Ok(then) => {
                let then = to_json(&then);
                // The difference may be a concurrent write, such as a controller that records a revision.
                if version(&then) != version(&live) {
                    return None;
                }
                let (mut fields, mut wanted) = differ::differing(&live, &then);
                if let Some(why) = ready::unready(&live, object.ready) {
                    fields.insert("ready".to_owned(), why);
                    wanted.insert("ready".to_owned(), "yes".to_owned());
                }
                let names = fields.keys().chain(wanted.keys());
                let changed_by = differ::changed_by(&live, names, MANAGER);
                Observation::Present(Seen { fields, wanted: Some(wanted), changed_by, ..Seen::default() })
            }
            Err(error) if may_pass(&error) => {
                Observation::Deferred(format!("cannot be previewed yet: {}", phrase(&error)))
            }
            Err(error) => Observation::Deferred(format!("rejected by the API server: {}", phrase(&error))),
        })
    }

    /// Returns members of our set that are no longer wanted, and what is unknown.
    pub(super) async fn orphans(&self, client: &kube::Client) -> (Vec<Orphan>, Vec<String>) {
        let params = ListParams::default().labels(&self.set.selector());
        let mut lists: Vec<BoxFuture<'_, Result<Vec<ObjectId>, String>>> = Vec::new();
        for kind in KINDS.iter().filter(|k| k.leftovers == Leftovers::Prune) {
            let params = params.clone();
            lists.push(Box::pin(async move {
                let api = &kind.api(client, "");
                let list = match read(|| Box::pin(api.list(&params))).await {
                    Ok(list) => list,
                    Err(error) if is_missing(&error) => return Ok(Vec::new()),
                    Err(error) => {
                        let why = phrase(&error);
                        return Err(format!("cannot list leftover {}: {why}", kind.plural));
                    }
                };
                let object_id = |object: DynamicObject| {
                    let metadata = object.metadata;
                    kind.object(metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default())
                };
                Ok(list.items.into_iter().map(object_id).collect())
            }));
        }
        let found: Vec<_> = futures::stream::iter(lists).buffer_unordered(AT_ONCE).collect().await;
        let (mut members, mut warnings) = (Vec::new(), Vec::new());
        for list in found {
            match list {
                Ok(places) => members.extend(places),
                Err(why) => warnings.push(why),
            }
        }
        warnings.sort();
        (ApplySet::orphans(members, &self.setup.desired), warnings)
    }

    /// Applies an object; it is accepted, not ready yet.
    pub(super) async fn accept(
        &self,
        client: &kube::Client,
        step: &Step,
        resource: &Resource,
        object: &Object,
    ) -> Result<(), Failure> {
        if let Some(why) = unresolved(resource, object) {
            return Err(Failure::new(FailureKind::Step, "E-SECRET", format!("{}: {why}", step.what))
                .hint("Provide the secret's value at its source in the inventory, then apply again"));
        }
        let object_id = ObjectId::of(&object.manifest);
        let api = kind_of(&object_id)?.api(client, &object_id.namespace);
        let (api, object_id) = (&api, &object_id);
        self.patiently(step, || {
            Box::pin(async move {
                let live = live_of(api, &object_id.name).await?.map(|live| to_json(&live));
                let wanted = self.set.applied(&object.manifest, live.as_ref());
                let asked = api.patch(&object_id.name, &params(Force::No), &Patch::Apply(&wanted)).await;
                let Err(error) = asked else { return Ok(()) };
                let claims = claims(&error);
                let ours = live.as_ref().is_some_and(|live| self.set.holds(live));
                if ours && !claims.is_empty() && claims.iter().all(|c| is_a_hand(&c.manager)) {
                    api.patch(&object_id.name, &params(Force::Yes), &Patch::Apply(&wanted)).await?;
                    return Ok(());
                }
                Err(error)
            })
        })
        .await
    }

    /// Waits until an object does what it is for, saying what holds it up.
    pub(super) async fn await_ready(
        &self,
        client: &kube::Client,
        step: &Step,
        object: &Object,
    ) -> Result<(), Failure> {
        if object.ready == Ready::Accepted {
            return Ok(());
        }
        let object_id = ObjectId::of(&object.manifest);
        let api = kind_of(&object_id)?.api(client, &object_id.namespace);
        let (api, object_id) = (&api, &object_id);
        let deadline = Duration::from_secs(step.deadline_s);
        let watched = &Mutex::new(Watched::default());
        // Why waiting is useless, since when, and in which words.
        let hopeless = &Mutex::new(None::<(Hopeless, Instant, String)>);
        let ready = self.until(step, deadline, || {
            Box::pin(async move {
                // What cannot be seen may have moved.
                let before = locked(hopeless).take();
                let live = to_json(&api.get(&object_id.name).await.map_err(|e| phrase(&e))?);
                let Some(why) = ready::unready(&live, object.ready) else { return Ok(()) };
                let pods = beneath::<Pod>(client, object_id, &live).await.unwrap_or_default();
                let why = match pods::sentence(&pods::causes(&pods)) {
                    Some(pods) => format!("{why}: {pods}"),
                    None => why,
                };
                let mut what = ready::stuck(&pods).then_some(Hopeless::Unscheduled);
                let found = locked(watched).hopeless(&pods);
                if what.is_none() && !found.is_empty() {
                    let sets = beneath::<ReplicaSet>(client, object_id, &live).await.unwrap_or_default();
                    let newest = found.iter().find(|(_, pod)| pods::is_newest(pod, &live, &sets));
                    what = newest.map(|(what, _)| *what);
                }
                *locked(hopeless) = what.map(|what| {
                    let since = before.filter(|(was, ..)| *was == what).map(|(_, since, _)| since);
                    (what, since.unwrap_or_else(Instant::now), why.clone())
                });
                Err(why)
            })
        });
        // Nodes come in before what needs them, so that room is only made by a pod that ends.
        let patience = self.patience * 4;
        let given_up = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if let Some((what, since, why)) = locked(hopeless).clone()
                    && (what == Hopeless::Crashes || since.elapsed() >= patience)
                {
                    return (what, why);
                }
            }
        };
        let mut failure = tokio::select! {
            ready = ready => match ready {
                Err(failure) if failure.kind == FailureKind::Step => failure,
                ended => return ended,
            },
            (what, why) = given_up => what.failure(&step.what, patience, &why),
        };
        // The last lines of what crashed are the reason, most of the time.
        if let Ok(live) = api.get(&object_id.name).await {
            let pods = beneath::<Pod>(client, object_id, &to_json(&live)).await.unwrap_or_default();
            let causes = pods::explained(client, &pods, |_| false).await;
            failure.tail = causes.into_iter().map(|c| c.lines).find(|l| !l.is_empty()).unwrap_or_default();
        }
        Err(failure)
    }

    /// Removes an object that nothing wants any more, and waits until it is gone.
    pub(super) async fn remove(&self, client: &kube::Client, step: &Step) -> Result<(), Failure> {
        let ResourceId::Object(object_id) = &step.resource else { return Ok(()) };
        let api = &kind_of(object_id)?.api(client, &object_id.namespace);
        let asked = self
            .patiently(step, || {
                Box::pin(async move {
                    let Some(live) = live_of(api, &object_id.name).await? else { return Ok(false) };
                    // Another manager took it over since it was observed.
                    if !self.set.holds(&to_json(&live)) {
                        return Ok(false);
                    }
                    match api.delete(&object_id.name, &DeleteParams::background()).await {
                        Err(error) if !is_missing(&error) => Err(error),
                        _ => Ok(true),
                    }
                })
            })
            .await?;
        if !asked {
            return Ok(());
        }
        self.until(step, Duration::from_secs(step.deadline_s), || {
            Box::pin(async move {
                match live_of(api, &object_id.name).await {
                    Ok(None) => Ok(()),
                    Ok(Some(live)) => {
                        let held = json!(live.metadata.finalizers.unwrap_or_default());
                        Err(format!("waiting for deletion, finalizers {held}"))
                    }
                    Err(error) => Err(phrase(&error)),
                }
            })
        })
        .await
    }

    /// Tries a request until it is answered for good, or the step's time is over.
    pub(super) async fn patiently<'a, T: Send + 'a>(
        &self,
        step: &Step,
        mut attempt: impl FnMut() -> BoxFuture<'a, Result<T, kube::Error>> + Send,
    ) -> Result<T, Failure> {
        let mut pause = Pause::new(Duration::from_secs(step.deadline_s));
        let mut said = String::new();
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if !errors::may_pass(&error) || !self.more(&mut pause).await? {
                return Err(failure(&step.what, &error));
            }
            let why = phrase(&error);
            if why != said {
                self.progress(step, format!("retrying: {why}"));
                said = why;
            }
        }
    }
}

/// Returns the objects of a kind that an object's selector matches.
async fn beneath<K: kube::Resource<DynamicType = ()>>(
    client: &kube::Client,
    object_id: &ObjectId,
    owner: &Value,
) -> Option<Vec<Value>> {
    let selector = ready::selector(owner)?;
    let resource = kube::api::ApiResource::erase::<K>(&());
    let api: kube::Api<DynamicObject> =
        kube::Api::namespaced_with(client.clone(), &object_id.namespace, &resource);
    let list = api.list(&ListParams::default().labels(&selector)).await.ok()?;
    Some(list.items.iter().map(to_json).collect())
}
