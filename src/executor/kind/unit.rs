//! systemd unit: enabled, running, masked.

use super::{Context, HostQuery, Kind, QueryResult};
use crate::state::{Fields, Observation, Seen, Unit};
use crate::template::quote;

/// Shell functions for steps that start units; the environment has them as `UNITS`, for commands of roles.
/// - `restarts UNIT` prints how often systemd has started it anew since it was last started by hand.
/// - `fallen UNIT` prints why a unit is not up: the first error of its last start that has one, then the end of its journal.
/// - `upright UNIT N` fails with that if the unit has failed, or was started anew N times: waiting longer does not help.
/// - `settled UNIT` does so right after a start. systemd takes a simple service for started before its program has begun, so
///   that one gets a second to end.
///
/// Errors are told by what programs print, in the order of how sure that is: `Error: …` (Go, k0s), `level=error`, a klog line
/// (`E1128 …`), then words that also occur elsewhere. systemd's own `Started …` separates one start from the next; it may come after
/// the program's words, and only systemd's verdict after it, which is no error of the program.
pub(crate) const UNITS: &str = r#"restarts() { n=$(systemctl show -p NRestarts --value -- "$1" 2>/dev/null); case $n in ''|*[!0-9]*) n=0;; esac; echo "$n"; }
fallen() {
j=$(timeout -k 1 10 journalctl --no-pager -q -o cat -n 200 -u "$1" 2>/dev/null | tail -c 65536); s=; w=; q=; v=; l=
while IFS= read -r x; do case $x in
'Started '*|'Starting '*) [ -z "$s$w" ] || { q=$s; v=$w; }; s=; w=;;
"$1: Failed with result "*|"$1: "[Mm]'ain process exited'*|"$1: Control process exited"*|"Unit $1 entered failed state."|"$1 failed."|'Failed to start '*.|'Dependency failed for '*.) l=${l:-$x};;
*rror:*|*level=error*|*level=fatal*|*atal:*|*FATAL*|*panic:*|*ejected*|E[0-9][0-9][0-9][0-9]\ *) s=${s:-$x};;
*ailed*|*enied*|*efused*|*annot*|*nvalid*|*'o such'*|*'ot found'*) w=${w:-$x};;
?*) l=$x;; esac; done <<END
$j
END
[ -n "$s$w" ] || { s=$q; w=$v; }; x=${s:-${w:-${l:-its journal is empty}}}
printf 'E-UNIT: %s is not up: %.300s
' "$1" "$x"; printf '%s
' "$j" | tail -n 15
}
upright() {
case $(systemctl show -p ActiveState -- "$1" 2>/dev/null) in *ActiveState=failed*) ;; *) [ "$(restarts "$1")" -ge "$2" ] || return 0;; esac
fallen "$1"; return 1
}
settled() { case $(systemctl show -p Type --value -- "$1" 2>/dev/null) in simple|exec|idle) sleep 1;; esac; upright "$1" 1; }
"#;

impl Kind for Unit {
    fn query(&self, _: &str, query: &mut HostQuery) {
        query.units.insert(self.name.clone());
    }

    fn observe(&self, _: &str, result: &QueryResult) -> Observation {
        let Some(unit) = result.units.get(&self.name) else {
            // systemctl prints properties even of a unit that does not exist.
            let why = match result.units.is_empty() {
                true => "timed out: systemctl",
                false => "systemctl printed nothing for the unit",
            };
            return Observation::Unknown(why.to_owned());
        };
        let value = |key: &str| unit.get(key).map(String::as_str).unwrap_or("");
        if value("LoadState") == "not-found" {
            // A unit that is not there is neither enabled nor running, which may be all that is wanted.
            let nothing = !self.masked && self.enabled != Some(true) && self.active != Some(true);
            return match nothing {
                true => Observation::Present(Seen { fields: self.wanted(), ..Seen::default() }),
                false => Observation::Absent,
            };
        }
        let mut seen = Seen::default();
        let mut set = |name: &str, text: &str| seen.fields.insert(name.to_owned(), text.to_owned());
        set("masked", if value("LoadState") == "masked" { "yes" } else { "no" });
        set(
            "enabled",
            match (value("UnitFileState"), self.enabled) {
                ("enabled" | "alias", _) => "yes",
                ("enabled-runtime", _) => "until reboot",
                // These can be neither enabled nor disabled: they are as wanted.
                ("static" | "indirect" | "generated" | "transient", Some(true)) => "yes",
                _ => "no",
            },
        );
        set(
            "active",
            match value("ActiveState") {
                "active" | "reloading" | "refreshing" => "yes",
                "activating" => "starting",
                "failed" => "failed",
                _ => "no",
            },
        );
        Observation::Present(seen)
    }

    fn wanted(&self) -> Fields {
        let word = |b: bool| if b { "yes" } else { "no" }.to_owned();
        let mut fields = Fields::new();
        if self.masked {
            fields.insert("masked".to_owned(), "yes".to_owned());
            return fields;
        }
        fields.insert("masked".to_owned(), "no".to_owned());
        if let Some(enabled) = self.enabled {
            fields.insert("enabled".to_owned(), word(enabled));
        }
        if let Some(active) = self.active {
            fields.insert("active".to_owned(), word(active));
        }
        fields
    }

