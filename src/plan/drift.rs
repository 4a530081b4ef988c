//! Where a fleet is not as wanted, for machines: one entry a difference, with what it comes from.

use super::model::Plan;
use crate::state::{FieldDiff, Hazard, Origin, ResourceId, Step, Verb};
use schemars::JsonSchema;
use serde::Serialize;

/// A fleet compared with its inventory.
#[derive(Clone, PartialEq, Serialize, JsonSchema, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Drift {
    /// The inventory's name.
    pub inventory: String,
    /// The hosts are simulated.
    pub lab: bool,
    /// Everything could be observed, and is as wanted.
    pub in_sync: bool,
    /// Hosts that were observed.
    pub hosts: usize,
    /// What differs, by target.
    pub differences: Vec<Difference>,
    /// What could not be observed.
    pub unobserved: Vec<Unobserved>,
    /// The exit code that this means.
    pub exit: u8,
}

/// One resource that is not as wanted.
#[derive(Clone, PartialEq, Serialize, JsonSchema, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// `cluster`, or a host.
    pub target: String,
    /// The resource.
    pub resource: ResourceId,
    /// What it comes from; `None` where that is not known.
    pub origin: Option<Origin>,
    /// Who else has set what differs, where that is recorded.
    pub changed_by: Vec<String>,
    /// What an apply would do.
    pub verb: Verb,
    /// Which fields differ.
    pub fields: Vec<FieldDiff>,
    /// What to know before allowing that.
    pub hazards: Vec<Hazard>,
    /// It cannot be compared yet; why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deferred: Option<String>,
}

/// A target, or a resource of one, in an unknown state.
#[derive(Clone, PartialEq, Eq, Serialize, JsonSchema, Debug)]
pub struct Unobserved {
    /// `cluster`, or a host.
    pub target: String,
    /// The error's code; `None` for a resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Why.
    pub message: String,
}

/// Returns whether a step is only the consequence of another one.
fn follows(step: &Step) -> bool {
    step.change.fields.iter().any(|field| field.name == "after")
}

impl Drift {
    /// Returns what a plan says of the present.
    pub fn of(plan: &Plan) -> Self {
        let difference = |step: &Step| Difference {
            target: step.target.to_string(),
            resource: step.resource.clone(),
            origin: step.origin,
            changed_by: step.changed_by.clone(),
            verb: step.change.verb,
            fields: step.change.fields.clone(),
            hazards: step.hazards.clone(),
            deferred: step.deferred.clone(),
        };
        let steps = plan.targets.iter().flat_map(|target| &target.steps);
        let differences: Vec<Difference> = steps.filter(|step| !follows(step)).map(difference).collect();
        let mut unobserved = Vec::new();
        for target in &plan.targets {
            let of = |code: Option<String>, message: &str| Unobserved {
                target: target.target.to_string(),
                code,
                message: message.to_owned(),
            };
            unobserved.extend(target.unobserved.as_ref().map(|f| of(Some(f.code.clone()), &f.message)));
            unobserved.extend(target.unknown.iter().map(|why| of(None, why)));
        }
        let hosts = plan.targets.iter().filter(|t| t.target.host().is_some() && t.unobserved.is_none());
        Self {
            inventory: plan.inventory.clone(),
            lab: plan.lab,
            in_sync: differences.is_empty() && unobserved.is_empty(),
            hosts: hosts.count(),
            differences,
            unobserved,
            exit: plan.exit_code(),
        }
    }

    /// Returns how many differences come from something; `None` counts those of which that is not known.
    pub fn count(&self, origin: Option<Origin>) -> usize {
        self.differences.iter().filter(|difference| difference.origin == origin).count()
    }
}
