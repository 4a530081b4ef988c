//! The one minijinja environment: strict, bounded, no escaping (machines read its output).

use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, syntax::SyntaxConfig, value::Serde};
use serde::Serialize;
use std::collections::{BTreeSet, HashSet};
use std::fmt::Write;
use std::sync::LazyLock;

/// Instructions a template may take; far more than any of ours, far less than a loop that never ends.
const FUEL: u64 = 1_000_000;
/// The longest text of one value, in bytes; a file of an inventory is no longer.
const MOST_VALUE: usize = 8 << 20;
/// The longest expression, in bytes.
const MOST_EXPRESSION: usize = 1000;
/// What begins an expression, a statement and a comment, and what ends it.
const DELIMITERS: [(&str, &str); 3] = [("{{", "}}"), ("{%", "%}"), ("{#", "#}")];

/// Why a template could not be rendered. Never holds values: they may be secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{name}:{line}: {message}")]
pub struct TemplateError {
    /// The template's name.
    pub name: String,
    /// The line, counted from 1; 0 if unknown.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// Takes so many bytes and no more.
struct Bounded<'a, W> {
    out: &'a mut W,
    left: usize,
}

impl<W: Write> Write for Bounded<'_, W> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.left = self.left.checked_sub(text.len()).ok_or(std::fmt::Error)?;
        self.out.write_str(text)
    }
}

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_fuel(Some(FUEL));
    // Fuel is taken once a value is written: lists in lists can be without end by then.
    env.set_formatter(|out, _, value| {
        let mut bounded = Bounded { out, left: MOST_VALUE };
        Ok(write!(bounded, "{value}").map_err(|_| ErrorKind::OutOfFuel)?)
    });
    env.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .keep_trailing_newline(true)
            .build()
            .unwrap_or_default(),
    );
    env.add_filter("shq", |text: String| super::quote(&text));
    env
});

fn error(name: &str, error: &minijinja::Error) -> TemplateError {
    TemplateError {
        name: name.to_owned(),
        line: error.line().unwrap_or(0),
        message: error
            .detail()
            .map_or_else(|| error.kind().to_string(), |d| format!("{}: {d}", error.kind())),
    }
}

/// Renders `source` with `context`; `name` is what errors call it.
pub fn render(name: &str, source: &str, context: impl Serialize) -> Result<String, TemplateError> {
    Scope::new(context).render(name, source)
}

/// Returns the expression that a text consists of.
fn whole(text: &str) -> Option<&str> {
    let expression = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    (!expression.contains("{{") && !expression.contains("}}")).then_some(expression)
}

/// Returns what a text that is filled in looks up, such as `host.name`, or what is wrong with its syntax. Names that the
/// environment itself has are left out.
pub fn names(name: &str, text: &str) -> Result<BTreeSet<String>, TemplateError> {
    if let Some(expression) = whole(text) {
        return names_in_expression(name, expression);
    }
    let expressions = expressions(text);
    bounded(name, &expressions)?;
    let template = ENVIRONMENT.template_from_named_str(name, text).map_err(|e| error(name, &e))?;
    expressions.into_iter().try_for_each(|expression| known_filters(name, expression))?;
    Ok(own(template.undeclared_variables(true)))
}

/// Returns the same of an expression.
pub fn names_in_expression(name: &str, expression: &str) -> Result<BTreeSet<String>, TemplateError> {
    bounded(name, &[expression])?;
    let compiled = ENVIRONMENT
        .compile_expression(expression)
        .map_err(|e| TemplateError { line: 1, ..error(name, &e) })?;
    known_filters(name, expression)?;
    Ok(own(compiled.undeclared_variables(true)))
}

/// Returns the expressions and statements of a template, without comments and what `raw` keeps from being any.
fn expressions(text: &str) -> Vec<&str> {
    let (mut found, mut rest) = (Vec::new(), text);
    while let Some((open, close)) = DELIMITERS
        .iter()
        .filter_map(|(open, close)| Some((rest.find(open)?, *close)))
        .min_by_key(|(at, _)| *at)
    {
        let inside = &rest[open + 2..];
        let (inside, after) = inside.split_once(close).unwrap_or((inside, ""));
        rest = match inside.trim_matches(['-', '+', ' ']) {
            _ if close == "#}" => after,
            "raw" => after.split_once("endraw").map_or("", |(_, after)| after),
            _ => {
                found.push(inside);
                after
            }
        };
    }
    found
}

