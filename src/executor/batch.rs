//! Batches: the program that a host runs for a run of steps, and the launcher that starts it detached from the
//! connection. `mkdir` of the run folder is the once-only gate; a lost connection attaches again at an offset.

use super::digest::sha256;
use super::kind::{self, Context};
use crate::state::{
    Facts, Hazard, HostKind, Managed, PackageManager, Resource, ResourceId, SecretText, Spec, Step,
    StepOutput, StepOutputs, Verb, Work,
};
use crate::template::quote;
use base64::Engine;
use std::collections::{BTreeMap, BTreeSet};

/// The longest that a batch may announce to be silent, in seconds: a day.
const MOST_PATIENCE_S: u64 = 86_400;

/// How long a lock record lasts without renewal, in seconds: longer than a planned reboot.
const LOCK_SECONDS: u64 = 3600;
/// A first boot that is not over by then is not waited for any longer, in seconds.
const CLOUD_INIT_SECONDS: u64 = 1200;
/// Exit status of a batch that found the host locked by another run.
pub(super) const LOCKED: i32 = 75;

/// What a batch belongs to.
pub(super) struct BatchContext<'a> {
    /// Our folder on the host.
    pub state: &'a str,
    /// The batch's name, unique on the host.
    pub batch: &'a str,
    /// The run.
    pub run: &'a str,
    /// Who runs it.
    pub owner: &'a str,
    /// The host leaves: packages of ours that others need by now stay.
    pub leaves: bool,
    /// The host fetches nothing itself: its downloads were delivered.
    pub offline: bool,
}

/// Secrets that a batch needs, by the name of the file in memory under which its program finds them.
pub(super) type Payloads = BTreeMap<String, SecretText>;

/// Returns what steps need and must not be part of the program: outputs of other steps, and the content of secret files.
pub(super) fn payloads(steps: &[Step], outputs: &StepOutputs) -> Payloads {
    let inputs = steps.iter().flat_map(|s| &s.inputs);
    let inputs = inputs.filter_map(|name| Some((output_name(*name), outputs.get(name)?.clone())));
    let resources = steps.iter().filter_map(Step::wanted);
    inputs.chain(resources.filter_map(|r| kind::of(&r.spec)?.payload())).collect()
}

