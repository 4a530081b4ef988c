//! A host whose kubelet is dead: what its pods run is stopped, and proven to be.

use crate::kit::{Setup, fleet};
use provision::k0s::{NO_PODS, STEADY, steady, stop_pods};

/// k0s's unit has KillMode=process: what it started outlives it, and a hung container's shim ignores TERM.
const K0S: &str = r#"
mkdir -p /var/lib/k0s/bin
cp /bin/sh /var/lib/k0s/bin/containerd-shim-runc-v2
cp /bin/sleep /var/lib/k0s/bin/kubelet
cat >/var/lib/k0s/start <<'END'
/var/lib/k0s/bin/kubelet 3000 &
setsid /var/lib/k0s/bin/containerd-shim-runc-v2 -c 'trap "" TERM; while :; do sleep 1; done' &
exec sleep 3001
END
cat >/etc/systemd/system/k0sworker.service <<'END'
[Service]
ExecStart=/bin/sh /var/lib/k0s/start
KillMode=process
END
systemctl daemon-reload
systemctl start k0sworker
setsid sleep 3002 >/dev/null 2>&1 </dev/null &
sleep 1
"#;

#[test]
fn what_pods_run_is_stopped_and_nothing_else() {
    let hosts = fleet().boot([Setup::new("w-1")]);
    let host = &hosts[0];
    host.sh(K0S);
    let running = |name: &str| {
        let count = format!(
            "n=0; for d in /proc/[0-9]*; do case $(readlink $d/exe) in {name}) n=$((n + 1));; esac; done; echo $n"
        );
        String::from_utf8_lossy(&host.try_sh(&count).stdout).trim().to_owned()
    };
    assert_eq!((running("*/containerd-shim*"), running("*/k0s/bin/kubelet")), ("1".into(), "1".into()));
    host.sh("systemctl stop k0sworker; sleep 1");
    assert_eq!(running("*/containerd-shim*"), "1", "systemd leaves it running");
    host.sh("systemctl start k0sworker; sleep 1");
    let ended = host.try_sh(&stop_pods());
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ended.status.success() && said.trim() == NO_PODS, "{said}");
    assert_eq!((running("*/containerd-shim*"), running("*/k0s/bin/kubelet")), ("0".into(), "0".into()));
    assert_eq!(host.try_sh("systemctl is-active k0sworker").status.code(), Some(3));
    let other = host.try_sh("pgrep -f 'sleep 3002'");
    assert!(other.status.success(), "what is no pod's goes on");
}

/// On a real host a k0s that could not start was caught between two restarts, and called converged.
#[test]
fn a_host_is_not_back_while_k0s_flaps_or_an_old_kubelet_lives_on() {
    let hosts = fleet().boot([Setup::new("w-1")]);
    let host = &hosts[0];
    let says = || {
        let ended = host.try_sh(&steady(5));
        (ended.status.success(), String::from_utf8_lossy(&ended.stdout).trim().to_owned())
    };
    assert_eq!(says(), (true, STEADY.to_owned()), "no k0s, nothing to wait for");
    host.sh(K0S);
    host.sh("printf '[Install]\nWantedBy=multi-user.target\n' >>/etc/systemd/system/k0sworker.service; systemctl daemon-reload; systemctl enable k0sworker");
    assert_eq!(says(), (true, STEADY.to_owned()));
    // The unit leaves its kubelet behind when it is restarted.
    host.sh("sleep 1; systemctl restart k0sworker");
    let (steady, said) = says();
    assert!(!steady && said.contains("is from before the last start of k0sworker.service"), "{said}");
    host.sh("pkill -x kubelet; systemctl restart k0sworker");
    host.sh("printf '[Service]\nExecStart=/bin/sh -c \"echo no such flag; sleep 2; exit 1\"\nRestart=always\nRestartSec=1\nKillMode=process\n[Install]\nWantedBy=multi-user.target\n' >/etc/systemd/system/k0sworker.service; systemctl daemon-reload; systemctl restart k0sworker");
    let (steady, said) = says();
    assert!(!steady && said.starts_with("k0sworker.service does not stay up"), "{said}");
    assert!(said.contains("no such flag"), "the unit's own words: {said}");
}
