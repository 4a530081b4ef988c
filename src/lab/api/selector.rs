//! Label and field selectors, as queries write them and as objects hold them.

use super::{kinds::Kind, refusal::Refusal};
use serde_json::Value;

/// A selector over labels.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Clone, PartialEq, Debug)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, PartialEq, Debug)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl LabelSelector {
    /// Reads `a=b,c in (d,e),!f`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let mut found = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if part.is_empty() {
                continue;
            }
            found.push(requirement(part).ok_or_else(|| {
                Refusal::bad_request(format!(
                    "unable to parse requirement: found '{part}', expected a selector"
                ))
            })?);
        }
        Ok(Self(found))
    }

    /// Reads an object's `{matchLabels, matchExpressions}`; `None` selects nothing.
    pub fn of(selector: Option<&Value>) -> Option<Self> {
        let selector = selector?;
        let mut found = Vec::new();
        if let Some(Value::Object(labels)) = selector.get("matchLabels") {
            found.extend(labels.iter().map(|(key, value)| Requirement {
                key: key.clone(),
                test: Test::In(vec![value.as_str().unwrap_or_default().to_owned()]),
            }));
        }
        for rule in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            found.push(expression(rule)?);
        }
        Some(Self(found))
    }

    /// Reads a plain map, as in a Service or a nodeSelector.
    pub fn of_map(labels: &Value) -> Self {
        let labels = labels.as_object().into_iter().flatten();
        Self(
            labels
                .map(|(key, value)| Requirement {
                    key: key.clone(),
                    test: Test::In(vec![value.as_str().unwrap_or_default().to_owned()]),
                })
                .collect(),
        )
    }

    /// Reads a list of node selector expressions (`In`, `NotIn`, `Exists`, `DoesNotExist`).
    pub fn of_expressions(rules: &[Value]) -> Option<Self> {
        rules.iter().map(expression).collect::<Option<Vec<_>>>().map(Self)
    }

    /// Says whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Says whether an object's labels match.
    pub fn matches(&self, object: &Value) -> bool {
        self.matches_labels(object.pointer("/metadata/labels").unwrap_or(&Value::Null))
    }

    /// Says whether labels match.
    pub fn matches_labels(&self, labels: &Value) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.get(&requirement.key).and_then(Value::as_str);
            match &requirement.test {
                Test::In(wanted) => value.is_some_and(|v| wanted.iter().any(|w| w == v)),
                Test::NotIn(unwanted) => !value.is_some_and(|v| unwanted.iter().any(|w| w == v)),
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
            }
        })
    }
}

fn expression(rule: &Value) -> Option<Requirement> {
    let values = || {
        rule["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let test = match rule["operator"].as_str()? {
        "In" => Test::In(values()),
        "NotIn" => Test::NotIn(values()),
        "Exists" => Test::Exists,
        "DoesNotExist" => Test::Absent,
        _ => return None,
    };
    Some(Requirement { key: rule["key"].as_str()?.to_owned(), test })
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_u32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn requirement(part: &str) -> Option<Requirement> {
    let listed = |rest: &str| -> Option<Vec<String>> {
        let inner = rest.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(inner.split(',').map(|v| v.trim().to_owned()).collect())
    };
    let (key, test) = if let Some((key, rest)) = part.split_once(" notin ") {
        (key, Test::NotIn(listed(rest)?))
    } else if let Some((key, rest)) = part.split_once(" in ") {
        (key, Test::In(listed(rest)?))
    } else if let Some((key, value)) = part.split_once("!=") {
        (key, Test::NotIn(vec![value.trim().to_owned()]))
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (key, Test::In(vec![value.trim().to_owned()]))
    } else if let Some(key) = part.strip_prefix('!') {
        (key, Test::Absent)
    } else {
        (part, Test::Exists)
    };
    let key = key.trim();
    let legal = !key.is_empty() && !key.contains(|c: char| c.is_whitespace() || "()=!,".contains(c));
    legal.then(|| Requirement { key: key.to_owned(), test })
}

/// A selector over fields: dotted paths and their text.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct FieldSelector(Vec<(String, String, bool)>);

/// Fields beside name and namespace that a kind can be selected by (pkg/registry/*/strategy.go).
fn selectable(kind: &Kind) -> &'static [&'static str] {
    match kind.id.as_str() {
        "events" => &[
            "involvedObject.kind",
            "involvedObject.name",
            "involvedObject.namespace",
            "involvedObject.uid",
            "reason",
            "type",
        ],
        "namespaces" => &["status.phase"],
        "nodes" => &["spec.unschedulable"],
        "pods" => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "status.phase",
            "status.podIP",
        ],
        "secrets" => &["type"],
        "services" => &["spec.clusterIP", "spec.type"],
        _ => &[],
    }
}

impl FieldSelector {
    /// Reads `metadata.name=a,status.phase!=Running` for a kind.
    pub fn of(kind: &Kind, text: &str) -> Result<Self, Refusal> {
        let selector = Self::parse(text)?;
        let known = selectable(kind);
        for (pointer, _, _) in &selector.0 {
            let path = pointer[1..].replace('/', ".");
            if matches!(path.as_str(), "metadata.name" | "metadata.namespace")
                || known.contains(&path.as_str())
            {
                continue;
            }
            return Err(Refusal::bad_request(if known.is_empty() {
                format!(
                    "{path:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                )
            } else {
                format!("field label not supported: {path}")
            }));
        }
        Ok(selector)
    }

    fn parse(text: &str) -> Result<Self, Refusal> {
        let mut found = Vec::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (path, value, equal) = if let Some((path, value)) = part.split_once("!=") {
                (path, value, false)
            } else if let Some((path, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (path, value, true)
            } else {
                return Err(Refusal::bad_request(format!(
                    "invalid selector: '{part}'; can't understand '{part}'"
                )));
            };
            found.push((format!("/{}", path.trim().replace('.', "/")), value.trim().to_owned(), equal));
        }
        Ok(Self(found))
    }

    /// Says whether an object matches.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(path, wanted, equal)| {
            let text = match object.pointer(path) {
                Some(Value::String(text)) => text.clone(),
                None | Some(Value::Null) => String::new(),
                Some(other) => other.to_string(),
            };
            (text == *wanted) == *equal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn label_selectors_read_every_form() {
        let object = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
        for (text, matches) in [
            ("a=1", true),
            ("a==2", false),
            ("a!=2,b", true),
            ("a in (1,3),!c", true),
            ("a notin (1, 3)", false),
            ("", true),
        ] {
            assert_eq!(LabelSelector::parse(text).expect("parses").matches(&object), matches, "{text}");
        }
        assert!(LabelSelector::parse("a in 1").is_err());
    }
}
