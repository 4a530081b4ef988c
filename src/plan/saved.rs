//! Plans on disk, and whether one still holds.

use super::build::{FORMAT, Plan};
use crate::state::{ResourceId, Step, TargetId};
use std::path::Path;

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
    #[error("{path} is no plan of this version: {why}")]
    Form {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
}

/// Writes a plan, as a whole. A plan holds no secret and no file content beyond diffs of plain text.
pub fn save(plan: &Plan, path: &Path) -> Result<(), SavedError> {
    let failed = |source: std::io::Error| SavedError::File { path: path.display().to_string(), source };
    let text = serde_json::to_string_pretty(plan).map_err(|e| failed(std::io::Error::other(e)))?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}

/// Reads a plan.
pub fn load(path: &Path) -> Result<Plan, SavedError> {
    let shown = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|source| SavedError::File { path: shown.clone(), source })?;
    let form = |why: String| SavedError::Form { path: shown.clone(), why };
    let plan: Plan = serde_json::from_str(&text).map_err(|e| form(e.to_string()))?;
    if plan.format != FORMAT {
        return Err(form(format!("it has format {}, this version reads {FORMAT}", plan.format)));
    }
    Ok(plan)
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

/// Returns what moved between a saved plan and a fresh one, over managed fields only: steps that differ, went or came.
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
                None => say(step, "needs nothing any more"),
                Some(now) if now.change != step.change => {
                    say(step, "is not as it was when the plan was made")
                }
                Some(_) => {}
            }
        }
        for step in new.iter().filter(|s| !old.iter().any(|o| o.resource == s.resource)) {
            say(step, "has changed since the plan was made");
        }
    }
    moved
}
