//! Whether k0s stays up on a host, and its kubelet is the one that it started.

use super::paths::{CONTROLLER_UNIT, DATA_DIR, WORKER_UNIT};

/// What the program prints when k0s stays up.
pub const STEADY: &str = "k0s stays up";

/// A k0s that has not stayed up by then, in so many times the seconds that it has to, is given up.
const PATIENCE: u32 = 8;

/// Returns a program that waits until the main process of k0s's unit has been the same for so many seconds: a unit that
/// systemd restarts again and again is active in between. Its units have KillMode=process, so a kubelet from before the
/// last start may live on beside it, and renew the node's lease: such a host is not steady either.
pub fn steady(seconds: u32) -> String {
    format!(
        r#"( u=
for n in {WORKER_UNIT} {CONTROLLER_UNIT}; do case $(systemctl is-enabled -- "$n" 2>/dev/null) in enabled*) u=$n;; esac; done
if [ -n "$u" ]; then
n=0; same=0; last=
while :; do
p=$(systemctl show -p MainPID -p NRestarts -p ActiveState -- "$u" | sort)
case $p in ActiveState=active*) ;; *) p=;; esac
[ -n "$p" ] && [ "$p" = "$last" ] || {{ last=$p; same=0; }}
[ -z "$p" ] || [ $same -lt {seconds} ] || break
[ $n -lt {patience} ] || {{ echo "$u does not stay up: systemd restarts it"; journalctl -u "$u" -n 10 --no-pager 2>/dev/null; exit 1; }}
sleep 1; n=$((n + 1)); same=$((same + 1))
done
started() {{ s=$(sed 's/.*) //' "$1/stat" 2>/dev/null) && set -- $s && s=${{20:-0}}; }}
m=${{p#*MainPID=}}; m=${{m%%
*}}
started "/proc/$m" || s=0; main=$s
for d in /proc/[0-9]*; do
case $(readlink "$d/exe" 2>/dev/null) in {DATA_DIR}/bin/kubelet*) ;; *) continue;; esac
started "$d" || continue
[ "$s" -ge "$main" ] || {{ echo "a kubelet (process ${{d##*/}}) is from before the last start of $u"; exit 1; }}
done
fi
echo '{STEADY}' )
"#,
        patience = seconds * PATIENCE,
    )
}
