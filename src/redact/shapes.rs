//! Secrets recognised by their shape anywhere in a text: logins in URLs, tokens and keys.

use super::text::{Text, pattern};
use regex::bytes::Regex;
use std::ops::Range;
use std::sync::OnceLock;

/// A pattern and what its match has to pass besides; the secret is its first group, or all of it.
struct Shape {
    pattern: &'static str,
    is: fn(&[u8]) -> bool,
}

const fn any(pattern: &'static str) -> Shape {
    Shape { pattern, is: |_| true }
}

/// Tokens of gitleaks' rules are here again where those want an exact length: logs cut lines, and examples are short.
const SHAPES: [Shape; 36] = [
    any(r"\b(?:hf|api_org)_[A-Za-z0-9]{8,}"),
    any(r"\bgh[a-z]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}"),
    any(r"\bnvapi-[\w-]{6,}"),
    any(r"\b(?:sk|pk|rk)[-_][A-Za-z0-9_-]*[A-Za-z0-9]{16,}[\w-]*"),
    any(r"\bxox[a-z]-[\w.-]{6,}|\bxapp-[\w-]{6,}"),
    any(r"\b(?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA|AGPA|ANPA|ANVA|APKA)[A-Z0-9]{12,}"),
    any(r"\bgl[a-z]{2,6}-[\w.-]{16,}"),
    any(
        r"\b(?:dckr_pat|dckr_oat|npm|pypi|dop_v1|doo_v1|tskey|shpat|glc|glsa|lin_api|ATATT|PMAK|vercel|nfp|figd|rubygems)[_-][\w-]{16,}",
    ),
    any(r"\bAIza[\w-]{20,}|\bya29\.[\w-]{10,}|\bhv[sbr]\.[\w-]{10,}|\bSG\.[\w-]{10,}\.[\w-]+"),
    // The first line of every OpenSSH key, and grub's passwords.
    any(r"\bb3BlbnNzaC1rZXktdjE[A-Za-z0-9+/=]*"),
    any(r"\bgrub\.pbkdf2\.[\w.]+"),
    any(r"\bAGE-SECRET-KEY-(?:PQ-)?1[A-Z0-9a-z]+"),
    // A join token of k0s is gzip in base64, one of k3s names its server; a service account's is a JWT.
    any(r"\bH4sI[A-Za-z0-9+/=_-]{16,}"),
    any(r#"(?i)\bk10[^\s:"'<>]*::[^\s"',<>]+"#),
    any(r"\beyJ[A-Za-z0-9+/=_-]{8,}(?:\.[A-Za-z0-9+/=_-]*){0,4}"),
    // Of PEM in base64 all but certificates and public keys.
    Shape { pattern: r"\bLS0tLS1CRUdJTi[A-Za-z0-9+/=]+", is: is_private_pem },
    // kubeadm's and k0s's bootstrap tokens.
    Shape { pattern: r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b", is: |m| m[7..].iter().any(u8::is_ascii_digit) },
    // crypt(3), as in shadow files and htpasswd.
    any(r"\$(?:1|2[abxy]?|5|6|7|y|gy|apr1|argon2id?|scrypt|pbkdf2[\w-]*)\$[./A-Za-z0-9$=,+-]{8,}"),
    Shape {
        pattern: r"(?i)\b(?:bearer|basic|negotiate|ntlm|digest)[ \t]+([A-Za-z0-9._~+/=-]{6,})",
        is: is_odd_word,
    },
    // Logins in URLs: with a password, which may hold any sign but blanks and quotes.
    Shape { pattern: r#"//[^\s/:@"'<>]*:([^\s"'<>]+)@"#, is: is_password },
    Shape { pattern: r#"(?i)\b[a-z][a-z0-9+.-]*%3A%2F%2F[^\s/:@"'<>%]*%3A([^\s"'<>]+?)%40"#, is: |_| true },
    // Where there is a user alone it is a token, but for SSH and the like.
    Shape {
        pattern: r#"(?i)\b(?:https?|ftps?|oci|docker|git|rediss?|nats|amqps?|mqtts?|wss?|socks5h?)://([^\s/:@"'<>]+)@"#,
        is: |_| true,
    },
    any(
        r#"(?i)[?&](?:[\w.-]*(?:sig|signature|token|key|secret|password|passwd|pwd|credential|auth|code)|X-Amz-[\w-]+)=([^&\s"'<>]+)"#,
    ),
    // Data source names: user:password@tcp(host)/db
    any(r#"[\w.-]+:([^\s/"'<>]+)@(?:tcp|unix|udp)?\("#),
    any(r#"(?i)\blogin[ \t]+\S+\s+password[ \t]+("[^"\n]*"|\S+)"#),
    any(
        r#"(?i)\bidentified[ \t]+(?:with[ \t]+\S+[ \t]+)?by[ \t]+(?:password[ \t]+)?('[^'\n]*'|"[^"\n]*"|\S+)"#,
    ),
    any(
        r#"(?i)"value"\s*:\s*"((?:[^"\\\n]|\\.)*)"\s*,\s*"name"\s*:\s*"[\w.-]*(?:passw(?:or)?d|secret|token|_key)""#,
    ),
    // SNMP's communities are passwords.
    any(r#"(?i)\b(?:ro|rw|trap)community6?[ \t:=]+["']?([^\s"']+)"#),
    Shape {
        pattern: r#"(?i)\bsnmp[\w-]*[ \t.:_-]+(?:v?[123]c?[ \t]+|set[ \t]+|add[ \t]+)?community(?:[ _-](?:string|name))?(?:[ \t]+is)?[ \t:=]+["']?([^\s"']+)"#,
        is: |m| !is_told(m),
    },
    any(r"(?i)\bcom2sec6?[ \t]+(?:-Cn[ \t]+\S+[ \t]+)?\S+[ \t]+\S+[ \t]+(\S+)"),
    any(
        r"\bsnmp(?:get|getnext|bulkget|walk|bulkwalk|set|table|trap|inform|status|df)[ \t][^\n]*?-c[ \t]*(\S+)",
    ),
    // Oracle's logins: name/password@host.
    any(r#"(?i)\bjdbc:oracle:\w+:[^\s/@:"']+/("[^"\n]*"|[^\s"'<>]+)@"#),
    any(r#"\b[\w.$#-]+/("[^"\n]*"|[^\s/"'<>]+)@//"#),
    any(
        r#"(?i)\b(?:sqlplus|sqlldr|expdp|impdp|rman[ \t]+target)[ \t]+(?:-\w+[ \t]+)*["']?[\w.$#]+/("[^"\n]*"|[^\s"'<>]+)@"#,
    ),
    // name:password as the value of what takes both.
    any(
        r#"(?i)\b(?:auth[_-]?basic|basic[_-]?auth|http[_-]?auth|user[_-]?pass|auth[_-]user[_-]pass|user[_-]?pwd)\\*["']?[ \t]*[:=]?[ \t]*\\*["']?[^\s:"'/]+:([^\s"'\\/][^\s"'\\]*)"#,
    ),
    any(r#"(?i)\bauth-user-pass[ \t]+["']?[^\s:"'/]+["']?[ \t]+["']?([^\s"'/#][^\s"']*)"#),
];

/// Returns whether base64 of PEM is not that of something public.
fn is_private_pem(text: &[u8]) -> bool {
    // " CERT" and " PUBLIC", after "-----BEGIN".
    !text[14..].starts_with(b"BDRVJUS") && !text[14..].starts_with(b"BQVUJMSU")
}

/// Returns whether a word describes what comes before it instead of being its value.
fn is_told(word: &[u8]) -> bool {
    const TOLD: [&str; 10] =
        ["is", "are", "was", "not", "string", "strings", "name", "names", "for", "support"];
    TOLD.iter().any(|told| word.eq_ignore_ascii_case(told.as_bytes()))
}

/// Returns whether what follows a method of HTTP authentication is no word of a sentence.
fn is_odd_word(word: &[u8]) -> bool {
    let has = |is: fn(&u8) -> bool| word.iter().any(is);
    has(u8::is_ascii_digit)
        || word.ends_with(b"=")
        || (has(u8::is_ascii_lowercase) && word[1..].iter().any(u8::is_ascii_uppercase))
}

/// Returns whether what stands between a colon and an `@` of a URL is no port with a path, as in
/// `oci://host:5000/name@sha256:…`.
fn is_password(text: &[u8]) -> bool {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    digits == 0 || digits > 5 || !text.get(digits).is_some_and(|b| b"/?#".contains(b))
}

fn shapes() -> &'static [(Regex, fn(&[u8]) -> bool)] {
    static COMPILED: OnceLock<Vec<(Regex, fn(&[u8]) -> bool)>> = OnceLock::new();
    COMPILED.get_or_init(|| SHAPES.iter().filter_map(|s| Some((pattern(s.pattern).ok()?, s.is))).collect())
}

/// Returns whether all patterns compile.
#[cfg(test)]
pub(super) fn complete() -> bool {
    shapes().len() == SHAPES.len()
}

/// Adds what is found.
pub(super) fn find(text: &Text<'_>, found: &mut Vec<Range<usize>>) {
    for (shape, is) in shapes() {
        for matched in shape.captures_iter(text.bytes) {
            let Some(secret) = matched.get(1).or(matched.get(0)) else { continue };
            if is(secret.as_bytes()) {
                found.push(secret.range());
            }
        }
    }
}
