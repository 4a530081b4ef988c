//! known_hosts: verification of host keys. Owns matching (names, patterns, negation, hashes, ports, `@cert-authority`,
//! `@revoked`) and writing. russh's own checker does not support patterns, markers or tabs, and stops at the first bad line.

use crate::state::read_regular;
use russh::keys::ssh_key::known_hosts::{Entry, HostPatterns, Marker};
use russh::keys::{Algorithm, Certificate, HashAlg, PublicKey};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The largest known_hosts file that is read, in bytes: 10,000 hosts with three keys each have 8 MB.
const MOST_FILE: u64 = 64 << 20;
/// Lines that could not be read and are named.
const MOST_BAD_LINES: usize = 20;

/// One usable line of a known_hosts file.
#[derive(Debug)]
struct Known {
    file: PathBuf,
    line: usize,
    entry: Entry,
}

impl Known {
    fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }
}

/// The entries of several files, in order.
#[derive(Default, Debug)]
pub struct KnownHosts {
    entries: Vec<Arc<Known>>,
    /// Lines and files that could not be read, each in words with its place.
    pub bad_lines: Vec<String>,
}

/// The verdict of the files on a presented key.
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
            match read_regular(file, MOST_FILE) {
                // One comment in Latin-1 must not hide the rest.
                Ok(bytes) => known.add(file, &String::from_utf8_lossy(&bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => known.bad_lines.push(format!("{}: {error}", file.display())),
            }
        }
        known
    }

    /// Adds the entries of a file's text.
    pub fn add(&mut self, file: &Path, text: &str) {
        for (index, line) in text.lines().enumerate() {
            let line = single_spaced(line);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.parse::<Entry>() {
                Ok(entry) => {
                    self.entries.push(Arc::new(Known { file: file.to_owned(), line: index + 1, entry }));
                }
                Err(_) if self.bad_lines.len() >= MOST_BAD_LINES => {}
                Err(_) => {
                    self.bad_lines.push(format!(
                        "{}:{} is not a known_hosts line",
                        file.display(),
                        index + 1
                    ));
                }
            }
        }
    }

    /// Returns what is known of one host. One pass, so that hashed names are computed once a connection.
    pub fn lookup(&self, host: &str, port: u16) -> HostKeys {
        let matching = |name: &str| -> Vec<Arc<Known>> {
            self.entries.iter().filter(|k| matches_host(k.entry.host_patterns(), name)).cloned().collect()
        };
        let name = lookup_name(host, port);
        let entries = matching(&name);
        let portless = if name == host { Vec::new() } else { matching(host) };
        HostKeys { host: host.to_owned(), name, entries, portless }
    }
}

/// What is known of one host.
#[derive(Debug)]
pub struct HostKeys {
    host: String,
    name: String,
    entries: Vec<Arc<Known>>,
    /// Entries for the bare name of a host off the standard port. Like OpenSSH: they can vouch, and revoke; that they
    /// hold another key means nothing, since the port may be another machine behind one address.
    portless: Vec<Arc<Known>>,
}

impl HostKeys {
    /// Returns what is known of the host from two sets of files, these first.
    pub(super) fn and(mut self, more: HostKeys) -> Self {
        self.entries.extend(more.entries);
        self.portless.extend(more.portless);
        self
    }

    fn all(&self) -> impl Iterator<Item = &Known> {
        self.entries.iter().chain(&self.portless).map(Arc::as_ref)
    }

    fn plain(&self) -> impl Iterator<Item = &Known> {
        self.entries.iter().map(Arc::as_ref).filter(|k| k.entry.marker().is_none())
    }

    fn revoked(&self, key: &russh::keys::ssh_key::public::KeyData) -> Option<Verdict> {
        self.all()
            .find(|k| k.entry.marker() == Some(&Marker::Revoked) && k.entry.public_key().key_data() == key)
            .map(|k| Verdict::Revoked(k.place()))
    }

    fn authorities(&self) -> impl Iterator<Item = &Known> {
        self.all().filter(|k| k.entry.marker() == Some(&Marker::CertAuthority))
    }