/// Returns an output name as part of a variable's name: `token_worker`.
fn output_name(output: StepOutput) -> String {
    output.text().replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

/// Returns the record that managed.json keeps of a resource, on one line.
fn record(resource: &Resource, adopted: bool, context: &Context) -> String {
    let undo = match &resource.spec {
        Spec::Command(command) => command.undo.clone(),
        // Their ids do not contain all that removing them needs.
        Spec::Unit(_) | Spec::PackageRepository(_) => {
            let remove = kind::of(&resource.spec).and_then(|kind| kind.remove(context));
            Some(remove.unwrap_or_else(|| ":".to_owned()))
        }
        _ => None,
    };
    let restarts = resource.restarts.iter().map(|unit| Hazard::Restart(unit.clone()));
    let managed = Managed {
        id: resource.id.clone(),
        hash: Managed::hash_of(&resource.spec),
        undo,
        adopted,
        hazards: resource.hazards.iter().cloned().chain(restarts).collect(),
    };
    serde_json::to_string(&managed).unwrap_or_default()
}

/// Returns whether a resource that we only modify existed before. What has our mark or our own file is ours
/// whatever was there.
fn adopts(spec: &Spec) -> bool {
    matches!(
        spec,
        Spec::Package(_)
            | Spec::PackageRepository(_)
            | Spec::File(_)
            | Spec::Directory(_)
            | Spec::Symlink(_)
            | Spec::Download(_)
            | Spec::Unit(_)
    )
}

/// The shell of one step, and the records of managed.json before and after it.
struct Parts {
    before: String,
    shell: String,
    after: String,
}

/// Returns shell that names the packages that a package's step may take away besides its own: in `$G` those that the plan
/// removes, in `$W` those that a step of the batch installs.
fn disposable(steps: &[Step]) -> String {
    let gone: BTreeSet<&str> = steps
        .iter()
        .filter_map(|step| match &step.work {
            Work::Make { may_remove, .. } => Some(may_remove.iter().map(String::as_str)),
            Work::Remove(_) | Work::ById => None,
        })
        .flatten()
        .chain(steps.iter().filter(|s| s.change.verb == Verb::Remove).filter_map(|s| package_of(&s.resource)))
        .collect();
    let mut changed = steps.iter().filter_map(|s| package_of(&s.resource));
    let listed =
        |names: &mut dyn Iterator<Item = &str>| quote(&names.map(|n| format!(" {n}")).collect::<String>());
    format!("G={} W={}\n", listed(&mut gone.into_iter()), listed(&mut changed))
}

/// Returns the name of a package.
fn package_of(resource: &ResourceId) -> Option<&str> {
    match resource {
        ResourceId::Host(HostKind::Package, name) => Some(name),
        _ => None,
    }
}

/// Returns the shell of one step; the error is why there is none.
fn parts(step: &Step, facts: &Facts) -> Result<Parts, String> {
    let context = Context { package_manager: facts.package_manager };
    if let Work::Remove(managed) = &step.work {
        let shell = match (&managed.undo, &step.resource) {
            // Only where that was planned: what is on a disk stays otherwise.
            (_, ResourceId::Host(HostKind::Filesystem, device)) => {
                let wiped = Hazard::DataLoss(device.clone());
                if step.hazards.contains(&wiped) {
                    format!("wipefs -q -a -- {}\n", quote(device))
                } else {
                    String::new()
                }
            }
            (Some(undo), _) => format!("/bin/sh -e -c {}\n", quote(undo)),
            (None, _) => super::removal::shell(managed, &context).unwrap_or_default(),
        };
        // What a change of it restarts, removing it does too.
        let units: String = managed
            .hazards
            .iter()
            .filter_map(|h| match h {
                Hazard::Restart(unit) => Some(format!(" {}", quote(unit))),
                _ => None,
            })
            .collect();
        let pend = if units.is_empty() { units } else { format!("pend{units}\n") };
        let after = format!("{pend}forget {}\n", quote(&managed.id.text()));
        return Ok(Parts { before: String::new(), shell, after });
    }
    let Work::Make { resource, found, .. } = &step.work else {
        return Err(format!("{}: its plan was read from a file and not made again", step.resource));
    };
    let kind = kind::of(&resource.spec).ok_or_else(|| format!("{} is not a host resource", step.resource))?;
    let adopted = *found && adopts(&resource.spec);
    // Recorded first: a power loss in between must not leave an unrecorded resource.
    let before = match resource.spec {
        Spec::Reboot(_) | Spec::Hostname(_) | Spec::Swap(_) => String::new(),
        _ if resource.once => String::new(),
        _ => format!(
            "remember {} {}\n",
            quote(&resource.id.text()),
            quote(&record(resource, adopted, &context))
        ),
    };
    let units: Vec<String> = resource.restarts.iter().map(|unit| quote(unit)).collect();
    let after = if units.is_empty() { String::new() } else { format!("pend {}\n", units.join(" ")) };
    Ok(Parts { before, shell: kind.enact(&context), after })
}

/// Returns shell that performs pending restarts, if this step may rely on them. Consecutive steps that change the same unit
/// restart it once, after the last of them.
fn restarts_before(step: &Step) -> String {
    let Some(resource) = step.wanted() else { return String::new() };
    if !matches!(resource.spec, Spec::Unit(_) | Spec::Command(_) | Spec::Reboot(_)) {
        return String::new();
    }
    let later = &resource.restarts;
    format!("again{}\n", later.iter().map(|unit| format!(" {}", quote(unit))).collect::<String>())
}

/// Returns the program of a batch. Holds no secret: those arrive in files in memory.
pub(super) fn program(batch_context: &BatchContext<'_>, steps: &[Step], facts: &Facts) -> String {
    let BatchContext { state, batch, run, owner, leaves, offline } = batch_context;
    let offline = if *offline { "yes" } else { "" };
    let mut p = format!(
        r#"#!/bin/sh
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME=${{HOME:-/root}}
DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a NEEDRESTART_SUSPEND=1
export PATH LC_ALL HOME DEBIAN_FRONTEND NEEDRESTART_MODE NEEDRESTART_SUSPEND
S={state}; B=$S/runs/{batch}; {memory}; R=; LEAVES={leaves} OFFLINE={offline}
UNITS={units}; export UNITS; eval "$UNITS"
finish() {{
rm -rf -- "$L"; [ "$1" = 0 ] && [ -e "$B/reboot" ] && {{ rm -f -- "$S/restarts"; printf '\036reboot\n'; }}
printf '\036rc %s\n' "$1"; printf '%s' "$1" >"$B/rc.new"; sync "$B/rc.new" 2>/dev/null || sync; mv -f "$B/rc.new" "$B/rc"
[ "$1" = 0 ] && [ -e "$B/reboot" ] && systemctl reboot
exit "$1"
}}
place() {{ sync "$1.new" 2>/dev/null || sync; mv -f -- "$1.new" "$1"; }}
rewrite() {{ {{ echo '['; [ -e "$S/managed.json" ] && grep '^{{"' "$S/managed.json" | grep -vF "\"id\":\"$1\""; [ -z "$2" ] || printf '%s,\n' "$2"; echo '{{}}]'; }} >"$S/managed.json.new"; place "$S/managed.json"; }}
remember() {{ rewrite "$1" "$2"; }}
forget() {{ rewrite "$1" ''; }}
# A large file that we wrote is not hashed at each look: size, inode and time of change tell that it is still ours.
stamp() {{ {{ [ ! -e "$S/stamps" ] || while IFS= read -r l; do case $l in *"|$2") ;; *) printf '%s\n' "$l";; esac; done <"$S/stamps"; stat -c "$1|%s|%i|%.9Z|%n" -- "$2"; }} >"$S/stamps.new"; place "$S/stamps"; }}
{packages}
# Units that wait for a restart; the list outlives a failed step, so that a later batch still restarts them.
keep() {{ if [ -n "$R" ]; then printf '%s\n' "$R" >"$S/restarts.new"; place "$S/restarts"; else rm -f -- "$S/restarts"; fi; }}
pend() {{ for u in "$@"; do case " $R " in *" $u "*) ;; *) R="$R $u";; esac; done; keep; }}
again() {{
[ -n "$R" ] || return 0
later=" $* "; k=; reloaded=
for u in $R; do
case $later in *" $u "*) k="$k $u"; continue;; esac
case $(systemctl is-active -- "$u" 2>/dev/null) in active|activating|reloading|refreshing) ;; *) continue;; esac
[ -n "$reloaded" ] || systemctl daemon-reload; reloaded=yes; echo "restarting $u"
r=0; systemctl restart -- "$u" || {{ r=$?; fallen "$u"; }}; [ $r -ne 0 ] || settled "$u" || r=1
[ $r -eq 0 ] || {{ printf '\036done restart/%s %s\n' "$u" $r; finish $r; }}
done
R=$k; keep
}}
main() {{
umask 022
# Nobody else works here: we hold the flock. A record of ours is of a run that was killed; one of another is respected.
n=$(date +%s); r=$(cat "$S/lock"); e=$(printf '%s' "$r" | sed -n 's/.*"expires_s":\([0-9]*\).*/\1/p')
case $r in *'"run":"{run}"'*|*'"owner":"'{owner}'"'*|'') ;; *) if [ "${{e:-0}}" -gt "$n" ]; then printf '\036locked %s\n' "$r"; finish {LOCKED}; fi;; esac
printf '{{"owner":"%s","run":"{run}","boot_id":"%s","expires_s":%s}}\n' {owner} "$(cat /proc/sys/kernel/random/boot_id)" $((n + {LOCK_SECONDS})) >"$S/lock"
[ ! -e "$S/restarts" ] || R=$(cat "$S/restarts")
# The proxy, for whatever fetches.
way_out() {{ [ ! -r "$S/environment" ] || . "$S/environment"; }}
"#,
        state = quote(state),
        memory = memory(batch),
        owner = quote(owner),
        units = quote(kind::UNITS),
        packages = kind::PACKAGES,
        leaves = if *leaves { "yes" } else { "" },
    );
    // A first boot still in progress could undo our changes of packages, users and files.
    if facts.cloud_init.as_deref() == Some("running") {
        p += &format!(
            "printf '\\036waiting {CLOUD_INIT_SECONDS} waiting for cloud-init\\n'; timeout -k 5 {CLOUD_INIT_SECONDS} cloud-init status --wait >/dev/null 2>&1\n"
        );
    }
    p += &disposable(steps);
    for step in steps {
        let id = quote(&step.resource.text());
        let turn =
            package_of(&step.resource).map(|name| format!("turn {}\n", quote(name))).unwrap_or_default();
        let Parts { before, shell, after } = parts(step, facts).unwrap_or_else(|why| Parts {
            before: String::new(),
            shell: format!("echo {} >&2; exit 1\n", quote(&why)),
            after: String::new(),
        });
        // Removed packages leave their settings behind; a host that leaves has no use for them.
        let purge = match package_of(&step.resource) {
            Some(name)
                if *leaves
                    && step.change.verb == Verb::Remove
                    && facts.package_manager != Some(PackageManager::Dnf) =>
            {
                format!("dpkg --purge -- {} >/dev/null 2>&1 || true\n", quote(name))
            }
            _ => String::new(),
        };
        let restarts = restarts_before(step);
        let names: Vec<String> = step.inputs.iter().copied().map(output_name).collect();
        let outputs: String = names.iter().map(|n| format!("LATE_{n}=$L/{n}; export LATE_{n}\n")).collect();
        let spent: String = names.iter().map(|n| format!("rm -f -- \"$L/{n}\"\n")).collect();
        p += &format!(
            "{restarts}printf '\\036step %s\\n' {id}\n{before}{outputs}{turn}way_out\n( set -e\n{shell}{purge}); r=$?\n{spent}\
             [ $r -eq 0 ] || {{ printf '\\036done %s %s\\n' {id} $r; finish $r; }}\n{after}printf '\\036done %s 0\\n' {id}\n"
        );
    }
    p += "again\nfinish 0\n}\n\
          exec >>\"$B/output\" 2>&1 </dev/null\n\
          exec 9>>\"$B/alive\" 8>>\"$S/lock\"; flock -n 9 || exit 0\n\
          flock -w 60 8 || { printf '\\036locked %s\\n' \"$(cat \"$S/lock\")\"; finish 75; }\n\
          main\n";
    p
}

