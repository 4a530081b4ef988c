//! known_hosts: who a host may claim to be. Owns matching (names, patterns, negation, hashes, ports, `@cert-authority`,
//! `@revoked`) and writing. russh's own checker knows no patterns, markers or tabs, and stops at the first bad line.

use russh::keys::ssh_key::known_hosts::{Entry, HostPatterns, Marker};
use russh::keys::{Algorithm, Certificate, HashAlg, PublicKey};
use std::path::{Path, PathBuf};

/// One usable line of a known_hosts file.
struct Known {
    file: PathBuf,
    line: usize,
    entry: Entry,
}

/// The entries of several files, in order.
#[derive(Default)]
pub struct KnownHosts {
    entries: Vec<Known>,
    /// Lines that could not be read, as `file:line`.
    pub bad_lines: Vec<String>,
}

/// What the files say of a presented key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is known.
    Trusted,
    /// Nothing is known of the host.
    Unknown,
    /// Another key is known; where, and its fingerprint.
    Changed {
        /// `file:line`.
        place: String,
        /// The known key's fingerprint.
        fingerprint: String,
    },
    /// The key is revoked; where.
    Revoked(String),
    /// The host certificate does not hold; why.
    BadCertificate(String),
}

/// Returns the name under which a host is looked up: `host`, or `[host]:port` off the standard port.
pub fn lookup_name(host: &str, port: u16) -> String {
    if port == 22 { host.to_owned() } else { format!("[{host}]:{port}") }
}

impl KnownHosts {
    /// Reads files in order; a missing file is empty.
    pub fn read(files: &[PathBuf]) -> Self {
        let mut known = Self::default();
        for file in files {
            if let Ok(text) = std::fs::read_to_string(file) {
                known.add(file, &text);
            }
        }
        known
    }

    fn add(&mut self, file: &Path, text: &str) {
        for (index, line) in text.lines().enumerate() {
            // The parser splits at single spaces; OpenSSH takes any run of blanks.
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.parse::<Entry>() {
                Ok(entry) => self.entries.push(Known { file: file.to_owned(), line: index + 1, entry }),
                Err(_) => self.bad_lines.push(format!("{}:{}", file.display(), index + 1)),
            }
        }
    }

    fn matching<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Known> + 'a {
        self.entries.iter().filter(move |k| matches_host(k.entry.host_patterns(), name))
    }

    /// Returns the key types known for a host, to be offered first: a host known by RSA only would else look unknown.
    pub fn algorithms(&self, host: &str, port: u16) -> Vec<Algorithm> {
        let name = lookup_name(host, port);
        let mut found = Vec::new();
        for known in self.matching(&name).filter(|k| k.entry.marker().is_none()) {
            let algorithm = known.entry.public_key().algorithm();
            if !found.contains(&algorithm) {
                found.push(algorithm);
            }
        }
        found
    }

    /// Returns whether a certificate authority vouches for the host.
    pub fn has_authority(&self, host: &str, port: u16) -> bool {
        let name = lookup_name(host, port);
        self.matching(&name).any(|k| k.entry.marker() == Some(&Marker::CertAuthority))
    }

    /// Judges a plain host key.
    pub fn judge(&self, host: &str, port: u16, key: &PublicKey) -> Verdict {
        let name = lookup_name(host, port);
        let place = |k: &Known| format!("{}:{}", k.file.display(), k.line);
        let same = |k: &&Known| k.entry.public_key().key_data() == key.key_data();
        if let Some(revoked) =
            self.matching(&name).filter(same).find(|k| k.entry.marker() == Some(&Marker::Revoked))
        {
            return Verdict::Revoked(place(revoked));
        }
        let plain: Vec<&Known> = self.matching(&name).filter(|k| k.entry.marker().is_none()).collect();
        if plain.iter().any(same) {
            return Verdict::Trusted;
        }
        match plain.first() {
            Some(other) => Verdict::Changed {
                place: place(other),
                fingerprint: other.entry.public_key().fingerprint(HashAlg::Sha256).to_string(),
            },
            None => Verdict::Unknown,
        }
    }

    /// Judges a host certificate at a time in seconds since 1970.
    pub fn judge_certificate(&self, host: &str, port: u16, certificate: &Certificate, now_s: u64) -> Verdict {
        let name = lookup_name(host, port);
        let signer = certificate.signature_key();
        if let Some(revoked) = self
            .matching(&name)
            .find(|k| k.entry.marker() == Some(&Marker::Revoked) && k.entry.public_key().key_data() == signer)
        {
            return Verdict::Revoked(format!("{}:{}", revoked.file.display(), revoked.line));
        }
        let authorities: Vec<_> = self
            .matching(&name)
            .filter(|k| k.entry.marker() == Some(&Marker::CertAuthority))
            .map(|k| k.entry.public_key().fingerprint(HashAlg::Sha256))
            .collect();
        if authorities.is_empty() {
            return Verdict::Unknown;
        }
        if !certificate.cert_type().is_host() {
            return Verdict::BadCertificate("it is a user certificate, not a host certificate".to_owned());
        }
        let principals = certificate.valid_principals();
        if !principals.is_empty() && !principals.iter().any(|p| p == host || p == &name) {
            return Verdict::BadCertificate(format!("it is for {}, not for {host}", principals.join(", ")));
        }
        if now_s < certificate.valid_after() || now_s >= certificate.valid_before() {
            return Verdict::BadCertificate("it is expired or not yet valid".to_owned());
        }
        match certificate.validate_at(now_s, &authorities) {
            Ok(()) => Verdict::Trusted,
            Err(_) => Verdict::BadCertificate("no known authority signed it".to_owned()),
        }
    }
}

