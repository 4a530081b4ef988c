//! Label and field selectors, as queries write them and as objects hold them.

use super::errors::ApiError;
use serde_json::Value;

/// A selector over labels.
#[derive(Clone, Default, PartialEq, Debug)]
pub(super) struct LabelSelector(Vec<Requirement>);

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
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        let mut found = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            // A comma inside parentheses separates values.
            let from = rest.find('(').filter(|open| rest.find(',').is_none_or(|comma| *open < comma));
            let from = from.and_then(|_| rest.find(')')).unwrap_or(0);
            let end = rest[from..].find(',').map_or(rest.len(), |comma| from + comma);
            let part = rest[..end].trim();
            rest = rest.get(end + 1..).unwrap_or_default();
            found.push(requirement(part).ok_or_else(|| {
                let why = format!("unable to parse requirement: found '{part}', expected a selector");
                ApiError::bad_request(why)
            })?);
        }
        Ok(Self(found))
    }

    /// Reads an object's `{matchLabels, matchExpressions}`; `None` selects nothing.
    pub(super) fn of(selector: Option<&Value>) -> Option<Self> {
        let selector = selector?;
        let labels = selector["matchLabels"].as_object().into_iter().flatten().map(|(key, value)| {
            let value = value.as_str().unwrap_or_default().to_owned();
            Some(Requirement { key: key.clone(), test: Test::In(vec![value]) })
        });
        let rules = selector["matchExpressions"].as_array().into_iter().flatten().map(expression);
        labels.chain(rules).collect::<Option<_>>().map(Self)
    }

    /// Says whether an object's labels match.
    pub(super) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
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
    let values = rule["values"].as_array().into_iter().flatten();
    let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
    let test = match rule["operator"].as_str()? {
        "In" => Test::In(values),
        "NotIn" => Test::NotIn(values),
        "Exists" => Test::Exists,
        "DoesNotExist" => Test::Absent,
        _ => return None,
    };
    Some(Requirement { key: rule["key"].as_str()?.to_owned(), test })
}

fn requirement(part: &str) -> Option<Requirement> {
    let listed = |rest: &str| -> Option<Vec<String>> {
        let inner = rest.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(inner.split(',').map(|v| v.trim().to_owned()).collect())
    };
    let one = |value: &str| vec![value.trim_start_matches('=').trim().to_owned()];
    let (key, test) = if let Some((key, rest)) = part.split_once(" notin ") {
        (key, Test::NotIn(listed(rest)?))
    } else if let Some((key, rest)) = part.split_once(" in ") {
        (key, Test::In(listed(rest)?))
    } else if let Some((key, value)) = part.split_once("!=") {
        (key, Test::NotIn(one(value)))
    } else if let Some((key, value)) = part.split_once('=') {
        (key, Test::In(one(value)))
    } else if let Some(key) = part.strip_prefix('!') {
        (key, Test::Absent)
    } else {
        (part, Test::Exists)
    };
    let key = key.trim();
    let legal = !key.is_empty() && !key.contains(|c: char| c.is_whitespace() || "()=!,".contains(c));
    legal.then(|| Requirement { key: key.to_owned(), test })
}

/// A selector over fields: JSON pointers, their text, and whether it is to be equal.
#[derive(Clone, Default, PartialEq, Debug)]
pub(super) struct FieldSelector(Vec<(String, String, bool)>);

impl FieldSelector {
    /// Reads `metadata.name=a,status.phase!=Running`.
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        let mut found = Vec::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let wrong =
                || ApiError::bad_request(format!("invalid selector: '{part}'; can't understand '{part}'"));
            let (path, value) = part.split_once('=').ok_or_else(wrong)?;
            let (path, equal) = path.strip_suffix('!').map_or((path, true), |path| (path, false));
            let pointer = format!("/{}", path.trim().replace('.', "/"));
            found.push((pointer, value.trim_start_matches('=').trim().to_owned(), equal));
        }
        Ok(Self(found))
    }

    /// Says whether an object matches.
    pub(super) fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(pointer, wanted, equal)| {
            let text = match object.pointer(pointer) {
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
            ("b,a notin (1, 3)", false),
            ("", true),
        ] {
            assert_eq!(LabelSelector::parse(text).expect("parses").matches(&object), matches, "{text}");
        }
        assert!(LabelSelector::parse("a in 1").is_err());
    }
}
