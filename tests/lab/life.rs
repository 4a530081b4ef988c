//! The life of a cluster: hosts added, reset, made anew; all of it destroyed and applied again.

use super::story::{Story, text};
use super::twin::site;
use serde_json::Value;

impl Story {
    fn reset(&self, more: &[&str]) -> std::process::Output {
        let at = self.at();
        self.run(&[&["reset", "-i", &at], more].concat())
    }
}

#[test]
fn a_worker_is_reset_and_joins_again_as_new() {
    let story = Story::of(&site(1));
    story.up();
    let fresh = story.tree();
    story.applied();
    let dry = story.reset(&["w-1", "--dry-run"]);
    println!("{}", text(&dry));
    assert_eq!(dry.status.code(), Some(2), "{}", text(&dry));
    let done = story.reset(&["w-1", "--yes"]);
    println!("{}", text(&done));
    assert_eq!(done.status.code(), Some(0), "{}", text(&done));
    let of = |tree: std::collections::BTreeMap<std::path::PathBuf, String>| -> Vec<(std::path::PathBuf, String)> {
        tree.into_iter().filter(|(p, _)| p.to_string_lossy().contains("/w-1/")).collect()
    };
    let (before, after) = (of(fresh), of(story.tree()));
    println!("before {before:#?} after {after:#?}");
    let _: Option<Value> = None;
}