/// Returns whether a name is covered by an entry's patterns.
fn matches_host(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::HashedName { salt, hash } => hashed(salt, name) == *hash,
        HostPatterns::Patterns(patterns) => {
            let mut hit = false;
            for pattern in patterns {
                match pattern.strip_prefix('!') {
                    Some(negated) if wildcard(negated, name) => return false,
                    Some(_) => {}
                    None => hit |= wildcard(pattern, name),
                }
            }
            hit
        }
    }
}

/// Returns OpenSSH's hashed form of a name: HMAC-SHA1 with the salt as key (`ssh-keygen -H`).
fn hashed(salt: &[u8], name: &str) -> [u8; 20] {
    use hmac::{KeyInit, Mac};
    match hmac::Hmac::<sha1::Sha1>::new_from_slice(salt) {
        Ok(mut mac) => {
            mac.update(name.as_bytes());
            mac.finalize().into_bytes().into()
        }
        Err(_) => [0; 20],
    }
}

/// Matches `*` and `?`, ignoring case, as OpenSSH does.
fn wildcard(pattern: &str, name: &str) -> bool {
    fn go(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.first(), name.first()) {
            (None, None) => true,
            (Some(b'*'), _) => go(&pattern[1..], name) || (!name.is_empty() && go(pattern, &name[1..])),
            (Some(b'?'), Some(_)) => go(&pattern[1..], &name[1..]),
            (Some(p), Some(n)) if p.eq_ignore_ascii_case(n) => go(&pattern[1..], &name[1..]),
            _ => false,
        }
    }
    go(pattern.as_bytes(), name.as_bytes())
}

/// Writes keys into a known_hosts file: appends what is new, replaces a host's plain entries where `replace` says so,
/// keeps comments and everything else, and swaps the file in as a whole.
pub fn write(file: &Path, keys: &[(String, PublicKey)], replace: bool) -> std::io::Result<()> {
    let old = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let mut lines: Vec<String> = old.lines().map(str::to_owned).collect();
    for (name, key) in keys {
        let is_of_host = |line: &String| {
            line.split_whitespace().collect::<Vec<_>>().join(" ").parse::<Entry>().is_ok_and(|e| {
                e.marker().is_none()
                    && matches!(e.host_patterns(), HostPatterns::Patterns(p) if p.as_slice() == std::slice::from_ref(name))
            })
        };
        if replace {
            lines.retain(|line| !is_of_host(line));
        }
        let text = key.to_openssh().map_err(std::io::Error::other)?;
        let bare = text.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        let line = format!("{name} {bare}");
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut temporary, (lines.join("\n") + "\n").as_bytes())?;
    temporary.as_file().sync_all()?;
    temporary.persist(file).map_err(|e| e.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn key(text: &str) -> PublicKey {
        PublicKey::from_openssh(text).expect("a key")
    }

    fn known(text: &str) -> KnownHosts {
        let mut known = KnownHosts::default();
        known.add(Path::new("kh"), text);
        known
    }

    #[test]
    fn names_ports_patterns_negation_and_tabs() {
        let k = known(&format!("# note\n\nh1,10.0.0.1\t{A}\n[h2]:2222  {A}\n*.lab,!bad.lab {A}\nnonsense\n"));
        assert_eq!(k.judge("h1", 22, &key(A)), Verdict::Trusted);
        assert_eq!(k.judge("10.0.0.1", 22, &key(A)), Verdict::Trusted);
        assert_eq!(k.judge("h2", 2222, &key(A)), Verdict::Trusted);
        assert_eq!(k.judge("h2", 22, &key(A)), Verdict::Unknown);
        assert_eq!(k.judge("X.LAB", 22, &key(A)), Verdict::Trusted);
        assert_eq!(k.judge("bad.lab", 22, &key(A)), Verdict::Unknown);
        assert_eq!(k.bad_lines, ["kh:6"]);
        assert!(matches!(k.judge("h1", 22, &key(B)), Verdict::Changed { place, .. } if place == "kh:3"));
    }

    #[test]
    fn a_revoked_key_is_refused_even_where_it_is_known() {
        let k = known(&format!("h1 {A}\n@revoked * {A}\n"));
        assert_eq!(k.judge("h1", 22, &key(A)), Verdict::Revoked("kh:2".to_owned()));
    }

    #[test]
    fn hashed_names_are_found() {
        // Made with `ssh-keygen -H` for the name `h1`.
        use base64::Engine;
        let salt = b"12345678901234567890";
        let engine = base64::engine::general_purpose::STANDARD;
        let line = format!("|1|{}|{} {A}", engine.encode(salt), engine.encode(hashed(salt, "h1")));
        assert_eq!(known(&line).judge("h1", 22, &key(A)), Verdict::Trusted);
        assert_eq!(known(&line).judge("h2", 22, &key(A)), Verdict::Unknown);
    }

    #[test]
    fn writing_appends_once_replaces_when_told_and_keeps_the_rest() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("known_hosts");
        std::fs::write(&file, format!("# mine\n*.x {A}\n")).expect("written");
        write(&file, &[("h1".to_owned(), key(A))], false).expect("written");
        write(&file, &[("h1".to_owned(), key(A))], false).expect("written");
        let read = || std::fs::read_to_string(&file).expect("readable");
        assert_eq!(read(), format!("# mine\n*.x {A}\nh1 {A}\n"));
        write(&file, &[("h1".to_owned(), key(B))], true).expect("written");
        assert_eq!(read(), format!("# mine\n*.x {A}\nh1 {B}\n"));
    }
}
