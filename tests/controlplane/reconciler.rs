//! The cluster target on a real API: apply, drift, conflicts, pruning, definitions, webhooks, an API that goes away.

use super::contract::rest::text;
use super::kit::{Bench, converge, names, object, ready, steps};
use super::servers::ControlPlane;
use super::{Test, tests};
use provision::event::{Event, Events};
use provision::state::*;
use serde_json::{Value, json};
use std::time::Duration;

pub fn tests() -> Vec<Test> {
    tests!(reconciler:
        every_kind_is_applied_once_and_the_second_plan_is_empty,
        observing_changes_nothing,
        a_field_edited_by_hand_is_named_and_taken_back,
        a_field_that_another_controller_sets_is_a_conflict_with_names,
        what_nothing_wants_any_more_goes_and_what_was_there_before_us_stays,
        a_field_that_a_manifest_drops_is_dropped,
        an_unknown_field_is_refused_and_named,
        an_invalid_object_is_refused_and_named,
        a_change_that_is_not_allowed_is_shown_by_the_plan,
        a_definition_is_waited_for_used_and_upgraded,
        a_token_lets_in_until_the_run_ends,
        a_secret_is_compared_and_never_shown,
        a_webhook_that_does_not_answer_is_waited_for_and_one_that_refuses_is_not,
        an_api_that_restarts_in_the_middle_is_waited_for,
    )
    .to_vec()
}

/// One object of each kind that provision makes, written as short as a person would.
fn one_of_each(ns: &str) -> Vec<Resource> {
    let meta = |name: &str| json!({"name": name, "namespace": ns});
    let pod = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"serviceAccountName": "a", "nodeSelector": {"no": "node"},
        "tolerations": [{"operator": "Exists"}],
        "initContainers": [{"name": "i", "image": "r/i:1", "command": ["true"]}],
        "containers": [{"name": "c", "image": "r/c:1", "args": ["--x"],
            "ports": [{"containerPort": 80}, {"containerPort": 81, "name": "b"}],
            "env": [{"name": "B", "value": "1"}, {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "a", "key": "k", "optional": true}}}],
            "resources": {"limits": {"nvidia.com/gpu": 8, "memory": "2Gi"}, "requests": {"cpu": 2, "memory": "1024Mi"}},
            "securityContext": {"capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": false},
            "startupProbe": {"httpGet": {"path": "/v1/models", "port": 80}, "failureThreshold": 360},
            "livenessProbe": {"tcpSocket": {"port": 80}},
            "readinessProbe": {"exec": {"command": ["true"]}},
            "volumeMounts": [{"name": "d", "mountPath": "/d"}, {"name": "c", "mountPath": "/c", "readOnly": true}]}],
        "volumes": [{"name": "d", "hostPath": {"path": "/d"}}, {"name": "c", "configMap": {"name": "a"}},
            {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "2048Mi"}}]}});
    let selector = json!({"matchLabels": {"app": "a"}});
    let rbac = "rbac.authorization.k8s.io/v1";
    [
        json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": ns}, "handler": "nvidia"}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta("a")}),
        json!({"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": ns},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]}),
        json!({"apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": ns},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ns},
            "subjects": [{"kind": "ServiceAccount", "name": "a", "namespace": ns}]}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("a"), "data": {"k": "v\nw\n"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta("a"), "type": "Opaque", "data": {"k": "dg=="}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta("a"),
            "spec": {"type": "NodePort", "selector": {"app": "a"}, "ports": [{"name": "x", "port": 80, "targetPort": 8080}, {"name": "y", "port": 81}]}}),
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": meta("a"), "spec": {"selector": selector, "template": pod,
            "updateStrategy": {"type": "RollingUpdate"}}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta("a"), "spec": {"replicas": 2, "selector": selector,
            "strategy": {"type": "Recreate"}, "template": pod}}),
    ]
    .map(object)
    .to_vec()
}

pub async fn every_kind_is_applied_once_and_the_second_plan_is_empty(plane: &ControlPlane) {
    let bench = Bench::new(plane, "every_kind").await;
    let all = one_of_each(&bench.rest.ns);
    let target = bench.target(all.clone());
    converge(&target).await;
    // Controllers write statuses and annotations now; that is nobody's drift.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(steps(&bench.target(all)).await, []);
    converge(&bench.target(Vec::new())).await;
    bench.rest.get(&bench.rest.of("apps/v1", "deployments/a")).await.refused(404, "NotFound", "not found");
}

