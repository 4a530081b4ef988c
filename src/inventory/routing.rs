//! Routes, and how the router schedules: from the tree to the model, and what Kthena 1.0.0 would accept without a word and not do.

use super::diagnostic::{Diagnostic, Problems};
use super::model::*;
use super::reader::{Reader, some_of, text};
use super::tree::{Node, Value};
use crate::state::shortened;
use std::collections::{BTreeMap, BTreeSet};

/// Pods of the router unless given: one may be lost.
const ROUTERS: u32 = 2;
/// The most pods of the router: each asks every engine for its metrics.
const MOST_ROUTERS: u32 = 32;
/// Requests that may wait at a pod unless given. Kthena's chart has 10, with which an engine that is merely busy costs clients an
/// error; engines queue by themselves, and the least busy one is preferred all the same.
const WAITING_REQUESTS: u32 = 1_000;
/// The most requests that may wait at a pod.
const MOST_WAITING: u32 = 1_000_000;

/// Rules of a ModelRoute, the one without headers among them (its definition).
const MOST_RULES: usize = 16;
/// Targets of a rule (its definition).
const MOST_TARGETS: usize = 16;
/// Headers of a rule.
const MOST_HEADERS: usize = 16;
/// Longest name or value of a header, or expression, in characters.
const MOST_HEADER: usize = 256;
/// Largest compiled expression, in bytes.
const MOST_COMPILED: usize = 1 << 16;
/// Expressions of an inventory.
const MOST_EXPRESSIONS: usize = 1_000;

/// Reads how many pods the router has.
pub(super) fn replicas(r: &mut Reader<'_>, kthena: Option<&Node>) -> u32 {
    r.between(kthena, "replicas", 1, MOST_ROUTERS).unwrap_or(ROUTERS)
}

/// Reads how many requests may wait at a pod.
pub(super) fn waiting(r: &mut Reader<'_>, kthena: Option<&Node>) -> u32 {
    r.between(kthena, "maxWaitingRequests", 1, MOST_WAITING).unwrap_or(WAITING_REQUESTS)
}

/// Reads the weights of a router's scheduler; those of Kthena's chart where they are not given.
pub(super) fn scheduling(r: &mut Reader<'_>, node: Option<&Node>) -> Scheduling {
    let mut weight = |key: &str| r.at_most(node, key, 100).unwrap_or(1);
    Scheduling {
        prefix_cache: weight("prefixCache"),
        least_request: weight("leastRequest"),
        least_latency: weight("leastLatency"),
        gpu_usage: weight("gpuUsage"),
    }
}

/// Reads a route.
pub(super) fn read(r: &mut Reader<'_>, route: &Node) -> Route {
    let mut weights = |node: &Node| node.get("to").map(|to| r.counts(to)).unwrap_or_default();
    let rules = match route.get("rules").map(|rules| &rules.value) {
        Some(Value::List(rules)) => rules.as_slice(),
        _ => &[],
    };
    let rules = rules.iter().enumerate().map(|(n, rule)| RouteRule {
        name: text(Some(rule), "name").unwrap_or_else(|| format!("rule-{}", n + 1)),
        headers: rule
            .get("headers")
            .map(Node::entries)
            .unwrap_or_default()
            .iter()
            .filter_map(|e| Some((e.key.clone(), header(e.node.entries().first()?)?)))
            .collect(),
        to: weights(rule),
    });
    Route { rules: rules.collect(), to: weights(route) }
}

fn header(entry: &super::tree::Entry) -> Option<HeaderMatch> {
    let text = entry.node.text()?;
    Some(match entry.key.as_str() {
        "exact" => HeaderMatch::Exact(text),
        "prefix" => HeaderMatch::Prefix(text),
        _ => HeaderMatch::Regex(text),
    })
}

struct Checker<'a> {
    inventory: &'a Inventory,
    top: &'a Node,
    problems: &'a mut Problems,
    /// Regular expressions so far.
    expressions: usize,
}

/// Adds what is wrong with the router's settings and, where the tenants could be read, with their routes.
pub(super) fn check(inventory: &Inventory, top: &Node, routes: bool, problems: &mut Problems) {
    let mut c = Checker { inventory, top, problems, expressions: 0 };
    if let Some(router) = &inventory.router {
        c.router(router);
    }
    // Along the tree: tenants may be many.
    for entry in top.get("tenants").filter(|_| routes).map(Node::entries).unwrap_or_default() {
        let Some(tenant) = inventory.tenants.get(&entry.key) else { continue };
        for entry in entry.node.get("routes").map(Node::entries).unwrap_or_default() {
            let Some(route) = tenant.routes.get(&entry.key) else { continue };
            c.rules(route, &entry.node);
            c.targets(&route.to, entry.node.at(&["to"]));
        }
    }
}

