//! Whether etcd keeps its quorum without a controller: every controller is queried for its member list and the readiness of
//! its API, which includes its own etcd. Member lists come from k0s, as no Kubernetes API shows which members respond.

use super::paths::{ADMIN_KUBECONFIG, BINARY};
use crate::state::{Failure, FailureKind, HostName};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long etcd may take to be whole again after the controller before: a member that comes back first catches up.
pub const ETCD_DEADLINE: Duration = Duration::from_secs(300);

/// Returns the query of a controller. `k0s status` is not used: it may block for minutes (k0s pkg/component/status/status.go).
pub fn question() -> String {
    format!(
        "[ -e {ADMIN_KUBECONFIG} ] || {{ echo none; exit 0; }}\n\
         if m=$(timeout 20 {BINARY} etcd member-list 2>/dev/null); then printf 'members %s\\n' \"$m\"; else echo silent; fi\n\
         if r=$(timeout 20 {BINARY} kubectl get --raw=/readyz 2>&1); then echo ready; \
         else printf 'unready %s\\n' \"${{r%%\n*}}\"; fi"
    )
}

/// The output of a program on one controller.
#[derive(Clone, Debug)]
pub struct ControllerOutput {
    /// The controller.
    pub host: HostName,
    /// Its address for other controllers.
    pub address: String,
    /// What the program printed, or why it could not run.
    pub output: Result<String, Failure>,
}

/// The state of etcd as seen by one controller.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Says {
    /// It has no control plane (yet).
    Nothing,
    /// Its members, name to peer address, and why its own API is not ready, if it is not.
    Members(BTreeMap<String, String>, Option<String>),
    /// Unreachable, or etcd did not respond; the reason.
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
                let host = host.rsplit_once(':').map_or(host.as_str(), |(host, _)| host);
                host.trim_start_matches('[').trim_end_matches(']').to_owned()
            };
            let members = members.into_iter().map(|(name, url)| (name, address(url))).collect();
            Says::Members(members, found("unready").map(str::to_owned))
        }
        None => Says::Silent("etcd does not respond on it".to_owned()),
    }
}

/// Returns the members of etcd, name to peer address, as the controller whose API is ready lists them: its list is the
/// newest. `None` if no controller has a list.
pub fn members(answers: &[ControllerOutput]) -> Option<BTreeMap<String, String>> {
    let said: Vec<Says> = answers.iter().map(|a| read(&a.output)).collect();
    let lists = |ready: bool| {
        said.iter().find_map(|s| match s {
            Says::Members(list, unready) if unready.is_none() == ready => Some(list.clone()),
            _ => None,
        })
    };
    lists(true).or_else(|| lists(false))
}

/// Returns the address of the first controller whose API is ready: where a host can join.
pub fn ready(answers: &[ControllerOutput]) -> Option<&str> {
    let is_ready = |a: &&ControllerOutput| matches!(read(&a.output), Says::Members(_, None));
    answers.iter().find(is_ready).map(|a| a.address.as_str())
}

/// Returns the peer address of a host's member, known by the host's name or its address.
pub fn find(members: &BTreeMap<String, String>, host: &HostName, address: &str) -> Option<String> {
    let by_address = || members.values().find(|a| *a == address);
    members.get(host.as_str()).or_else(by_address).cloned()
}

/// Returns whether a member is healthy, or why not.
fn state(answers: &[ControllerOutput], name: &str, address: &str) -> Result<(), String> {
    match answers.iter().find(|a| a.host.as_str() == name || a.address == address).map(|a| read(&a.output)) {
        None => Err("not a controller of this inventory".to_owned()),
        Some(Says::Members(_, None)) => Ok(()),
        Some(Says::Members(_, Some(why)) | Says::Silent(why)) => Err(why),
        Some(Says::Nothing) => Err("k0s was reset on it".to_owned()),
    }
}

/// Returns why a member must not leave etcd now: those that stay would be no quorum. `None` if it may.
pub fn without(answers: &[ControllerOutput], leaving: &HostName, at: &str) -> Option<String> {
    let members = members(answers)?;
    let stay = members.iter().filter(|(name, address)| *name != leaving.as_str() && *address != at);
    let states: Vec<(&String, Result<(), String>)> =
        stay.map(|(name, a)| (name, state(answers, name, a))).collect();
    let healthy = states.iter().filter(|(_, state)| state.is_ok()).count();
    let sick = states.iter().filter_map(|(name, state)| Some(format!("{name} ({})", state.as_ref().err()?)));
    let sick: Vec<String> = sick.collect();
    let why = match sick.is_empty() {
        true => "no other member would remain".to_owned(),
        false => format!("unhealthy etcd members: {}", sick.join(", ")),
    };
    (healthy < states.len() / 2 + 1).then_some(why)
}

/// Returns why these members cannot all leave etcd: it has no quorum now, or those that stay would be none. `None` if they can,
/// or none of them is a member.
pub fn without_all(answers: &[ControllerOutput], leaving: &[(HostName, String)]) -> Option<String> {
    let members = members(answers)?;
    let leaves =
        |name: &str, address: &str| leaving.iter().any(|(host, at)| host.as_str() == name || at == address);
    if !members.iter().any(|(name, address)| leaves(name, address)) {
        return None;
    }
    let states = members.iter().map(|(name, at)| (name, leaves(name, at), state(answers, name, at)));
    let states: Vec<(&String, bool, Result<(), String>)> = states.collect();
    let healthy =
        |stays: bool| states.iter().filter(|(_, leaves, s)| !(stays && *leaves) && s.is_ok()).count();
    let stay = states.iter().filter(|(_, leaves, _)| !leaves).count();
    let sick =
        states.iter().filter_map(|(name, _, state)| Some(format!("{name} ({})", state.as_ref().err()?)));
    let sick: Vec<String> = sick.collect();
    let why = match (stay, sick.is_empty()) {
        (0, _) => "no member would remain".to_owned(),
        (_, true) => "those that stay are too few".to_owned(),
        (_, false) => format!("unhealthy etcd members: {}", sick.join(", ")),
    };
    (stay == 0 || healthy(true) < stay / 2 + 1 || healthy(false) < members.len() / 2 + 1).then_some(why)
}