pub async fn observing_changes_nothing(plane: &ControlPlane) {
    let bench = Bench::new(plane, "observing").await;
    converge(&bench.target(vec![bench.config("a", "1")])).await;
    let before = bench.core("configmaps/a").await;
    let other = bench.target(vec![bench.config("a", "2"), bench.config("b", "2")]);
    assert_eq!(names(&steps(&other).await).len(), 2);
    assert_eq!(bench.core("configmaps/a").await, before);
    assert_eq!(bench.rest.get(&bench.rest.core("configmaps/b")).await.code, 404);
}

pub async fn a_field_edited_by_hand_is_named_and_taken_back(plane: &ControlPlane) {
    let bench = Bench::new(plane, "by_hand").await;
    let all = one_of_each(&bench.rest.ns);
    let target = bench.target(all);
    converge(&target).await;
    let path = format!("{}?fieldManager=kubectl-edit", bench.rest.of("apps/v1", "deployments/a"));
    let edit = json!({"spec": {"replicas": 5}, "metadata": {"labels": {"theirs": "1"}}});
    bench.rest.merge(&path, &edit).await.expect(200);
    let todo = steps(&target).await;
    assert_eq!(names(&todo), [format!("Deployment/{}/a", bench.rest.ns)]);
    let expected = FieldDiff { name: "spec.replicas".into(), from: Some("5".into()), to: Some("2".into()) };
    assert_eq!(todo[0].change.fields, [expected]);
    assert_eq!(
        (todo[0].origin, todo[0].changed_by.as_slice()),
        (Some(Origin::Drift), &["kubectl-edit".to_owned()][..])
    );
    converge(&target).await;
    let live = bench.rest.get(&bench.rest.of("apps/v1", "deployments/a")).await.expect(200);
    assert_eq!((&live["spec"]["replicas"], &live["metadata"]["labels"]["theirs"]), (&json!(2), &json!("1")));
    // One that is gone comes back, the label of the set too.
    bench.rest.delete(&bench.rest.core("configmaps/a"), &Value::Null).await.expect(200);
    let label = json!({"metadata": {"labels": null}});
    let path = format!("{}?fieldManager=kubectl-label", bench.rest.core("services/a"));
    bench.rest.merge(&path, &label).await.expect(200);
    let todo = steps(&target).await;
    let ns = &bench.rest.ns;
    assert_eq!(names(&todo), [format!("ConfigMap/{ns}/a"), format!("Service/{ns}/a")]);
    converge(&target).await;
    converge(&bench.target(Vec::new())).await;
}

pub async fn a_field_that_another_controller_sets_is_a_conflict_with_names(plane: &ControlPlane) {
    let bench = Bench::new(plane, "another_controller").await;
    let target = bench.target(vec![bench.config("a", "wanted")]);
    converge(&target).await;
    let path = format!("{}?fieldManager=other-controller", bench.rest.core("configmaps/a"));
    bench.rest.merge(&path, &json!({"data": {"key": "theirs"}})).await.expect(200);
    let todo = steps(&target).await;
    let failure = target.enact(&todo, &StepOutputs::new()).await.expect_err("refused");
    assert_eq!(failure.code, "E-K8S-CONFLICT", "{failure:?}");
    assert!(failure.message.ends_with(".data.key is owned by other-controller"), "{}", failure.message);
    assert_eq!(bench.core("configmaps/a").await["data"]["key"], "theirs");
    // The same with another's server-side apply.
    let theirs = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"key": "applied"}});
    bench.rest.apply(&bench.rest.core("configmaps/a"), "argocd", "&force=true", &theirs).await.expect(200);
    let todo = steps(&target).await;
    let failure = target.enact(&todo, &StepOutputs::new()).await.expect_err("refused");
    assert!(failure.message.ends_with(".data.key is owned by argocd"), "{}", failure.message);
}