    /// Returns the key types known for the host, to be asked for first.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        self.all().filter(|k| k.entry.marker().is_none()).map(|k| k.entry.public_key().algorithm()).collect()
    }

    /// Returns whether a certificate authority vouches for the host.
    pub fn has_authority(&self) -> bool {
        self.authorities().next().is_some()
    }

    /// Judges a plain host key.
    pub fn judge(&self, key: &PublicKey) -> Verdict {
        if let Some(revoked) = self.revoked(key.key_data()) {
            return revoked;
        }
        let vouched = self.all().filter(|k| k.entry.marker().is_none());
        if vouched.into_iter().any(|k| k.entry.public_key().key_data() == key.key_data()) {
            return Verdict::Trusted;
        }
        // Of several known keys, the one of the same type is the most useful to show.
        let same_type = self.plain().find(|k| k.entry.public_key().algorithm() == key.algorithm());
        match same_type.or_else(|| self.plain().next()) {
            Some(other) => Verdict::Changed {
                place: other.place(),
                fingerprint: other.entry.public_key().fingerprint(HashAlg::Sha256).to_string(),
            },
            None => Verdict::Unknown,
        }
    }

    /// Judges a host certificate at a time in seconds since 1970. One that no known authority signed is worth as much as
    /// the plain key in it.
    pub fn judge_certificate(&self, certificate: &Certificate, now_s: u64) -> Verdict {
        let signer = certificate.signature_key();
        if let Some(revoked) = self.revoked(signer).or_else(|| self.revoked(certificate.public_key())) {
            return revoked;
        }
        if !self.authorities().any(|k| k.entry.public_key().key_data() == signer) {
            return self.judge(&PublicKey::new(certificate.public_key().clone(), ""));
        }
        let bad = |why: String| Verdict::BadCertificate(why);
        if !certificate.cert_type().is_host() {
            return bad("it is a user certificate, not a host certificate".to_owned());
        }
        let principals = certificate.valid_principals();
        // ssh(1): a host certificate without principals is good for any host of its authority.
        let named = |p: &String| wildcard(p, &self.host) || wildcard(p, &self.name);
        if !principals.is_empty() && !principals.iter().any(named) {
            return bad(format!("it is for {}, not for {}", principals.join(", "), self.host));
        }
        if now_s < certificate.valid_after() {
            return bad(format!("it is valid only from {}", day(certificate.valid_after())));
        }
        if now_s >= certificate.valid_before() {
            return bad(format!("it expired {}", day(certificate.valid_before())));
        }
        if let Some((option, _)) = certificate.critical_options().iter().next() {
            return bad(format!("unsupported critical option {option}"));
        }
        let authorities: Vec<_> =
            self.authorities().map(|k| k.entry.public_key().fingerprint(HashAlg::Sha256)).collect();
        match certificate.validate_at(now_s, &authorities) {
            Ok(()) => Verdict::Trusted,
            Err(_) => bad("its signature is wrong".to_owned()),
        }
    }
}

/// Returns a time in seconds since 1970 as a person reads it.
pub(super) fn day(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|s| jiff::Timestamp::from_second(s).ok())
        .map_or_else(|| format!("{seconds} s after 1970"), |t| t.to_string())
}

