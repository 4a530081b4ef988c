//! A configuration of the OpenSSH client. Blocks apply as in ssh_config(5): in their order, the first value of an option wins,
//! keys add up. Nothing is included, and no `Match` is evaluated.

use super::bastions::{PROXY_COMMAND, jumps, proxy_command};
use super::error::ImportError;
use super::found::{Found, FoundHost, Place};
use super::words::{UNUSED, words};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bastions in front of a host, and aliases inside aliases.
const MOST_HOPS: usize = 8;
/// Patterns and options that are looked at for all hosts together: 1,000 hosts, 1,000 blocks of three options.
const MOST_LOOKED_AT: usize = 4_000_000;
/// Key files of a host: SSH_MAX_IDENTITY_FILES of OpenSSH.
const MOST_IDENTITIES: usize = 100;

/// A `Host` block; the options before the first one are for all hosts.
struct Block {
    patterns: Vec<String>,
    options: Vec<(String, String)>,
}

/// What the blocks say of a host.
#[derive(Clone, Default)]
struct Options {
    hostname: Option<String>,
    user: Option<String>,
    port: Option<u16>,
    identities: Vec<String>,
    /// ProxyJump or ProxyCommand, whichever comes first.
    bastions: Option<Vec<String>>,
}

/// Reads a configuration.
pub(super) fn read(name: &str, text: &str) -> Result<Found, ImportError> {
    let (file, mut found) = (Arc::from(name), Found::default());
    let (blocks, aliases) = blocks(&file, text, &mut found);
    let all: usize = blocks.iter().map(|block| block.patterns.len() + block.options.len()).sum();
    if aliases.len().saturating_mul(all) > MOST_LOOKED_AT {
        return Err(ImportError::TooComplex);
    }
    let all: BTreeMap<&str, Options> =
        aliases.iter().map(|(alias, _)| (alias.as_str(), options(&blocks, alias))).collect();
    let through: BTreeSet<&str> = all
        .values()
        .flat_map(|options| options.bastions.iter().flatten())
        .filter_map(|hop| all.get_key_value(bare(hop)).map(|(alias, _)| *alias))
        .collect();
    for (alias, place) in &aliases {
        let Some(options) = all.get(alias.as_str()) else { continue };
        if through.contains(alias.as_str()) {
            found.left_out(
                place,
                alias.as_str(),
                "other hosts are reached through it: it is in their bastions",
            );
            continue;
        }
        if options.user.as_deref() == Some("git") {
            found.left_out(place, alias.as_str(), "its login is git: it is a Git server");
            continue;
        }
        let mut host = FoundHost::of(alias.as_str(), place.clone());
        host.address = Some(options.hostname.clone().unwrap_or_else(|| alias.clone()));
        (host.user, host.port) = (options.user.clone(), options.port);
        host.identities = options.identities.clone();
        let of_hops = options.bastions.iter().flatten().filter_map(|hop| all.get(bare(hop)));
        for key in of_hops.flat_map(|hop| &hop.identities) {
            if !host.identities.contains(key) {
                host.identities.push(key.clone());
            }
        }
        host.bastions = resolved(options.bastions.as_deref().unwrap_or_default(), &all, 0);
        found.hosts.push(host);
    }
    Ok(found)
}

/// Reads blocks and the names that they are for; each option that is left out is noted.
fn blocks(file: &Arc<str>, text: &str, found: &mut Found) -> (Vec<Block>, Vec<(String, Place)>) {
    let mut blocks = vec![Block { patterns: vec!["*".to_owned()], options: Vec::new() }];
    let (mut aliases, mut known, mut skipping) = (Vec::new(), BTreeSet::new(), false);
    for (n, line) in text.lines().enumerate() {
        let (line, place) = (line.trim(), Place::of(file, n + 1));
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let end = line.find(['=', ' ', '\t']).unwrap_or(line.len());
        let (keyword, rest) = line.split_at(end);
        let rest = rest.trim_start().strip_prefix('=').unwrap_or(rest).trim();
        let Some(arguments) = words(rest) else {
            found.left_out(&place, keyword, "a quote is not closed");
            continue;
        };
        match keyword.to_ascii_lowercase().as_str() {
            "host" => {
                skipping = false;
                let concrete = |pattern: &&String| !pattern.contains(['*', '?', '!']) && !pattern.is_empty();
                for alias in arguments.iter().filter(concrete) {
                    if known.insert(alias.clone()) {
                        aliases.push((alias.clone(), place.clone()));
                    }
                }
                blocks.push(Block { patterns: arguments, options: Vec::new() });
            }
            "match" => {
                skipping = true;
                found.left_out(
                    &place,
                    "a Match block",
                    "conditions are not evaluated; provision reads ~/.ssh/config when it connects",
                );
            }
            "include" => {
                found.left_out(&place, "Include", "other files are not followed; import them one by one")
            }
            _ if skipping => {}
            key => {
                let value = if key == "proxycommand" { rest.to_owned() } else { arguments.join(" ") };
                match refused(key, &value) {
                    Some(why) => found.left_out(&place, keyword, why),
                    None => {
                        if let Some(block) = blocks.last_mut() {
                            block.options.push((key.to_owned(), value));
                        }
                    }
                }
            }
        }
    }
    (blocks, aliases)
}

