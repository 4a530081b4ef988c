//! The form of `role.yaml`: a list of entries, each one resource with what belongs to it. Every text in it may hold
//! minijinja expressions; a text that is nothing but one expression becomes its value.
//!
//! ```yaml
//! - package: {name: chrony, version: "{{ facts.os.ID }}"}   # one kind, with the fields of `state::Spec`
//!   when: os.ntp                                            # an expression; the entry is left out if it is false
//!   each: sysctls                                           # an expression; one resource for each, as `item`
//!   why: certificates want the right time
//!   restarts: [chrony.service]
//!   hazards: [reboot]
//!   late: [token/worker]
//!   deadline_s: 900
//! - file: {path: /etc/x, template: x.j2, mode: 0o600}       # `template` or `content`
//! ```

use crate::state::*;
use crate::template::Scope;
use serde::Deserialize;
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

/// The kinds that a role may use; the others belong to the cluster.
const KINDS: [&str; 16] = [
    "package",
    "package-repository",
    "file",
    "directory",
    "line-in-file",
    "symlink",
    "download",
    "unit",
    "kernel-module",
    "sysctl",
    "filesystem",
    "mount",
    "swap",
    "hostname",
    "command",
    "reboot",
];

/// What an entry says beside its kind.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Around {
    why: Option<String>,
    restarts: Vec<String>,
    hazards: Vec<Hazard>,
    late: Vec<LateName>,
    deadline_s: Option<u64>,
}

const AROUND: [&str; 7] = ["when", "each", "why", "restarts", "hazards", "late", "deadline_s"];

/// A file: its content, or the template that makes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    path: String,
    content: Option<String>,
    template: Option<String>,
    mode: Option<u32>,
    owner: Option<String>,
    validate: Option<String>,
}

/// One entry, as written.
pub(super) struct Entry {
    /// `file:line`, for errors.
    place: String,
    fields: Map<String, Value>,
}

/// Reads a role file; `name` is what errors call it.
pub(super) fn parse(name: &str, text: &str) -> Result<Vec<Entry>, String> {
    let mut options = serde_saphyr::Options::default();
    options.with_snippet = false;
    options.strict_booleans = true;
    let entries: Option<Vec<Spanned<Map<String, Value>>>> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| match error.location() {
            Some(at) => format!("{name}:{}: {}", at.line(), one_line(&error)),
            None => format!("{name}: {}", one_line(&error)),
        })?;
    let entry = |e: Spanned<Map<String, Value>>| Entry {
        place: format!("{name}:{}", e.referenced.line()),
        fields: e.value,
    };
    Ok(entries.unwrap_or_default().into_iter().map(entry).collect())
}

fn one_line(error: &serde_saphyr::Error) -> String {
    error.without_snippet().to_string().lines().next().unwrap_or_default().to_owned()
}

/// Fills in every text of a value.
fn fill(scope: &Scope, value: &Value) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) if text.contains("{{") || text.contains("{%") || text.contains("{#") => {
            scope.fill("", text).map_err(|e| e.message)?
        }
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
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Returns the resources that it comes to; `template` renders a template of the role.
    pub fn resources(
        &self,
        role: &str,
        scope: &Scope,
        template: &dyn Fn(&str, &Scope) -> Result<String, String>,
    ) -> Result<Vec<Resource>, String> {
        let scopes = match self.fields.get("each") {
            None => vec![scope.clone()],
            Some(list) => {
                let text = list.as_str().ok_or_else(|| self.wrong("each is an expression"))?;
                let items =
                    scope.fill("", &format!("{{{{ {text} }}}}")).map_err(|e| self.wrong(&e.message))?;
                let items = items.as_array().ok_or_else(|| self.wrong("each does not come to a list"))?;
                items.iter().map(|item| scope.with("item", item)).collect()
            }
        };
        let mut resources = Vec::new();
        for scope in scopes {
            let wanted = match self.fields.get("when") {
                None => true,
                Some(Value::Bool(wanted)) => *wanted,
                Some(Value::String(text)) => scope.holds("", text).map_err(|e| self.wrong(&e.message))?,
                Some(_) => return Err(self.wrong("when is an expression")),
            };
            if wanted {
                resources.push(self.resource(role, &scope, template).map_err(|why| self.wrong(&why))?);
            }
        }
        Ok(resources)
    }

    fn wrong(&self, why: &str) -> String {
        format!("{}: {why}", self.place)
    }

    fn resource(
        &self,
        role: &str,
        scope: &Scope,
        template: &dyn Fn(&str, &Scope) -> Result<String, String>,
    ) -> Result<Resource, String> {
        let mut around = Map::new();
        let mut kinds = Vec::new();
        for (key, value) in &self.fields {
            match key.as_str() {
                "when" | "each" => {}
                key if AROUND.contains(&key) => {
                    around.insert(key.to_owned(), fill(scope, value)?);
                }
                key if KINDS.contains(&key) => kinds.push((key, value)),
                key => {
                    let known: Vec<&str> = KINDS.into_iter().chain(AROUND).collect();
                    return Err(format!("unknown key `{key}`, expected one of {}", known.join(", ")));
                }
            }
        }
        let (kind, fields) = match kinds[..] {
            [one] => one,
            [] => return Err(format!("an entry without a kind, expected one of {}", KINDS.join(", "))),
            [(one, _), (other, _), ..] => return Err(format!("an entry is both {one} and {other}")),
        };
        let fields = fill(scope, fields)?;
        let spec = match kind {
            "file" => file(fields, scope, template)?,
            kind => {
                let given = Value::Object(Map::from_iter([(kind.to_owned(), fields)]));
                let spec = Spec::deserialize(&given).map_err(|e| format!("{kind}: {e}"))?;
                let understood = serde_json::to_value(&spec).map_err(|e| e.to_string())?;
                if let Some(key) = ignored(&given, &understood) {
                    return Err(format!("{kind}: unknown field `{key}`"));
                }
                spec
            }
        };
        let around = Around::deserialize(Value::Object(around)).map_err(|e| e.to_string())?;
        let mut resource = Resource::new(role, spec);
        resource.why = around.why;
        resource.restarts = around.restarts;
        resource.hazards = around.hazards;
        // A reboot is one whether its role says so or not: it ends a batch, and a plan shows it.
        if matches!(resource.spec, Spec::Reboot(_)) && !resource.hazards.contains(&Hazard::Reboot) {
            resource.hazards.push(Hazard::Reboot);
        }
        resource.late = around.late;
        resource.deadline_s = around.deadline_s.unwrap_or(DEFAULT_DEADLINE_S);
        Ok(resource)
    }
}

fn file(
    fields: Value,
    scope: &Scope,
    template: &dyn Fn(&str, &Scope) -> Result<String, String>,
) -> Result<Spec, String> {
    let entry = FileEntry::deserialize(fields).map_err(|e| format!("file: {e}"))?;
    let content = match (entry.content, entry.template) {
        (Some(content), None) => content,
        (None, Some(name)) => template(&name, scope)?,
        _ => return Err(format!("file {} takes either content or template", entry.path)),
    };
    Ok(Spec::File(File {
        path: entry.path,
        content: Content::Text(content),
        mode: entry.mode.unwrap_or(0o644),
        owner: entry.owner.unwrap_or_else(|| "root:root".to_owned()),
        validate: entry.validate,
    }))
}
