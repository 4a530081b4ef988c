//! What both the lab's API stand-in and a real kube-apiserver do: one suite of cases with one set of assertions. Included
//! by `tests/lab` (the stand-in, in `cargo test`) and by `tests/controlplane` (the real one, run by `tests/run`).

mod apply;
mod custom;
mod lifecycle;
mod lists;
mod objects;
pub mod rest;

use async_trait::async_trait;
use rest::Rest;
use serde_json::json;

/// An API server that a case runs against.
#[async_trait]
pub trait Site: Send + Sync {
    /// Returns an administrator's kubeconfig with a client certificate.
    fn kubeconfig(&self) -> String;
    /// Ends the server and starts it again on what it had stored; returns when it answers.
    async fn restart(&self);
}

/// A case: the server, a client, and a namespace of its own.
pub struct Case<'a> {
    /// The server.
    pub site: &'a dyn Site,
    /// A client as an administrator.
    pub rest: Rest,
}

impl<'a> Case<'a> {
    /// Makes a namespace of its own for a case.
    pub async fn new(site: &'a dyn Site, name: &str) -> Self {
        let ns = name.replace('_', "-");
        let ns = ns.get(ns.len().saturating_sub(60)..).unwrap_or(&ns).trim_matches('-').to_owned();
        let rest = Rest::new(&site.kubeconfig(), &ns);
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ns}});
        rest.post("/api/v1/namespaces", &namespace).await.expect(201);
        let account = format!("/api/v1/namespaces/{ns}/serviceaccounts/default");
        rest.until(&account, "the default service account", |a| a.code == 200).await;
        Self { site, rest }
    }
}

/// Hands every case, in order, to a macro of the caller.
macro_rules! cases {
    ($with:ident) => {
        $with! {
            objects: [
                discovery_names_kinds_verbs_and_subresources,
                an_unserved_group_is_reported_as_such,
                an_object_is_made_read_replaced_and_deleted,
                a_write_that_changes_nothing_moves_nothing,
                patches_of_every_format,
                a_stale_write_is_a_conflict,
                names_are_checked_and_made,
                an_invalid_object_names_every_field,
                unknown_fields_are_refused_when_strict,
                a_dry_run_changes_nothing,
                a_service_is_completed,
                secrets_take_plain_text,
                small_kinds_are_kept_as_they_are,
            ],
            lists: [
                lists_select_by_label,
                lists_select_by_field,
                lists_come_in_pages,
                a_watch_tells_what_happens,
                a_watch_begins_with_what_is_there,
                a_watch_ends_when_asked_to,
                a_watch_goes_on_after_a_restart,
            ],
            apply: [
                an_apply_makes_and_owns,
                an_apply_that_changes_nothing_moves_nothing,
                a_conflict_names_manager_and_field,
                conflicts_are_listed_by_manager,
                force_takes_a_field_over,
                what_is_no_longer_applied_goes,
                lists_merge_by_their_keys,
                a_dry_run_of_an_apply_shows_what_would_be,
                an_apply_of_unknown_fields_is_refused,
                an_apply_needs_a_manager,
                who_wrote_what_is_tracked,
                status_is_applied_apart,
            ],
            custom: [
                a_definition_is_established_and_used,
                custom_status_is_apart,
                a_definition_takes_its_objects_along,
            ],
            lifecycle: [
                status_and_spec_are_written_apart,
                an_eviction_asks_the_budget,
                a_budget_is_counted,
                a_finalizer_holds_an_object,
                owners_take_their_dependents_along,
                a_namespace_takes_its_content_along,
                strangers_are_not_let_in,
                a_lease_has_one_holder,
                nodes_take_labels_and_taints,
            ],
        }
    };
}
pub(crate) use cases;

/// Runs a case by name; the names are those of [`cases`].
macro_rules! dispatch {
    ($($module:ident: [$($case:ident),* $(,)?],)*) => {
        /// Runs the case of this name on a server.
        pub async fn run(site: &dyn Site, name: &str) {
            match name {
                $($(stringify!($case) => $module::$case(&Case::new(site, name).await).await,)*)*
                other => panic!("no case {other}"),
            }
        }
    };
}
cases!(dispatch);
