//! What the lab keeps on this machine and whom it trusts: nothing that an inventory's author could have made, no secret, and
//! nothing that outlives it.

use super::story::{Story, text};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One host that is everything, with these lines more.
fn single(more: &str) -> String {
    format!(
        "apiVersion: provision/v1\nkind: Inventory\nmetadata: {{name: stranger}}\n\
         cluster:\n  k0s: {{version: v1.35.7+k0s.0}}\n  network: {{podCIDR: 10.240.0.0/16, serviceCIDR: 10.96.0.0/16}}\n\
         pools:\n  c: {{role: single, hosts: {{a-1: {{address: 127.77.0.11}}}}}}\n{more}"
    )
}

/// The `ssh` section of a lab inventory, with more keys.
fn ssh(more: &str) -> String {
    format!(
        "ssh: {{user: ubuntu, port: 2222, identities: [.lab/id_ed25519], hostKeys: {{file: .lab/known_hosts}}, agent: false{more}}}\n"
    )
}

/// Waits until something is so.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns the running processes, zombies left out, whose arguments begin with a text.
fn processes(text: &str) -> Vec<String> {
    let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = pids.filter(|e| e.file_name().to_string_lossy().parse::<u32>().is_ok());
    let arguments = pids.filter_map(|e| std::fs::read(e.path().join("cmdline")).ok());
    arguments
        .map(|a| String::from_utf8_lossy(&a).replace('\0', " "))
        .filter(|a| a.starts_with(text))
        .collect()
}

/// Returns every file below a folder that holds a text.
fn holding(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            found.extend(holding(&entry.path(), text));
        } else if kind.is_file()
            && std::fs::read(entry.path()).is_ok_and(|b| String::from_utf8_lossy(&b).contains(text))
        {
            found.push(entry.path());
        }
    }
    found
}

fn lab_is_up(story: &Story) -> bool {
    let is_up = |lab: &PathBuf| provision::lab::Control::open(lab).expect("a socket or none").is_some();
    story.labs().iter().any(is_up)
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().expect("kill");
    assert!(sent.success());
}

/// Every source of a secret leaves a proof when it is looked at; a role shows what reached the host.
#[test]
fn no_source_of_a_secret_is_looked_at_for_simulated_hosts() {
    let canary = "runner-canary-4711";
    for (lab, flag) in [(true, None), (false, Some("--lab"))] {
        let section = |more: &str| match lab {
            true => ssh(more),
            false => format!("ssh: {{user: ubuntu{more}}}\n"),
        };
        let more = section(
            ", sudoPassword: {secret: command}, passphrase: {secret: command}, password: {secret: command}",
        ) + "secrets:\n  command: {exec: [sh, -c, \"env >PROOF; echo pw\"]}\n  variable: {env: CI_SECRET}\n  \
             text: {file: secret.txt}\n  vault: {sops: {file: secret.txt, key: a.b}}\n  sealed: {age: {file: secret.txt, identity: secret.txt}}\n\
             registries:\n  docker.io: {credentials: {secret: variable}}\n  quay.io: {credentials: {secret: text}}\n  \
             ghcr.io: {credentials: {secret: vault}}\n  nvcr.io: {credentials: {secret: sealed}}\n";
        let text_of_it = single(&more);
        let story = Story::of(&text_of_it);
        let proof = story.dir.path().join("proof").display().to_string();
        story.edit("PROOF", &proof);
        std::fs::write(story.inventory.join("secret.txt"), canary).expect("written");
        let at = story.at();
        let run = |words: &[&str]| {
            let mut command = story.command(words);
            command
                .env("CI_SECRET", canary)
                .env("PROVISION_AGE_IDENTITY", story.inventory.join("secret.txt"));
            let output = command.output().expect("runs");
            assert!(!text(&output).contains(canary), "{words:?}: {}", text(&output));
            assert!(!text(&output).contains("cannot read secret"), "{words:?}: {}", text(&output));
            output
        };
        let up = run(&["lab", "up", &at]);
        assert!(up.status.success(), "{}", text(&up));
        let archive = story.dir.path().join("support.tar.gz").display().to_string();
        for words in [
            vec!["apply", "--yes"],
            vec!["plan"],
            vec!["facts"],
            vec!["preflight"],
            vec!["status"],
            vec!["attach"],
            vec!["exec", "--limit", "*", "--root", "--", "cat /etc/k0s/containerd.d/*.toml; env"],
            vec!["trust", "--yes"],
            vec!["render", "--host", "a-1"],
            vec!["support", "a-1", "-o", &archive],
        ] {
            let words = [&words[..1], &["-i", &at], flag.as_slice(), &words[1..]].concat();
            let output = run(&words);
            assert_eq!(output.status.code(), Some(0), "{words:?}: {}", text(&output));
        }
        let auth = holding(&story.lab().join("hosts/a-1/root/etc"), "lab-stand-in-variable");
        let basic =
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, "lab:lab-stand-in-variable");
        let there = [auth, holding(&story.lab().join("hosts/a-1/root/etc"), &basic)].concat();
        assert!(!there.is_empty(), "a recognisable stand-in is on the host");
        assert!(!Path::new(&proof).exists(), "the command was not run");
        let found = holding(&story.dir.path().join("state"), canary);
        assert_eq!(found, Vec::<PathBuf>::new(), "nothing of the runner is in the lab");
        assert!(run(&["lab", "down", &at]).status.success());
        let whole = run(&["lab", "run", &at]);
        assert!(whole.status.success(), "{}", text(&whole));
        assert!(!Path::new(&proof).exists(), "nor by lab run");
    }
}

