//! What reads pods, for fuzzing: the API is a controller's, which may be hostile.

use super::{pods, ready};
use serde_json::Value;

/// Reads a list of pods; the first item is also read as their Deployment and as its ReplicaSet.
pub fn pods(text: &str) {
    let Ok(Value::Array(all)) = serde_json::from_str::<Value>(text) else { return };
    let Some(first) = all.first() else { return };
    let _ = pods::sentence(&pods::causes(&all));
    let _ = (ready::stuck(&all), pods::refused(first));
    for (_, pod) in pods::Watched::default().hopeless(&all) {
        let _ = pods::is_newest(pod, first, &all);
    }
}