pub async fn what_nothing_wants_any_more_goes_and_what_was_there_before_us_stays(plane: &ControlPlane) {
    let bench = Bench::new(plane, "pruning").await;
    let ns = bench.rest.ns.clone();
    let before = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "before"}, "data": {"theirs": "1"}});
    bench.rest.post(&bench.rest.core("configmaps"), &before).await.expect(201);
    let mut all = one_of_each(&ns);
    all.extend([bench.config("before", "wanted"), bench.config("stays", "wanted")]);
    converge(&bench.target(all)).await;
    let label =
        |o: &Value| o["metadata"]["labels"]["applyset.kubernetes.io/part-of"].as_str().map(str::to_owned);
    assert!(label(&bench.core("configmaps/stays").await).is_some_and(|l| l.starts_with("applyset-")));
    assert_eq!(label(&bench.core("configmaps/before").await), None, "adopted, not a member");
    // What another inventory made is none of ours.
    let other =
        super::kit::target(plane, "another-inventory", vec![bench.config("other", "x")], Events::none());
    converge(&other).await;

    let fewer = bench.target(vec![bench.config("stays", "wanted")]);
    let todo = steps(&fewer).await;
    let removals: Vec<Step> = todo.iter().filter(|s| s.change.verb == Verb::Remove).cloned().collect();
    let removed = names(&removals);
    let of = |kind: &str| format!("{kind}/{ns}/a");
    let expected = [
        of("Deployment"),
        of("DaemonSet"),
        of("Service"),
        of("Secret"),
        of("ConfigMap"),
        format!("ClusterRoleBinding/{ns}"),
        format!("ClusterRole/{ns}"),
        of("ServiceAccount"),
        format!("RuntimeClass/{ns}"),
    ];
    assert_eq!(removed, expected, "what came last goes first");
    converge(&fewer).await;
    for (name, code) in [("before", 200), ("stays", 200), ("other", 200), ("a", 404)] {
        assert_eq!(
            bench.rest.get(&bench.rest.core(&format!("configmaps/{name}"))).await.code,
            code,
            "{name}"
        );
    }
    // Deleted with all that they made.
    let pods = bench.rest.core("pods");
    bench.rest.until(&pods, "the end of the pods", |a| a.body["items"] == json!([])).await;
}

pub async fn a_field_that_a_manifest_drops_is_dropped(plane: &ControlPlane) {
    let bench = Bench::new(plane, "dropping").await;
    let with = |env: Value| {
        object(
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": bench.rest.ns},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "d"}}, "template": {"metadata": {"labels": {"app": "d"}},
                "spec": {"containers": [{"name": "c", "image": "i:1", "env": env}]}}}}),
        )
    };
    let item = |name: &str| json!({"name": name, "value": "1"});
    converge(&bench.target(vec![with(json!([item("A"), item("B")]))])).await;
    let target = bench.target(vec![with(json!([item("B")]))]);
    let todo = steps(&target).await;
    let fields: Vec<&str> = todo[0].change.fields.iter().map(|f| f.name.as_str()).collect();
    let env = "spec.template.spec.containers[c].env";
    assert_eq!(fields, [format!("{env}[A].name"), format!("{env}[A].value")]);
    converge(&target).await;
    let live = bench.rest.get(&bench.rest.of("apps/v1", "deployments/d")).await.expect(200);
    assert_eq!(live.pointer("/spec/template/spec/containers/0/env"), Some(&json!([item("B")])));
}

pub async fn an_unknown_field_is_refused_and_named(plane: &ControlPlane) {
    let bench = Bench::new(plane, "unknown_field").await;
    let target = bench.target(vec![object(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": bench.rest.ns},
        "spec": {"ports": [{"port": 80, "nodePrt": 30080}]}}),
    )]);
    let todo = steps(&target).await;
    let failure = target.enact(&todo, &StepOutputs::new()).await.expect_err("refused");
    assert_eq!(failure.code, "E-K8S-INVALID", "{failure:?}");
    assert!(failure.message.contains("nodePrt"), "{}", failure.message);
}

pub async fn an_invalid_object_is_refused_and_named(plane: &ControlPlane) {
    let bench = Bench::new(plane, "invalid_object").await;
    let mut bad = bench.config("a", "x");
    let Spec::Object(inner) = &mut bad.spec else { panic!("an object") };
    inner.manifest["metadata"]["labels"] = json!({"k": "not a value"});
    let target = bench.target(vec![bad]);
    let todo = steps(&target).await;
    let failure = target.enact(&todo, &StepOutputs::new()).await.expect_err("refused");
    assert_eq!(failure.code, "E-K8S-INVALID", "{failure:?}");
    assert!(failure.message.contains("metadata.labels"), "{}", failure.message);
}

