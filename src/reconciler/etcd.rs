//! Whether etcd can spare a controller: every controller is asked for its member list and whether its API is ready, which
//! includes its own etcd. Member lists come from k0s, as no Kubernetes API tells which members answer.

use super::access::Answer;
use crate::state::{Failure, FailureKind, HostName};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long etcd may take to be whole again after the controller before: a member that comes back first catches up.
pub(super) const ETCD_DEADLINE: Duration = Duration::from_secs(300);

/// What a controller is asked. `k0s status` is not asked: it may block for minutes (k0s pkg/component/status/status.go).
pub(super) const QUESTION: &str = "\
[ -e /var/lib/k0s/pki/admin.conf ] || { echo none; exit 0; }
if m=$(timeout 20 /usr/local/bin/k0s etcd member-list 2>/dev/null); then printf 'members %s\\n' \"$m\"; else echo silent; fi
if r=$(timeout 20 /usr/local/bin/k0s kubectl get --raw=/readyz 2>&1); then echo ready; else printf 'unready %s\\n' \"${r%%
*}\"; fi";

/// What one controller says of etcd.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Says {
    /// It has no control plane (yet).
    Nothing,
    /// Its members, name to peer address, and why its own API is not ready, if it is not.
    Members(BTreeMap<String, String>, Option<String>),
    /// It could not be asked, or etcd gave it no answer; why.
    Silent(String),
}

fn read(answer: &Result<String, Failure>) -> Says {
    let text = match answer {
        Ok(text) => text,
        Err(failure) => return Says::Silent(failure.message.clone()),
    };
    if text.lines().any(|l| l.trim() == "none") {
        return Says::Nothing;
    }
    let found = |word: &str| text.lines().find_map(|l| l.strip_prefix(word)).map(str::trim);
    let list: Option<BTreeMap<String, String>> = found("members ")
        .and_then(|json| serde_json::from_str::<serde_json::Value>(json).ok())
        .and_then(|value| serde_json::from_value(value["members"].clone()).ok());
    match list {
        Some(members) => {
            let address = |url: String| {
                let host = url.rsplit_once("//").map_or(url.as_str(), |(_, rest)| rest).to_owned();
                host.rsplit_once(':').map_or(host.clone(), |(host, _)| host.to_owned())
            };
            let members = members.into_iter().map(|(name, url)| (name, address(url))).collect();
            Says::Members(members, found("unready").map(str::to_owned))
        }
        None => Says::Silent("etcd does not answer there".to_owned()),
    }
}

/// Returns the members of etcd, name to peer address, as the controller whose API is ready lists them: its list is the
/// newest. `None` where nobody has a list.
pub(super) fn members(answers: &[Answer]) -> Option<BTreeMap<String, String>> {
    let said: Vec<Says> = answers.iter().map(|a| read(&a.says)).collect();
    let lists = |ready: bool| {
        said.iter().find_map(|s| match s {
            Says::Members(list, unready) if unready.is_none() == ready => Some(list.clone()),
            _ => None,
        })
    };
    lists(true).or_else(|| lists(false))
}

/// Returns the peer address of a host's member, known by the host's name or its address.
pub(super) fn find(members: &BTreeMap<String, String>, host: &HostName, address: &str) -> Option<String> {
    let by_address = || members.values().find(|a| *a == address);
    members.get(host.as_str()).or_else(by_address).cloned()
}

/// Returns how a member is: well, or why it is not.
fn state(answers: &[Answer], name: &str, address: &str) -> Result<(), String> {
    match answers.iter().find(|a| a.host.as_str() == name || a.address == address).map(|a| read(&a.says)) {
        None => Err("no controller of this inventory".to_owned()),
        Some(Says::Members(_, None)) => Ok(()),
        Some(Says::Members(_, Some(why)) | Says::Silent(why)) => Err(why),
        Some(Says::Nothing) => Err("k0s was reset there".to_owned()),
    }
}

/// Returns why a member must not leave etcd now: those that stay would be no quorum. `None` if it may.
pub(super) fn without(answers: &[Answer], leaving: &HostName, at: &str) -> Option<String> {
    let members = members(answers)?;
    let stay = members.iter().filter(|(name, address)| *name != leaving.as_str() && *address != at);
    let states: Vec<(&String, Result<(), String>)> =
        stay.map(|(name, a)| (name, state(answers, name, a))).collect();
    let healthy = states.iter().filter(|(_, state)| state.is_ok()).count();
    let sick = states.iter().filter_map(|(name, state)| Some(format!("{name} ({})", state.as_ref().err()?)));
    let sick: Vec<String> = sick.collect();
    let why = match sick.is_empty() {
        true => "no other member would be left".to_owned(),
        false => format!("etcd members that are not healthy: {}", sick.join(", ")),
    };
    (healthy < states.len() / 2 + 1).then_some(why)
}