/// Fails if an expression is longer than any that a person writes: each operator may be a level of the parser's stack.
fn bounded(name: &str, expressions: &[&str]) -> Result<(), TemplateError> {
    match expressions.iter().find(|e| e.len() > MOST_EXPRESSION) {
        None => Ok(()),
        Some(_) => {
            let message = format!("an expression is longer than {MOST_EXPRESSION} characters");
            Err(TemplateError { name: name.to_owned(), line: 0, message })
        }
    }
}

/// Returns the words of an expression and the bars between them, without quoted text.
fn words(expression: &str) -> Vec<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let (mut found, mut rest) = (Vec::new(), expression);
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '\'' | '"' => rest[1..].find(first).map_or(rest.len(), |end| end + 2),
            c if is_part(c) => rest.find(|c| !is_part(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let word = &rest[..len];
        if word == "|" || word.starts_with(is_part) {
            found.push(word);
        }
        rest = &rest[len..];
    }
    found
}

/// Fails if an expression names a filter or a test that the environment does not have: minijinja looks it up only when the
/// expression is evaluated, which would be on a host.
fn known_filters(name: &str, expression: &str) -> Result<(), TemplateError> {
    let words = words(expression);
    let tried = words.windows(2).filter_map(|pair| match *pair {
        ["|", filter] => Some(format!("0|{filter}")),
        ["is", test] if test != "not" => Some(format!("0 is {test}")),
        _ => None,
    });
    for tried in tried {
        let ended = ENVIRONMENT.compile_expression_owned(tried).and_then(|e| e.eval(()));
        if let Err(why) = ended
            && matches!(why.kind(), ErrorKind::UnknownFilter | ErrorKind::UnknownTest)
        {
            return Err(TemplateError { line: 0, ..error(name, &why) });
        }
    }
    Ok(())
}

fn own(names: HashSet<String>) -> BTreeSet<String> {
    names.into_iter().filter(|name| !ENVIRONMENT.globals().any(|(global, _)| global == name)).collect()
}

/// What templates can name, converted once however many templates use it.
#[derive(Clone, Debug)]
pub struct Scope(Value);

impl Scope {
    /// Returns a scope of the fields of `values`.
    pub fn new(values: impl Serialize) -> Self {
        Self(Value::from(Serde(values)))
    }

    /// Returns this scope with one more name.
    pub fn with(&self, name: &str, value: impl Serialize) -> Self {
        let one = Value::from(Serde(std::collections::BTreeMap::from([(name, value)])));
        Self(minijinja::value::merge_maps([one, self.0.clone()]))
    }

    /// Renders `source`; `name` is what errors call it.
    pub fn render(&self, name: &str, source: &str) -> Result<String, TemplateError> {
        bounded(name, &expressions(source))?;
        ENVIRONMENT.render_named_str(name, source, self.0.clone()).map_err(|e| error(name, &e))
    }

    /// Evaluates an expression. An undefined result is an error, as in a template.
    fn evaluate(&self, name: &str, expression: &str) -> Result<Value, TemplateError> {
        bounded(name, &[expression])?;
        let compiled = ENVIRONMENT.compile_expression_owned(expression.to_owned());
        let value = compiled
            .and_then(|e| e.eval(self.0.clone()))
            .map_err(|e| TemplateError { line: 1, ..error(name, &e) })?;
        if value.is_undefined() {
            let message = format!("undefined value: `{}` is undefined", expression.trim());
            return Err(TemplateError { name: name.to_owned(), line: 1, message });
        }
        Ok(value)
    }

    /// Evaluates an expression to true or false.
    pub fn holds(&self, name: &str, expression: &str) -> Result<bool, TemplateError> {
        Ok(self.evaluate(name, expression)?.is_true())
    }