/// Returns shell that lets a run's record in the lock last as long again, unless another's is there or a batch holds it, which
/// renews it itself. The file stays the same one: it is what is locked.
/// It is overwritten and not cut off first: on a full disk the record must not be lost.
pub(super) fn renew_lock(state: &str, run: &str) -> String {
    format!(
        "S={}\ncase $(cat \"$S/lock\" 2>/dev/null) in *'\"run\":\"{run}\"'*) (\n\
         flock -n 8 || exit 0\n\
         r=$(sed \"s/\\\"expires_s\\\":[0-9]*/\\\"expires_s\\\":$(($(date +%s) + {LOCK_SECONDS}))/\" \"$S/lock\") && printf '%s\\n' \"$r\" 1<>\"$S/lock\"\n\
         ) 8>>\"$S/lock\";; esac\n",
        quote(state)
    )
}

/// Returns shell that sets `$L`, the batch's folder in memory.
fn memory(batch: &str) -> String {
    format!("L=/dev/shm/provision-{batch}; [ -d /dev/shm ] || L=/run/provision-{batch}")
}

/// Returns shell that removes files in memory of batches that match `pattern` and do not run: payloads of killed launchers,
/// and output that must not reach the disk. Expects `$S`.
pub(super) fn sweep(pattern: &str) -> String {
    format!(
        "for d in /dev/shm/provision-{pattern} /run/provision-{pattern} /dev/shm/provision-{pattern}.out /run/provision-{pattern}.out; do \
         [ -d \"$d\" ] && [ ! -L \"$d\" ] || continue\n\
         b=${{d##*/provision-}}; a=$S/runs/${{b%.out}}/alive; if [ -e \"$a\" ]; then flock -n \"$a\" true || continue; fi; rm -rf -- \"$d\"; done\n"
    )
}

