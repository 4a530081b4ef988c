//! `k0s sysinfo -o json`: the checks of the target binary on a host.

/// How much a line of sysinfo matters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SysinfoItem {
    /// k0s would not start.
    pub stops: bool,
    /// What it looked at, what it found, and why that is wrong.
    pub text: String,
}

/// Returns what is wrong by sysinfo's own judgement; `None` if the text is no answer of sysinfo.
pub fn sysinfo(text: &str) -> Option<Vec<SysinfoItem>> {
    let items: Vec<serde_json::Value> = serde_json::from_str(text).ok()?;
    let of = |item: &serde_json::Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
    let found = items.iter().filter_map(|item| {
        let text = format!("{}: {} {}", of(item, "displayName"), of(item, "prop"), of(item, "message"));
        let stops = match item["category"].as_str() {
            Some("rejected" | "error") => true,
            Some("warning") => false,
            _ => return None,
        };
        Some(SysinfoItem { stops, text: text.trim().to_owned() })
    });
    Some(found.collect())
}
