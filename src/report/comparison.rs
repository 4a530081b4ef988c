//! Two inventories compared, as text and as a pull request comment.

use super::markdown::escaped;
use super::policy::{policy_lines, policy_rows};
use super::words::{count, names};
use crate::plan::{FieldChange, HostChange, InventoryDiff, PoolChange};
use crate::state::plain_line;
use handlebars::Handlebars;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const MARKDOWN: &str = include_str!("../../templates/reports/comparison.md.hbs");

/// What becomes of hosts that are no longer in the inventory.
const REMOVED: &str = "(left as they are; `state: retired` drains and removes their nodes)";
/// What becomes of hosts that retire.
const RETIRED: &str = "(retired: drained, their nodes deleted)";

/// Different changes of hosts that are shown one by one; JSON has them all.
const MOST_CHANGES: usize = 50;

/// Returns in what waves a pool is drained, as the end of a phrase: `, in 12 waves of up to 6`.
fn waves(pool: &PoolChange) -> String {
    let waves = pool.waves.filter(|(waves, _)| *waves > 1);
    waves.map(|(n, of)| format!(", in {n} waves of up to {of}")).unwrap_or_default()
}

/// Returns which services restart on how many hosts: `64 with nvidia-fabricmanager restarted`.
fn restarts(services: &BTreeMap<String, usize>) -> Vec<String> {
    services.iter().map(|(service, hosts)| format!("{hosts} with {service} restarted")).collect()
}

/// Returns hosts by pool, as ranges: `12 hosts of h100: h-[065-076]`.
fn by_pool(hosts: &BTreeMap<String, String>) -> Vec<String> {
    let mut pools: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (host, pool) in hosts {
        pools.entry(pool).or_default().push(host);
    }
    let line = |(pool, hosts): (&str, Vec<&str>)| {
        format!("{} of {pool}: {}", count(hosts.len(), "host"), names(&hosts))
    };
    pools.into_iter().map(line).collect()
}

/// Returns changes of hosts, each with its first host's; the same one of many is one.
fn host_changes(diff: &InventoryDiff) -> Vec<(String, &HostChange)> {
    let mut groups: Vec<(&HostChange, Vec<&str>)> = Vec::new();
    let mut index: std::collections::HashMap<&[FieldChange], usize> = Default::default();
    for change in &diff.changed {
        let at = *index.entry(&change.fields).or_insert_with(|| {
            groups.push((change, Vec::new()));
            groups.len() - 1
        });
        groups[at].1.push(&change.host);
    }
    groups.into_iter().map(|(change, hosts)| (names(&hosts), change)).collect()
}

/// Returns a value; one that is not set is the default.
fn value(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or("unset")
}

/// Returns a change and where it stands: `disruption.canary: unset -> 2   inventory.yaml:12`.
fn field(change: &FieldChange) -> String {
    let place = change.place.as_ref().map(|place| format!("   {}", plain_line(place))).unwrap_or_default();
    let (before, after) = (plain_line(value(&change.before)), plain_line(value(&change.after)));
    format!("{}: {before} -> {after}{place}", plain_line(&change.name))
}

/// Returns how far a comparison reaches, without what it does not reach.
fn reach(diff: &InventoryDiff) -> String {
    let counts = [
        (diff.drains, "drained"),
        (diff.reboots, "rebooted"),
        (diff.added.len(), "added"),
        (diff.removed.len(), "removed"),
        (diff.retired.len(), "retired"),
        (diff.changed.len(), "changed"),
    ];
    let counted = |range: std::ops::Range<usize>| {
        counts[range]
            .iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, what)| format!("{n} {what}"))
            .collect::<Vec<_>>()
    };
    let mut parts = counted(0..2);
    parts.extend(restarts(&diff.restarts));
    parts.extend(counted(2..counts.len()));
    match (parts.is_empty(), diff.roles.is_empty()) {
        (false, true) => parts.join(", "),
        (false, false) => format!("{}, and the effects of the changed roles", parts.join(", ")),
        (true, true) => "no disruption".to_owned(),
        (true, false) => "the effects of the changed roles; `provision plan` shows them".to_owned(),
    }
}

