//! A plan as text: the same change on many hosts is one line, a pool is a heading with its hazards, followed by the impact.

use super::layout::{Columns, Last};
use super::policy::policy_lines;
use super::summary::{elapsed, failure};
use super::words::{count, names, say};
use crate::plan::{Kind, Plan, PoolImpact, RolloutOrder, TargetPlan, kinds};
use crate::state::{Failure, FailureKind, FieldDiff, Origin, Step, TargetId, Verb, plain_line};
use indicatif::HumanBytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// How much is shown.
#[derive(Clone, Debug)]
pub struct PlanView {
    /// Every host on its own.
    pub hosts: bool,
    /// Every step, with why.
    pub verbose: bool,
    /// How long observing took; `None` for a saved plan.
    pub observed_in: Option<Duration>,
    /// How the inventory was named on the command line, for the closing lines: `-i site.yaml`; empty leaves them out.
    pub place: String,
    /// The terminal's columns; `None` for no limit.
    pub width: Option<usize>,
}

/// Where hazards begin in a heading.
const HEADING: usize = 49;
/// The widest column of what changes, of what differs, and of where; longer text runs on.
const MOST_WHAT: usize = 44;
const MOST_DETAIL: usize = 36;
const MOST_WHOM: usize = 8;
/// Lines of a file's diff that a plan shows; `-v` shows all.
const MOST_DIFF: usize = 20;

fn sign(verb: Verb) -> char {
    match verb {
        Verb::Create => '+',
        Verb::Update => '~',
        Verb::Remove => '-',
        Verb::Run => '>',
    }
}

/// Fields that add nothing to the name of a new resource.
const PLAIN: [&str; 6] = ["mode", "owner", "content", "state", "type", "needed"];

/// Returns why a command runs: the output of its guard.
fn because(field: &FieldDiff) -> Option<String> {
    /// Longer text would not fit on a line, in characters.
    const MOST: usize = 110;
    let now = field.from.as_deref().filter(|_| matches!(field.name.as_str(), "needed" | "state"))?;
    let now = now.strip_prefix("yes: ").unwrap_or(now);
    let short: String = now.chars().take(MOST).collect();
    Some(if short.len() < now.len() { short + "…" } else { short }).filter(|s| s != "yes")
}

/// Returns one field of something new: its value, its name where the value is a yes, nothing for a no.
fn made(field: &FieldDiff) -> Option<String> {
    let to = field.to.as_deref()?;
    match (field.name.as_str(), to) {
        (name, _) if PLAIN.contains(&name) => None,
        (_, "no" | "false" | "any" | "as wanted") => None,
        (name, "yes" | "true") => Some(name.to_owned()),
        ("version" | "line", value) => Some(value.to_owned()),
        (name, value) => Some(format!("{name} {value}")),
    }
}

/// Returns how a field of several lines differs, line by line; `None` for one that has a single line.
fn text_diff(field: &FieldDiff) -> Option<String> {
    let [from, to] = [&field.from, &field.to].map(|text| text.as_deref().unwrap_or_default());
    if !from.contains('\n') && !to.contains('\n') {
        return None;
    }
    Some(similar::TextDiff::from_lines(from, to).unified_diff().context_radius(1).to_string())
}

/// Returns what differs, on one line even if a host's output has several.
fn detail(kind: &Kind<'_>) -> String {
    plain_line(&differs(kind)).into_owned()
}

fn differs(kind: &Kind<'_>) -> String {
    if let Some(why) = &kind.step.deferred {
        return format!("deferred: {why}");
    }
    let fields = &kind.change.fields;
    match kind.change.verb {
        Verb::Create => fields.iter().filter_map(made).collect::<Vec<_>>().join(", "),
        Verb::Run => {
            fields.iter().filter_map(|f| because(f).or_else(|| made(f))).collect::<Vec<_>>().join(", ")
        }
        Verb::Update => {
            let one = |f: &FieldDiff| {
                if let Some(diff) = text_diff(f) {
                    let of = |sign: char| count(diff.lines().filter(|l| l.starts_with(sign)).count(), "line");
                    return format!("{}: {} added, {} removed", f.name, of('+'), of('-'));
                }
                let shown = f.shown();
                match shown.strip_prefix("version ").filter(|_| fields.len() == 1) {
                    Some(change) => change.to_owned(),
                    None => shown,
                }
            };
            // The diff below is more useful than a digest.
            let told = kind.change.text.is_some();
            let shown = fields.iter().filter(|f| !told || f.name != "content");
            shown.map(one).collect::<Vec<_>>().join(", ")
        }
        Verb::Remove => String::new(),
    }
}