    fn enact(&self, _: &Context) -> String {
        let name = quote(&self.name);
        if self.masked {
            return format!("systemctl mask --now -- {name}\n");
        }
        let mut shell =
            format!("systemctl daemon-reload; systemctl unmask -q -- {name} 2>/dev/null || true\n");
        match self.enabled {
            Some(true) => shell += &format!("systemctl enable -q -- {name}\n"),
            Some(false) => shell += &format!("systemctl disable -q -- {name}\n"),
            None => {}
        }
        match self.active {
            Some(true) => {
                shell += &format!(
                    "systemctl reset-failed -- {name} 2>/dev/null || true\n\
                     systemctl start -- {name} || {{ r=$?; fallen {name}; exit $r; }}\nsettled {name} || exit 1\n"
                );
            }
            Some(false) => shell += &format!("systemctl stop -- {name}\n"),
            None => {}
        }
        shell
    }

    fn remove(&self, _: &Context) -> Option<String> {
        let name = quote(&self.name);
        if self.masked {
            return Some(format!("systemctl unmask -- {name}\n"));
        }
        // A unit that we stopped or disabled is not started: that needs an explicit request.
        let ours = self.enabled == Some(true) || self.active == Some(true);
        ours.then(|| format!("systemctl disable --now -q -- {name} 2>/dev/null || true\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    /// Starts a unit with these answers of systemd; returns the exit status, and what was printed.
    fn started(start: &str, kind: &str, state: &str, restarts: &str, journal: &str) -> (i32, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let systemctl = format!(
            "case $* in 'start '*) {start};; *Type*) echo {kind};; *ActiveState*) echo ActiveState={state};; *NRestarts*) echo {restarts};; esac"
        );
        let tools = [
            ("systemctl", systemctl),
            ("journalctl", format!("cat <<'END'\n{journal}\nEND")),
            ("sleep", String::new()),
        ];
        for (name, script) in tools {
            let path = folder.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("executable");
        }
        let unit =
            Unit { name: "k0sworker.service".into(), enabled: None, active: Some(true), masked: false };
        let context = Context { package_manager: None };
        let output = Command::new("/bin/sh")
            .args(["-e", "-c", &format!("{UNITS}{}", unit.enact(&context))])
            .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
            .stdin(Stdio::null())
            .output()
            .expect("a shell");
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// One start that k0s refuses, as its journal has it.
    const REFUSED: &str = "Started k0s - Zero Friction Kubernetes.\n\
        time=\"2026-11-28 10:00:00\" level=info msg=\"k0s starting\"\n\
        Error: pre-flight checks failed: cgroups: version: Rejected: cgroup v1 is not supported\n\
        k0sworker.service: Main process exited, code=exited, status=1/FAILURE\n\
        k0sworker.service: Failed with result 'exit-code'.\n\
        k0sworker.service: Scheduled restart job, restart counter is at 1.";

    #[test]
    fn a_unit_that_does_not_stay_up_ends_the_step_with_the_first_error_of_its_journal() {
        let cause = "E-UNIT: k0sworker.service is not up: Error: pre-flight checks failed: cgroups: version: Rejected: \
                     cgroup v1 is not supported\n";
        for (start, state, restarts) in
            [("", "failed", "0"), ("", "activating", "1"), ("", "active", "2"), ("exit 1", "failed", "")]
        {
            // The next start has begun and said nothing yet.
            for journal in [REFUSED.to_owned(), format!("{REFUSED}\nStarted k0s - Zero Friction Kubernetes.")]
            {
                let (rc, text) = started(start, "simple", state, restarts, &journal);
                assert!(rc == 1 && text.starts_with(cause), "{state} {restarts}: {rc} {text}");
                assert!(text.contains("\nk0sworker.service: Failed with result 'exit-code'."), "{text}");
            }
        }
        assert_eq!(started("", "simple", "active", "0", REFUSED), (0, String::new()));
        // What systemd does not count.
        assert_eq!(started("", "oneshot", "inactive", "", REFUSED), (0, String::new()));
    }

    #[test]
    fn an_error_of_a_stop_before_the_start_is_not_the_cause() {
        let journal = format!("Error: context canceled\nStopped k0s.\n{REFUSED}");
        let (_, text) = started("exit 1", "simple", "failed", "0", &journal);
        assert!(text.starts_with("E-UNIT: k0sworker.service is not up: Error: pre-flight"), "{text}");
        let (_, text) =
            started("exit 1", "simple", "failed", "0", "Started x.\nlistening\nbind: permission denied\nbye");
        assert!(text.starts_with("E-UNIT: k0sworker.service is not up: bind: permission denied\n"), "{text}");
        // The words of the last start came before systemd said that it had started it.
        let late = "Error: no good\nbye\nStarted x.\nk0sworker.service: Main process exited, code=exited\n\
                    k0sworker.service: Failed with result 'exit-code'.";
        let (_, text) = started("exit 1", "simple", "failed", "0", late);
        assert!(text.starts_with("E-UNIT: k0sworker.service is not up: Error: no good\n"), "{text}");
        let (_, text) = started("exit 1", "simple", "failed", "0", "");
        assert!(text.starts_with("E-UNIT: k0sworker.service is not up: its journal is empty\n"), "{text}");
    }
}
