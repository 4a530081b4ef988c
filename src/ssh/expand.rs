//! The tokens of ssh_config(5) that `ssh -G` prints as they were written: `~`, `%h`, `${NAME}`. Owns no files.

use std::path::{Path, PathBuf};

/// What tokens stand for.
pub(super) struct Expander<'a> {
    /// The user's folder: `~`, `%d`.
    pub home: &'a Path,
    /// The name that was asked for: `%n`.
    pub original: &'a str,
    /// HostName: `%h`.
    pub hostname: &'a str,
    /// HostKeyAlias: `%k`, or the name that was asked for.
    pub alias: Option<String>,
    /// `%p`.
    pub port: &'a str,
    /// The login name: `%r`.
    pub user: &'a str,
    /// ProxyJump: `%j`.
    pub jump: &'a str,
}

impl Expander<'_> {
    /// Returns the value of a token; `None` for one that is not known here, such as `%C`.
    fn token(&self, token: char) -> Option<String> {
        let local = || std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).ok();
        let machine = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        Some(match token {
            '%' => "%".to_owned(),
            'd' => self.home.display().to_string(),
            'h' => self.hostname.to_owned(),
            'i' => rustix::process::getuid().as_raw().to_string(),
            'j' => self.jump.to_owned(),
            'k' => self.alias.clone().unwrap_or_else(|| self.original.to_owned()),
            'L' => machine().split('.').next().unwrap_or_default().to_owned(),
            'l' => machine(),
            'n' => self.original.to_owned(),
            'p' => self.port.to_owned(),
            'r' => self.user.to_owned(),
            'u' => local()?,
            _ => return None,
        })
    }

    /// Expands tokens; `None` if one is not known.
    fn tokens(&self, text: &str) -> Option<String> {
        let mut chars = text.chars();
        let mut expanded = String::new();
        while let Some(c) = chars.next() {
            match c {
                '%' => expanded += &self.token(chars.next()?)?,
                c => expanded.push(c),
            }
        }
        Some(expanded)
    }

    /// Returns the path that a file's name stands for; `None` if it has a token or a variable that is not known.
    pub(super) fn path(&self, text: &str) -> Option<PathBuf> {
        let mut text = text.to_owned();
        while let Some(start) = text.find("${") {
            let length = text[start..].find('}')?;
            let value = std::env::var(&text[start + 2..start + length]).ok()?;
            text.replace_range(start..=start + length, &value);
        }
        let text = self.tokens(&text)?;
        Some(match text.strip_prefix("~/") {
            Some(rest) => self.home.join(rest),
            None => PathBuf::from(text),
        })
    }

    /// Returns the shell command that a ProxyCommand stands for. Tokens that are not known stay, so that the shell's error
    /// names them.
    pub(super) fn command(&self, text: &str) -> String {
        self.tokens(text).unwrap_or_else(|| text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stand_for_what_the_manual_says() {
        let expander = Expander {
            home: Path::new("/home/eva"),
            original: "gpu-a",
            hostname: "10.0.0.5",
            alias: None,
            port: "2200",
            user: "ops",
            jump: "gate",
        };
        let path = |text: &str| expander.path(text).map(|p| p.display().to_string());
        assert_eq!(path("~/.ssh/k").as_deref(), Some("/home/eva/.ssh/k"));
        assert_eq!(
            path("%d/%n-%h-%p-%r-%k-%%").as_deref(),
            Some("/home/eva/gpu-a-10.0.0.5-2200-ops-gpu-a-%")
        );
        assert_eq!(path("/keys/plain").as_deref(), Some("/keys/plain"));
        assert_eq!(path("${PATH}/k"), std::env::var("PATH").ok().map(|p| format!("{p}/k")));
        for unknown in ["%C", "%", "${NO_SUCH_VARIABLE_HERE}/k", "${HOME"] {
            assert_eq!(path(unknown), None, "{unknown}");
        }
        assert_eq!(expander.command("nc -X connect %h %p"), "nc -X connect 10.0.0.5 2200");
        assert_eq!(expander.command("x %C"), "x %C");
    }
}
