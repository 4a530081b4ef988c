//! Words of a line, as shells, Ansible's INI files and OpenSSH's configuration separate them.

/// Splits a line at blanks; quotes keep blanks, `\` keeps a quote, a blank or itself, `#` outside quotes starts a comment.
/// `None` if a quote is not closed.
pub(super) fn words(line: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', Some('"') | None)
                if chars.peek().is_some_and(|next| matches!(next, '"' | '\'' | '\\' | ' ')) =>
            {
                word.get_or_insert_default().extend(chars.next());
            }
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('#', None) => break,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// Returns whether the name of a variable, a key or a column is that of a secret.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let file = name.ends_with("_file") || name.ends_with("_path") || name.ends_with("keypath");
    let words = ["pass", "secret", "token", "vault", "credential", "private_key", "api_key", "apikey"];
    !file && words.iter().any(|word| name.contains(word))
}

/// Returns whether a text has an expression that its tool would evaluate: Jinja's `{{` and `{%`.
pub(super) fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%")
}

/// Why a template is left out.
pub(super) const TEMPLATE: &str = "it is a template, and templates are not evaluated; set its value by hand";
/// Why something encrypted is left out.
pub(super) const VAULT: &str = "it is encrypted; name where the secret comes from under `secrets`";
/// Why a value with a tag is left out.
pub(super) const TAGGED: &str = "its YAML tag is not followed; set its value by hand";
/// Why a secret is left out, where no field takes it.
pub(super) const SECRET: &str = "secrets are not copied; name where it comes from under `secrets`";
/// Why a login password is left out.
pub(super) const LOGIN_PASSWORD: &str =
    "secrets are not copied; use a key, or set ssh.password: {secret: NAME} and NAME under `secrets`";
/// Why a sudo password is left out.
pub(super) const SUDO_PASSWORD: &str =
    "secrets are not copied; set ssh.sudoPassword: {secret: NAME} and NAME under `secrets`";
/// Why a key's passphrase is left out.
pub(super) const PASSPHRASE: &str =
    "secrets are not copied; set ssh.passphrase: {secret: NAME} and NAME under `secrets`";
/// Why something that concerns another tool is left out.
pub(super) const UNUSED: &str = "provision does not use it";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quotes_backslashes_and_comments_are_a_shells() {
        let line = r#"h1 a='x y' b="-o P=\"q r\"" CORP\eva c= # d=1"#;
        let expected = ["h1", "a=x y", "b=-o P=\"q r\"", "CORP\\eva", "c="];
        assert_eq!(words(line).as_deref(), Some(&expected.map(str::to_owned)[..]));
        assert_eq!(words("a 'b"), None);
        assert_eq!(words("''"), Some(vec![String::new()]));
    }

    #[test]
    fn names_of_secrets_are_told_from_names_of_files() {
        for secret in
            ["ansible_password", "ansible_ssh_pass", "hf_token", "vault_x", "bmc_password", "SECRET"]
        {
            assert!(is_secret(secret), "{secret}");
        }
        for plain in ["ansible_ssh_private_key_file", "keyPath", "ansible_host", "ip"] {
            assert!(!is_secret(plain), "{plain}");
        }
    }

    proptest! {
        #[test]
        fn words_without_quotes_are_those_between_blanks(line in "[a-z=,. ]{0,40}") {
            let expected: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            prop_assert_eq!(words(&line), Some(expected));
        }
    }
}
