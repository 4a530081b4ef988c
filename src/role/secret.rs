//! Secrets in the files of roles. A template sees only a placeholder, and only a file may contain placeholders, which then
//! become secret content. So no template error and no command can contain a secret.

use crate::state::{Content, Resource, SecretText, Spec};
use base64::Engine;
use std::collections::BTreeMap;

/// Around a secret's name; control characters that no configuration file has.
const MARK: (char, char) = ('\u{2}', '\u{3}');

/// Returns the mark that becomes a secret's text, `user:password`, in base64: HTTP's basic form.
pub(super) fn basic(name: &str) -> String {
    format!("{}{name}{}", MARK.0, MARK.1)
}

/// Replaces marks by what they stand for; the error names the secret, never its text.
fn fill(text: &str, secrets: &BTreeMap<String, SecretText>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(MARK.0) {
        let (name, behind) = after.split_once(MARK.1).ok_or("incomplete secret placeholder")?;
        let secret = secrets.get(name).ok_or_else(|| format!("secret `{name}` was not read"))?;
        if !secret.expose().contains(':') {
            return Err(format!("secret `{name}` is not of the form user:password"));
        }
        out.push_str(before);
        out.push_str(&base64::engine::general_purpose::STANDARD.encode(secret.expose()));
        rest = behind;
    }
    Ok(out + rest)
}

/// Makes a file with marks a secret one; nothing else may have any.
pub(super) fn reveal(
    mut resource: Resource,
    secrets: &BTreeMap<String, SecretText>,
) -> Result<Resource, String> {
    if let Spec::File(file) = &mut resource.spec
        && let Content::Text(text) = &file.content
        && text.contains(MARK.0)
    {
        file.content = Content::Secret(SecretText::new(fill(text, secrets)?));
        return Ok(resource);
    }
    match serde_json::to_string(&resource.spec).unwrap_or_default().contains("\\u0002") {
        true => Err("secrets are allowed only in the content of files".to_owned()),
        false => Ok(resource),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Command, File};

    fn file(text: String) -> Resource {
        let (path, owner) = ("/etc/x".to_owned(), "root:root".to_owned());
        let content = Content::Text(text);
        Resource::new("test", Spec::File(File { path, content, mode: 0o600, owner, validate: None }))
    }

    #[test]
    fn a_mark_becomes_a_secret_content_and_is_refused_elsewhere() {
        let secrets = BTreeMap::from([("hub".to_owned(), SecretText::new("me:canary"))]);
        let made = reveal(file(format!("auth = \"{}\"\n", basic("hub"))), &secrets).expect("made");
        let Spec::File(File { content: Content::Secret(secret), .. }) = &made.spec else {
            panic!("{made:?}")
        };
        assert_eq!(secret.expose(), "auth = \"bWU6Y2FuYXJ5\"\n");
        assert!(!format!("{made:?}").contains("bWU6"), "it is not shown by accident");
        let plain = file("no secret\n".to_owned());
        assert_eq!(reveal(plain.clone(), &secrets), Ok(plain));
        assert!(reveal(file(basic("other")), &secrets).is_err_and(|e| e.contains("`other` was not read")));
        let shapeless = BTreeMap::from([("hub".to_owned(), SecretText::new("canary"))]);
        assert!(reveal(file(basic("hub")), &shapeless).is_err_and(|e| !e.contains("canary")));
        let (name, guard) = ("x".to_owned(), "true".to_owned());
        let command = Command {
            name,
            guard,
            apply: format!("login {}", basic("hub")),
            undo: None,
            wanted: "x".to_owned(),
            when_changed: Vec::new(),
        };
        let refused = reveal(Resource::new("test", Spec::Command(command)), &secrets);
        assert!(refused.is_err_and(|e| e.contains("only in the content of files")));
    }
}