/// Returns why a controller cannot be spared now; `None` if it can.
pub(super) fn hindrance(answers: &[Answer], controller: &HostName) -> Option<String> {
    // Nobody has a list: there is no cluster yet, or it has no quorum already. Then starting a controller can only help.
    let members = members(answers)?;
    let mut healthy = 0;
    let mut sick: Vec<String> = Vec::new();
    let mut itself = None;
    for (name, address) in &members {
        let known = answers.iter().find(|a| a.host.as_str() == name || a.address == *address);
        let state = state(answers, name, address);
        if name == controller.as_str() || known.is_some_and(|a| a.host == *controller) {
            itself = Some(state);
            continue;
        }
        match state {
            Ok(()) => healthy += 1,
            Err(why) => sick.push(format!("{name} ({why})")),
        }
    }
    // What is broken already is only mended.
    if matches!(itself, Some(Err(_))) || sick.is_empty() {
        return None;
    }
    let size = members.len() + usize::from(itself.is_none());
    let quorum = size / 2 + 1;
    (healthy < quorum).then(|| format!("etcd members that are not healthy: {}", sick.join(", ")))
}

/// Returns the failure of a controller that is left alone.
pub(super) fn refused(controller: &HostName, why: &str) -> Failure {
    Failure::new(
        FailureKind::Step,
        "E-ETCD",
        format!("{controller} is left as it is: without it there would be no quorum; {why}"),
    )
    .hint(
        "on a controller: k0s etcd member-list, and k0s kubectl get --raw=/readyz?verbose; mend these members first, \
         or take one that is gone for good out: k0s etcd leave --peer-address ADDRESS",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(all: &[(&str, &str)]) -> Vec<Answer> {
        let answer = |(n, (host, says)): (usize, &(&str, &str))| Answer {
            host: HostName::new(*host),
            address: format!("10.0.0.{}", n + 1),
            says: match says.strip_prefix('!') {
                Some(why) => Err(Failure::new(FailureKind::Unobserved, "E-SSH", why)),
                None => Ok((*says).to_owned()),
            },
        };
        all.iter().enumerate().map(answer).collect()
    }

    const THREE: &str = "noise\nmembers {\"members\":{\"a\":\"https://10.0.0.1:2380\",\"b\":\"https://10.0.0.2:2380\",\
                         \"renamed\":\"https://10.0.0.3:2380\"}}\nready";

    fn hindered(all: &[(&str, &str)], who: &str) -> Option<String> {
        hindrance(&answers(all), &HostName::new(who))
    }

    #[test]
    fn a_controller_is_spared_while_all_others_are_healthy() {
        assert_eq!(hindered(&[("a", THREE), ("b", THREE), ("c", THREE)], "b"), None);
        let why = hindered(&[("a", THREE), ("b", THREE), ("c", "!timed out")], "b").expect("refused");
        assert_eq!(why, "etcd members that are not healthy: renamed (timed out)", "known by its address");
        let unready = THREE.replace("ready", "unready [-]etcd failed");
        let why = hindered(&[("a", THREE), ("b", THREE), ("c", &unready)], "a").expect("refused");
        assert!(why.ends_with("renamed ([-]etcd failed)"), "{why}");
    }

    #[test]
    fn what_is_broken_may_be_mended_and_a_first_controller_may_start() {
        assert_eq!(hindered(&[("a", THREE), ("b", "silent\nunready x"), ("c", "!gone")], "b"), None);
        assert_eq!(hindered(&[("a", "none"), ("b", "none")], "a"), None);
        assert_eq!(
            hindered(&[("a", "silent\nunready"), ("b", "silent\nunready")], "a"),
            None,
            "no quorum already"
        );
    }

    #[test]
    fn a_member_joins_only_a_healthy_etcd() {
        let one = "members {\"members\":{\"a\":\"https://10.0.0.1:2380\"}}\nready";
        assert_eq!(hindered(&[("a", one), ("b", "none")], "b"), None);
        let two =
            "members {\"members\":{\"a\":\"https://10.0.0.1:2380\",\"x\":\"https://10.0.0.9:2380\"}}\nready";
        let why = hindered(&[("a", two), ("b", "none")], "b").expect("refused");
        assert!(why.contains("x (no controller of this inventory)"), "{why}");
    }

    #[test]
    fn a_member_leaves_only_where_a_quorum_stays() {
        let leaves = |all: &[(&str, &str)]| without(&answers(all), &HostName::new("renamed"), "10.0.0.3");
        assert_eq!(leaves(&[("a", THREE), ("b", THREE)]), None);
        let why = leaves(&[("a", THREE), ("b", "!timed out")]).expect("refused");
        assert_eq!(why, "etcd members that are not healthy: b (timed out)");
        let alone = "members {\"members\":{\"renamed\":\"https://10.0.0.3:2380\"}}\nready";
        assert_eq!(leaves(&[("renamed", alone)]).as_deref(), Some("no other member would be left"));
        let found = |host: &str, address: &str| {
            let members = members(&answers(&[("a", THREE)])).expect("a list");
            find(&members, &HostName::new(host), address)
        };
        assert_eq!(found("cp-3", "10.0.0.3").as_deref(), Some("10.0.0.3"));
        assert_eq!(found("b", "").as_deref(), Some("10.0.0.2"));
        assert_eq!(found("x", "10.0.0.9"), None);
    }

    #[test]
    fn five_members_spare_one_more() {
        let list: String = (1..=5).map(|n| format!("\"{n}\":\"https://10.0.0.{n}:2380\",")).collect();
        let five = format!("members {{\"members\":{{{}}}}}\nready", list.trim_end_matches(','));
        let all = [("1", five.as_str()), ("2", &five), ("3", &five), ("4", &five), ("5", "!down")];
        assert_eq!(hindered(&all, "1"), None, "three of five are left");
    }
}