/// Returns the rule of a route at a position, as it is written.
fn rule_at(route: &Node, position: usize) -> &Node {
    match route.get("rules").map(|rules| &rules.value) {
        Some(Value::List(rules)) => rules.get(position).unwrap_or(route),
        _ => route,
    }
}

/// Returns why an expression cannot be used; Go's and Rust's are alike but for what is refused here.
fn regex_fault(text: &str) -> Option<String> {
    // Go reads these otherwise, or not at all; the first three only in a class.
    let foreign = ["&&", "--", "~~", "\\u", "\\U", "\\b{", "\\<", "\\>"];
    let foreign =
        foreign.into_iter().skip(if text.contains('[') { 0 } else { 3 }).find(|part| text.contains(part));
    if let Some(part) = foreign {
        return Some(format!("the router does not support `{part}`"));
    }
    let mut flags = text.match_indices("(?").map(|(at, _)| &text[at + 2..]);
    if flags.any(|rest| rest.chars().take_while(|c| c.is_ascii_alphabetic()).any(|c| "xRu".contains(c))) {
        return Some("the router does not support the flags `x`, `R` and `u`".to_owned());
    }
    let counts =
        text.split('{').skip(1).flat_map(|rest| rest.split('}').next().unwrap_or_default().split(','));
    if counts.filter_map(|count| count.parse::<u32>().ok()).any(|count| count > 1_000) {
        return Some("the router repeats at most 1,000 times".to_owned());
    }
    // In Go classes such as `\w` are those of ASCII.
    match regex::bytes::RegexBuilder::new(text).unicode(false).size_limit(MOST_COMPILED).build() {
        Err(regex::Error::CompiledTooBig(_)) => Some("it is too large".to_owned()),
        Err(error) => {
            let text = error.to_string();
            Some(text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned())
        }
        // A request without the header has an empty value.
        Ok(regex) if regex.is_match(b"") => Some("it also matches requests without this header".to_owned()),
        Ok(_) => None,
    }
}

