//! The format of `role.yaml`: a list of entries, one resource each. Every text may contain minijinja expressions; a text
//! that consists of a single expression becomes its value.
//!
//! ```yaml
//! - package: {name: chrony, version: "{{ facts.os.ID }}"}   # one kind, with the fields of `state::Spec`
//!   when: os.ntp                                            # an expression; the entry is left out if it is false
//!   each: sysctls                                           # an expression; one resource for each, as `item`
//!   why: certificates and etcd need accurate time
//!   restarts: [chrony.service]
//!   hazards: [reboot]
//!   late: [token/worker]
//!   deadline_s: 900
//!   once: true                                              # done where `when` is true, and not recorded as wanted
//!   gate: true                                              # a node is drained only after it
//! - file: {path: /etc/x, template: x.j2, mode: 0o600}       # `template` or `content`
//! ```

use super::values::refused;
use crate::state::*;
use crate::template::Scope;
use serde::Deserialize;
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

/// Returns the kinds that a role may use; the others belong to the cluster.
fn kinds_of_roles() -> impl Iterator<Item = &'static str> {
    HostKind::ALL.into_iter().map(HostKind::as_str)
}

/// The keys of an entry besides its kind.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Around {
    why: Option<String>,
    restarts: Vec<String>,
    hazards: Vec<Hazard>,
    #[serde(rename = "late")]
    inputs: Vec<StepOutput>,
    deadline_s: Option<u64>,
    once: bool,
    gate: bool,
}

const AROUND: [&str; 9] =
    ["when", "each", "why", "restarts", "hazards", "late", "deadline_s", "once", "gate"];

/// A file: its content, or the template that makes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileEntry {
    path: String,
    content: Option<String>,
    template: Option<String>,
    mode: Option<u32>,
    owner: Option<String>,
    validate: Option<String>,
}

/// A mistake in a role file.
pub(super) struct Mistake {
    /// The line, counted from 1, if it is known.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
}

impl FileEntry {
    /// Returns the file with the content that it has without any template.
    pub(super) fn literal(self) -> Spec {
        self.with(String::new())
    }

    fn with(self, content: String) -> Spec {
        Spec::File(File {
            path: self.path,
            content: Content::Text(content),
            mode: self.mode.unwrap_or(0o644),
            owner: self.owner.unwrap_or_else(|| "root:root".to_owned()),
            validate: self.validate,
        })
    }
}

impl Mistake {
    /// Returns it as one line; `name` is what errors call the file.
    pub(super) fn in_file(&self, name: &str) -> String {
        match self.line {
            Some(line) => format!("{name}:{line}: {}", self.message),
            None => format!("{name}: {}", self.message),
        }
    }
}

/// One entry, as written.
pub(super) struct Entry {
    /// `file:line`, for errors.
    location: String,
    line: usize,
    fields: Map<String, Value>,
}

/// Reads a role file; `name` is what errors call it.
pub(super) fn parse(name: &str, text: &str) -> Result<Vec<Entry>, Mistake> {
    let mut options = serde_saphyr::Options::default();
    options.with_snippet = false;
    options.strict_booleans = true;
    let entries: Option<Vec<Spanned<Map<String, Value>>>> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| Mistake {
            line: error.location().map(|at| at.line() as usize),
            message: one_line(&error),
        })?;
    let entry = |e: Spanned<Map<String, Value>>| {
        let line = e.referenced.line() as usize;
        Entry { location: format!("{name}:{line}"), line, fields: e.value }
    };
    Ok(entries.unwrap_or_default().into_iter().map(entry).collect())
}

fn one_line(error: &serde_saphyr::Error) -> String {
    error.without_snippet().to_string().lines().next().unwrap_or_default().to_owned()
}

pub(super) fn is_template(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|open| text.contains(open))
}

/// Collects every text of a value that is filled in.
pub(super) fn templates<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) if is_template(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| templates(item, found)),
        Value::Object(map) => map.values().for_each(|value| templates(value, found)),
        _ => {}
    }
}

/// Fills in every text of a value.
fn fill(scope: &Scope, value: &Value) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) if is_template(text) => scope.fill("", text).map_err(|e| e.message)?,
        Value::Array(items) => Value::Array(items.iter().map(|v| fill(scope, v)).collect::<Result<_, _>>()?),
        Value::Object(map) => {
            let entry = |(k, v): (&String, &Value)| Ok::<_, String>((k.clone(), fill(scope, v)?));
            Value::Object(map.iter().map(entry).collect::<Result<_, _>>()?)
        }
        other => other.clone(),
    })
}

/// Returns the first key that was given but means nothing: it is missing from what was understood.
fn ignored(given: &Value, understood: &Value) -> Option<String> {
    let (given, understood) = (given.as_object()?, understood.as_object()?);
    given.iter().find_map(|(key, value)| match understood.get(key) {
        Some(inner) => ignored(value, inner),
        None if value.is_null() || value.as_array().is_some_and(Vec::is_empty) => None,
        None => Some(key.clone()),
    })
}

impl Entry {
    /// Returns `file:line`.
    pub(super) fn location(&self) -> &str {
        &self.location
    }

