//! Stops what pods run on a host whose kubelet does not answer.

use super::paths::{CONTROLLER_UNIT, DATA_DIR, WORKER_UNIT};

/// What the program prints when nothing of any pod runs any more.
pub const NO_PODS: &str = "no pod runs";

/// Seconds that processes have to end by themselves, and those after which a host is given up.
const GRACE_S: u32 = 10;
const PATIENCE_S: u32 = 40;

/// Returns a program that stops k0s, then its kubelet, containerd and shims, and everything in a pod's cgroup. k0s's units
/// use KillMode=process: what k0s started outlives it. A process that cannot be killed, as it hangs in the kernel, fails it.
pub fn stop_pods() -> String {
    format!(
        r#"( for u in {WORKER_UNIT} {CONTROLLER_UNIT}; do
systemctl is-active -- "$u" >/dev/null 2>&1 && {{ systemctl stop -- "$u" || exit 1; }}
done
n=0
while :; do
left=
for d in /proc/[0-9]*; do
case $(readlink "$d/exe" 2>/dev/null) in
{DATA_DIR}/bin/kubelet*|{DATA_DIR}/bin/containerd*|{DATA_DIR}/bin/runc*) ;;
*) grep -qs kubepods "$d/cgroup" || continue;;
esac
left="$left ${{d##*/}}"
done
[ -n "$left" ] || break
[ $n -lt {PATIENCE_S} ] || {{ echo "these processes of pods cannot be ended:$left"; exit 1; }}
s=TERM; [ $n -lt {GRACE_S} ] || s=KILL
kill -s $s $left 2>/dev/null || true
n=$((n + 1)); sleep 1
done
echo '{NO_PODS}' )
"#
    )
}
