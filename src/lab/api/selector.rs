//! Label and field selectors, as queries write them and as objects hold them.

use super::{
    errors::ApiError,
    objects::{labels_of, text},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Expression, Selector, SelectorExt};
use serde_json::Value;

/// Returns an object's `{matchLabels, matchExpressions}`; `None` selects nothing.
pub(super) fn label_selector(selector: Option<&Value>) -> Option<Selector> {
    serde_json::from_value::<LabelSelector>(selector?.clone()).ok()?.try_into().ok()
}

/// What a list or a watch is about.
pub(super) struct Selection {
    /// The namespace; empty for all.
    pub namespace: String,
    labels: Selector,
    fields: Vec<FieldTest>,
}

/// A JSON pointer, a text, and whether what is there is to be equal to it.
type FieldTest = (String, String, bool);

impl Selection {
    /// Reads the selectors of a query; a namespace that is empty is all of them.
    pub(super) fn parse(namespace: &str, labels: &str, fields: &str) -> Result<Self, ApiError> {
        Ok(Self { namespace: namespace.to_owned(), labels: parse(labels)?, fields: field_tests(fields)? })
    }

    /// Says whether an object is selected.
    pub(super) fn matches(&self, object: &Value) -> bool {
        (self.namespace.is_empty() || text(object, "/metadata/namespace") == self.namespace)
            && self.labels.matches(&labels_of(object))
            && self.fields.iter().all(|(pointer, wanted, equal)| {
                let text = match object.pointer(pointer) {
                    Some(Value::String(text)) => text.clone(),
                    None | Some(Value::Null) => String::new(),
                    Some(other) => other.to_string(),
                };
                (text == *wanted) == *equal
            })
    }
}

/// Reads `metadata.name=a,status.phase!=Running`.
fn field_tests(text: &str) -> Result<Vec<FieldTest>, ApiError> {
    let parts = text.split(',').filter(|p| !p.is_empty());
    parts
        .map(|part| {
            let wrong =
                || ApiError::bad_request(format!("invalid selector: '{part}'; can't understand '{part}'"));
            let (path, value) = part.split_once('=').ok_or_else(wrong)?;
            let (path, equal) = path.strip_suffix('!').map_or((path, true), |path| (path, false));
            let pointer = format!("/{}", path.trim().replace('.', "/"));
            Ok((pointer, value.trim_start_matches('=').trim().to_owned(), equal))
        })
        .collect()
}

/// Reads `a=b,c in (d,e),!f`.
fn parse(text: &str) -> Result<Selector, ApiError> {
    let mut found = Selector::default();
    let mut rest = text;
    while !rest.is_empty() {
        // A comma inside parentheses separates values.
        let from = rest.find('(').filter(|open| rest.find(',').is_none_or(|comma| *open < comma));
        let from = from.and_then(|_| rest.find(')')).unwrap_or(0);
        let end = rest[from..].find(',').map_or(rest.len(), |comma| from + comma);
        let part = rest[..end].trim();
        rest = rest.get(end + 1..).unwrap_or_default();
        found.extend(expression(part).ok_or_else(|| {
            let why = format!("unable to parse requirement: found '{part}', expected a selector");
            ApiError::bad_request(why)
        })?);
    }
    Ok(found)
}

fn expression(part: &str) -> Option<Expression> {
    let listed = |rest: &str| {
        let inner = rest.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(inner.split(',').map(|v| v.trim().to_owned()).collect())
    };
    let key = |text: &str| {
        let key = text.trim();
        let legal = !key.is_empty() && !key.contains(|c: char| c.is_whitespace() || "()=!,".contains(c));
        legal.then(|| key.to_owned())
    };
    let one = |value: &str| value.trim_start_matches('=').trim().to_owned();
    Some(if let Some((name, rest)) = part.split_once(" notin ") {
        Expression::NotIn(key(name)?, listed(rest)?)
    } else if let Some((name, rest)) = part.split_once(" in ") {
        Expression::In(key(name)?, listed(rest)?)
    } else if let Some((name, value)) = part.split_once("!=") {
        Expression::NotEqual(key(name)?, one(value))
    } else if let Some((name, value)) = part.split_once('=') {
        Expression::Equal(key(name)?, one(value))
    } else if let Some(name) = part.strip_prefix('!') {
        Expression::DoesNotExist(key(name)?)
    } else {
        Expression::Exists(key(part)?)
    })
}
