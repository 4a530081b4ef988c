//! What the Xids in a host's kernel log ask for, as guards and steps: the program that hit one starts again, the host
//! reboots, or it is taken out. Which number asks for what is the catalog's.

use crate::catalog::{Action, Catalog};

/// Reads `NUMBER BUS` out of a kernel log, each once. Prefixes vary by tool and are skipped.
pub(super) const XIDS: &str =
    r"sed -n 's/.*NVRM: Xid (PCI:\([0-9a-fA-F:.]*\)): \([0-9][0-9]*\),.*/\2 \1/p' | sort -u";

/// Reads `NUMBER SECONDS PID NAME` of those that name a program, seconds since boot.
const PROGRAMS: &str = r"sed -n 's/^\[ *\([0-9][0-9]*\)\..*NVRM: Xid (PCI:[^)]*): \([0-9][0-9]*\), pid=\([0-9][0-9]*\), name=\([^,]*\),.*/\2 \1 \3 \4/p' | sort -u";

const LOG: &str = "timeout 5 dmesg 2>/dev/null </dev/null";

/// Returns the numbers of the Xids with one of some actions as a shell pattern: `46|62`.
pub(super) fn pattern(catalog: &Catalog, actions: &[Action]) -> String {
    let mut xids: Vec<u32> =
        catalog.xids().iter().filter(|r| actions.contains(&r.action)).flat_map(|r| r.xids.clone()).collect();
    xids.sort_unstable();
    match xids.is_empty() {
        true => "none".to_owned(),
        false => xids.iter().map(u32::to_string).collect::<Vec<_>>().join("|"),
    }
}

/// Returns shell that prints the first Xid with one of some actions, and then exits 1.
fn first(catalog: &Catalog, actions: &[Action], prefix: &str) -> String {
    let wanted = pattern(catalog, actions);
    format!(
        "x=$({LOG} | {XIDS} | while read -r x at; do case $x in {wanted}) echo \"Xid $x on $at\"; break;; esac; done)\n\
         [ -z \"$x\" ] || {{ echo \"{prefix}$x\"; exit 1; }}\n"
    )
}

/// Returns shell that prints why a host with GPUs has to reboot, by its kernel log, and then exits 1.
pub fn needs_reboot(catalog: &Catalog) -> String {
    first(catalog, &[Action::Reset, Action::Reboot], "")
}

/// Returns guard and step of a host that has to be taken out: the step says so and never succeeds, a person looks.
pub fn isolate(catalog: &Catalog) -> (String, String) {
    let actions = [Action::Isolate];
    (
        first(catalog, &actions, ""),
        first(catalog, &actions, "E-NV-XID: the host stays out of service and a person looks at it: "),
    )
}

/// Returns guard and step for programs that hit an Xid after which they have to start again, and that run on. The step
/// ends them; whoever started them, a kubelet say, starts them again. A process that began after the message, or has
/// another name, only got the same number.
pub fn restart_app(catalog: &Catalog) -> (String, String) {
    let wanted = pattern(catalog, &[Action::RestartApp]);
    // Ticks are hundredths of a second on Linux for every program (proc(5)); a message is as old as its second.
    let find = format!(
        "find() {{ {LOG} | {PROGRAMS} | while read -r x t p n; do case $x in {wanted}) ;; *) continue;; esac\n\
         c=; read -r c 2>/dev/null </proc/$p/comm || continue; [ \"$c\" = \"$n\" ] || continue\n\
         b=$(sed 's/.*) //' /proc/$p/stat 2>/dev/null | cut -d ' ' -f 20)\n\
         case $b in ''|*[!0-9]*) continue;; esac; [ \"$b\" -le $((t * 100 + 100)) ] || continue\n\
         echo \"$p $n runs on after Xid $x\"; done; }}\n"
    );
    let guard = format!("{find}a=$(find | head -n 1); [ -z \"$a\" ] || {{ echo \"process $a\"; exit 1; }}\n");
    let apply = format!(
        "{find}for s in TERM KILL; do\nfind | while read -r p n; do echo \"ends process $p ($s)\"; kill -s $s \"$p\" 2>/dev/null || true; done\n\
         w=0; while [ -n \"$(find | head -n 1)\" ] && [ $w -lt 15 ]; do sleep 1; w=$((w + 1)); done\n\
         [ -n \"$(find | head -n 1)\" ] || exit 0\ndone\n\
         echo \"E-NV-XID: $(find | head -n 1) and cannot be ended: reboot the host\"; exit 1\n"
    );
    (guard, apply)
}
