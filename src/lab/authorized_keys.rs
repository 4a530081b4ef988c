//! The authorized_keys of a simulated host: keys with `restrict` and a forced command, until they expire. Others are passed over.

use jiff::Timestamp;
use russh::keys::PublicKey;

/// Splits options off a line at the first blank outside of quotes.
fn split(line: &str) -> Option<(Vec<String>, &str)> {
    let (mut options, mut option, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' if quoted && line[at + 1..].starts_with('"') => {
                option.push('"');
                characters.next();
            }
            '"' => quoted = !quoted,
            ',' if !quoted => options.push(std::mem::take(&mut option)),
            ' ' if !quoted => {
                options.push(option);
                return Some((options, &line[at + 1..]));
            }
            c => option.push(c),
        }
    }
    None
}

/// Returns what a key that is let in may do; `None` if it is not let in.
pub(super) fn forced_command(lines: &str, key: &PublicKey, now: Timestamp) -> Option<String> {
    let now = now.strftime("%Y%m%d%H%M%S").to_string();
    lines.lines().find_map(|line| {
        let (options, rest) = split(line.trim())?;
        let value =
            |name: &str| options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
        let expires = value("expiry-time")?;
        let is_valid = expires.len() == now.len() && *expires > *now;
        let is_key = PublicKey::from_openssh(rest).is_ok_and(|known| known.key_data() == key.key_data());
        let restricted = options.iter().any(|option| option == "restrict");
        (is_key && is_valid && restricted).then(|| value("command").map(str::to_owned))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_let_in_for_its_command_until_it_expires() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
        let public = PublicKey::from_openssh(key).expect("a key");
        let line = |options: &str| format!("# a comment\n{options} {key} mark\n");
        let now: Timestamp = "2026-11-30T12:00:00Z".parse().expect("a time");
        let find = |options: &str| forced_command(&line(options), &public, now);
        let wanted = "exec /bin/sh -c 'a, \"b\" c'";
        let good = "restrict,command=\"exec /bin/sh -c 'a, \\\"b\\\" c'\",expiry-time=\"20261130120001\"";
        assert_eq!(find(good).as_deref(), Some(wanted));
        assert_eq!(find(&good.replace("120001", "115959")), None, "expired");
        assert_eq!(find(&good.replace("restrict,", "")), None);
        assert_eq!(find("restrict"), None);
        assert_eq!(forced_command(&line(good).replace("IeZJ", "IeZK"), &public, now), None, "another key");
    }
}
