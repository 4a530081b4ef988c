//! The executor on lab hosts, where things go wrong: hung guards, killed clients, locks, secrets, failed batches.

use crate::kit::{Kit, exists};
use provision::event::{Event, Events};
use provision::executor::Sudo;
use provision::state::*;
use std::path::Path;

fn command(name: &str, guard: &str, apply: &str) -> Resource {
    let command = Command {
        name: name.into(),
        guard: guard.into(),
        apply: apply.into(),
        undo: None,
        wanted: "done".into(),
        when_changed: Vec::new(),
    };
    Resource::new("test", Spec::Command(command))
}

fn file(path: &str, content: Content) -> Resource {
    let file = File { path: path.into(), content, mode: 0o644, owner: "root:root".into(), validate: None };
    Resource::new("test", Spec::File(file))
}

fn text(text: &str) -> Content {
    Content::Text(text.into())
}

fn steps(observed: &Observed) -> Vec<Step> {
    provision::plan::steps_of(observed).0
}

fn ids(steps: &[Step]) -> Vec<String> {
    steps.iter().map(|s| s.resource.text()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_hangs_is_unknown_and_the_rest_still_arrives() {
    let kit = Kit::up(&["a"], |_| {}).await;
    let resources = vec![
        command("hangs", "sleep 300", "true"),
        // It ends, but leaves a child that holds its output open.
        command("leaves-a-child", "echo before; sleep 300 & exit 1", "true"),
        command("says-no-newline", "printf 'not yet'; exit 1", "true"),
        file("/etc/x", text("x")),
    ];
    let observed = kit.target("a", resources).observe().await.expect("observed");
    let seen = |id: &str| observed.seen[&id.parse::<ResourceId>().expect("an id")].clone();
    assert_eq!(seen("command/hangs"), Observation::Unknown("timed out".into()));
    let state = |id: &str| match seen(id) {
        Observation::Present(seen) => seen.fields["state"].clone(),
        other => format!("{other:?}"),
    };
    assert_eq!(state("command/leaves-a-child"), "before");
    assert_eq!(state("command/says-no-newline"), "not yet");
    assert_eq!(seen("file//etc/x"), Observation::Absent);
    assert_eq!(ids(&steps(&observed)), ["command/leaves-a-child", "command/says-no-newline", "file//etc/x"]);
    kit.lab.down().await;
}

/// Every file below a folder whose name or content holds `needle`.
fn traces(dir: &Path, needle: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            traces(&path, needle, found);
        } else if kind.is_file() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            if bytes.windows(needle.len()).any(|w| w == needle.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_reach_their_file_and_nothing_else_on_the_host() {
    let kit = Kit::up(&["a"], |spec| spec.hosts[0].set_sudo_password("canary-sudo")).await;
    let mut join = command(
        "join",
        "[ -e /etc/joined ]",
        "[ \"$(wc -c <\"$LATE_token_worker\")\" = 11 ] && : >/etc/joined",
    );
    join.inputs = vec![StepOutput::JoinToken(JoinRole::Worker)];
    let resources = vec![file("/etc/token", Content::Secret(SecretText::new("canary-file"))), join];
    let (events, mut receiver) = Events::channel();
    let sudo = Sudo::Required(Some(SecretText::new("canary-sudo")));
    let target = kit.target_with("a", resources, sudo, events);
    let plan = steps(&target.observe().await.expect("observed"));
    let outputs =
        StepOutputs::from([(StepOutput::JoinToken(JoinRole::Worker), SecretText::new("canary-late"))]);
    target.enact(&plan, &outputs).await.expect("enacted");
    let after = target.observe().await.expect("observed");
    assert_eq!(steps(&after), []);
    target.finish().await.expect("finished");
    drop(target);
    let mut shown = String::new();
    while let Some(event) = receiver.recv().await {
        shown += &format!("{event:?}\n");
    }
    assert!(shown.contains("command/join"), "the token arrived whole: {shown}");
    let host = kit.spec.host_dir("a");
    let token = kit.file("a", "/etc/token").display().to_string();
    for (canary, allowed) in [("canary-file", vec![token]), ("canary-late", vec![]), ("canary-sudo", vec![])]
    {
        use base64::Engine;
        let encoded = base64::engine::general_purpose::STANDARD.encode(canary);
        let mut found = Vec::new();
        traces(&host.join("root"), canary, &mut found);
        traces(&host.join("root"), &encoded, &mut found);
        assert_eq!(found, allowed, "{canary}");
        assert!(!shown.contains(canary), "{canary}");
    }
    kit.lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_outlives_its_client_and_another_attaches() {
    let kit = Kit::up(&["a"], |_| {}).await;
    let slow = command(
        "slow",
        "[ -e /etc/done ]",
        ": >/etc/begun; while [ ! -e /etc/go ]; do sleep 0.1; done; echo gone on; : >/etc/done",
    );
    let target = kit.target("a", vec![slow.clone()]);
    let plan = steps(&target.observe().await.expect("observed"));
    let mut client = tokio::task::JoinSet::new();
    client.spawn(async move { target.enact(&plan, &StepOutputs::new()).await });
    while !exists(&kit.file("a", "/etc/begun")) {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // The client dies: its task ends without a goodbye.
    client.shutdown().await;

    let (events, mut receiver) = Events::channel();
    let second = kit.target_with("a", vec![slow], Sudo::Required(None), events);
    let observed = second.observe().await.expect("observed");
    assert_eq!(observed.facts.open_batches.iter().filter(|b| b.alive).count(), 1, "it still runs");
    let mut attaching = tokio::task::JoinSet::new();
    attaching.spawn(async move { (second.attach().await, second) });
    // Let go only when the second client says that it waits.
    let mut lines = Vec::new();
    while !matches!(receiver.recv().await.expect("events"), Event::Waiting { .. }) {}
    crate::kit::write(kit.file("a", "/etc/go"), "");
    let (attached, second) = attaching.join_next().await.expect("a client").expect("attached");
    assert_eq!(attached.expect("followed to its end"), 1);
    let after = second.observe().await.expect("observed");
    assert_eq!((steps(&after), after.facts.open_batches.len()), (vec![], 0));
    drop(second);
    while let Some(event) = receiver.recv().await {
        if let Event::Output { line, .. } = event {
            lines.push(line);
        }
    }
    assert_eq!(lines, ["gone on"], "its output is heard from the start");
    kit.lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_another_works_on_is_left_alone() {
    let kit = Kit::up(&["a"], |_| {}).await;
    let target = kit.target("a", vec![file("/etc/x", text("x"))]);
    let plan = steps(&target.observe().await.expect("observed"));
    let record = r#"{"owner":"eva@desk","run":"OTHER","boot_id":"b","expires_s":99999999999}"#;
    crate::kit::write(kit.file("a", "/var/lib/provision/lock"), record);
    let failure = target.enact(&plan, &StepOutputs::new()).await.expect_err("refused");
    assert_eq!((failure.kind, failure.code.as_str()), (FailureKind::Locked, "E-LOCKED"));
    assert!(failure.message.contains("eva@desk"), "{failure}");
    assert!(!exists(&kit.file("a", "/etc/x")), "nothing was done");
    target.finish().await.expect("finished");
    assert_eq!(kit.read("a", "/var/lib/provision/lock"), record, "another's record stays");
    kit.lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_step_leaves_no_temporary_file_and_its_restart_is_not_forgotten() {
    let kit = Kit::up(&["a"], |_| {}).await;
    let chrony = Package { name: "chrony".into(), version: None, ensure: Ensure::Present, hold: false };
    let mut conf = file("/etc/chrony.conf", text("server x\n"));
    conf.restarts = vec!["chrony.service".into()];
    let invalid = Resource::new(
        "test",
        Spec::File(File {
            path: "/etc/checked".into(),
            content: text("no good\n"),
            mode: 0o644,
            owner: "root:root".into(),
            validate: Some("grep -q good-enough {}".into()),
        }),
    );
    let want =
        |last: Resource| vec![Resource::new("test", Spec::Package(chrony.clone())), conf.clone(), last];
    let target = kit.target("a", want(invalid));
    let plan = steps(&target.observe().await.expect("observed"));
    let failure = target.enact(&plan, &StepOutputs::new()).await.expect_err("the check refuses it");
    assert_eq!(
        failure.step.as_ref().and_then(StepId::resource),
        Some(&ResourceId::host(HostKind::File, "/etc/checked")),
        "{failure:?}"
    );
    assert!(!exists(&kit.file("a", "/etc/checked")) && !exists(&kit.file("a", "/etc/checked.provision-new")));
    let observed = target.observe().await.expect("observed");
    assert_eq!(ids(&steps(&observed)), ["file//etc/checked"], "what was done is done");
    assert!(observed.warnings.iter().any(|w| w.contains("chrony.service")), "{:?}", observed.warnings);

    let (events, mut receiver) = Events::channel();
    let again = kit.target_with("a", want(file("/etc/checked", text("ok\n"))), Sudo::Required(None), events);
    let plan = steps(&again.observe().await.expect("observed"));
    again.enact(&plan, &StepOutputs::new()).await.expect("enacted");
    let after = again.observe().await.expect("observed");
    assert_eq!((steps(&after), after.warnings), (vec![], vec![]));
    drop(again);
    let mut restarted = 0;
    while let Some(event) = receiver.recv().await {
        restarted +=
            usize::from(matches!(event, Event::Output { line, .. } if line == "restarting chrony.service"));
    }
    assert_eq!(restarted, 1, "the restart came with the next batch");
    kit.lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_there_is_adopted_and_what_is_ours_goes_whole() {
    let kit = Kit::up(&["a"], |_| {}).await;
    crate::kit::write(kit.file("a", "/etc/theirs"), "theirs\n");
    let line = |name: &str| {
        let line =
            LineInFile { path: "/etc/hosts".into(), name: name.into(), line: format!("127.0.0.9 {name}") };
        Resource::new("test", Spec::LineInFile(line))
    };
    let nouveau = KernelModule { name: "nouveau".into(), ensure: Ensure::Absent, version: None };
    let all = vec![
        file("/etc/theirs", text("changed\n")),
        file("/etc/ours", text("ours\n")),
        Resource::new("test", Spec::KernelModule(nouveau)),
        line("self"),
        line("self-2"),
    ];
    let target = kit.target("a", all.clone());
    let plan = steps(&target.observe().await.expect("observed"));
    target.enact(&plan, &StepOutputs::new()).await.expect("enacted");
    assert_eq!(steps(&target.observe().await.expect("observed")), []);
    let hosts = kit.read("a", "/etc/hosts");
    assert!(
        hosts.ends_with("127.0.0.9 self # provision: self\n127.0.0.9 self-2 # provision: self-2\n"),
        "{hosts}"
    );

    let fewer = kit.target("a", vec![line("self-2")]);
    let plan = steps(&fewer.observe().await.expect("observed"));
    let mut gone = ids(&plan);
    gone.sort_unstable();
    assert_eq!(gone, ["file//etc/ours", "kernel-module/nouveau", "line-in-file//etc/hosts#self"]);
    fewer.enact(&plan, &StepOutputs::new()).await.expect("removed");
    assert_eq!(steps(&fewer.observe().await.expect("observed")), []);
    assert_eq!(kit.read("a", "/etc/theirs"), "changed\n", "what was there before us stays");
    assert!(!exists(&kit.file("a", "/etc/ours")));
    assert!(!exists(&kit.file("a", "/etc/modprobe.d/provision-no-nouveau.conf")));
    let hosts = kit.read("a", "/etc/hosts");
    assert!(hosts.contains("# provision: self-2") && !hosts.contains("# provision: self\n"), "{hosts}");
    kit.lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_download_is_believed_by_its_stamp_until_it_is_touched() {
    use sha2::Digest;
    let kit = Kit::up(&["a"], |_| {}).await;
    // Larger than what is hashed each time; sparse, so that it costs nothing.
    let path = kit.file("a", "/opt/big");
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    let big = std::fs::File::create(&path).expect("made");
    big.set_len(65 << 20).expect("grown");
    let stamp = |sum: &str| {
        use std::os::unix::fs::MetadataExt;
        let m = path.metadata().expect("metadata");
        let text = format!("{sum}|{}|{}|{}.{:09}|/opt/big\n", m.size(), m.ino(), m.ctime(), m.ctime_nsec());
        crate::kit::write(kit.file("a", "/var/lib/provision/stamps"), text);
    };
    let download = |sum: &str| {
        let mode = {
            use std::os::unix::fs::PermissionsExt;
            path.metadata().expect("metadata").permissions().mode() & 0o7777
        };
        let spec = Download {
            path: "/opt/big".into(),
            urls: vec![],
            sha256: sum.into(),
            mode,
            version: None,
            from: None,
        };
        vec![Resource::new("test", Spec::Download(spec))]
    };
    // The stamp is believed: the sum it names is not the file's, and only a stamp can say otherwise.
    let false_sum = "1".repeat(64);
    stamp(&false_sum);
    assert_eq!(steps(&kit.target("a", download(&false_sum)).observe().await.expect("observed")), []);
    let deep = kit.target("a", download(&false_sum)).deep(true);
    assert_eq!(ids(&steps(&deep.observe().await.expect("observed"))), ["download//opt/big"]);
    // Touched: the stamp no longer fits and the content is hashed.
    big.set_len((65 << 20) + 1).expect("grown");
    let touched = kit.target("a", download(&false_sum)).observe().await.expect("observed");
    assert_eq!(ids(&steps(&touched)), ["download//opt/big"]);
    let mut hash = sha2::Sha256::new();
    for _ in 0..65 {
        hash.update(vec![0u8; 1 << 20]);
    }
    hash.update([0u8]);
    let sum: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(steps(&kit.target("a", download(&sum)).observe().await.expect("observed")), []);
    kit.lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_renewed_by_its_run_and_by_no_other() {
    let kit = Kit::up(&["a"], |_| {}).await;
    let target = kit.target("a", vec![file("/etc/x", text("x"))]);
    let plan = steps(&target.observe().await.expect("observed"));
    target.enact(&plan, &StepOutputs::new()).await.expect("enacted");
    let expires = || {
        let record: serde_json::Value =
            serde_json::from_str(&kit.read("a", "/var/lib/provision/lock")).expect("a record");
        record["expires_s"].as_i64().expect("a time")
    };
    let set = |run: &str| {
        let record =
            format!("{{\"owner\":\"test@here\",\"run\":\"{run}\",\"boot_id\":\"b\",\"expires_s\":17}}\n");
        crate::kit::write(kit.file("a", "/var/lib/provision/lock"), record);
    };
    set("OTHER");
    target.renew_lock().await.expect("nothing to do");
    assert_eq!(expires(), 17, "another run's is left alone");
    set("TEST1");
    target.renew_lock().await.expect("renewed");
    assert!(expires() > 1_700_000_000, "{}", expires());
    kit.lab.down().await;
}
