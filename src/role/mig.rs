//! The MIG layout of a host's GPUs: how it is read, and how it is created. Instances do not survive a reboot (MIG user guide),
//! so the program that creates them is a file on the host that a unit runs at boot; a step runs the same program.

use crate::catalog::MigRow;
use crate::template::quote;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Shell that both programs share: `list` prints `GPU PROFILE` for each instance, `of N` the profiles of one GPU, sorted.
const SHELL: &str = r#"LC_ALL=C; export LC_ALL
smi() { timeout -k 1 60 nvidia-smi "$@" </dev/null; }
list() { smi -L | sed -n -e 's/^GPU \([0-9]*\):.*/G \1/p' -e 's/^  *MIG \([^ ]*\) .*/M \1/p' |
while read -r k v; do case $k in G) g=$v;; *) echo "$g $v";; esac; done; }
of() { set -- $(list | sed -n "s/^$1 //p" | sort); echo "$*"; }
"#;

/// Returns `nvidia.mig` for a layout: profiles by name, so many of each on every GPU; none means that MIG is off.
pub(super) fn context(layout: &BTreeMap<String, u32>, row: &MigRow) -> Value {
    let of = |name: &String| row.profiles.iter().find(|p| p.name == *name);
    let each = |(name, count): (&String, &u32)| vec![name.clone(); *count as usize];
    let mut have: Vec<String> = layout.iter().flat_map(each).collect();
    have.sort();
    let have = have.join(" ");
    // The largest first: what is left then still fits the smaller ones.
    let mut kinds: Vec<(&String, &u32)> = layout.iter().filter(|(_, count)| **count > 0).collect();
    kinds.sort_by_key(|(name, _)| std::cmp::Reverse(of(name).map(|p| (p.memory, p.compute()))));
    let words: Vec<String> = kinds.iter().map(|(name, count)| format!("{count} x {name}")).collect();
    let create: Vec<String> = kinds.into_iter().flat_map(each).collect();
    let (mode, flag) = if create.is_empty() { ("Disabled", 0) } else { ("Enabled", 1) };
    json!({
        "wanted": if words.is_empty() { "MIG is off".to_owned() } else { format!("{} on every GPU", words.join(", ")) },
        "guard": guard(&have, mode),
        "program": program(&have, &create.join(","), mode, flag),
        "pending": PENDING,
    })
}

/// Prints which MIG mode waits for a reboot, and then exits 1.
const PENDING: &str = r#"p=$(timeout 10 nvidia-smi --query-gpu=mig.mode.current,mig.mode.pending --format=csv,noheader 2>/dev/null </dev/null |
while IFS=', ' read -r c p; do case $p in Enabled|Disabled) [ "$c" = "$p" ] || { echo "MIG mode $p is pending"; break; };; esac; done)
[ -z "$p" ] || { echo "$p"; exit 1; }
"#;

fn guard(have: &str, mode: &str) -> String {
    let have = quote(have);
    format!(
        r#"{SHELL}command -v nvidia-smi >/dev/null 2>&1 || {{ echo 'no driver yet'; exit 1; }}
a=$(smi --query-gpu=index,mig.mode.current --format=csv,noheader 2>&1); r=$?
case $r in 0) ;; 124|137) exit 124;; *) echo 'no driver yet'; exit 1;; esac
b=$(printf '%s\n' "$a" | while IFS=', ' read -r i m; do
[ "$m" = {mode} ] || {{ echo "GPU $i has MIG mode $m"; break; }}
h=$(of "$i"); [ "$h" = {have} ] || {{ echo "GPU $i has ${{h:-no instances}}"; break; }}
done)
[ -z "$b" ] || {{ echo "$b"; exit 1; }}
"#
    )
}

fn program(have: &str, create: &str, mode: &str, flag: u8) -> String {
    let have = quote(have);
    let make = match create {
        "" => String::new(),
        create => format!(
            r#"for i in $gpus; do
[ "$(of "$i")" != {have} ] || continue
clear "$i"
smi mig -i "$i" -cgi {create} -C || fail "GPU $i rejects {create}: nvidia-smi mig -lgip lists what it supports"
done
"#
        ),
    };
    format!(
        r#"#!/bin/sh
# The MIG layout of every GPU of this host, written by provision: at boot, and whenever the layout changes.
{SHELL}fail() {{ echo "E-NV-MIG: $*"; exit 1; }}
clear() {{ smi mig -i "$1" -dci >/dev/null 2>&1 || true; smi mig -i "$1" -dgi >/dev/null 2>&1 || true; }}
mode() {{ smi --query-gpu=mig.mode.current --format=csv,noheader | sort -u; }}
gpus=$(smi --query-gpu=index --format=csv,noheader) || fail 'nvidia-smi does not answer'
if [ "$(mode)" != {mode} ]; then
for i in $gpus; do clear "$i"; done
smi -mig {flag} || fail 'MIG mode cannot be set: something holds the GPUs'
# Ampere wants a reset; newer ones set it at once.
[ "$(mode)" = {mode} ] || smi --gpu-reset || true
[ "$(mode)" = {mode} ] || fail 'MIG mode {mode} is pending until a reboot: plan again; the plan then includes the reboot'
fi
{make}# CDI is not told of MIG changes (container toolkit documents).
mkdir -p /var/run/cdi
nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml
"#
    )
}
