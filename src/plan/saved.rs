//! Saved plans, and whether one is still up to date.

use super::model::{FORMAT, Plan, Waves};
use crate::state::{HostName, PoolName, ResourceId, Step, TargetId, is_steering, put, read_regular};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::path::Path;

/// The largest plan that is read, in bytes: 10,000 hosts of 100 KB each.
const MOST_PLAN: u64 = 1 << 30;

/// What every version of the format begins with.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// Why a saved plan cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// It cannot be read or written.
    #[error("cannot read or write {path}")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is no plan.
    #[error("{path} is not a plan of this version: {why}")]
    Form {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
}

/// Writes a plan, as a whole. It holds no secret; of files on hosts only diffs of plain text, of the inventory all that it was
/// loaded from.
pub fn save(plan: &Plan, path: &Path) -> Result<(), SavedError> {
    let failed = |source: std::io::Error| SavedError::File { path: path.display().to_string(), source };
    let text = serde_json::to_string_pretty(plan).map_err(|e| failed(std::io::Error::other(e)))?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)?;
    put(file, path).map_err(failed)
}

/// Reads a plan. Returns the sha256 of its file too, hex: what an approval is of.
pub fn load(path: &Path) -> Result<(Plan, String), SavedError> {
    let shown = path.display().to_string();
    let bytes =
        read_regular(path, MOST_PLAN).map_err(|source| SavedError::File { path: shown.clone(), source })?;
    let form = |why: String| SavedError::Form { path: shown.clone(), why };
    let Format { format } = serde_json::from_slice(&bytes).map_err(|e| form(e.to_string()))?;
    if format != FORMAT {
        return Err(form(format!("format {format}, this version reads {FORMAT}; plan again")));
    }
    let plan: Plan = serde_json::from_slice(&bytes).map_err(|e| form(e.to_string()))?;
    // Whoever approves it reads these in lines of ours.
    if names(&plan).any(|name| name.chars().any(is_steering)) {
        return Err(form("a name in it has control characters".to_owned()));
    }
    let digest = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    Ok((plan, digest))
}

/// Returns the names that a plan has beside its changes.
fn names(plan: &Plan) -> impl Iterator<Item = &str> {
    let pools = plan.targets.iter().filter_map(|target| target.pool.as_deref());
    let impact = plan.impact.pools.iter().map(|pool| &*pool.pool);
    let waves = plan.waves.keys().map(PoolName::as_str);
    [plan.inventory.as_str(), plan.lock_digest.as_str()].into_iter().chain(pools).chain(impact).chain(waves)
}

/// Something that is not as the saved plan saw it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moved {
    /// Where.
    pub target: TargetId,
    /// Which resource.
    pub resource: ResourceId,
    /// What happened to it.
    pub what: &'static str,
}

/// Returns the pools from which a fresh plan would take more hosts out of service at once than a saved one, or with a smaller
/// canary: nobody approved that.
pub fn wider(saved: &Plan, fresh: &Plan) -> Vec<PoolName> {
    let first = |waves: &Waves| waves.waves.first().map_or(0, Vec::len);
    let wider = |(pool, now): (&PoolName, &Waves)| {
        let then = saved.waves.get(pool);
        let at_once = |waves: &Waves| waves.waves.iter().map(Vec::len).max().unwrap_or(0);
        let wider = then.is_none_or(|then| {
            at_once(now) > at_once(then)
                || first(now) > first(then)
                || (then.canary && !now.canary && now.waves.len() > 1)
        });
        wider.then(|| pool.clone())
    };
    fresh.waves.iter().filter_map(wider).collect()
}

impl Plan {
    /// Makes the waves of a fresh plan no wider than those of the saved one that was approved. Returns the pools of which the saved
    /// plan takes no host out of service, so that no wave of theirs was approved.
    pub fn narrow(&mut self, saved: &Self) -> Vec<PoolName> {
        let mut unapproved = Vec::new();
        for pool in wider(saved, self) {
            let approved = saved.waves.get(&pool).and_then(|then| {
                let (first, most) = (then.waves.first()?.len(), then.waves.iter().map(Vec::len).max()?);
                (first > 0).then_some((first, most, then))
            });
            let (Some((first, most, then)), Some(now)) = (approved, self.waves.get_mut(&pool)) else {
                unapproved.push(pool);
                continue;
            };
            let mut waves: Vec<Vec<HostName>> = Vec::new();
            for wave in std::mem::take(&mut now.waves) {
                let mut rest = wave.as_slice();
                while !rest.is_empty() {
                    let size = if waves.is_empty() { first } else { most };
                    let (next, after) = rest.split_at(size.min(rest.len()));
                    waves.push(next.to_vec());
                    rest = after;
                }
            }
            now.canary |= then.canary && waves.len() > 1;
            now.at_once = now.at_once.min(then.at_once);
            now.waves = waves;
        }
        unapproved
    }
}

/// Returns what moved between a saved plan and a fresh one, over managed fields only: steps that differ, went or came, or
/// disturb more than they did.
pub fn stale(saved: &Plan, fresh: &Plan) -> Vec<Moved> {
    let mut moved = Vec::new();
    let steps = |plan: &Plan, target: &TargetId| -> Vec<Step> {
        plan.targets.iter().find(|t| &t.target == target).map(|t| t.steps.clone()).unwrap_or_default()
    };
    let mut targets: Vec<&TargetId> = saved.targets.iter().chain(&fresh.targets).map(|t| &t.target).collect();
    targets.sort();
    targets.dedup();
    for target in targets {
        let (old, new) = (steps(saved, target), steps(fresh, target));
        let mut say = |step: &Step, what| {
            moved.push(Moved { target: target.clone(), resource: step.resource.clone(), what });
        };
        for step in &old {
            match new.iter().find(|s| s.resource == step.resource) {
                None => say(step, "no longer needs a change"),
                Some(now) if now.change != step.change => say(step, "differs from the saved plan"),
                Some(now) if now.digest != step.digest => say(step, "would be carried out differently"),
                Some(now) if now.hazards.iter().any(|h| !step.hazards.contains(h)) => {
                    say(step, "has a hazard that the saved plan does not show");
                }
                Some(_) => {}
            }
        }
        for step in new.iter().filter(|s| !old.iter().any(|o| o.resource == s.resource)) {
            say(step, "is not in the saved plan");
        }
    }
    moved
}