pub async fn a_change_that_is_not_allowed_is_shown_by_the_plan(plane: &ControlPlane) {
    let bench = Bench::new(plane, "not_allowed").await;
    let with = |label: &str| {
        object(
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": bench.rest.ns},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": label}}, "template": {"metadata": {"labels": {"app": label}},
                "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}}),
        )
    };
    converge(&bench.target(vec![with("one")])).await;
    let target = bench.target(vec![with("two")]);
    let todo = steps(&target).await;
    let said = todo[0].deferred.clone().unwrap_or_default();
    assert!(said.contains("field is immutable"), "{todo:?}");
    let failure = target.enact(&todo, &StepOutputs::new()).await.expect_err("refused");
    assert_eq!(failure.code, "E-K8S-INVALID", "{failure:?}");
}

pub async fn a_definition_is_waited_for_used_and_upgraded(plane: &ControlPlane) {
    let bench = Bench::new(plane, "definition_used").await;
    // A kind that provision applies, in its own group: nothing else here defines it yet.
    let group = "inference.networking.k8s.io";
    let crd = |more: Value| {
        let mut spec = json!({"type": "object", "properties": {"selector": {"type": "object", "properties":
            {"matchLabels": {"type": "object", "additionalProperties": {"type": "string"}}}}}});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec["properties"][key] = value.clone();
        }
        ready(
            json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata":
                {"name": format!("inferencepools.{group}"), "annotations": {"api-approved.kubernetes.io": "https://example.com/of-a-test"}},
                "spec": {"group": group, "scope": "Namespaced", "names": {"kind": "InferencePool", "plural": "inferencepools"},
                    "versions": [{"name": "v1", "served": true, "storage": true,
                        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}}]}}),
            Ready::Established,
        )
    };
    let pool = |spec: Value| {
        object(json!({"apiVersion": format!("{group}/v1"), "kind": "InferencePool",
            "metadata": {"name": "p", "namespace": bench.rest.ns}, "spec": spec}))
    };
    let selector = json!({"matchLabels": {"a": "b"}});
    let target = bench.target(vec![crd(json!({})), pool(json!({"selector": selector}))]);
    let todo = steps(&target).await;
    let object = format!("InferencePool/{}/p", bench.rest.ns);
    assert!(names(&todo).contains(&object), "its kind is not served, so it is not there: {todo:?}");
    converge(&target).await;
    // An object with a field of the next version is refused until the definition has it.
    let newer = json!({"selector": selector, "port": 8000});
    let early = bench.target(vec![crd(json!({})), pool(newer.clone())]);
    let todo = steps(&early).await;
    let failure = early.enact(&todo, &StepOutputs::new()).await.expect_err("refused");
    assert_eq!(failure.code, "E-K8S-INVALID", "{failure:?}");
    let upgraded = bench.target(vec![
        crd(json!({"port": {"type": "integer"}, "weight": {"type": "integer", "default": 1}})),
        pool(newer),
    ]);
    let todo = steps(&upgraded).await;
    assert_eq!(todo.len(), 2, "{todo:?}");
    // The new schema may be served a moment after it was accepted.
    converge(&upgraded).await;
    let live = bench.rest.get(&bench.rest.of(&format!("{group}/v1"), "inferencepools/p")).await.expect(200);
    assert_eq!((&live["spec"]["port"], &live["spec"]["weight"]), (&json!(8000), &json!(1)));
    // Definitions stay when nothing wants them: with one goes what others made with it.
    converge(&bench.target(Vec::new())).await;
    let one = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/inferencepools.{group}");
    bench.rest.get(&one).await.expect(200);
    bench.rest.get(&bench.rest.of(&format!("{group}/v1"), "inferencepools/p")).await.refused(
        404,
        "NotFound",
        "not found",
    );
    bench.rest.delete(&one, &Value::Null).await.expect(200);
    bench.rest.until(&one, "its end", |a| a.code == 404).await;
}