/// Returns why a controller cannot be spared now; `None` if it can.
pub fn hindrance(answers: &[ControllerOutput], controller: &HostName) -> Option<String> {
    // No controller has a list: there is no cluster yet, or it has lost quorum. Starting a controller can only help.
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
    // A broken controller can only be repaired.
    if matches!(itself, Some(Err(_))) || sick.is_empty() {
        return None;
    }
    let size = members.len() + usize::from(itself.is_none());
    let quorum = size / 2 + 1;
    (healthy < quorum).then(|| format!("unhealthy etcd members: {}", sick.join(", ")))
}

/// Returns the failure of a controller that is left alone.
pub fn refused(controller: &HostName, why: &str) -> Failure {
    Failure::new(
        FailureKind::Step,
        "E-ETCD",
        format!("{controller} is left unchanged: etcd would lose quorum without it; {why}"),
    )
    .hint(
        "Repair the unhealthy members first (on a controller: `k0s etcd member-list` and \
         `k0s kubectl get --raw=/readyz?verbose`), or remove a lost one with `k0s etcd leave --peer-address ADDRESS`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(all: &[(&str, &str)]) -> Vec<ControllerOutput> {
        let answer = |(n, (host, says)): (usize, &(&str, &str))| ControllerOutput {
            host: HostName::new(*host),
            address: format!("10.0.0.{}", n + 1),
            output: match says.strip_prefix('!') {
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
        assert_eq!(why, "unhealthy etcd members: renamed (timed out)", "known by its address");
        let unready = THREE.replace("ready", "unready [-]etcd failed");
        let why = hindered(&[("a", THREE), ("b", THREE), ("c", &unready)], "a").expect("refused");
        assert!(why.ends_with("renamed ([-]etcd failed)"), "{why}");
    }

    #[test]
    fn a_broken_controller_may_be_repaired_and_a_first_one_may_start() {
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
        assert_eq!(ready(&answers(&[("a", "none"), ("b", "!off"), ("c", one)])), Some("10.0.0.3"));
        assert_eq!(ready(&answers(&[("a", "none"), ("b", "silent\nunready x")])), None);
        let two =
            "members {\"members\":{\"a\":\"https://10.0.0.1:2380\",\"x\":\"https://10.0.0.9:2380\"}}\nready";
        let why = hindered(&[("a", two), ("b", "none")], "b").expect("refused");
        assert!(why.contains("x (not a controller of this inventory)"), "{why}");
    }

    #[test]
    fn a_member_leaves_only_where_a_quorum_stays() {
        let leaves = |all: &[(&str, &str)]| without(&answers(all), &HostName::new("renamed"), "10.0.0.3");
        assert_eq!(leaves(&[("a", THREE), ("b", THREE)]), None);
        let why = leaves(&[("a", THREE), ("b", "!timed out")]).expect("refused");
        assert_eq!(why, "unhealthy etcd members: b (timed out)");
        let alone = "members {\"members\":{\"renamed\":\"https://10.0.0.3:2380\"}}\nready";
        assert_eq!(leaves(&[("renamed", alone)]).as_deref(), Some("no other member would remain"));
        let found = |host: &str, address: &str| {
            let members = members(&answers(&[("a", THREE)])).expect("a list");
            find(&members, &HostName::new(host), address)
        };
        assert_eq!(found("cp-3", "10.0.0.3").as_deref(), Some("10.0.0.3"));
        assert_eq!(found("b", "").as_deref(), Some("10.0.0.2"));
        assert_eq!(found("x", "10.0.0.9"), None);
    }

    #[test]
    fn members_leave_together_only_where_a_quorum_stays_all_along() {
        let leaves = |all: &[(&str, &str)], who: &[&str]| {
            let who: Vec<_> = who.iter().map(|h| (HostName::new(*h), String::new())).collect();
            without_all(&answers(all), &who)
        };
        let three = THREE.replace("renamed", "c");
        let whole = [("a", three.as_str()), ("b", &three), ("c", &three)];
        assert_eq!(leaves(&whole, &["b", "c"]), None);
        assert_eq!(leaves(&whole, &["x"]), None, "no member");
        assert_eq!(leaves(&whole, &["a", "b", "c"]).as_deref(), Some("no member would remain"));
        let one_down = [("a", three.as_str()), ("b", &three), ("c", "!down")];
        assert_eq!(leaves(&one_down, &["c"]), None, "the dead one");
        assert_eq!(leaves(&one_down, &["b"]).as_deref(), Some("unhealthy etcd members: c (down)"));
        let two_down = [("a", three.as_str()), ("b", "!off"), ("c", "!down")];
        let why = leaves(&two_down, &["b", "c"]).expect("refused");
        assert_eq!(why, "unhealthy etcd members: b (off), c (down)", "etcd cannot decide anything now");
    }

    #[test]
    fn five_members_spare_one_more() {
        let list: String = (1..=5).map(|n| format!("\"{n}\":\"https://10.0.0.{n}:2380\",")).collect();
        let five = format!("members {{\"members\":{{{}}}}}\nready", list.trim_end_matches(','));
        let all = [("1", five.as_str()), ("2", &five), ("3", &five), ("4", &five), ("5", "!down")];
        assert_eq!(hindered(&all, "1"), None, "three of five are left");
    }
}
