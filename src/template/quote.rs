//! The one place where a value becomes part of a shell program.

/// Returns `text` as one word of POSIX shell, whatever it holds (but NUL, which no shell can carry).
pub fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::quote;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_shell_gives_back_what_was_quoted(text in "[^\\x00]{0,40}") {
            let program = format!("printf %s {}", quote(&text));
            let output = std::process::Command::new("/bin/sh").arg("-c").arg(program).output().expect("sh runs");
            prop_assert_eq!(output.stdout, text.as_bytes());
        }
    }
}
