//! Batches: the program that a host runs for a run of steps, and the launcher that starts it detached from the
//! connection. `mkdir` of the run folder is the once-only gate; a lost connection attaches again at an offset.

use super::frame::MARK;
use super::kind::{self, Context};
use crate::state::{Facts, Lates, Managed, Resource, Spec, Step, Verb};
use crate::template::quote;
use base64::Engine;

/// How long a lock record lasts without renewal, in seconds: longer than a planned reboot.
const LOCK_SECONDS: u64 = 3600;
/// Exit status of a batch that found the host locked by another run.
pub(super) const LOCKED: i32 = 75;

/// Where a batch belongs.
pub(super) struct Place<'a> {
    /// Our folder on the host.
    pub state: &'a str,
    /// The batch's name, unique on the host.
    pub batch: &'a str,
    /// The run.
    pub run: &'a str,
    /// Who runs it.
    pub owner: &'a str,
}

/// Returns the record that managed.json keeps of a resource, on one line.
fn record(resource: &Resource, adopted: bool) -> String {
    let undo = match &resource.spec {
        Spec::Command(command) => command.undo.clone(),
        _ => None,
    };
    let spec = serde_json::to_string(&resource.spec).unwrap_or_default();
    let managed = Managed {
        kind: resource.spec.kind().to_owned(),
        id: resource.id.to_string(),
        hash: super::sha256(spec.as_bytes()),
        undo,
        adopted,
    };
    serde_json::to_string(&managed).unwrap_or_default()
}

/// Returns the shell of one step; `None` if the target does not know its resource.
fn step_shell(step: &Step, desired: &[Resource], facts: &Facts) -> Option<(String, String)> {
    let context = Context { package_manager: facts.package_manager };
    if step.change.verb == Verb::Remove {
        let managed = facts.managed.iter().find(|m| m.id == step.resource.as_str())?;
        let shell = match &managed.undo {
            Some(undo) => format!("/bin/sh -e -c {}\n", quote(undo)),
            None => super::removal::shell(managed, &context).unwrap_or_default(),
        };
        return Some((shell, format!("forget {}\n", quote(&managed.id))));
    }
    let resource = desired.iter().find(|r| r.id == step.resource)?;
    let shell = kind::of(&resource.spec)?.enact(&context);
    let known = facts.managed.iter().find(|m| m.id == resource.id.as_str());
    // What was there before us is only adopted: a package that we upgrade stays when its role goes.
    let adopted = match known {
        Some(managed) => managed.adopted,
        None => {
            step.change.verb == Verb::Update
                && matches!(resource.spec, Spec::Package(_) | Spec::File(_) | Spec::Directory(_))
        }
    };
    let remember = match resource.spec {
        Spec::Reboot(_) | Spec::Hostname(_) | Spec::Swap(_) => String::new(),
        _ => format!("remember {} {}\n", quote(resource.id.as_str()), quote(&record(resource, adopted))),
    };
    Some((shell, remember))
}

/// Returns the program of a batch. Holds no late value: those arrive in files.
pub(super) fn program(place: &Place<'_>, steps: &[Step], desired: &[Resource], facts: &Facts) -> String {
    let Place { state, batch, run, owner } = place;
    let mut p = format!(
        r#"#!/bin/sh
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a NEEDRESTART_SUSPEND=1
export PATH LC_ALL DEBIAN_FRONTEND NEEDRESTART_MODE NEEDRESTART_SUSPEND
S={state}; B=$S/runs/{batch}; L=/dev/shm/provision-{batch}; [ -d /dev/shm ] || L=$B/late
finish() {{
rm -rf -- "$L"; [ "$1" = 0 ] && [ -e "$B/reboot" ] && printf '\036reboot\n'
printf '\036rc %s\n' "$1"; printf '%s' "$1" >"$B/rc.new"; sync "$B/rc.new" 2>/dev/null || sync; mv -f "$B/rc.new" "$B/rc"
[ "$1" = 0 ] && [ -e "$B/reboot" ] && systemctl reboot
exit "$1"
}}
rewrite() {{ {{ echo '['; [ -e "$S/managed.json" ] && grep '^{{"' "$S/managed.json" | grep -vF "\"id\":\"$1\""; [ -z "$2" ] || printf '%s,\n' "$2"; echo '{{}}]'; }} >"$S/managed.json.new"; mv -f "$S/managed.json.new" "$S/managed.json"; }}
remember() {{ rewrite "$1" "$2"; }}
forget() {{ rewrite "$1" ''; }}
main() {{
umask 022
# Nobody else works here: we hold the flock. A record of ours is of a run that was killed; one of another is respected.
n=$(date +%s); r=$(cat "$S/lock"); e=$(printf '%s' "$r" | sed -n 's/.*"expires_s":\([0-9]*\).*/\1/p')
case $r in *'"run":"{run}"'*|*'"owner":"'{owner}'"'*|'') ;; *) if [ "${{e:-0}}" -gt "$n" ]; then printf '\036locked %s\n' "$r"; finish {LOCKED}; fi;; esac
printf '{{"owner":"%s","run":"{run}","boot_id":"%s","expires_s":%s}}\n' {owner} "$(cat /proc/sys/kernel/random/boot_id)" $((n + {LOCK_SECONDS})) >"$S/lock"
"#,
        state = quote(state),
        owner = quote(owner),
    );
    let mut restarts: Vec<&str> = Vec::new();
    for step in steps {
        let id = quote(step.resource.as_str());
        let Some((shell, after)) = step_shell(step, desired, facts) else { continue };
        let lates: String = step
            .late
            .iter()
            .map(|late| format!("LATE_{0}=$L/{0}; export LATE_{0}\n", late.as_str().replace(['/', '-'], "_")))
            .collect();
        let spent = if step.late.is_empty() { "" } else { "rm -rf -- \"$L\"\n" };
        p += &format!(
            "printf '\\036step %s\\n' {id}\n{lates}( set -e\n{shell}); r=$?\n{spent}\
             [ $r -eq 0 ] || {{ printf '\\036done %s %s\\n' {id} $r; finish $r; }}\n{after}printf '\\036done %s 0\\n' {id}\n"
        );
        if let Some(resource) = desired.iter().find(|r| r.id == step.resource) {
            for unit in &resource.restarts {
                if !restarts.contains(&unit.as_str()) {
                    restarts.push(unit);
                }
            }
        }
    }
    for unit in restarts {
        p += &format!(
            "systemctl daemon-reload; echo restarting {0} if it runs; systemctl try-restart -- {0} || finish $?\n",
            quote(unit)
        );
    }
    p += "finish 0\n}\n\
          exec >>\"$B/output\" 2>&1 </dev/null\n\
          exec 9>>\"$B/alive\" 8>>\"$S/lock\"; flock -n 9 || exit 0\n\
          flock -w 60 8 || { printf '\\036locked %s\\n' \"$(cat \"$S/lock\")\"; finish 75; }\n\
          main\n";
    p
}