impl Checker<'_> {
    fn error(&mut self, code: &'static str, node: &Node, message: impl Into<String>, hint: &str) {
        self.problems.push(Diagnostic::error(code, message).at(&node.span).hint(hint));
    }

    fn router(&mut self, router: &Router) {
        let at = |key: &'static str| self.top.at(&["router", "kthena", key]);
        let (gateway, extension, scheduling) = (at("gatewayAPI"), at("inferenceExtension"), at("scheduling"));
        let version = &router.version;
        if router.inference_extension && !router.gateway_api {
            let message =
                format!("`inferenceExtension` requires `gatewayAPI`; Kthena {version} would not start");
            self.error(
                "E-GATEWAY-API",
                extension,
                message,
                "Set gatewayAPI: true, or inferenceExtension: false",
            );
        }
        if !router.gateway_api && !self.inventory.tenants.is_empty() {
            let message = format!("tenants require `gatewayAPI`; Kthena {version} would skip their routes");
            self.error("E-GATEWAY-API", gateway, message, "Set gatewayAPI: true");
        }
        let Scheduling { prefix_cache, least_request, least_latency, gpu_usage } = router.scheduling;
        if [prefix_cache, least_request, least_latency, gpu_usage].iter().all(|weight| *weight == 0) {
            self.error("E-WEIGHT", scheduling, "all weights are 0", "Give at least one a weight above 0");
        }
    }

    fn rules(&mut self, route: &Route, at: &Node) {
        if route.rules.len() >= MOST_RULES {
            let message = format!("{} rules, more than {}", route.rules.len(), MOST_RULES - 1);
            self.error(
                "E-ROUTE-RULE",
                at.at(&["rules"]),
                message,
                "Use fewer rules: a regex can stand for several values",
            );
        }
        let mut names = BTreeSet::from(["default"]);
        for (n, rule) in route.rules.iter().enumerate() {
            let here = rule_at(at, n);
            let name = rule.name.as_str();
            if !super::grammar::is_dns_label(name) {
                let message = format!("`{}` is not a name of a rule", shortened(name, 80));
                self.error(
                    "E-ROUTE-RULE",
                    here.at(&["name"]),
                    message,
                    "Use at most 63 lower-case letters, digits and `-`",
                );
            } else if !names.insert(name) {
                let message = format!("another rule of this route is named `{name}`");
                self.error(
                    "E-ROUTE-RULE",
                    here.at(&["name"]),
                    message,
                    "Use a unique name, and not `default`",
                );
            }
            if rule.headers.is_empty() || rule.headers.len() > MOST_HEADERS {
                let message = format!("a rule with {} headers", rule.headers.len());
                let hint =
                    format!("Use 1 to {MOST_HEADERS} headers; `to` of the route is for all other requests");
                self.error("E-ROUTE-RULE", here.at(&["headers"]), message, &hint);
            }
            let mut seen = BTreeSet::new();
            for (header, wanted) in &rule.headers {
                let here = here.at(&["headers", header]);
                self.header(header, wanted, here);
                if !seen.insert(header.to_ascii_lowercase()) {
                    let message = format!("the header `{}` is there twice", shortened(header, 80));
                    self.error(
                        "E-ROUTE-RULE",
                        here,
                        message,
                        "Names of headers are the same in upper and lower case",
                    );
                }
            }
            self.targets(&rule.to, here.at(&["to"]));
        }
    }

    fn header(&mut self, name: &str, wanted: &HeaderMatch, at: &Node) {
        let token = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > MOST_HEADER || !name.chars().all(token) {
            let message = format!("`{}` is not the name of a header", shortened(name, 80));
            self.error("E-ROUTE-RULE", at, message, "Use letters, digits and `-`, such as x-canary");
        }
        let (HeaderMatch::Exact(text) | HeaderMatch::Prefix(text) | HeaderMatch::Regex(text)) = wanted;
        // Values of headers are visible characters and blanks; those around them are cut off.
        let visible = text.chars().all(|c| (' '..='~').contains(&c)) && text.trim() == text;
        if text.is_empty() || text.len() > MOST_HEADER || !visible {
            let message = format!("`{}` is not the value of a header", shortened(text, 80));
            let hint = format!(
                "Use 1 to {MOST_HEADER} visible ASCII characters; a request without the header has an empty value"
            );
            self.error("E-ROUTE-RULE", at, message, &hint);
        } else if let HeaderMatch::Regex(text) = wanted {
            self.expressions += 1;
            if self.expressions > MOST_EXPRESSIONS {
                let message = format!("more than {MOST_EXPRESSIONS} regular expressions");
                return self.error("E-ROUTE-RULE", at, message, "Use `exact` or `prefix`");
            }
            let Some(fault) = regex_fault(text) else { return };
            let message = format!("`{}` is not a usable regular expression: {fault}", shortened(text, 80));
            self.error(
                "E-ROUTE-RULE",
                at,
                message,
                "Use RE2 syntax, with ^ and $ for the whole value: ^(beta|dev)$",
            );
        }
    }

    fn targets(&mut self, targets: &BTreeMap<String, u32>, at: &Node) {
        let models = &self.inventory.models;
        for (model, weight) in targets {
            let here = at.get(model).unwrap_or(at);
            let found = models.get(model);
            // One that is written but cannot be read has been told already.
            if found.is_none() && self.top.at(&["models"]).get(model).is_none() {
                let hint = format!("Use one of the models: {}", some_of(models.keys().map(String::as_str)));
                self.error("E-UNKNOWN-MODEL", at, format!("unknown model `{model}`"), &hint);
            }
            if *weight > 100 {
                let hint = "Use weights from 0 to 100: {new: 10, old: 90}";
                self.error("E-WEIGHT", at, format!("weight {weight} is above 100"), hint);
            }
            if let Some((model, argument)) = found.and_then(|m| Some((m, m.engine.without_generation()?)))
                && let Some(router) = &self.inventory.router
            {
                let message = format!(
                    "model `{}` does not generate text (`{}`), and Kthena {} routes only chat and completions",
                    model.name,
                    shortened(&argument, 80),
                    router.version
                );
                let hint = "Remove it from the routes; clients in the cluster reach its pods directly";
                self.error("E-NOT-ROUTABLE", here, message, hint);
            }
        }
        if targets.len() > MOST_TARGETS {
            let message = format!("{} targets, more than {MOST_TARGETS}", targets.len());
            self.error("E-WEIGHT", at, message, "Use fewer models");
        }
        if targets.values().all(|weight| *weight == 0) {
            self.error("E-WEIGHT", at, "all weights are 0", "Give at least one target a weight above 0");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::regex_fault;

    #[test]
    fn expressions_are_what_both_engines_understand() {
        for good in ["^beta$", "^(a|b)[0-9]+$", "(?i)^x", "a{2,100}", "^[a-z-]+$", "\\d", "x--y"] {
            assert_eq!(regex_fault(good), None, "{good}");
        }
        for bad in [
            "(",
            "a**(",
            ".*",
            "",
            "^$",
            "a{1001}",
            "a{2,1000}",
            "[a--b]",
            "(?x)a b",
            "[a&&b]",
            "\\u{61}",
            "(?=a)",
            "(a{500}){500}",
            "[z-a]",
        ] {
            assert!(regex_fault(bad).is_some(), "{bad}");
        }
    }
}
