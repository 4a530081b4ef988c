//! Tenants that change beside others that do not.

use crate::story::{Story, text};

#[test]
fn a_node_port_that_would_move_is_told_as_a_breaking_change_and_can_be_kept() {
    let story = Story::new();
    story.up();
    let applied = story.apply(&[]);
    assert_eq!(applied.status.code(), Some(0), "{}", text(&applied));

    // Another tenant, first by name: nobody else's port moves.
    let another = "tenants:\n  aaa: {gateway: {port: 8090}, routes: {qwen: {to: {qwen-gpu: 100}}}}\n";
    story.edit("tenants:\n", another);
    let (code, plan) = story.plan();
    assert_eq!(code, 2, "{plan}");
    assert!(!plan.contains("breaking change"), "{plan}");

    story.edit("ads:    {gateway: {port: 8081}", "ads:    {gateway: {port: 8085}");
    let (code, plan) = story.plan();
    assert_eq!(code, 2, "{plan}");
    let said = "breaking change of tenant ads: its node port moves from 30081 to 30085; \
                set tenants.ads.gateway.nodePort: 30081 to keep it";
    assert!(plan.contains(&format!("warning: cluster: {said}")), "{plan}");
    assert!(!plan.contains("breaking change of tenant search"), "{plan}");

    story.edit("{gateway: {port: 8085}", "{gateway: {port: 8085, nodePort: 30081}");
    let (code, plan) = story.plan();
    assert_eq!(code, 2, "{plan}");
    assert!(!plan.contains("breaking change"), "{plan}");
    let applied = story.apply(&[]);
    assert_eq!(applied.status.code(), Some(0), "{}", text(&applied));
    let status = text(&story.run(&["status", "-i", &story.at()]));
    let row = status.lines().find(|l| l.starts_with("ads ")).unwrap_or_else(|| panic!("{status}"));
    assert!(row.ends_with(":30081/v1"), "{row}");
}