/// Returns the comparison as text.
pub fn comparison_text(diff: &InventoryDiff) -> String {
    if diff.is_empty() {
        return format!("{}: no differences\n{}", diff.name, policy_lines(diff.policy.as_ref()));
    }
    let mut text = format!("{}: {}; no host was contacted\n", diff.name, diff.headline());
    for (what, lines) in [("error", &diff.errors), ("warning", &diff.warnings)] {
        text += &lines.iter().map(|line| format!("  {what}{line}\n")).collect::<String>();
    }
    for change in &diff.site {
        text += &format!("  ~ {}\n", field(change));
    }
    for port in &diff.ports {
        text += &format!("  ! {port}\n");
    }
    for role in &diff.roles {
        text += &format!(
            "  ~ role {}: its files differ; run `provision plan` to see the effect\n",
            plain_line(role)
        );
    }
    for pool in &diff.pools {
        text += &format!("\n{} ({})\n", pool.pool, count(pool.hosts, "host"));
        for change in &pool.fields {
            text += &format!("  ~ {}\n", field(change));
        }
        let mut disturbed = Vec::new();
        disturbed.extend((pool.drains > 0).then(|| format!("{} drained", pool.drains)));
        disturbed.extend((pool.reboots > 0).then(|| format!("{} rebooted", pool.reboots)));
        disturbed.extend(restarts(&pool.restarts));
        let waves = waves(pool);
        if !disturbed.is_empty() {
            text += &format!("  {}{waves}\n", disturbed.join(", "));
        }
        if let Some((all, least)) = pool.capacity {
            let percent = least * 100 / all.max(1);
            text += &format!("  minimum capacity during apply: {least}/{all} {} ({percent} %)\n", pool.unit);
        }
        for (model, down, all) in &pool.replicas {
            text += &format!(
                "  model {model}: up to {down} of {} down at a time\n",
                count(*all as usize, "replica")
            );
        }
    }
    text += "\n";
    for pool in &diff.new_pools {
        text += &format!("  + pool {pool}\n");
    }
    for pool in &diff.gone_pools {
        text += &format!("  - pool {pool}\n");
    }
    for line in by_pool(&diff.added) {
        text += &format!("  + {line}\n");
    }
    for line in by_pool(&diff.removed) {
        text += &format!("  - {line} {REMOVED}\n");
    }
    for line in by_pool(&diff.retired) {
        text += &format!("  - {line} {RETIRED}\n");
    }
    let changes = host_changes(diff);
    for (hosts, change) in changes.iter().take(MOST_CHANGES) {
        let fields: Vec<String> = change.fields.iter().map(field).collect();
        let place = change.place.as_ref().map(|p| format!("   {}", plain_line(p))).unwrap_or_default();
        text += &format!("  ~ {hosts}  {}{place}\n", fields.join(", "));
    }
    if changes.len() > MOST_CHANGES {
        text += &format!("  … {} more host changes; --output json lists all\n", changes.len() - MOST_CHANGES);
    }
    text += &format!("  blast radius: {}\n", reach(diff));
    text + &policy_lines(diff.policy.as_ref())
}

/// Returns what the Markdown template is filled with.
fn context(diff: &InventoryDiff) -> Value {
    let several = diff.pools.iter().filter(|p| p.capacity.is_some()).count() > 1;
    let capacities: Vec<Value> = diff
        .pools
        .iter()
        .filter_map(|p| {
            let (all, least) = p.capacity?;
            let of = if several { p.pool.as_str() } else { "" };
            let percent = least * 100 / all.max(1);
            Some(json!({"of": of, "all": all, "unit": p.unit, "least": least, "percent": percent}))
        })
        .collect();
    let models: Vec<String> = diff
        .pools
        .iter()
        .flat_map(|p| &p.replicas)
        .map(|(name, down, all)| format!("{name} (up to {down} of {all})"))
        .collect();
    let field = |f: &FieldChange| {
        let place = f.place.as_deref().unwrap_or_default();
        json!({"name": f.name, "before": value(&f.before), "after": value(&f.after), "place": place})
    };
    let list = |fields: &[FieldChange]| fields.iter().map(field).collect::<Vec<_>>();
    let pools: Vec<Value> = diff
        .pools
        .iter()
        .map(|p| json!({"pool": p.pool, "hosts": count(p.hosts, "host"), "waves": waves(p), "fields": list(&p.fields)}))
        .collect();
    let changes = host_changes(diff);
    let changed: Vec<Value> = changes
        .iter()
        .take(MOST_CHANGES)
        .map(|(hosts, change)| {
            let place = change.place.as_deref().unwrap_or_default();
            json!({"hosts": hosts, "place": place, "fields": list(&change.fields)})
        })
        .collect();
    let fields = diff.site.len()
        + diff.pools.iter().map(|p| p.fields.len()).sum::<usize>()
        + diff.changed.iter().map(|c| c.fields.len()).sum::<usize>();
    let gone = diff.removed.len() + diff.retired.len();
    let hosts = diff.pools.iter().map(|p| p.hosts).sum::<usize>() + diff.added.len() + gone;
    let policy: Vec<Value> = diff
        .policy
        .iter()
        .flat_map(policy_rows)
        .map(|[what, rule, said, place]| json!({"what": what, "rule": rule, "said": said, "place": place}))
        .collect();
    json!({
        "policy": policy, "errors": diff.errors, "warnings": diff.warnings, "ports": diff.ports,
        "name": diff.name, "empty": diff.is_empty(), "headline": diff.headline(), "capacities": capacities,
        "reach": reach(diff), "note_removed": REMOVED, "note_retired": RETIRED, "retiring": by_pool(&diff.retired),
        "models": models.join(", "), "pools": pools, "new_pools": diff.new_pools, "gone_pools": diff.gone_pools,
        "roles": diff.roles, "site": list(&diff.site), "coming": by_pool(&diff.added), "going": by_pool(&diff.removed),
        "changes": changed, "more": changes.len().saturating_sub(MOST_CHANGES),
        "summary": format!("{}, {}, {}", count(diff.pools.len(), "pool"), count(hosts, "host"), count(fields, "field")),
    })
}

/// Returns the comparison as Markdown.
pub fn comparison_markdown(diff: &InventoryDiff) -> String {
    let mut engine = Handlebars::new();
    engine.set_strict_mode(true);
    // Escape every value: the comment may be on a pull request from a stranger.
    engine.register_escape_fn(escaped);
    engine
        .render_template(MARKDOWN, &context(diff))
        .unwrap_or_else(|error| format!("cannot render the comparison: {error}\n"))
}