    /// Fills in a text. One that is nothing but `{{ expression }}` becomes that expression's value, whatever its type,
    /// so that numbers, lists and mappings need no detour over text.
    pub fn fill(&self, name: &str, text: &str) -> Result<serde_json::Value, TemplateError> {
        match whole(text) {
            Some(expression) => {
                let value = self.evaluate(name, expression)?;
                serde_json::to_value(&value).map_err(|_| TemplateError {
                    name: name.to_owned(),
                    line: 1,
                    message: "a value that is not data".to_owned(),
                })
            }
            None => self.render(name, text).map(serde_json::Value::String),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_undefined_value_is_an_error_with_its_place() {
        let result = render("unit.j2", "a\n{{ host.nope }}\n", json!({"host": {}}));
        let error = result.expect_err("strict");
        assert_eq!((error.name.as_str(), error.line), ("unit.j2", 2));
        assert!(error.message.contains("undefined"), "{}", error.message);
    }

    #[test]
    fn filters_and_tests_that_do_not_exist_are_found_before_a_template_comes_to_them() {
        for text in [
            "{{ x | nope }}",
            "a {{ x|default('|nope')|nope }} b",
            "{% if false %}{{ x|nope }}{% endif %}",
            "{% for a in x|nope %}{% endfor %}",
            "{% if x is nope %}{% endif %}",
        ] {
            let error = names("t", text).expect_err(text);
            assert!(error.message.starts_with("unknown ") && error.message.contains("nope"), "{error}");
        }
        for text in [
            "{{ x | shq }} {{ 'a | nope' }} {# {{ x|nope }} #}",
            "{% if x is defined and x is not none %}{{ x|join(', ') }}{% endif %}",
            "{% raw %}{{ x|nope }}{% endraw %}",
            "a | nope { b | nope } is nope",
        ] {
            assert_eq!(names("t", text).err(), None, "{text}");
        }
        assert!(
            names_in_expression("t", "x|nope").is_err() && names_in_expression("t", "x|length > 1").is_ok()
        );
    }

    #[test]
    fn an_expression_of_many_operators_is_refused_before_it_is_parsed() {
        for part in ["not ", "x|int", ".a", "[0]", "~1", "+1", " and 1", " if 1 else 1", "(", "-"] {
            for n in [300, 50_000] {
                let chain = format!("x{}", part.repeat(n));
                let _ = (names_in_expression("t", &chain), names("t", &format!("{{{{ {chain} }}}}")));
                let _ = (
                    names("t", &format!("a {{% if {chain} %}}b{{% endif %}}")),
                    render("t", &format!("a {{{{ {chain} }}}}"), ()),
                );
            }
        }
        let long = format!("not {}", "not ".repeat(MOST_EXPRESSION));
        assert!(names_in_expression("t", &long).expect_err("too long").message.contains("longer than 1000"));
        assert!(render("t", &format!("{{# {long} #}}ok"), ()).is_ok());
    }

    #[test]
    fn values_that_would_be_without_end_are_given_up() {
        let began = std::time::Instant::now();
        let nested = "{% set ns = namespace(x=[1, 2, 3]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
        let doubled =
            "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
        for start in [nested, doubled] {
            let error = render("t", &format!("{start}{{{{ ns.x }}}}"), ()).expect_err(start);
            assert!(error.message.contains("fuel"), "{start}: {error}");
        }
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "{:?}", began.elapsed());
    }

    #[test]
    fn an_error_does_not_show_values() {
        let scope = Scope::new(json!({"token": "canary-5f1c", "n": 1}));
        for source in ["{{ token + n }}", "{{ token.x.y }}", "{{ nope ~ token }}", "{{ token | nope }}"] {
            let error = scope.render("x", source).expect_err(source);
            assert!(!error.to_string().contains("canary"), "{error}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
    }

    #[test]
    fn endless_templates_end() {
        let source = "{% for a in range(10000) %}{% for b in range(10000) %}x{% endfor %}{% endfor %}";
        assert!(render("loop", source, ()).is_err());
    }

    #[test]
    fn trailing_newlines_stay_and_values_can_be_quoted() {
        let text = render("x", "{% if true %}\nv={{ v | shq }}\n{% endif %}\n", json!({"v": "a'b"}));
        assert_eq!(text.as_deref(), Ok("v='a'\\''b'\n"));
    }

    #[test]
    fn an_expression_keeps_its_type_and_a_text_around_it_makes_text() {
        let scope = Scope::new(json!({"n": 7, "list": ["a"], "map": {"k": true}})).with("item", "it");
        assert_eq!(scope.fill("x", "{{ n }}"), Ok(json!(7)));
        assert_eq!(scope.fill("x", "{{ list }}"), Ok(json!(["a"])));
        assert_eq!(scope.fill("x", "{{ map }}"), Ok(json!({"k": true})));
        assert_eq!(scope.fill("x", "{{ n }}-{{ item }}"), Ok(json!("7-it")));
        assert_eq!(scope.fill("x", "plain {}"), Ok(json!("plain {}")));
    }

    #[test]
    fn a_condition_on_something_undefined_is_a_mistake_and_not_false() {
        let scope = Scope::new(json!({"host": {"name": "h"}}));
        assert_eq!(scope.holds("w", "host.name == 'h'"), Ok(true));
        let error = scope.holds("w", "host.nope").expect_err("strict");
        assert_eq!(error.to_string(), "w:1: undefined value: `host.nope` is undefined");
        assert!(scope.holds("w", "nope.nope").is_err());
        assert!(scope.holds("w", "host.name ==").is_err());
    }
}