/// The parser of entries splits at single spaces; OpenSSH takes any run of blanks.
fn single_spaced(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns whether a name is covered by an entry's patterns. Names match whatever their case.
fn matches_host(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::HashedName { salt, hash } => hashed(salt, &name.to_ascii_lowercase()) == Some(*hash),
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
fn hashed(salt: &[u8], name: &str) -> Option<[u8; 20]> {
    use hmac::{KeyInit, Mac};
    let mut mac = hmac::Hmac::<sha1::Sha1>::new_from_slice(salt).ok()?;
    mac.update(name.as_bytes());
    Some(mac.finalize().into_bytes().into())
}

/// Matches `*` and `?`, ignoring case, as OpenSSH does; in time proportional to both lengths.
fn wildcard(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where to go back to: after the last `*`, with one more byte taken by it.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, n));
            p += 1;
        } else if pattern.get(p).is_some_and(|c| *c == b'?' || c.eq_ignore_ascii_case(&name[n])) {
            p += 1;
            n += 1;
        } else if let Some((after, taken)) = star {
            star = Some((after, taken + 1));
            p = after;
            n = taken + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// Writes keys, each under the name it is looked up by, into a known_hosts file: appends what is not known by that name
/// yet and, where `replace` says so, takes the name away from its other plain keys. Keeps comments, patterns and
/// everything else, and swaps the file in as a whole.
pub fn write(file: &Path, keys: &[(String, PublicKey)], replace: bool) -> std::io::Result<()> {
    // A link stays one.
    let file = &std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    // Whatever else the inventory may name (`/dev/null`) is not replaced by a file.
    let old = match read_regular(file, MOST_FILE) {
        Ok(bytes) => String::from_utf8(bytes).map_err(std::io::Error::other)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let mut lines: Vec<String> = old.lines().map(str::to_owned).collect();
    for (name, key) in keys {
        if replace {
            lines = lines.into_iter().filter_map(|line| without(line, name, key)).collect();
        }
        let known = lines.iter().filter_map(|line| single_spaced(line).parse::<Entry>().ok()).any(|entry| {
            entry.marker().is_none()
                && entry.public_key().key_data() == key.key_data()
                && matches_host(entry.host_patterns(), name)
        });
        if !known {
            let text = key.to_openssh().map_err(std::io::Error::other)?;
            let bare = text.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
            lines.push(format!("{name} {bare}"));
        }
    }
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    // Host keys are public, and the file is made to be committed; an existing file keeps its mode.
    let mode = std::fs::metadata(file)
        .map_or_else(|_| std::os::unix::fs::PermissionsExt::from_mode(0o644), |m| m.permissions());
    temporary.as_file().set_permissions(mode)?;
    std::io::Write::write_all(&mut temporary, (lines.join("\n") + "\n").as_bytes())?;
    temporary.as_file().sync_all()?;
    temporary.persist(file).map_err(|e| e.error)?;
    Ok(())
}

/// Returns a line without `name`, where it gives that name to another plain key; `None` if nothing is left of it.
/// A name that only a wildcard covers stays: other hosts may live by it.
fn without(line: String, name: &str, key: &PublicKey) -> Option<String> {
    let spaced = single_spaced(&line);
    let Ok(entry) = spaced.parse::<Entry>() else { return Some(line) };
    if spaced.starts_with(['#', '@']) || entry.public_key().key_data() == key.key_data() {
        return Some(line);
    }
    match entry.host_patterns() {
        HostPatterns::HashedName { .. } => (!matches_host(entry.host_patterns(), name)).then_some(line),
        HostPatterns::Patterns(names) => {
            let left: Vec<&str> =
                names.iter().map(String::as_str).filter(|n| !n.eq_ignore_ascii_case(name)).collect();
            if left.len() == names.len() {
                return Some(line);
            }
            let (_, rest) = spaced.split_once(' ')?;
            (!left.is_empty()).then(|| format!("{} {rest}", left.join(",")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const EC: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBD6yxuUTqCaaxFoZwAjPAgntmQRAMCtV2jqCCRMoQaNlQhRYjpum7b/GH1S+Yfvtwb7JoxsxO3EQirsFi8wIUQk=";

    fn key(text: &str) -> PublicKey {
        PublicKey::from_openssh(text).expect("a key")
    }

    fn known(text: &str) -> KnownHosts {
        let mut known = KnownHosts::default();
        known.add(Path::new("kh"), text);
        known
    }

    fn judge(known: &KnownHosts, host: &str, port: u16, text: &str) -> Verdict {
        known.lookup(host, port).judge(&key(text))
    }

    #[test]
    fn names_ports_patterns_negation_and_tabs() {
        let k = known(&format!("# note\n\nh1,10.0.0.1\t{A}\n[h2]:2222  {A}\n*.lab,!bad.lab {A}\nnonsense\n"));
        assert_eq!(judge(&k, "h1", 22, A), Verdict::Trusted);
        assert_eq!(judge(&k, "10.0.0.1", 22, A), Verdict::Trusted);
        assert_eq!(judge(&k, "h2", 2222, A), Verdict::Trusted);
        assert_eq!(judge(&k, "h2", 22, A), Verdict::Unknown);
        assert_eq!(judge(&k, "X.LAB", 22, A), Verdict::Trusted);
        assert_eq!(judge(&k, "bad.lab", 22, A), Verdict::Unknown);
        assert_eq!(k.bad_lines, ["kh:6 is not a known_hosts line"]);
        assert!(matches!(judge(&k, "h1", 22, B), Verdict::Changed { place, .. } if place == "kh:3"));
    }

    #[test]
    fn an_entry_without_port_vouches_for_any_port_but_accuses_none() {
        let k = known(&format!("h1 {A}\n"));
        assert_eq!(judge(&k, "h1", 2222, A), Verdict::Trusted);
        assert_eq!(judge(&k, "h1", 2222, B), Verdict::Unknown);
    }

    #[test]
    fn a_bad_line_or_a_foreign_key_type_hides_nothing_after_it() {
        let k = known(&format!("h1 ssh-ed25519 !!!\nh1 ssh-unheard-of AAAA\n1024 35 99\nh1 {A} a comment\n"));
        assert_eq!(judge(&k, "h1", 22, A), Verdict::Trusted);
        assert!(k.bad_lines[0].starts_with("kh:1 "), "{:?}", k.bad_lines);
    }

    #[test]
    fn a_file_with_odd_bytes_is_read_and_an_unreadable_one_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("kh");
        let mut bytes = b"# K\xfcche\n".to_vec();
        bytes.extend_from_slice(format!("h1 {A}\n").as_bytes());
        std::fs::write(&file, bytes).expect("written");
        let k = KnownHosts::read(&[file, dir.path().to_owned(), dir.path().join("absent")]);
        assert_eq!(judge(&k, "h1", 22, A), Verdict::Trusted);
        assert_eq!(k.bad_lines.len(), 1, "{:?}", k.bad_lines);
    }

    #[test]
    fn the_known_key_of_the_same_type_is_shown() {
        let k = known(&format!("h1 {EC}\nh1 {A}\n"));
        assert!(matches!(judge(&k, "h1", 22, B), Verdict::Changed { place, .. } if place == "kh:2"));
        assert_eq!(k.lookup("h1", 22).algorithms().len(), 2);
    }

    #[test]
    fn a_revoked_key_is_refused_even_where_it_is_known() {
        let k = known(&format!("h1 {A}\n@revoked\t* {A}\n"));
        assert_eq!(judge(&k, "h1", 22, A), Verdict::Revoked("kh:2".to_owned()));
        assert_eq!(judge(&k, "h1", 2222, A), Verdict::Revoked("kh:2".to_owned()));
    }

    #[test]
    fn hashed_names_are_found_as_openssh_wrote_them() {
        // `ssh-keygen -H` over lines for `h1` and `[h2]:2222`.
        let text = HASHED.replace("KEY", A);
        let k = known(&text);
        assert_eq!(judge(&k, "h1", 22, A), Verdict::Trusted);
        assert_eq!(judge(&k, "H1", 22, A), Verdict::Trusted);
        assert_eq!(judge(&k, "h2", 2222, A), Verdict::Trusted);
        assert_eq!(judge(&k, "h2", 22, A), Verdict::Unknown);
    }

    const HASHED: &str = "|1|F9bTPwHUmQV08fdKi+oDg+r2z/Y=|ZqMZp/nvtxJ28ukQnm5DLoCuS8Y= KEY\n|1|nXFEDAXL7CjTkzr20rKmiH5ysTk=|xihZSUvNj6JZRowe2wPemF+8qHI= KEY\n";

    #[test]
    fn wildcards_are_quick_even_when_they_nearly_match() {
        assert!(wildcard("10.20.?.*", "10.20.1.77"));
        assert!(!wildcard("10.20.?.*", "10.20.11.7"));
        assert!(wildcard("*", ""));
        assert!(!wildcard(&"*a".repeat(40), &"a".repeat(39)));
        assert!(!wildcard(&("*a".repeat(40) + "b"), &"a".repeat(4_000)));
    }

    #[test]
    fn writing_appends_once_replaces_when_told_and_keeps_the_rest() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("known_hosts");
        std::fs::write(&file, format!("# mine\n*.x {A}\nh1,h2 {B} both\n")).expect("written");
        let read = || std::fs::read_to_string(&file).expect("readable");
        write(&file, &[("h3".to_owned(), key(A)), ("h2".to_owned(), key(B))], false).expect("written");
        write(&file, &[("h3".to_owned(), key(A)), ("a.x".to_owned(), key(A))], false).expect("written");
        assert_eq!(read(), format!("# mine\n*.x {A}\nh1,h2 {B} both\nh3 {A}\n"));
        // Without `replace` the old key stays, so the change stays visible.
        write(&file, &[("h2".to_owned(), key(A))], true).expect("written");
        assert_eq!(read(), format!("# mine\n*.x {A}\nh1 {B} both\nh3 {A}\nh2 {A}\n"));
        write(&file, &[("h3".to_owned(), key(B))], true).expect("written");
        assert_eq!(read(), format!("# mine\n*.x {A}\nh1 {B} both\nh2 {A}\nh3 {B}\n"));
    }

    #[test]
    fn replacing_takes_hashed_names_away_too() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("known_hosts");
        std::fs::write(&file, HASHED.replace("KEY", A)).expect("written");
        write(&file, &[("h1".to_owned(), key(B))], true).expect("written");
        let k = KnownHosts::read(std::slice::from_ref(&file));
        assert!(matches!(judge(&k, "h1", 22, A), Verdict::Changed { .. }));
        assert_eq!(judge(&k, "h1", 22, B), Verdict::Trusted);
        assert_eq!(judge(&k, "h2", 2222, A), Verdict::Trusted);
    }
}
