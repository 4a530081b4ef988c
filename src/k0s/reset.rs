//! Takes k0s off a host: stops it and its pods, then `k0s reset` with the folders that it was started with.

use super::paths::{
    BINARY, CONFIG, CONFIG_DIR, CONTROLLER_UNIT, DATA_DIR, KUBELET_DIR, NEXT_BINARY, RUN_DIR, WORKER_UNIT,
};
use super::pods::stop_pods;

/// The command that takes k0s off a host.
pub const RESET: &str = "k0s-reset";
/// Seconds that it may take: containers are stopped and file systems unmounted one by one.
pub const RESET_DEADLINE_S: u64 = 900;

/// What k0s and its kubelet keep on a host. What is a mount point stays, empty.
const FOLDERS: [&str; 3] = [DATA_DIR, RUN_DIR, KUBELET_DIR];
/// Where the folders of an interrupted reset are remembered: k0s removes its unit half-way.
const ARGUMENTS: &str = "/var/lib/provision/k0s.arguments";
/// Where folders of ours lie that are empty once their files are gone.
const EMPTIED: [&str; 2] = [CONFIG_DIR, "/etc/systemd/system/k0s*.service.d"];

/// Returns a guard that succeeds where k0s is gone, and prints what is left of it otherwise.
pub fn is_reset() -> String {
    format!(
        "for u in {WORKER_UNIT} {CONTROLLER_UNIT}; do [ ! -e \"/etc/systemd/system/$u\" ] || {{ echo 'k0s is installed'; exit 1; }}; done\n\
         for d in {folders}; do [ -z \"$(ls -A \"$d\" 2>/dev/null | grep -vxF lost+found)\" ] || {{ echo \"$d is not empty\"; exit 1; }}; done\n",
        folders = FOLDERS.join(" ")
    )
}

/// Returns the program that takes k0s off a host. It can be repeated. `k0s reset` takes the data and kubelet folders from its
/// own arguments, not from the unit (k0s cmd/reset/reset.go), and refuses while k0s runs. It leaves a containerd.toml of its own.
pub fn reset() -> String {
    format!(
        r#"a=
for u in {WORKER_UNIT} {CONTROLLER_UNIT}; do
f=/etc/systemd/system/$u; [ -e "$f" ] || continue
for w in $(sed -n 's/^ExecStart=//p' "$f"); do case $w in --data-dir=/*|--kubelet-root-dir=/*|--cri-socket=*) a="$a $w";; esac; done
done
if [ -n "$a" ]; then echo "$a" >{ARGUMENTS}; else read -r a 2>/dev/null <{ARGUMENTS} || a='--data-dir={DATA_DIR} --kubelet-root-dir={KUBELET_DIR}'; fi
{stop_pods}
for u in {WORKER_UNIT} {CONTROLLER_UNIT}; do systemctl disable --now -q -- "$u" 2>/dev/null || true; done
[ ! -e {CONFIG} ] || a="$a --config={CONFIG}"
[ ! -x {BINARY} ] || timeout -k 10 600 {BINARY} reset $a
m=$(sed -n 's/^[^ ]* [^ ]* [^ ]* [^ ]* \([^ ]*\) .*/\1/p' /proc/self/mountinfo)
for d in {folders}; do
for b in $m; do case $b in "$d"/*) echo "E-MOUNTED: $b is still mounted"; exit 1;; esac; done
[ ! -d "$d" ] || find "$d" -mindepth 1 -maxdepth 1 ! -name lost+found -exec rm -rf --one-file-system -- {{}} +
case " $(echo $m) " in *" $d "*) ;; *) [ ! -d "$d" ] || rmdir -- "$d" 2>/dev/null || true;; esac
done
rm -f -- /etc/systemd/system/{WORKER_UNIT} /etc/systemd/system/{CONTROLLER_UNIT} {ARGUMENTS} {NEXT_BINARY}
if read -r l 2>/dev/null <{CONFIG_DIR}/containerd.toml && [ "$l" = '# k0s_managed=true' ]; then rm -f -- {CONFIG_DIR}/containerd.toml; fi
systemctl daemon-reload
"#,
        stop_pods = stop_pods(),
        folders = FOLDERS.join(" "),
    )
}

/// Returns shell that removes folders of ours in which nothing is left.
pub fn remove_empty_folders() -> String {
    format!(
        "for d in {}; do [ ! -d \"$d\" ] || find \"$d\" -depth -type d -empty -delete; done\n",
        EMPTIED.join(" ")
    )
}