/// Returns the launcher: starts the program unless it was started before, then passes on its output from `offset` until
/// standard input is closed. Payloads are part of this text only, which goes over standard input and is stored nowhere.
/// `secret` keeps the output in memory: a command may print what it was given, and then no disk holds it.
pub(super) fn launcher(
    batch_context: &BatchContext<'_>,
    program: Option<&str>,
    payloads: &Payloads,
    secret: bool,
    offset: u64,
) -> String {
    let BatchContext { state, batch, .. } = batch_context;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let start = match program {
        None => String::new(),
        Some(program) => {
            let files: String = payloads
                .iter()
                .map(|(name, value)| {
                    let text = encode(value.expose().as_bytes());
                    format!("base64 -d >\"$L\"/{name} <<'PAYLOAD_END'\n{text}\nPAYLOAD_END\n")
                })
                .collect();
            let files = if files.is_empty() { files } else { format!("mkdir -p -m 700 -- \"$L\"\n{files}") };
            let output = match secret {
                true => {
                    "mkdir -p -m 700 -- \"$L.out\" && : >\"$L.out/output\" && ln -s \"$L.out/output\" \"$B/output\""
                }
                false => ": >\"$B/output\"",
            };
            format!(
                "if mkdir -- \"$B\" 2>/dev/null; then {output}; : >\"$B/alive\"\n\
                 base64 -d >\"$B/program.new\" <<'PROGRAM_END'\n{}\nPROGRAM_END\n\
                 s=$(sha256sum <\"$B/program.new\"); [ \"${{s%% *}}\" = {} ] || {{ rm -rf -- \"$B\"; echo 'the program did not arrive whole' >&2; exit 1; }}\n\
                 mv -f \"$B/program.new\" \"$B/program\"\n{files}\
                 if [ -d /run/systemd/system ] && command -v systemd-run >/dev/null 2>&1; then systemd-run --quiet --collect \
                 --unit=provision-{batch} /bin/sh \"$B/program\" </dev/null || {{ rm -rf -- \"$B\" \"$L\" \"$L.out\"; exit 1; }}\n\
                 else setsid /bin/sh \"$B/program\" >/dev/null 2>&1 </dev/null & fi\nfi\n",
                encode(program.as_bytes()),
                sha256(program.as_bytes()),
            )
        }
    };
    // `tail` looks again every `-s` seconds where a host has no inotify left (many pods use theirs up), and by itself once
    // a second, which a run would wait at the end of every batch.
    // A batch without output for this long whose flock is free was never started, in tenths of a second.
    const SILENT: u32 = 600;
    format!(
        "main() {{\numask 077\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH\n\
         S={state}; B=$S/runs/{batch}; {memory}\nmkdir -p -- \"$S/runs\" || exit 1\n{start}\
         [ -d \"$B\" ] || {{ printf '\\036gone\\n'; exit 1; }}\n\
         # Output that was in memory went with a reboot; how the batch ended did not.\n\
         if [ ! -e \"$B/output\" ] && [ -L \"$B/output\" ]; then [ -e \"$B/reboot\" ] && printf '\\036reboot\\n'\n\
         if [ -e \"$B/rc\" ]; then printf '\\036rc %s\\n' \"$(cat \"$B/rc\")\"; else printf '\\036interrupted\\n'; fi; read -r _; exit 0; fi\n\
         tail -s 0.1 -c +{} -f \"$B/output\" 2>/dev/null & t=$!\n\
         {{ n=0; while [ ! -s \"$B/output\" ] && [ $n -lt {SILENT} ]; do sleep 0.1; n=$((n+1)); done; flock \"$B/alive\" true; \
         [ -e \"$B/rc\" ] || {{ sleep 1; printf '\\036interrupted\\n'; }}; }} & w=$!\n\
         read -r _; kill $t $w 2>/dev/null; exit 0\n}}; main\n",
        offset + 1,
        state = quote(state),
        memory = memory(batch),
    )
}

