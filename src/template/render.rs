//! The one minijinja environment: strict, bounded, no escaping (machines read what it makes).

use minijinja::{Environment, UndefinedBehavior, syntax::SyntaxConfig};
use serde::Serialize;

/// Instructions a template may take; far more than any of ours, far less than a loop that never ends.
const FUEL: u64 = 1_000_000;

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

fn environment<'a>() -> Environment<'a> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_fuel(Some(FUEL));
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
}

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
    environment()
        .render_named_str(name, source, minijinja::value::Serde(&context))
        .map_err(|e| error(name, &e))
}

/// Evaluates an expression to true or false.
pub fn holds(name: &str, expression: &str, context: impl Serialize) -> Result<bool, TemplateError> {
    let env = environment();
    let compiled = env.compile_expression(expression).map_err(|e| error(name, &e))?;
    compiled.eval(minijinja::value::Serde(&context)).map(|v| v.is_true()).map_err(|e| error(name, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_undefined_value_is_an_error_with_its_place() {
        let result = render("unit.j2", "a\n{{ host.nope }}\n", serde_json::json!({"host": {}}));
        let error = result.expect_err("strict");
        assert_eq!((error.name.as_str(), error.line), ("unit.j2", 2));
        assert!(error.message.contains("undefined"), "{}", error.message);
    }

    #[test]
    fn endless_templates_end() {
        let source = "{% for a in range(10000) %}{% for b in range(10000) %}x{% endfor %}{% endfor %}";
        assert!(render("loop", source, ()).is_err());
    }

    #[test]
    fn trailing_newlines_stay_and_values_can_be_quoted() {
        let text =
            render("x", "{% if true %}\nv={{ v | shq }}\n{% endif %}\n", serde_json::json!({"v": "a'b"}));
        assert_eq!(text.as_deref(), Ok("v='a'\\''b'\n"));
        assert_eq!(holds("w", "v == 'x'", serde_json::json!({"v": "x"})), Ok(true));
    }
}