pub async fn a_token_lets_in_until_the_run_ends(plane: &ControlPlane) {
    use base64::Engine as _;
    use std::io::Read;
    let bench = Bench::new(plane, "tokens").await;
    let tokens = [JoinRole::Worker, JoinRole::Controller]
        .map(|role| Resource::new("k0s", Spec::JoinToken(JoinToken { role })));
    let target = bench.target(tokens.to_vec());
    let step = |role: JoinRole| Step {
        id: TargetId::Cluster.step(&ResourceId::JoinToken(role)),
        target: TargetId::Cluster,
        resource: ResourceId::JoinToken(role),
        role: "k0s".into(),
        what: "token".into(),
        why: None,
        change: Change { verb: Verb::Run, fields: Vec::new(), text: None },
        origin: None,
        changed_by: Vec::new(),
        digest: String::new(),
        hazards: Vec::new(),
        needs: Vec::new(),
        inputs: Vec::new(),
        deferred: None,
        deadline_s: 30,
        work: Work::ById,
    };
    let made = target
        .enact(&[step(JoinRole::Worker), step(JoinRole::Controller)], &StepOutputs::new())
        .await
        .expect("made");
    let token = |role: JoinRole| {
        let packed = base64::engine::general_purpose::STANDARD
            .decode(made[&StepOutput::JoinToken(role)].expose())
            .expect("base64");
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text).expect("gzip");
        let config: Value = serde_saphyr::from_str(&text).expect("a kubeconfig");
        config["users"][0]["user"]["token"].as_str().expect("a token").to_owned()
    };
    use super::contract::Site;
    let caller = |token: &str| bench.rest.stranger(&plane.kubeconfig(), Some(token));
    let worker = caller(&token(JoinRole::Worker));
    // k0s itself binds what a bootstrapper may do; that it is known is ours.
    let known = worker.until("/api/v1/nodes", "to be known", |a| a.code == 403).await;
    known.refused(403, "Forbidden", "User \"system:bootstrap:");
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token(JoinRole::Worker)}});
    let review = bench.rest.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.expect(201);
    let groups = review["status"]["user"]["groups"].as_array().expect("groups");
    assert!(groups.contains(&json!("system:bootstrappers")), "{groups:?}");
    // A controller's token is for the join API alone.
    caller(&token(JoinRole::Controller)).get("/api/v1/nodes").await.refused(
        401,
        "Unauthorized",
        "Unauthorized",
    );
    target.finish().await.expect("finished");
    worker.until("/api/v1/nodes", "its end", |a| a.code == 401).await;
    let left = bench
        .rest
        .get("/api/v1/namespaces/kube-system/secrets?fieldSelector=type%3Dbootstrap.kubernetes.io/token")
        .await
        .expect(200);
    assert_eq!(left["items"], json!([]));
}

pub async fn a_secret_is_compared_and_never_shown(plane: &ControlPlane) {
    const CANARY: &str = "Y2FuYXJ5LTJlN2E=";
    let bench = Bench::new(plane, "secret").await;
    let secret = |data: &str| {
        object(
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hf", "namespace": bench.rest.ns},
            "type": "Opaque", "data": {"token": data}}),
        )
    };
    let target = bench.target(vec![secret(CANARY)]);
    converge(&target).await;
    assert_eq!(bench.core("secrets/hf").await["data"]["token"], CANARY);
    let path = format!("{}?fieldManager=kubectl-edit", bench.rest.core("secrets/hf"));
    bench.rest.merge(&path, &json!({"data": {"token": "b3RoZXI="}})).await.expect(200);
    let todo = steps(&target).await;
    let shown = serde_json::to_string(&todo).expect("json");
    assert!(shown.contains("<secret>") && !shown.contains(CANARY) && !shown.contains("b3RoZXI="), "{shown}");
    converge(&target).await;
    // What the API says of a bad one does not quote it.
    let bad = bench.target(vec![secret("canary-not-base64!")]);
    let todo = steps(&bad).await;
    let failure = bad.enact(&todo, &StepOutputs::new()).await.expect_err("refused");
    let told = format!("{failure:?} {todo:?}");
    assert!(!told.contains("canary-not-base64"), "{told}");
}

/// A webhook's answer: it lets everything pass but objects named `refused`.
async fn serve_webhook(listener: tokio::net::TcpListener, tls: std::sync::Arc<rustls::ServerConfig>) {
    use http_body_util::{BodyExt, Full};
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let answer = hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| async move {
                let body = request.into_body().collect().await?.to_bytes();
                let review: Value = serde_json::from_slice(&body).unwrap_or_default();
                let allowed = review["request"]["name"] != "refused";
                let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {
                    "uid": review["request"]["uid"], "allowed": allowed, "status": {"message": "not on my watch"}}});
                let response = hyper::Response::builder().header("content-type", "application/json");
                let response = response.body(Full::new(bytes::Bytes::from(review.to_string()))).expect("a response");
                Ok::<_, hyper::Error>(response)
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, answer).await;
        });
    }
}