/// A parsed line of a batch's output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Line {
    Step(String),
    Done(String, i32),
    Locked(String),
    /// For what, and for how long at most.
    Waiting(String, std::time::Duration),
    Reboot,
    Rc(i32),
    Gone,
    Interrupted,
    Text(String),
}

/// Parses a frame.
pub(super) fn read_frame(frame: &str) -> Line {
    let (word, rest) = frame.split_once(' ').unwrap_or((frame, ""));
    match word {
        "step" => Line::Step(rest.to_owned()),
        "done" => {
            let (id, rc) = rest.rsplit_once(' ').unwrap_or((rest, ""));
            Line::Done(id.to_owned(), rc.parse().unwrap_or(1))
        }
        "locked" => Line::Locked(rest.to_owned()),
        "waiting" => {
            let (seconds, what) = rest.split_once(' ').unwrap_or((rest, ""));
            let seconds: u64 = seconds.parse().unwrap_or(0);
            Line::Waiting(what.to_owned(), std::time::Duration::from_secs(seconds.min(MOST_PATIENCE_S)))
        }
        "reboot" => Line::Reboot,
        "rc" => Line::Rc(rest.parse().unwrap_or(1)),
        "gone" => Line::Gone,
        "interrupted" => Line::Interrupted,
        _ => Line::Text(frame.to_owned()),
    }
}
