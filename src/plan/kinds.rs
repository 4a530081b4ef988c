//! Kinds of change: the same change on many hosts counts once. Decides what counts as the same.

use super::model::TargetPlan;
use crate::state::{Change, FieldDiff, Origin, Step, Verb};
use std::collections::HashMap;

/// Up to so many different values of one change are kinds of their own; more, and it is one kind that differs by host.
const MOST_VARIANTS: usize = 3;

/// One change on some hosts of a pool, or on the cluster.
#[derive(Clone, PartialEq, Debug)]
pub struct Kind<'a> {
    /// The first of its steps.
    pub step: &'a Step,
    /// What differs; where hosts differ among themselves, what they have in common.
    pub change: Change,
    /// Hosts differ among themselves in it.
    pub varies: bool,
    /// The hosts, in the order of the plan; empty names for the cluster.
    pub hosts: Vec<&'a str>,
}

/// Stands for a value that is the host's own name.
const ITS_NAME: &str = "(its name)";
/// Stands for values that differ by host.
const DIFFERS: &str = "(differs by host)";

/// What makes steps candidates for one kind: everything but the values.
#[derive(PartialEq, Eq, Hash)]
struct Shape<'a> {
    what: &'a str,
    verb: Verb,
    fields: Vec<&'a str>,
    deferred: Option<&'a str>,
    origin: Option<Origin>,
    changed_by: &'a [String],
}

/// Steps of one shape: their different changes, each with its hosts.
struct Group<'a> {
    step: &'a Step,
    variants: Vec<(&'a Change, Vec<&'a str>)>,
    index: HashMap<&'a Change, usize>,
}

/// Returns the kinds of change of some targets, in the order in which they first appear.
pub fn kinds<'a>(targets: &[&'a TargetPlan]) -> Vec<Kind<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut shapes: HashMap<Shape<'a>, usize> = HashMap::new();
    for target in targets {
        let host = target.target.host().map(|h| h.as_str()).unwrap_or_default();
        for step in &target.steps {
            let shape = Shape {
                what: &step.what,
                verb: step.change.verb,
                fields: step.change.fields.iter().map(|f| f.name.as_str()).collect(),
                deferred: step.deferred.as_deref(),
                origin: step.origin,
                changed_by: &step.changed_by,
            };
            let at = *shapes.entry(shape).or_insert_with(|| {
                groups.push(Group { step, variants: Vec::new(), index: HashMap::new() });
                groups.len() - 1
            });
            let group = &mut groups[at];
            let variant = *group.index.entry(&step.change).or_insert_with(|| {
                group.variants.push((&step.change, Vec::new()));
                group.variants.len() - 1
            });
            group.variants[variant].1.push(host);
        }
    }
    groups.into_iter().flat_map(split).collect()
}

fn split(group: Group<'_>) -> Vec<Kind<'_>> {
    let Group { step, variants, .. } = group;
    if variants.len() > MOST_VARIANTS {
        let change = common(&variants);
        let hosts = variants.into_iter().flat_map(|(_, hosts)| hosts).collect();
        return vec![Kind { step, change, varies: true, hosts }];
    }
    let exact = |(change, hosts): (&Change, _)| Kind { step, change: change.clone(), varies: false, hosts };
    variants.into_iter().map(exact).collect()
}

/// Returns what changes of one shape have in common.
fn common(variants: &[(&Change, Vec<&str>)]) -> Change {
    let first = variants[0].0;
    let value = |at: usize, of: fn(&FieldDiff) -> &Option<String>| {
        let all = || variants.iter().map(|(change, hosts)| (of(&change.fields[at]), hosts));
        let one = of(&first.fields[at]);
        if all().all(|(value, _)| value == one) {
            return one.clone();
        }
        let own = all().all(|(value, hosts)| hosts.iter().all(|h| value.as_deref() == Some(*h)));
        Some(if own { ITS_NAME } else { DIFFERS }.to_owned())
    };
    let fields = first.fields.iter().enumerate().map(|(at, field)| FieldDiff {
        name: field.name.clone(),
        from: value(at, |f| &f.from),
        to: value(at, |f| &f.to),
    });
    Change { verb: first.verb, fields: fields.collect(), text: None }
}