/// Returns how many hosts of a pool change, of those that are active, and how many retired ones besides.
fn hosts_of_pool(changed: usize, size: usize, retired: usize) -> String {
    let active = match changed {
        0 if retired > 0 => None,
        all if all >= size => Some(count(size, "host")),
        some => Some(format!("{some} of {}", count(size, "host"))),
    };
    let retired = (retired > 0).then(|| match active {
        Some(_) => format!("{retired} retired"),
        None => count(retired, "retired host"),
    });
    [active, retired].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Returns a pool's heading: its hazards, and in what order its hosts change.
fn heading(title: &str, pool: Option<&PoolImpact>, width: Option<usize>) -> String {
    let Some(pool) = pool else { return format!("{title}\n") };
    let mut parts: Vec<String> = Vec::new();
    // Drain, then reboot, then the rest.
    let first = ["drain", "reboot"];
    let known = first.iter().filter_map(|name| pool.hazards.get_key_value(*name));
    let rest = pool.hazards.iter().filter(|(name, _)| !first.contains(&name.as_str()));
    parts.extend(known.chain(rest).map(|(name, n)| format!("{name} {n}")));
    if pool.joining > 0 {
        parts.push(if pool.joining == pool.hosts {
            "new".to_owned()
        } else {
            format!("{} new", pool.joining)
        });
    }
    match pool.order {
        RolloutOrder::OneByOne => parts.push("one at a time, gated on etcd".to_owned()),
        RolloutOrder::Waves { waves: 0, .. } => {
            parts.push("not possible: no host may leave service (disruption.maxUnavailable)".to_owned());
        }
        RolloutOrder::Waves { waves: 1, of } if of == pool.hosts => {}
        RolloutOrder::Waves { waves, of } => parts.push(format!("{} of up to {of}", count(waves, "wave"))),
        RolloutOrder::AtOnce => {}
    }
    titled(title, &parts, width)
}

/// Returns a heading with what is said of it.
fn titled(title: &str, parts: &[String], width: Option<usize>) -> String {
    // Units and pods are named by hosts and by the cluster.
    let column = if width.is_some_and(|width| width < 2 * HEADING) { 0 } else { HEADING };
    let row = [format!("{title:<column$}"), parts.join(" · ")].map(|cell| plain_line(&cell).into_owned());
    Columns { indent: 0, most: &[0], below: 1, last: Last::Whole }.rows(&[row.into()], width).concat()
}

/// Returns what is known of a change that somebody has made since the last apply.
fn drifted(step: &Step) -> Option<String> {
    match step.changed_by.as_slice() {
        _ if step.origin != Some(Origin::Drift) => None,
        [] => Some("changed since the last apply".to_owned()),
        managers => Some(format!("changed by {}", managers.join(", "))),
    }
}

/// Returns the hosts of a kind of change; empty if that is obvious.
type Whom<'a> = &'a dyn Fn(&Kind<'_>) -> String;

fn lines(kinds: Vec<Kind<'_>>, whom: Whom<'_>, view: &PlanView, text: &mut String) {
    let (deferred, kinds): (Vec<_>, Vec<_>) = kinds.into_iter().partition(|k| k.step.deferred.is_some());
    let cells = |kind: &Kind<'_>| {
        // What is new or wanted is plain; a change and a removal are explained.
        let explained = view.verbose || matches!(kind.change.verb, Verb::Update | Verb::Remove);
        let why = kind.step.why.as_deref().filter(|_| explained).map(str::to_owned);
        let why = [drifted(kind.step), why].into_iter().flatten().collect::<Vec<_>>().join("; ");
        let what = format!("{} {}", sign(kind.change.verb), plain_line(&kind.step.what));
        vec![what, detail(kind), whom(kind), plain_line(&why).into_owned()]
    };
    let rows: Vec<Vec<String>> = kinds.iter().map(cells).collect();
    let last = if view.verbose { Last::Wrap } else { Last::Shorten };
    let columns = Columns { indent: 2, most: &[MOST_WHAT, MOST_DETAIL, MOST_WHOM], below: 1, last };
    for (row, kind) in columns.rows(&rows, view.width).iter().zip(&kinds) {
        *text += row;
        let of_fields =
            kind.change.fields.iter().filter(|_| kind.change.verb == Verb::Update).filter_map(text_diff);
        for diff in kind.change.text.iter().cloned().chain(of_fields) {
            let most = if view.verbose { usize::MAX } else { MOST_DIFF };
            let diff: Vec<&str> = diff.lines().filter(|l| !l.starts_with("@@")).collect();
            for line in diff.iter().take(most) {
                *text += &format!("      {}\n", plain_line(line));
            }
            if diff.len() > most {
                *text += &format!("      … {} more, -v shows them\n", count(diff.len() - most, "line"));
            }
        }
    }
    for kind in deferred {
        let hosts = whom(&kind);
        let on = if hosts.is_empty() { hosts } else { format!(" of {hosts}") };
        let why = kind.step.deferred.as_deref().unwrap_or_default();
        let hazards: Vec<String> = kind.step.hazards.iter().map(ToString::to_string).collect();
        // What it turns out to be is known later, and disturbs no more than this.
        let most = if hazards.is_empty() {
            "no hazards".to_owned()
        } else {
            format!("at most {}", hazards.join(", "))
        };
        let line = format!("  deferred: {}{on} ({why}; {most})", kind.step.what);
        *text += &format!("{}\n", plain_line(&line));
    }
}

/// Returns the closing lines: number of changes, time, capacity, and the next commands.
fn impact(plan: &Plan, view: &PlanView) -> String {
    let impact = &plan.impact;
    let about = match impact.about_s {
        Some(s) => format!(
            "about {} (from the last {})",
            say(s),
            match impact.past_runs {
                1 => "run".to_owned(),
                runs => format!("{runs} runs"),
            }
        ),
        None => "unknown (no comparable run)".to_owned(),
    };
    let distinct = match impact.kinds {
        kinds if kinds == impact.steps => String::new(),
        kinds => format!(" ({kinds} distinct)"),
    };
    let changed = || plan.targets.iter().filter(|t| !t.steps.is_empty());
    let on = match (changed().filter(|t| t.target.host().is_some()).count(), changed().count()) {
        (0, _) => "the cluster".to_owned(),
        (hosts, all) if hosts == all => count(hosts, "host"),
        (hosts, _) => format!("{} and the cluster", count(hosts, "host")),
    };
    let mut text = format!("\n  Plan: {}{distinct} on {on}\n", count(impact.steps, "change"));
    text += &format!("  Estimated time: {about}\n");
    let capacities = impact.pools.iter().filter_map(|p| {
        let c = p.capacity.as_ref()?;
        Some(format!("{} {}/{} {}", p.pool, c.least, c.all, c.unit))
    });
    let capacities: Vec<String> = capacities.collect();
    if !capacities.is_empty() {
        text += &format!("  Minimum capacity during apply: {}\n", capacities.join(", "));
    }
    if impact.deferred > 0 {
        text += &format!(
            "  {} cannot be previewed yet; apply stops before any hazard that is not listed here\n",
            count(impact.deferred, "change")
        );
    }
    if plan.backup_first {
        text += "  Before the upgrade, the control plane is backed up to this machine; if that fails, nothing is changed\n";
    }
    if let Some(delivery) = &plan.delivery {
        text += &format!(
            "  Before the first step, {} ({}) are delivered to {} over SSH",
            count(delivery.files, "file"),
            HumanBytes(delivery.bytes),
            count(delivery.hosts, "host")
        );
        if delivery.hosts > 1 {
            text +=
                "; hosts pass them on with a key of this run, allowed in authorized_keys for at most an hour";
        }
        text += "\n";
    }
    if !view.place.is_empty() {
        text += &format!(
            "  To apply: provision apply {place}\n  To apply exactly this plan later: provision plan {place} -o plan.json, then provision apply plan.json\n",
            place = view.place
        );
    }
    text
}

fn host<'a>(target: &&'a TargetPlan) -> &'a str {
    target.target.host().map(|h| h.as_str()).unwrap_or_default()
}