/// Returns the launcher: starts the program unless it was started before, then passes on its output from `offset` until
/// standard input is closed. Late values are part of this text only, which goes over standard input and is stored
/// nowhere.
pub(super) fn launcher(place: &Place<'_>, program: Option<&str>, lates: &Lates, offset: u64) -> String {
    let Place { state, batch, .. } = place;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let start = match program {
        None => String::new(),
        Some(program) => {
            let late: String = lates
                .iter()
                .map(|(name, value)| {
                    format!(
                        "base64 -d >\"$L\"/{} <<'LATE_END'\n{}\nLATE_END\n",
                        name.as_str().replace(['/', '-'], "_"),
                        encode(value.expose().as_bytes())
                    )
                })
                .collect();
            let late = if late.is_empty() { late } else { format!("mkdir -p -m 700 \"$L\"\n{late}") };
            format!(
                "if mkdir -- \"$B\" 2>/dev/null; then : >\"$B/output\"; : >\"$B/alive\"\n\
                 base64 -d >\"$B/program.new\" <<'PROGRAM_END'\n{}\nPROGRAM_END\n\
                 s=$(sha256sum <\"$B/program.new\"); [ \"${{s%% *}}\" = {} ] || {{ rm -rf -- \"$B\"; echo 'the program did not arrive whole' >&2; exit 1; }}\n\
                 mv -f \"$B/program.new\" \"$B/program\"\n{late}\
                 if [ -d /run/systemd/system ] && command -v systemd-run >/dev/null 2>&1; then systemd-run --quiet --collect \
                 --unit=provision-{batch} /bin/sh \"$B/program\" </dev/null || {{ rm -rf -- \"$B\" \"$L\"; exit 1; }}\n\
                 else setsid /bin/sh \"$B/program\" >/dev/null 2>&1 </dev/null & fi\nfi\n",
                encode(program.as_bytes()),
                super::sha256(program.as_bytes()),
            )
        }
    };
    format!(
        "main() {{\numask 077\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH\n\
         S={state}; B=$S/runs/{batch}; L=/dev/shm/provision-{batch}; [ -d /dev/shm ] || L=$B/late\nmkdir -p -- \"$S/runs\" || exit 1\n{start}\
         [ -d \"$B\" ] || {{ printf '\\036gone\\n'; exit 1; }}\n\
         tail -c +{} -f \"$B/output\" 2>/dev/null & t=$!\n\
         {{ n=0; while [ ! -s \"$B/output\" ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done; flock \"$B/alive\" true; \
         [ -e \"$B/rc\" ] || {{ sleep 1; printf '\\036interrupted\\n'; }}; }} & w=$!\n\
         read -r _; kill $t $w 2>/dev/null; exit 0\n}}; main\n",
        offset + 1,
        state = quote(state),
    )
}

/// A line of a batch's output, understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Line {
    Step(String),
    Done(String, i32),
    Locked(String),
    Reboot,
    Rc(i32),
    Gone,
    Interrupted,
    Text(String),
}

/// Understands a line of a batch's output.
pub(super) fn read_line(line: &str) -> Line {
    let Some(frame) = line.strip_prefix(MARK) else { return Line::Text(line.to_owned()) };
    let (word, rest) = frame.split_once(' ').unwrap_or((frame, ""));
    match word {
        "step" => Line::Step(rest.to_owned()),
        "done" => {
            let (id, rc) = rest.rsplit_once(' ').unwrap_or((rest, ""));
            Line::Done(id.to_owned(), rc.parse().unwrap_or(1))
        }
        "locked" => Line::Locked(rest.to_owned()),
        "reboot" => Line::Reboot,
        "rc" => Line::Rc(rest.parse().unwrap_or(1)),
        "gone" => Line::Gone,
        "interrupted" => Line::Interrupted,
        _ => Line::Text(frame.to_owned()),
    }
}