pub async fn a_webhook_that_does_not_answer_is_waited_for_and_one_that_refuses_is_not(plane: &ControlPlane) {
    use base64::Engine as _;
    let bench = Bench::new(plane, "webhook").await;
    let ns = bench.rest.ns.clone();
    let authority = provision::lab::api::Authority::new().expect("an authority");
    let tls = authority.server(&["127.0.0.1".to_owned()]).expect("a server");
    // A port that nobody listens on yet.
    let port = {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        listener.local_addr().expect("an address").port()
    };
    let bundle = base64::engine::general_purpose::STANDARD.encode(authority.certificate());
    let webhook = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": ns}, "webhooks": [{"name": "validate.example.com", "admissionReviewVersions": ["v1"],
            "sideEffects": "None", "failurePolicy": "Fail", "timeoutSeconds": 5,
            "clientConfig": {"url": format!("https://127.0.0.1:{port}/"), "caBundle": bundle},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ns}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}]}]});
    let hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    bench.rest.post(hooks, &webhook).await.expect(201);
    // The API takes a moment to know of it.
    let probe = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "probe"}});
    let began = std::time::Instant::now();
    loop {
        let path = format!("{}?dryRun=All", bench.rest.core("configmaps"));
        let answer = bench.rest.post(&path, &probe).await;
        if answer.code == 500 {
            answer.refused(500, "InternalError", "failed calling webhook \"validate.example.com\"");
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{answer:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (events, mut seen) = Events::channel();
    let target = bench.target_with(vec![bench.config("a", "1")], events);
    let todo = steps(&target).await;
    let enacting = async { target.enact(&todo, &StepOutputs::new()).await };
    let starting = async {
        // Up once the run said that it waits.
        loop {
            match seen.recv().await {
                Some(Event::StepProgress { note, .. }) if note.contains("failed calling webhook") => break,
                Some(_) => {}
                None => panic!("it never said what it waits for"),
            }
        }
        tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("the port")
    };
    let mut serving = tokio::task::JoinSet::new();
    let (enacted, ()) = tokio::join!(enacting, async {
        let listener = starting.await;
        serving.spawn(serve_webhook(listener, tls));
    });
    enacted.expect("enacted");
    assert_eq!(steps(&target).await, []);
    let refused = bench.target(vec![bench.config("refused", "1")]);
    let todo = steps(&refused).await;
    let failure = refused.enact(&todo, &StepOutputs::new()).await.expect_err("refused");
    assert_eq!(failure.code, "E-K8S-INVALID", "{failure:?}");
    assert!(failure.message.contains("not on my watch"), "{}", failure.message);
    bench.rest.delete(&format!("{hooks}/{ns}"), &Value::Null).await.expect(200);
}

pub async fn an_api_that_restarts_in_the_middle_is_waited_for(plane: &ControlPlane) {
    let bench = Bench::new(plane, "restarts").await;
    let all: Vec<Resource> = (0..40).map(|n| bench.config(&format!("c-{n:02}"), "1")).collect();
    let (events, mut seen) = Events::channel();
    let target = bench.target_with(all.clone(), events);
    let todo = steps(&target).await;
    let enacting = async { target.enact(&todo, &StepOutputs::new()).await };
    let restarting = async {
        // In the middle: some are there, some are not.
        let mut done = 0;
        while done < 5 {
            match seen.recv().await {
                Some(Event::StepDone { .. }) => done += 1,
                Some(_) => {}
                None => panic!("it ended before"),
            }
        }
        plane.stop_apiserver();
        let fresh = bench.target(all.clone());
        let observed = fresh.observe().await.expect("an answer");
        assert!(observed.seen.values().all(|s| matches!(s, Observation::Deferred(_))), "{:?}", observed.seen);
        plane.resume_apiserver().await;
    };
    let (enacted, ()) = tokio::join!(enacting, restarting);
    enacted.expect("enacted");
    assert_eq!(steps(&target).await, []);
    let live = bench.core("configmaps/c-39").await;
    assert_eq!(text(&live, "/data/key"), "1");
}