/// Returns why an option is left out.
fn refused(key: &str, value: &str) -> Option<&'static str> {
    const TOKENS: &str = "tokens other than %h are not expanded";
    let tokens = |value: &str| value.replace("%h", "").replace("%%", "").contains('%');
    match key {
        "hostname" => tokens(value).then_some(TOKENS),
        "identityfile" => tokens(&value.replace("%d", "")).then_some(TOKENS),
        "user" => None,
        "port" => value.parse::<u16>().is_err().then_some("it is not a port"),
        "proxyjump" => jumps(value).is_none().then_some("it is not a list of [user@]host[:port]"),
        "proxycommand" if value.eq_ignore_ascii_case("none") => None,
        "proxycommand" => proxy_command(value).is_none().then_some(PROXY_COMMAND),
        "stricthostkeychecking" | "userknownhostsfile" => {
            Some("host keys are always checked; record them with `provision trust`")
        }
        _ => Some(UNUSED),
    }
}

/// Returns what the blocks say of a name.
fn options(blocks: &[Block], alias: &str) -> Options {
    let mut options = Options::default();
    let applies = |block: &&Block| {
        let matches =
            |pattern: &&String| is_match(pattern.trim_start_matches('!').as_bytes(), alias.as_bytes());
        let mut matching = block.patterns.iter().filter(matches).peekable();
        matching.peek().is_some() && matching.all(|pattern| !pattern.starts_with('!'))
    };
    for (key, value) in blocks.iter().filter(applies).flat_map(|block| &block.options) {
        match key.as_str() {
            "hostname" if options.hostname.is_none() => {
                options.hostname = Some(value.replace("%h", alias).replace("%%", "%"));
            }
            "user" if options.user.is_none() => options.user = Some(value.clone()),
            "port" if options.port.is_none() => options.port = value.parse().ok(),
            "identityfile" => {
                let file = value.replace("%d", "~");
                let room = options.identities.len() < MOST_IDENTITIES;
                if room && file != "none" && !options.identities.contains(&file) {
                    options.identities.push(file);
                }
            }
            "proxyjump" if options.bastions.is_none() => options.bastions = jumps(value),
            "proxycommand" if options.bastions.is_none() => {
                let route = proxy_command(value).unwrap_or_default();
                options.bastions = Some(route.bastions);
            }
            _ => {}
        }
    }
    options.port = options.port.filter(|port| *port != 22);
    options
}

/// Returns whether a name matches a pattern, in which `*` stands for any text and `?` for one character.
fn is_match(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// Returns the host of `[user@]host[:port]`.
fn bare(hop: &str) -> &str {
    let host = hop.rsplit_once('@').map_or(hop, |(_, host)| host);
    host.split_once(':').map_or(host, |(host, _)| host)
}

/// Returns hops with aliases of this file replaced by what they stand for, and the hops before them.
fn resolved(hops: &[String], all: &BTreeMap<&str, Options>, depth: usize) -> Vec<String> {
    let mut found = Vec::new();
    for hop in hops {
        if found.len() >= MOST_HOPS {
            break;
        }
        let alias = bare(hop);
        let Some(options) = all.get(alias).filter(|_| depth < MOST_HOPS) else {
            found.push(hop.clone());
            continue;
        };
        found.extend(resolved(options.bastions.as_deref().unwrap_or_default(), all, depth + 1));
        let given = hop.rsplit_once('@').map(|(user, _)| user.to_owned());
        let user = given.or_else(|| options.user.clone()).map(|user| format!("{user}@")).unwrap_or_default();
        let port = hop.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).or(options.port);
        let port = port.map(|port: u16| format!(":{port}")).unwrap_or_default();
        found.push(format!("{user}{}{port}", options.hostname.as_deref().unwrap_or(alias)));
    }
    found.truncate(MOST_HOPS);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_are_those_of_ssh() {
        for (pattern, name) in [("*", ""), ("n??", "n01"), ("*.lan", "a.lan"), ("a*c*e", "abcde"), ("a", "a")]
        {
            assert!(is_match(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        for (pattern, name) in [("n??", "n1"), ("*.lan", "a.lane"), ("a*c", "ab"), ("", "a"), ("A", "a")] {
            assert!(!is_match(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn patterns_match_as_regular_expressions_do(pattern in "[ab*?]{0,8}", name in "[ab]{0,8}") {
            let expression = format!("^{}$", pattern.replace('*', ".*").replace('?', "."));
            let expected = regex::Regex::new(&expression).expect("a pattern").is_match(&name);
            prop_assert_eq!(is_match(pattern.as_bytes(), name.as_bytes()), expected);
        }
    }
}
