//! Actions for Xids in a host's kernel log, as guards and steps: restart the process that caused one, reboot the host, or
//! take it out of service. The catalog maps Xids to actions.

use crate::catalog::{Action, Catalog};

/// Reads a kernel log after a `BEGIN` that fills `act`, `severe` and `by`, and prints a line `ACTION WHAT` for each Xid of
/// a GPU and each SXid of an NVSwitch. Prefixes of lines vary by tool and are skipped. The field in parentheses may name an
/// instance of a split GPU after the bus address (`GPU-I:05 GPU-CI:00`): what an Xid asks for concerns the whole GPU.
const READ: &str = r#"
function add(what, at, number, why) {
  key = what SUBSEP at SUBSEP number SUBSEP why
  if (!(key in last)) order[++n] = key
  last[key] = NR; had[number, at] = 1
}
/NVRM: Xid|nvidia-nvswitch[0-9]*: SXid/ {
  if (!match($0, /S?Xid \((PCI:)?[0-9a-fA-F]+:[0-9a-fA-F][^)]*\): *[0-9]+(,|[ \t\r]|$)/)) { cut = substr($0, 1, 200); next }
  head = substr($0, RSTART, RLENGTH); text = substr($0, RSTART + RLENGTH); low = tolower(text)
  x = head; sub(/.*\): */, "", x); x += 0
  at = head; sub(/[^(]*\((PCI:)?/, "", at); sub(/[^0-9a-fA-F:].*/, "", at)
  mild = low ~ /non[-_ ]?fatal/
  if (head ~ /^S/) {
    # Two lines with details follow each.
    if (low !~ /^ *(severity|data)/) add("SXid", at, x, mild ? "nonfatal" : low ~ /fatal/ ? "reboot" : "unreadable")
    next
  }
  if (x == 154 && !(x in act)) {
    to = text; if (!sub(/.* to /, "", to)) to = ""
    name = to; sub(/^[^(]*\(/, "", name); sub(/\).*/, "", name); gsub(/[^0-9A-Za-z ]/, "", name)
    to = tolower(to)
    to = to ~ /reboot/ ? "reboot" : to ~ /reset/ ? "reset" : to ~ /drain|recover/ ? "drain" : to ~ /none/ ? "none" : "unreadable"
    if (!(at in says)) order[++n] = "Xid" SUBSEP at SUBSEP x SUBSEP "says"
    says[at] = to; named[at] = name
    if (to != "unreadable") decided[at] = NR
    next
  }
  add("Xid", at, x, (x in severe) && mild ? "nonfatal" : low ~ /(^|[^a-z-])contained/ ? "contained" : "")
}
END {
  if (cut != "") print "unreadable the line \"" cut "\""
  for (i = 1; i <= n; i++) {
    split(order[i], p, SUBSEP); at = p[2]; x = p[3]; why = p[4]; what = p[1] " " x " on " at
    if (why == "says") { print says[at] " " what " (" named[at] ")"; continue }
    if (p[1] == "SXid" || why == "nonfatal") { print why " " what; continue }
    a = x in act ? act[x] : "unlisted"
    if (a == "reset" || a == "reboot") {
      m = split(by[x], c, " "); for (j = 1; j <= m; j++) if ((c[j], at) in had) why = "contained"
      if (why == "contained") a = why
      else if (at in decided && last[order[i]] < decided[at]) a = "decided"
    }
    print a " " what
  }
}"#;

/// Reads `NUMBER SECONDS PID NAME` of those that name a program, seconds since boot.
const PROGRAMS: &str = r"sed -n 's/^[^[]*\[ *\([0-9][0-9]*\)\.[0-9]*\].*NVRM: Xid (PCI:[^)]*): \([0-9][0-9]*\), pid=\([0-9][0-9]*\), name=\([^,]*\),.*/\2 \1 \3 \4/p' | sort -u";

const LOG: &str = "timeout 5 dmesg 2>/dev/null </dev/null";

/// Returns the numbers of the Xids with one of some actions.
fn numbers(catalog: &Catalog, action: Action) -> Vec<u32> {
    let mut xids: Vec<u32> =
        catalog.xids().iter().filter(|r| r.action == action).flat_map(|r| r.xids.clone()).collect();
    xids.sort_unstable();
    xids
}

/// Returns an action as the lines of `decided` name it.
fn name(action: Action) -> &'static str {
    match action {
        Action::Ignore => "ignore",
        Action::RestartApp => "restart-app",
        Action::Reset => "reset",
        Action::Reboot => "reboot",
        Action::Isolate => "isolate",
    }
}

/// Returns shell that reads a kernel log and prints `ACTION WHAT` for each Xid of a GPU and each SXid of an NVSwitch, once,
/// such as `reboot Xid 79 on 0000:0c:00`. The action is the catalog's, or
/// - `nonfatal`, `contained`: the message, or an Xid next to it, says that nothing has to be done;
/// - `decided`: an Xid 154 after it says what the GPU needs, so this one does not;
/// - `drain`, `none`: what an Xid 154 says (NVML: nvmlDeviceGpuRecoveryAction_t), besides `reset` and `reboot`;
/// - `unlisted`: the number is in no row of the catalog;
/// - `unreadable`: a line that is none of the known forms.
pub(super) fn decided(catalog: &Catalog) -> String {
    let list = |xids: &[u32]| xids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let actions = [Action::Ignore, Action::RestartApp, Action::Reset, Action::Reboot, Action::Isolate];
    let mut begin: String = actions
        .iter()
        .map(|a| {
            format!(
                "m = split(\"{}\", t, \" \"); for (i = 1; i <= m; i++) act[t[i]] = \"{}\"\n",
                list(&numbers(catalog, *a)),
                name(*a)
            )
        })
        .collect();
    for row in catalog.xids() {
        for xid in &row.xids {
            if row.by_severity {
                begin += &format!("severe[{xid}] = 1; ");
            }
            if !row.contained_by.is_empty() {
                begin += &format!("by[{xid}] = \"{}\"; ", list(&row.contained_by));
            }
        }
    }
    format!("awk 'BEGIN {{ {begin} }}{READ}'")
}

/// Returns shell that prints the first Xid with one of some actions, and then exits 1.
fn first(catalog: &Catalog, actions: &[Action], prefix: &str) -> String {
    let wanted = actions.iter().map(|a| name(*a)).collect::<Vec<_>>().join("|");
    let decided = decided(catalog);
    format!(
        "x=$({LOG} | {decided} | while read -r a what; do case $a in {wanted}) echo \"$what\"; break;; esac; done)\n\
         [ -z \"$x\" ] || {{ echo \"{prefix}$x\"; exit 1; }}\n"
    )
}

/// Returns shell that prints why a host with GPUs has to reboot, by its kernel log, and then exits 1.
pub fn needs_reboot(catalog: &Catalog) -> String {
    first(catalog, &[Action::Reset, Action::Reboot], "")
}

/// Returns guard and step of a host that must leave service: the step reports it and never succeeds.
pub fn isolate(catalog: &Catalog) -> (String, String) {
    let actions = [Action::Isolate];
    (
        first(catalog, &actions, ""),
        first(catalog, &actions, "E-NV-XID: the host stays out of service until an operator handles it: "),
    )
}

/// Returns guard and step for programs that hit an Xid after which they have to start again, and that run on. The step
/// kills them; their supervisor, such as a kubelet, restarts them. A process that began after the message, or has
/// another name, only got the same number.
pub fn restart_app(catalog: &Catalog) -> (String, String) {
    let wanted = numbers(catalog, Action::RestartApp);
    let wanted = match wanted.is_empty() {
        true => "none".to_owned(),
        false => wanted.iter().map(u32::to_string).collect::<Vec<_>>().join("|"),
    };
    // Ticks are hundredths of a second on Linux for every program (proc(5)); a message is as old as its second.
    let find = format!(
        "find() {{ {LOG} | {PROGRAMS} | while read -r x t p n; do case $x in {wanted}) ;; *) continue;; esac\n\
         c=; read -r c 2>/dev/null </proc/$p/comm || continue; [ \"$c\" = \"$n\" ] || continue\n\
         b=$(sed 's/.*) //' /proc/$p/stat 2>/dev/null | cut -d ' ' -f 20)\n\
         case $b in ''|*[!0-9]*) continue;; esac; [ \"$b\" -le $((t * 100 + 100)) ] || continue\n\
         echo \"$p $n is still running after Xid $x\"; done; }}\n"
    );
    let guard = format!("{find}a=$(find | head -n 1); [ -z \"$a\" ] || {{ echo \"process $a\"; exit 1; }}\n");
    let apply = format!(
        "{find}for s in TERM KILL; do\nfind | while read -r p n; do echo \"killing process $p ($s)\"; kill -s $s \"$p\" 2>/dev/null || true; done\n\
         w=0; while [ -n \"$(find | head -n 1)\" ] && [ $w -lt 15 ]; do sleep 1; w=$((w + 1)); done\n\
         [ -n \"$(find | head -n 1)\" ] || exit 0\ndone\n\
         echo \"E-NV-XID: $(find | head -n 1) and cannot be killed: reboot the host\"; exit 1\n"
    );
    (guard, apply)
}
