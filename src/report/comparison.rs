//! Two inventories compared, as text and as a pull request comment.

use crate::plan::InventoryDiff;
use handlebars::Handlebars;
use serde_json::json;

const MARKDOWN: &str = include_str!("../../templates/reports/comparison.md.hbs");

/// Returns the comparison as text.
pub fn comparison_text(diff: &InventoryDiff) -> String {
    if diff.is_empty() {
        return format!("{}: the inventories say the same\n", diff.name);
    }
    let mut text = format!("{}: no host was contacted\n", diff.name);
    for (field, before, after) in &diff.site {
        text += &format!("  ~ {field}: {before} -> {after}\n");
    }
    for pool in &diff.pools {
        text += &format!("\n{} ({} hosts)\n", pool.pool, pool.hosts);
        for (field, before, after) in &pool.fields {
            text += &format!("  ~ {field}: {before} -> {after}\n");
        }
        if let Some((all, least)) = pool.capacity {
            text += &format!("  capacity while it runs: at least {least} of {all} accelerators\n");
        }
        if !pool.models.is_empty() {
            text += &format!("  models that lose replicas for a time: {}\n", pool.models.join(", "));
        }
    }
    for (host, pool) in &diff.added {
        text += &format!("  + host {host} ({pool})\n");
    }
    for (host, pool) in &diff.removed {
        text += &format!("  - host {host} ({pool})\n");
    }
    for host in &diff.changed {
        for (field, before, after) in &host.fields {
            text += &format!("  ~ host {} {field}: {before} -> {after}\n", host.host);
        }
    }
    text + &format!(
        "\n  blast radius: {} drained, {} rebooted, {} with k0s restarted; {} added, {} removed, {} changed\n",
        diff.drains,
        diff.reboots,
        diff.restarts,
        diff.added.len(),
        diff.removed.len(),
        diff.changed.len()
    )
}

/// Returns the comparison as Markdown.
pub fn comparison_markdown(diff: &InventoryDiff) -> String {
    let mut engine = Handlebars::new();
    engine.set_strict_mode(true);
    engine.register_escape_fn(|text| text.replace('|', "\\|").replace('<', "&lt;"));
    let context = json!({"diff": diff, "empty": diff.is_empty(), "counts": {
        "added": diff.added.len(), "removed": diff.removed.len(), "changed": diff.changed.len()}});
    engine
        .render_template(MARKDOWN, &context)
        .unwrap_or_else(|error| format!("the comparison cannot be shown: {error}\n"))
}