    /// Returns the resulting resources; `template` renders a template of the role.
    pub(super) fn resources(
        &self,
        role: &str,
        scope: &Scope,
        template: &dyn Fn(&str, &Scope) -> Result<String, String>,
    ) -> Result<Vec<Resource>, String> {
        let scopes = match self.fields.get("each") {
            None => vec![scope.clone()],
            Some(list) => {
                let text = list.as_str().ok_or_else(|| self.wrong("`each` must be an expression"))?;
                let items =
                    scope.fill("", &format!("{{{{ {text} }}}}")).map_err(|e| self.wrong(&e.message))?;
                let items =
                    items.as_array().ok_or_else(|| self.wrong("`each` does not evaluate to a list"))?;
                items.iter().map(|item| scope.with("item", item)).collect()
            }
        };
        let mut resources = Vec::new();
        for scope in scopes {
            let wanted = match self.fields.get("when") {
                None => true,
                Some(Value::Bool(wanted)) => *wanted,
                Some(Value::String(text)) => scope.holds("", text).map_err(|e| self.wrong(&e.message))?,
                Some(_) => return Err(self.wrong("`when` must be an expression")),
            };
            if wanted {
                resources.push(self.resource(role, &scope, template).map_err(|why| self.wrong(&why))?);
            }
        }
        Ok(resources)
    }

    /// Returns the line it begins on, counted from 1.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// Returns one of its own keys, such as `when`.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key)
    }

    /// Returns its kind and the fields of that, as written.
    pub(super) fn kind(&self) -> Result<(&str, &Value), String> {
        let mut kinds = Vec::new();
        for (key, value) in &self.fields {
            match key.as_str() {
                key if kinds_of_roles().any(|kind| kind == key) => kinds.push((key, value)),
                key if AROUND.contains(&key) => {}
                key => {
                    let known: Vec<&str> = kinds_of_roles().chain(AROUND).collect();
                    return Err(format!("unknown key `{key}`, expected one of {}", known.join(", ")));
                }
            }
        }
        match kinds[..] {
            [one] => Ok(one),
            [] => {
                let known: Vec<&str> = kinds_of_roles().collect();
                Err(format!("an entry without a kind, expected one of {}", known.join(", ")))
            }
            [(one, _), (other, _), ..] => Err(format!("an entry is both {one} and {other}")),
        }
    }

    /// Returns its other keys that say something of the resource, as written.
    pub(super) fn around(&self) -> Map<String, Value> {
        let of_resource = |key: &str| AROUND.contains(&key) && !matches!(key, "when" | "each");
        let own = self.fields.iter().filter(|(key, _)| of_resource(key));
        own.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn wrong(&self, why: &str) -> String {
        format!("{}: {why}", self.location)
    }

    fn resource(
        &self,
        role: &str,
        scope: &Scope,
        template: &dyn Fn(&str, &Scope) -> Result<String, String>,
    ) -> Result<Resource, String> {
        let (kind, fields) = self.kind()?;
        let fields = fill(scope, fields)?;
        let spec = match kind {
            "file" => file(fields, scope, template)?,
            kind => spec(kind, fields)?,
        };
        if let Some(why) = refused(&spec) {
            return Err(why);
        }
        let around = around(fill(scope, &Value::Object(self.around()))?)?;
        let mut resource = Resource::new(role, spec);
        resource.why = around.why;
        resource.restarts = around.restarts;
        resource.hazards = around.hazards;
        // A reboot is a hazard even if its role does not declare it: it ends a batch, and a plan shows it.
        if matches!(resource.spec, Spec::Reboot(_)) && !resource.hazards.contains(&Hazard::Reboot) {
            resource.hazards.push(Hazard::Reboot);
        }
        resource.inputs = around.inputs;
        resource.deadline_s = around.deadline_s.unwrap_or(DEFAULT_DEADLINE_S);
        (resource.once, resource.gate) = (around.once, around.gate);
        Ok(resource)
    }
}

/// Reads the keys around a kind.
pub(super) fn around(keys: Value) -> Result<Around, String> {
    let around = Around::deserialize(keys).map_err(|e| e.to_string())?;
    match around.deadline_s {
        Some(0) => Err("deadline_s must be at least 1".to_owned()),
        _ => Ok(around),
    }
}

/// Reads the fields of a kind other than a file.
pub(super) fn spec(kind: &str, fields: Value) -> Result<Spec, String> {
    let given = Value::Object(Map::from_iter([(kind.to_owned(), fields)]));
    let spec = Spec::deserialize(&given).map_err(|e| format!("{kind}: {e}"))?;
    let understood = serde_json::to_value(&spec).map_err(|e| e.to_string())?;
    match ignored(&given, &understood) {
        Some(key) => Err(format!("{kind}: unknown field `{key}`")),
        None => Ok(spec),
    }
}

/// Reads the fields of a file.
pub(super) fn file_fields(fields: Value) -> Result<FileEntry, String> {
    FileEntry::deserialize(fields).map_err(|e| format!("file: {e}"))
}

fn file(
    fields: Value,
    scope: &Scope,
    template: &dyn Fn(&str, &Scope) -> Result<String, String>,
) -> Result<Spec, String> {
    let entry = file_fields(fields)?;
    let content = match (&entry.content, &entry.template) {
        (Some(content), None) => content.clone(),
        (None, Some(name)) => template(name, scope)?,
        _ => return Err(format!("file {} needs either content or template", entry.path)),
    };
    Ok(entry.with(content))
}
