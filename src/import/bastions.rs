//! Bastions, from the ways in which other tools name them: ProxyJump, `ssh -J`, and a ProxyCommand that is `ssh -W`.

use super::words::words;
use crate::inventory::is_bastion;

/// What arguments of ssh say about the way to a host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Route {
    /// `[user@]host[:port]`, in hop order.
    pub bastions: Vec<String>,
    /// Private key files.
    pub identities: Vec<String>,
}

/// Why a ProxyCommand is left out.
pub(super) const PROXY_COMMAND: &str = "a ProxyCommand is not run, and this one is not `ssh -W %h:%p HOST`; set ssh.bastions, or keep it in ~/.ssh/config";

/// Returns the hops of a ProxyJump, a URI (`ssh://`) too; `None` if one of them is none.
pub(super) fn jumps(text: &str) -> Option<Vec<String>> {
    if text.eq_ignore_ascii_case("none") {
        return Some(Vec::new());
    }
    let hop = |hop: &str| hop.trim().trim_start_matches("ssh://").to_owned();
    let hops: Vec<String> = text.split(',').map(hop).collect();
    hops.iter().all(|hop| is_bastion(hop)).then_some(hops)
}

/// Returns the way that a ProxyCommand takes, where it is `ssh -W %h:%p` through one host.
pub(super) fn proxy_command(text: &str) -> Option<Route> {
    let words = words(text)?;
    let mut rest = words.iter().map(String::as_str);
    if !matches!(rest.next(), Some("ssh" | "/usr/bin/ssh")) {
        return None;
    }
    let (mut route, mut host, mut user, mut port, mut forwards) = (Route::default(), None, None, None, false);
    while let Some(word) = rest.next() {
        match word {
            "-q" | "-A" => {}
            "-W" => forwards = rest.next()?.trim_matches(['[', ']']).replace("]:", ":") == "%h:%p",
            "-p" => port = Some(rest.next()?),
            "-l" => user = Some(rest.next()?),
            "-i" => route.identities.push(rest.next()?.to_owned()),
            // Host keys are checked here in any case.
            "-o" if rest.next()?.starts_with("StrictHostKeyChecking") => {}
            word if !word.starts_with('-') && host.is_none() => host = Some(word),
            _ => return None,
        }
    }
    let user = user.map(|user| format!("{user}@")).unwrap_or_default();
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    let hop = format!("{user}{}{port}", host?);
    route.bastions.push(hop);
    (forwards && route.bastions.iter().all(|hop| is_bastion(hop))).then_some(route)
}

/// Returns what options of ssh (`-J`, `-o ProxyJump=`, `-o ProxyCommand=`, `-i`) say, and why others are left out.
pub(super) fn options(text: &str) -> (Route, Vec<(String, &'static str)>) {
    const OTHER: &str = "this option of ssh is not copied; set it in ~/.ssh/config, which provision reads";
    const HOST_KEYS: &str = "host keys are always checked; record them with `provision trust`";
    let (mut route, mut left_out) = (Route::default(), Vec::new());
    let Some(words) = words(text) else {
        return (route, vec![("options of ssh".to_owned(), "a quote is not closed")]);
    };
    let mut rest = words.iter().map(String::as_str);
    while let Some(word) = rest.next() {
        let (flag, value) = match word.split_at_checked(2) {
            Some((flag @ ("-o" | "-J" | "-i"), "")) => (flag, rest.next().unwrap_or_default()),
            Some((flag @ ("-o" | "-J" | "-i"), value)) => (flag, value),
            _ => (word, ""),
        };
        let (name, value) = match flag {
            "-J" => ("ProxyJump", value),
            "-i" => ("IdentityFile", value),
            "-o" => value.split_once(['=', ' ']).unwrap_or((value, "")),
            _ => (flag, ""),
        };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "identityfile" => route.identities.push(value.to_owned()),
            "proxyjump" => match jumps(value) {
                Some(hops) => route.bastions = hops,
                None => left_out.push((name.to_owned(), "it is not a list of [user@]host[:port]")),
            },
            "proxycommand" => match proxy_command(value) {
                Some(by) => {
                    route.bastions = by.bastions;
                    route.identities.extend(by.identities);
                }
                None => left_out.push((name.to_owned(), PROXY_COMMAND)),
            },
            "stricthostkeychecking" | "userknownhostsfile" => left_out.push((name.to_owned(), HOST_KEYS)),
            _ => left_out.push((name.to_owned(), OTHER)),
        }
    }
    (route, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_command_that_is_a_jump_is_one() {
        let through = |text: &str| {
            proxy_command(text).map(|route| (route.bastions.join(" "), route.identities.join(" ")))
        };
        let found = through("ssh -W %h:%p -q ubuntu@10.0.0.1");
        assert_eq!(found, Some(("ubuntu@10.0.0.1".to_owned(), String::new())));
        let found = through("ssh -i ~/.ssh/jump -p 2222 -l eva -W '[%h]:%p' jump.example.net");
        assert_eq!(found, Some(("eva@jump.example.net:2222".to_owned(), "~/.ssh/jump".to_owned())));
        for other in [
            "nc -X connect -x proxy:3128 %h %p",
            "ssh jump nc %h %p",
            "sshpass -p x ssh -W %h:%p jump",
            "ssh -W %h:%p jump -o ProxyCommand=none",
            "ssh -W %h:%p",
            "ssh -W other:22 jump",
            "",
        ] {
            assert_eq!(proxy_command(other), None, "{other}");
        }
    }

    #[test]
    fn options_are_read_in_each_of_their_forms() {
        let (route, left_out) = options("-J a@b:22,c -o IdentityFile=~/.ssh/k -oStrictHostKeyChecking=no -v");
        assert_eq!(
            (route.bastions, route.identities),
            (vec!["a@b:22".to_owned(), "c".to_owned()], vec!["~/.ssh/k".to_owned()])
        );
        assert_eq!(
            left_out.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["StrictHostKeyChecking", "-v"]
        );
        let (route, left_out) = options("-o ProxyCommand=\"ssh -W %h:%p -q u@10.0.0.1\"");
        assert_eq!((route.bastions.join(","), left_out.len()), ("u@10.0.0.1".to_owned(), 0));
        assert_eq!(options("-o ProxyJump=none").0, Route::default());
        assert_eq!(options("-o 'x").1.len(), 1);
    }
}