fn no_hosts(_: &Kind<'_>) -> String {
    String::new()
}

/// Returns the kinds of change that more than one pool has, and those of each pool alone.
fn shared<'a>(
    pools: &BTreeMap<&'a str, Vec<&'a TargetPlan>>,
) -> (Vec<Kind<'a>>, BTreeMap<&'a str, Vec<Kind<'a>>>) {
    let all: Vec<&TargetPlan> = pools.values().flatten().copied().collect();
    let pool_of: HashMap<&str, &str> =
        pools.iter().flat_map(|(pool, targets)| targets.iter().map(|t| (host(t), *pool))).collect();
    let mut several = Vec::new();
    let mut own: BTreeMap<&str, Vec<Kind<'a>>> = BTreeMap::new();
    for kind in kinds(&all) {
        let of: BTreeSet<&str> = kind.hosts.iter().filter_map(|h| pool_of.get(h)).copied().collect();
        match of.first() {
            Some(pool) if of.len() == 1 => own.entry(pool).or_default().push(kind),
            _ => several.push(kind),
        }
    }
    (several, own)
}

/// Returns a plan as text.
pub fn plan_text(plan: &Plan, view: &PlanView) -> String {
    let hosts = plan.targets.iter().filter(|t| t.target.host().is_some()).count();
    let seen = plan.targets.iter().filter(|t| t.unobserved.is_none()).count();
    let cluster = if plan.targets.iter().any(|t| t.target == TargetId::Cluster) { ", 1 cluster" } else { "" };
    let when = match view.observed_in {
        Some(took) => format!("in {}", elapsed(took)),
        None => "when it was saved".to_owned(),
    };
    let mut text = String::new();
    if plan.lab {
        text += &format!("{}\n", super::LAB);
    }
    let unobserved: Vec<_> = plan.unobserved().collect();
    if plan.steps() == 0 && !plan.is_blind() {
        text += &format!("in sync: {}{cluster}, observed {when}\n", count(hosts, "host"));
    } else {
        text += &format!(
            "Plan for {} · {}{cluster} · observed {seen} of {} {when} · lock {}\n",
            plan.inventory,
            count(hosts, "host"),
            plan.targets.len(),
            plan.lock_digest
        );
    }
    let mut pools: BTreeMap<&str, Vec<&TargetPlan>> = BTreeMap::new();
    for target in plan.targets.iter().filter(|t| !t.steps.is_empty() && t.target.host().is_some()) {
        pools.entry(target.pool.as_deref().unwrap_or_default()).or_default().push(target);
    }
    let open = view.hosts || view.verbose;
    let (several, mut own) = if open { Default::default() } else { shared(&pools) };
    if !several.is_empty() {
        let hosts = pools.values().map(Vec::len).sum::<usize>();
        text += &format!("\nmultiple pools ({})\n", count(hosts, "host"));
        let pool_of: HashMap<&str, &str> =
            pools.iter().flat_map(|(pool, targets)| targets.iter().map(|t| (host(t), *pool))).collect();
        let whom = |kind: &Kind<'_>| match kind.hosts.len() {
            n if n == hosts => format!("all {n}"),
            n => {
                let of: BTreeSet<&str> = kind.hosts.iter().filter_map(|h| pool_of.get(h)).copied().collect();
                format!("{n} of {}", of.into_iter().collect::<Vec<_>>().join(", "))
            }
        };
        lines(several, &whom, view, &mut text);
    }
    for (pool, targets) in &pools {
        let about = plan.impact.pools.iter().find(|p| p.pool == *pool);
        // Retired hosts are no part of the pool any more.
        let retired = targets.iter().filter(|t| t.leaves && plan.skipped.contains_key(host(t))).count();
        let changed = targets.len() - retired;
        let size = about.map_or(changed, |p| p.size);
        let title = format!("{pool} ({})", hosts_of_pool(changed, size, retired));
        text += &format!("\n{}", heading(&title, about, view.width));
        if open {
            for target in targets {
                text += &format!(" {}\n", target.target);
                lines(kinds(&[target]), &no_hosts, view, &mut text);
            }
            continue;
        }
        let whom = |kind: &Kind<'_>| match kind.hosts.as_slice() {
            [one] if size + retired > 1 => format!("{one} only"),
            [_] => String::new(),
            many => count(many.len(), "host"),
        };
        lines(own.remove(pool).unwrap_or_default(), &whom, view, &mut text);
    }
    for target in plan.targets.iter().filter(|t| t.target == TargetId::Cluster && !t.steps.is_empty()) {
        let mut hazards: BTreeMap<String, usize> = BTreeMap::new();
        for hazard in target.steps.iter().flat_map(|s| &s.hazards) {
            *hazards.entry(hazard.to_string()).or_default() += 1;
        }
        let hazards: Vec<String> = hazards.iter().map(|(name, n)| format!("{name} {n}")).collect();
        text += &format!("\n{}", titled("cluster", &hazards, view.width));
        lines(kinds(&[target]), &no_hosts, view, &mut text);
    }
    // The same of many hosts is told once.
    let mut groups: Vec<(&Failure, Vec<String>)> = Vec::new();
    for (target, why) in &unobserved {
        match groups.iter_mut().find(|(known, _)| known == why) {
            Some((_, targets)) => targets.push(target.to_string()),
            None => groups.push((why, vec![target.to_string()])),
        }
    }
    for (why, targets) in groups {
        let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
        text += "\n";
        let what = match why.kind {
            FailureKind::Preflight => "failed preflight",
            _ => "could not be observed",
        };
        text += &failure(&names(&targets), what, why, "");
    }
    for target in &plan.targets {
        for what in &target.unknown {
            text += &format!("\nunknown: {}: {}", target.target, plain_line(what));
        }
    }
    // The same warning of many hosts is one line.
    let mut warnings: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for target in &plan.targets {
        for warning in &target.warnings {
            warnings.entry(warning).or_default().push(target.target.to_string());
        }
    }
    for (warning, targets) in warnings {
        let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
        text += &format!("\nwarning: {}: {}", names(&targets), plain_line(warning));
    }
    let mut skipped: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (host, reason) in &plan.skipped {
        skipped.entry(reason).or_default().push(host.as_str());
    }
    for (reason, hosts) in skipped {
        text += &format!("\nskipped: {} ({})", names(&hosts), plain_line(reason));
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    if plan.steps() > 0 {
        text += &impact(plan, view);
    }
    text + &policy_lines(plan.policy.as_ref())
}
