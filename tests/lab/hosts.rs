//! Hosts of the lab, and the executor on them.

use crate::kit::{Kit, exists, fault, h100};
use provision::event::Events;
use provision::executor::Sudo;
use provision::state::*;

fn file(path: &str, text: &str) -> Resource {
    let spec = File {
        path: path.into(),
        content: Content::Text(text.into()),
        mode: 0o644,
        owner: "root:root".into(),
        validate: None,
    };
    Resource::new("test", Spec::File(spec))
}

fn steps(observed: &Observed) -> Vec<Step> {
    provision::plan::steps_of(observed).0
}

fn everything() -> Vec<Resource> {
    let r = |spec: Spec| Resource::new("test", spec);
    vec![
        file("/etc/one.conf", "it's \"one\" $HOME `x` \\n\n"),
        r(Spec::File(File {
            path: "/etc/secret".into(),
            content: Content::Secret(SecretText::new("canary-8f1c")),
            mode: 0o600,
            owner: "root:root".into(),
            validate: Some("grep -q canary {}".into()),
        })),
        r(Spec::Directory(Directory {
            path: "/var/lib/thing".into(),
            mode: 0o750,
            owner: "root:root".into(),
        })),
        r(Spec::Symlink(Symlink { path: "/etc/link".into(), target: "/etc/one.conf".into() })),
        r(Spec::LineInFile(LineInFile {
            path: "/etc/hosts".into(),
            name: "self".into(),
            line: "127.0.1.1 me".into(),
        })),
        r(Spec::Package(Package {
            name: "chrony".into(),
            version: None,
            ensure: Ensure::Present,
            hold: false,
        })),
        r(Spec::Package(Package {
            name: "nvidia-open-580".into(),
            version: Some("580.178.04-1".into()),
            ensure: Ensure::Present,
            hold: true,
        })),
        r(Spec::Unit(Unit {
            name: "chrony.service".into(),
            enabled: Some(true),
            active: Some(true),
            masked: false,
        })),
        r(Spec::KernelModule(KernelModule {
            name: "nvidia".into(),
            ensure: Ensure::Present,
            version: Some("580.178.04".into()),
        })),
        r(Spec::KernelModule(KernelModule { name: "nouveau".into(), ensure: Ensure::Absent, version: None })),
        r(Spec::Sysctl(Sysctl { key: "vm.max_map_count".into(), value: "262144".into(), raise_only: true })),
        r(Spec::Swap(Swap {})),
        r(Spec::Hostname(Hostname { name: "h-1".into() })),
        r(Spec::Command(Command {
            name: "mark".into(),
            guard: "[ -e /etc/marked ]".into(),
            apply: ": >/etc/marked".into(),
            undo: Some("rm -f /etc/marked".into()),
            wanted: "marked".into(),
            when_changed: Vec::new(),
        })),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_is_brought_about_once_and_drift_is_named_and_mended() {
    let kit = Kit::up(&["h-1"], |spec| spec.hosts[0].hardware = Some(h100(8))).await;
    let target = kit.target("h-1", everything());
    let before = target.observe().await.expect("observed");
    assert_eq!(before.facts.pci.len(), 12, "8 GPUs and 4 switches");
    let plan = steps(&before);
    assert_eq!(plan.len(), everything().len(), "all is to be done: {plan:#?}");
    target.enact(&plan, &StepOutputs::new()).await.expect("enacted");
    let after = target.observe().await.expect("observed");
    assert_eq!(steps(&after), [], "the second plan is empty");
    assert_eq!(kit.read("h-1", "/etc/one.conf"), "it's \"one\" $HOME `x` \\n\n");
    assert!(kit.read("h-1", "/etc/hosts").contains("127.0.0.1 localhost\n127.0.1.1 me # provision: self\n"));
    assert_eq!(after.facts.managed.len(), 12);

    crate::kit::write(kit.file("h-1", "/etc/one.conf"), "edited\n");
    std::fs::remove_file(kit.file("h-1", "/etc/link")).expect("removed");
    let drifted = steps(&target.observe().await.expect("observed"));
    let ids: Vec<_> = drifted.iter().map(|s| s.resource.text()).collect();
    assert_eq!(ids, ["file//etc/one.conf", "symlink//etc/link"]);
    assert!(drifted[0].change.text.as_deref().is_some_and(|t| t.contains("-edited")), "{drifted:#?}");
    target.enact(&drifted, &StepOutputs::new()).await.expect("mended");
    assert_eq!(steps(&target.observe().await.expect("observed")), []);

    // A role that no longer wants a thing gives it up.
    let fewer = kit.target("h-1", everything().into_iter().skip(1).collect());
    let observed = fewer.observe().await.expect("observed");
    let orphans: Vec<_> = observed.orphans.iter().map(|o| o.id.text()).collect();
    assert_eq!(orphans, ["file//etc/one.conf"]);
    fewer.enact(&steps(&observed), &StepOutputs::new()).await.expect("removed");
    assert!(!exists(&kit.file("h-1", "/etc/one.conf")));
    assert_eq!(fewer.observe().await.expect("observed").orphans, []);
    fewer.finish().await.expect("finished");
    assert_eq!(kit.read("h-1", "/var/lib/provision/lock"), "");
    kit.lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn observing_is_one_connection_one_channel_one_exec_for_10_and_for_1000_resources() {
    let kit = Kit::up(&["a", "b"], |_| {}).await;
    for (host, count) in [("a", 10), ("b", 1000)] {
        let many = (0..count).map(|n| file(&format!("/etc/many/{n}.conf"), &format!("{n}\n"))).collect();
        let observed = kit.target(host, many).observe().await.expect("observed");
        assert_eq!(steps(&observed).len(), count);
        let c = kit.lab.counters()[host];
        assert_eq!((c.connections, c.channels, c.execs), (1, 1, 1), "{host}");
    }
    kit.lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_cannot_write_to_the_machine() {
    let kit = Kit::up(&["a"], |_| {}).await;
    let probe = "for f in /usr/bin/lab-was-here /proc/sysrq-trigger-x /proc/1/oom_score_adj; do (echo 1 >$f) 2>/dev/null && echo \"wrote $f\"; done; \
                 ls / /mnt | tr '\\n' ' '; exit 1";
    let command = Spec::Command(Command {
        name: "probe".into(),
        guard: probe.into(),
        apply: "true".into(),
        undo: None,
        wanted: "nothing".into(),
        when_changed: Vec::new(),
    });
    let observed = kit.target("a", vec![Resource::new("test", command)]).observe().await.expect("observed");
    let Some(Observation::Present(seen)) = observed.seen.get(&ResourceId::host(HostKind::Command, "probe"))
    else {
        panic!("{:?}", observed.seen)
    };
    assert!(!seen.fields["state"].contains("wrote"), "{:?}", seen.fields);
    assert!(seen.fields["state"].contains("bin dev etc home"), "{:?}", seen.fields);
    kit.lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_link_loses_nothing() {
    let kit = Kit::up(&["a"], |spec| spec.faults = vec![fault("a=link-cut:9000")]).await;
    let noise = Spec::Command(Command {
        name: "noise".into(),
        guard: "[ -e /etc/done ]".into(),
        apply: "i=0; while [ $i -lt 300 ]; do echo \"line $i of a long output that fills the link\"; i=$((i+1)); done; : >/etc/done".into(),
        undo: None,
        wanted: "done".into(),
        when_changed: Vec::new(),
    });
    let (events, mut seen) = Events::channel();
    let target = kit.target_with("a", vec![Resource::new("test", noise)], Sudo::Required(None), events);
    let plan = steps(&target.observe().await.expect("observed"));
    target.enact(&plan, &StepOutputs::new()).await.expect("enacted over a new connection");
    assert_eq!(steps(&target.observe().await.expect("observed")), []);
    assert!(kit.lab.counters()["a"].connections > 1, "the link was cut");
    drop(target);
    let mut lines = Vec::new();
    while let Some(event) = seen.recv().await {
        if let provision::event::Event::Output { line, .. } = event {
            lines.push(line);
        }
    }
    let expected: Vec<_> =
        (0..300).map(|i| format!("line {i} of a long output that fills the link")).collect();
    assert_eq!(lines, expected, "every line once");
    kit.lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_cut_while_a_host_is_asked_is_asked_over_once_more() {
    let kit = Kit::up(&["a"], |spec| spec.faults = vec![fault("a=link-cut:3000")]).await;
    let many = (0..200).map(|n| file(&format!("/etc/many/{n}.conf"), "x\n")).collect();
    let observed = kit.target("a", many).observe().await.expect("observed over a new connection");
    assert_eq!(steps(&observed).len(), 200);
    assert_eq!(kit.lab.counters()["a"].connections, 2, "the link was cut");
    kit.lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_says_why() {
    let kit = Kit::up(&["pkg", "full", "key", "away", "pw"], |spec| {
        spec.faults = vec![
            fault("pkg=fail-package:chrony"),
            fault("full=disk-full"),
            fault("key=wrong-host-key"),
            fault("away=unreachable"),
        ];
        spec.hosts[4].set_sudo_password("canary-pw");
    })
    .await;
    let chrony = || {
        let package = Package { name: "chrony".into(), version: None, ensure: Ensure::Present, hold: false };
        vec![Resource::new("test", Spec::Package(package))]
    };
    let target = kit.target("pkg", chrony());
    let plan = steps(&target.observe().await.expect("observed"));
    let failure = target.enact(&plan, &StepOutputs::new()).await.expect_err("the package fails");
    assert_eq!((failure.exit, failure.kind), (Some(100), FailureKind::Step), "{failure:?}");
    assert!(failure.tail.iter().any(|l| l.contains("maintainer script")), "{failure:?}");

    let code = async |host: &str| kit.target(host, chrony()).observe().await.expect_err("fails").code;
    assert_eq!(code("full").await, "E-NO-SPACE");
    assert_eq!(code("key").await, "E-SSH-HOSTKEY-CHANGED");
    assert_eq!(code("away").await, "E-SSH-UNREACHABLE");
    assert_eq!(code("pw").await, "E-SUDO-PASSWORD");
    let with = |password: &str| {
        kit.target_with("pw", chrony(), Sudo::Required(Some(SecretText::new(password))), Events::none())
    };
    assert_eq!(with("wrong").observe().await.expect_err("refused").code, "E-SUDO-PASSWORD");
    with("canary-pw").observe().await.expect("the right one works");
    kit.lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sudo_is_judged_by_what_it_does_in_any_language() {
    use std::os::unix::fs::PermissionsExt;
    // What it does with `-n`, and with a line of input: sudo-rs before it had `-A`, one that only speaks German, one that wants a
    // terminal, one that lets nobody in, and a shell that ends although sudo lets it in.
    const READS: &str = "while IFS= read -r w; do echo try >>/root/tries; [ \"$w\" = canary-pw ] && while :; do \
                         [ \"$1\" = -- ] && shift && exec \"$@\"; shift; done; done";
    let sudos = [
        (
            "rs",
            format!(
                "case $* in *-A*) echo 'sudo: unrecognized option' >&2; exit 1;; -S*) {READS};; esac\n\
                        echo 'sudo: interactive authentication is required' >&2; exit 1"
            ),
        ),
        (
            "de",
            format!(
                "case $1 in -S) {READS}; echo 'sudo: 1 Fehlversuch bei der Passwort-Eingabe' >&2; exit 1;; esac\n\
                        echo 'sudo: Ein Passwort ist notwendig' >&2; exit 1"
            ),
        ),
        ("tty", "echo 'sudo: sorry, you must have a tty to run sudo' >&2; exit 1".to_owned()),
        (
            "shut",
            "[ $1 = -n ] || read -r w; echo 'Sorry, user ubuntu may not run sudo on shut.' >&2; exit 1"
                .to_owned(),
        ),
        (
            "ends",
            "case $* in *-s*) echo 'sudo: a password is required' >&2; exit 5;; esac; shift 2; exec \"$@\""
                .to_owned(),
        ),
    ];
    let kit = Kit::up(&sudos.each_ref().map(|(name, _)| *name), |_| {}).await;
    for (name, script) in &sudos {
        let path = kit.spec.host_dir(name).join("usr-local/bin/sudo");
        std::fs::remove_file(&path).expect("the stand-in");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("executable");
    }
    let with = |host: &str, password: Option<&str>| {
        let password = password.map(SecretText::new);
        kit.target_with(host, file_list(), Sudo::Required(password), Events::none())
    };
    for host in ["rs", "de"] {
        let target = with(host, Some("wrong"));
        for _ in 0..2 {
            let failure = target.observe().await.expect_err("refused");
            assert_eq!(
                (failure.code.as_str(), failure.message.as_str()),
                ("E-SUDO-PASSWORD", "sudo rejects the password"),
                "{host}: {failure:?}"
            );
        }
        assert_eq!(kit.read(host, "/root/tries"), "try\n", "{host}: a wrong password is tried once");
        let target = with(host, Some("canary-pw"));
        let plan = steps(&target.observe().await.expect("the right one works"));
        target.enact(&plan, &StepOutputs::new()).await.expect("enacted");
        assert_eq!(kit.read(host, "/etc/greeting"), "hello\n");
    }
    let failure = async |host: &str, password: Option<&str>| {
        let failure = with(host, password).observe().await.expect_err("refused");
        (failure.code, failure.message)
    };
    assert_eq!(failure("rs", None).await.1, "sudo requires a password and none is configured");
    for password in [None, Some("canary-pw")] {
        assert_eq!(failure("tty", password).await.0, "E-SUDO-TTY");
        assert_eq!(failure("shut", password).await.0, "E-SUDO-REFUSED");
        let (code, message) = failure("ends", password).await;
        assert!(code == "E-SHELL" && message.contains("exited with 5"), "{code}: {message}");
    }
    kit.lab.down().await;
}

fn file_list() -> Vec<Resource> {
    vec![file("/etc/greeting", "hello\n")]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_is_proved_by_the_boot_id() {
    let kit = Kit::up(&["a"], |_| {}).await;
    let reboot = Spec::Reboot(Reboot {
        name: "needed".into(),
        guard: "[ ! -e /run/reboot-required ]".into(),
        when_changed: Vec::new(),
    });
    let clear = Spec::Command(Command {
        name: "clear".into(),
        guard: "[ -e /etc/ready ]".into(),
        apply: ": >/run/reboot-required; : >/etc/ready".into(),
        undo: None,
        wanted: "x".into(),
        when_changed: Vec::new(),
    });
    crate::kit::write(kit.file("a", "/run/reboot-required"), "");
    let target = kit.target("a", vec![Resource::new("t", clear), Resource::new("t", reboot)]);
    let before = target.observe().await.expect("observed");
    target.enact(&steps(&before), &StepOutputs::new()).await.expect("rebooted");
    let after = target.observe().await.expect("observed");
    assert_ne!(before.facts.boot_id, after.facts.boot_id);
    kit.lab.down().await;
}