/// `.lab` is only the mark of a lab inventory: a pull request can bring one, links and all.
#[test]
fn a_lab_folder_beside_the_inventory_is_neither_read_nor_written() {
    let story = Story::of(&single(&ssh("")));
    let victim = story.dir.path().join("victim");
    std::fs::create_dir_all(victim.join("hosts/keep")).expect("made");
    // Named so that a look at its arguments would take it for a lab.
    let mut bystander = Command::new("sh")
        .args(["-c", "read wait", "lab", "serve"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("started");
    let card = format!("{{\"pid\": {}, \"name\": \"stranger\", \"hosts\": {{}}}}", bystander.id());
    for (name, content) in [("lab.json", card.as_str()), ("known_hosts", "keep"), ("provision.lock", "keep")]
    {
        std::fs::write(victim.join(name), content).expect("written");
    }
    std::os::unix::fs::symlink(&victim, story.inventory.join(".lab")).expect("linked");
    let before = |path: &Path| {
        let mut all: Vec<_> = std::fs::read_dir(path)
            .expect("read")
            .flatten()
            .map(|e| (e.file_name(), std::fs::read(e.path()).unwrap_or_default()))
            .collect();
        all.sort();
        all
    };
    let was = before(&victim);
    let down = story.run(&["lab", "down", &story.at()]);
    assert!(text(&down).contains("LAB: not running"), "{}", text(&down));
    story.up();
    assert_eq!(story.run(&["facts", "-i", &story.at()]).status.code(), Some(0));
    assert!(text(&story.run(&["lab", "down", &story.at()])).contains("LAB: stopped"));
    assert_eq!(before(&victim), was);
    assert!(victim.join("hosts/keep").exists());
    assert!(bystander.try_wait().expect("asked").is_none(), "a process that a file names is not ended");
    drop(bystander.stdin.take());
    bystander.wait().expect("ended");
}

/// Links that hosts made are removed with them, and not followed; folders without any right are no obstacle.
#[test]
fn what_hosts_leave_is_removed_and_no_link_is_followed() {
    let story = Story::of(&single(&ssh("")));
    let victim = story.dir.path().join("victim");
    std::fs::create_dir(&victim).expect("made");
    std::fs::write(victim.join("keep"), "keep").expect("written");
    story.up();
    story.on(
        "a-1",
        "mkdir -p /opt/a/b && ln -s /etc /opt/a/link && touch /opt/a/b/c && chmod 0 /opt/a/b /opt/a",
    );
    std::os::unix::fs::symlink(&victim, story.file("a-1", "/opt/out")).expect("linked");
    let lab = story.lab();
    // As a removal that was cut off leaves them.
    for folder in ["hosts/.lab-1/a/b", "hosts/.lab-2/c", "hosts/.lab-0000000000000001/d"] {
        std::fs::create_dir_all(lab.join(folder)).expect("made");
    }
    assert!(story.run(&["lab", "down", &story.at()]).status.success());
    assert!(!lab.join("hosts").exists(), "{:?}", holding(&lab.join("hosts"), ""));
    assert!(victim.join("keep").exists());
    // One that was killed leaves its hosts; the next one starts from nothing.
    story.up();
    std::os::unix::fs::symlink(&victim, story.file("a-1", "/opt/out")).expect("linked");
    let lab = story.control().pid().to_string();
    assert!(Command::new("kill").args(["-9", &lab]).status().expect("kill").success());
    story.up();
    assert!(!story.file("a-1", "/opt/out").exists());
    assert!(victim.join("keep").exists());
}

#[test]
fn a_lab_that_goes_down_is_gone_and_comes_up_again_whole() {
    let story = Story::new();
    for round in 1..=6 {
        story.up();
        let sleeper = format!("9{round}.{}", std::process::id());
        story.on("w-1", &format!("systemd-run --unit=x{round} sh -c 'sleep {sleeper}; :'"));
        until("it runs", || !processes(&format!("sleep {sleeper}")).is_empty());
        let facts = story.run(&["facts", "-i", &story.at()]);
        assert_eq!(facts.status.code(), Some(0), "round {round}: {}", text(&facts));
        let again = story.run(&["lab", "up", &story.at()]);
        assert!(text(&again).contains("E-LAB-UP"), "{}", text(&again));
        let pid = story.control().pid();
        let down = story.run(&["lab", "down", &story.at()]);
        assert!(text(&down).contains("LAB: stopped"), "round {round}: {}", text(&down));
        assert!(!Path::new(&format!("/proc/{pid}/exe")).exists(), "its process is gone");
        assert_eq!(processes(&format!("sleep {sleeper}")), Vec::<String>::new(), "and its programs");
        assert!(!story.lab().join("hosts").exists(), "and its hosts");
    }
}

#[test]
fn a_killed_lab_leaves_nothing_running_and_comes_up_again_at_once() {
    let story = Story::of(&single(&ssh("")));
    story.up();
    let own = std::process::id();
    story.on("a-1", &format!("systemd-run --unit=x sh -c 'sleep 1001.{own} & sleep 1002.{own}'"));
    let mut exec = story
        .command(&["exec", "-i", &story.at(), "--limit", "*", "--", &format!("sleep 1003.{own}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("runs");
    for n in 1001..=1003 {
        until("it runs", || !processes(&format!("sleep {n}.{own}")).is_empty());
    }
    let lab = story.control().pid().to_string();
    assert!(Command::new("kill").args(["-9", &lab]).status().expect("kill").success());
    story.up();
    for n in 1001..=1003 {
        until("it ends with its lab", || processes(&format!("sleep {n}.{own}")).is_empty());
    }
    exec.kill().expect("killed");
    exec.wait().expect("waited for");
    assert_eq!(story.run(&["facts", "-i", &story.at()]).status.code(), Some(0));
}

#[test]
fn a_lab_of_one_command_ends_with_it_however_it_ends() {
    let story = Story::of(&single(&ssh("")));
    let at = story.at();
    // An error after the lab has come up.
    let output = story.run(&["facts", "-i", &at, "--lab", "--limit", "nobody"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(!lab_is_up(&story), "an error takes it down");
    let output = story.run(&["render", "-i", &at, "--lab", "--host", "nobody"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(!lab_is_up(&story), "another one too");
    for name in ["INT", "TERM", "KILL"] {
        let mut run = story
            .command(&["lab", "run", &at, "--fault", "a-1=slow:2000"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("runs");
        until("it comes up", || lab_is_up(&story));
        let pid = story.control().pid();
        signal(&run, name);
        until("the command ends", || run.try_wait().expect("asked").is_some());
        until("the lab ends with it", || !Path::new(&format!("/proc/{pid}/exe")).exists());
        assert!(!lab_is_up(&story));
    }
    // In the middle of a run a first signal lets running steps finish; the lab goes all the same.
    // Slow, or it may be over before this test looks.
    let mut run = story
        .command(&["lab", "run", &at, "--fault", "a-1=slow:1000"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("runs");
    // Those that were killed may have begun to apply.
    until("it comes up", || lab_is_up(&story));
    let pid = story.control().pid();
    until("it applies", || text(&story.run(&["history", "-i", &at])).contains("in progress (process "));
    signal(&run, "TERM");
    assert_eq!(run.wait().expect("it ends").code(), Some(130));
    assert!(!Path::new(&format!("/proc/{pid}/exe")).exists(), "the lab is gone with it");
    let output = story.run(&["lab", "run", &at, "--keep"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(lab_is_up(&story), "--keep leaves it");
}

#[test]
fn labs_of_one_inventory_run_at_once_and_leave_nothing() {
    let story = Story::of(&single(&ssh("")));
    let at = story.at();
    story.up();
    let standing = story.lab();
    let start = || {
        let mut command = story.command(&["lab", "run", &at, "--fault", "a-1=slow:300"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    };
    let runs = [start(), start()];
    until("all three are up", || {
        let labs = story.labs();
        let up = labs.iter().filter(|lab| provision::lab::Control::open(lab).is_ok_and(|lab| lab.is_some()));
        up.count() == 3
    });
    until("both apply", || {
        let history = text(&story.run(&["history", "-i", &at]));
        history.matches("in progress (process ").count() == 2
    });
    for run in runs {
        let output = run.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    }
    assert_eq!(story.labs(), [standing], "theirs are gone");
    // What was done in them was not done here.
    let output = story.run(&["plan", "-i", &at]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    // Killed, it leaves its folder to one of the next commands.
    let mut killed = start();
    until("it is up", || story.labs().len() == 2);
    signal(&killed, "KILL");
    killed.wait().expect("ended");
    until("it is removed", || {
        for lab in story.labs() {
            // What goes down is still at work in it.
            let long_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
            std::fs::File::open(lab).expect("a folder").set_modified(long_ago).expect("set");
        }
        assert_eq!(story.run(&["lab", "run", &at]).status.code(), Some(0));
        story.labs().len() == 1
    });
}

#[test]
fn state_is_this_users_alone_under_any_umask() {
    let story = Story::of(&single(&ssh("")));
    for umask in ["000", "077", "777"] {
        let at = story.at();
        let shell = format!(
            "umask {umask}; P={}; $P lab up {at} && $P apply --yes -i {at}; code=$?; $P verify -i {at}; $P lab down {at}; exit $code",
            env!("CARGO_BIN_EXE_provision")
        );
        let output = story.shell(&shell).output().expect("a shell");
        assert_eq!(output.status.code(), Some(0), "umask {umask}: {}", text(&output));
        let mut wrong = Vec::new();
        let mut folders = vec![story.dir.path().join("state/provision")];
        while let Some(folder) = folders.pop() {
            let modes = |path: &Path| std::fs::symlink_metadata(path).expect("there").mode() & 0o7777;
            if modes(&folder) != 0o700 {
                wrong.push(format!("{:o} {}", modes(&folder), folder.display()));
            }
            for entry in std::fs::read_dir(&folder).expect("readable").flatten() {
                if entry.file_type().expect("a type").is_dir() {
                    folders.push(entry.path());
                } else if modes(&entry.path()) & 0o077 != 0
                    // The copy of the program that hosts run, as another user if the lab runs as root.
                    && !["provision.lock", "tool"].iter().any(|name| entry.path().ends_with(name))
                {
                    wrong.push(format!("{:o} {}", modes(&entry.path()), entry.path().display()));
                }
            }
        }
        assert_eq!(wrong, Vec::<String>::new(), "umask {umask}");
    }
}

#[test]
fn without_a_folder_of_ones_own_nothing_is_kept_anywhere() {
    let story = Story::of(&single(&ssh("")));
    let at = story.at();
    let refused = |what: &str, command: &mut Command| {
        let output = command.output().expect("runs");
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{what}: {said}");
        assert!(said.contains("error[E-STATE]") && said.contains("XDG_STATE_HOME"), "{what}: {said}");
        said
    };
    refused(
        "a relative home",
        story.command(&["lab", "up", &at]).env("XDG_STATE_HOME", "here").env("HOME", "there"),
    );
    refused("not to be made", story.command(&["lab", "up", &at]).env("XDG_STATE_HOME", "/proc/nowhere"));
    let shared = story.dir.path().join("shared");
    let victim = story.dir.path().join("victim");
    std::fs::create_dir(&shared).expect("made");
    std::fs::create_dir(&victim).expect("made");
    std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o1777)).expect("opened");
    std::os::unix::fs::symlink(&victim, shared.join("provision")).expect("linked");
    let said = refused("a link", story.command(&["lab", "up", &at]).env("XDG_STATE_HOME", &shared));
    assert!(said.contains("symbolic link"), "{said}");
    assert_eq!(std::fs::read_dir(&victim).expect("read").count(), 0);
    std::fs::remove_file(shared.join("provision")).expect("removed");
    std::fs::create_dir(shared.join("provision")).expect("made");
    // Only root can give a folder away.
    if std::os::unix::fs::chown(shared.join("provision"), Some(65534), None).is_ok() {
        let said = refused("another's", story.command(&["lab", "up", &at]).env("XDG_STATE_HOME", &shared));
        assert!(said.contains("belongs to user 65534"), "{said}");
    }
}
