//! The product as a user runs it: the binary, an inventory, a twin.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU8, Ordering};

static NEXT: AtomicU8 = AtomicU8::new(1);

/// A copy of an example inventory with a twin of its own; the twin ends with it.
pub struct Story {
    pub dir: tempfile::TempDir,
    pub inventory: PathBuf,
}

impl Story {
    /// Copies `inventories/lab` onto loopback addresses that no other test uses.
    pub fn new() -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories/lab/inventory.yaml");
        Self::of(&std::fs::read_to_string(source).expect("the example"))
    }

    /// Makes a site of an inventory whose addresses are `127.77.0.*`.
    pub fn of(inventory_text: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let inventory = dir.path().join("site");
        std::fs::create_dir(&inventory).expect("made");
        let net = format!("127.{}.{}.", std::process::id() % 50 + 10, NEXT.fetch_add(1, Ordering::Relaxed));
        let text = inventory_text.replace("127.77.0.", &net);
        std::fs::write(inventory.join("inventory.yaml"), text).expect("written");
        Self { dir, inventory }
    }

    /// Has a model's weights fetched with a token from `CANARY_TOKEN`.
    fn with_hugging_face_token(&self) {
        let file = self.inventory.join("inventory.yaml");
        let text_before = std::fs::read_to_string(&file).expect("read");
        let with = text_before.replacen(
            "source: {path: /data/models/qwen}",
            "source: {huggingFace: {repo: a/b, revision: c, token: {secret: hf}}}",
            1,
        ) + "secrets: {hf: {env: CANARY_TOKEN}}\n";
        std::fs::write(&file, with).expect("written");
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_provision"));
        command
            .args(arguments)
            .env("XDG_STATE_HOME", self.dir.path().join("state"))
            .env("HOME", self.dir.path());
        command.stdin(std::process::Stdio::null());
        command
    }

    /// Returns a shell that runs a text, in the environment of `command`.
    pub fn shell(&self, text: &str) -> Command {
        let mut shell = self.command(&[]);
        let environment: Vec<_> =
            shell.get_envs().filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned()))).collect();
        shell = Command::new("/bin/sh");
        shell
            .args(["-c", text])
            .envs(environment)
            .current_dir(self.dir.path())
            .stdin(std::process::Stdio::null());
        shell
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary runs")
    }

    pub fn at(&self) -> String {
        self.inventory.display().to_string()
    }

    pub fn up(&self) {
        let output = self.run(&["lab", "up", &self.at()]);
        assert!(output.status.success(), "{}", text(&output));
    }

    pub fn plan(&self) -> (i32, String) {
        let output = self.run(&["plan", "-i", &self.at()]);
        (output.status.code().unwrap_or(-1), text(&output))
    }

    pub fn apply(&self, more: &[&str]) -> Output {
        let at = self.at();
        self.run(&[&["apply", "--yes", "-i", &at], more].concat())
    }

    pub fn file(&self, host: &str, path: &str) -> PathBuf {
        self.lab().join("hosts").join(host).join("root").join(path.trim_start_matches('/'))
    }

    /// Returns the folders of all its labs: the one of `lab up`, and those of commands that start one for themselves.
    pub fn labs(&self) -> Vec<PathBuf> {
        let all = std::fs::read_dir(self.dir.path().join("state/provision/lab")).into_iter().flatten();
        all.flatten().map(|entry| entry.path()).collect()
    }

    /// Returns the folder of its lab: the one that is up, or the one of `lab up` where none is.
    pub fn lab(&self) -> PathBuf {
        let all = self.labs();
        let is_up = |lab: &&PathBuf| provision::lab::Control::open(lab).expect("a socket or none").is_some();
        let up: Vec<&PathBuf> = all.iter().filter(is_up).collect();
        assert!(up.len() < 2, "one lab: {up:?}");
        let own = |lab: &&PathBuf| lab.display().to_string().contains('@');
        let found = up.first().copied().or_else(|| all.iter().find(|lab| !own(lab)));
        found.expect("a lab was up").clone()
    }

    /// Returns the folder of what is kept of one kind for its inventory, the only one; its parent where there is none.
    pub fn kept(&self, kind: &str) -> PathBuf {
        let all = self.dir.path().join("state/provision").join(kind);
        let own = std::fs::read_dir(&all).into_iter().flatten().flatten().next();
        own.map_or(all, |entry| entry.path())
    }

    /// Returns the lab's process, which is up.
    pub fn control(&self) -> provision::lab::Control {
        provision::lab::Control::open(&self.lab()).expect("it answers").expect("the lab is up")
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        let _ = self.run(&["lab", "down", &self.at()]);
    }
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn lab_run_ends_with_an_answer_through_each_tenants_gateway() {
    let story = Story::new();
    let output = story.run(&["lab", "run", &story.at()]);
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("ads asks qwen: Who are you?\n  LAB echo from qwen-trn-"), "{text}");
    assert!(text.contains("search asks qwen: Who are you?\n  LAB echo from qwen-gpu-"), "{text}");
}

/// A stranger's pull request runs in the lab, where none of the site's secrets are.
#[test]
fn lab_run_needs_no_secret_of_the_site() {
    let story = Story::new();
    story.with_hugging_face_token();
    let output =
        story.command(&["lab", "run", &story.at()]).env_remove("CANARY_TOKEN").output().expect("runs");
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches("secrets are placeholders").count(), 1, "said once: {text}");
}

#[test]
fn apply_converges_drift_is_named_and_only_that_is_mended() {
    let story = Story::new();
    story.up();
    assert_eq!(story.plan().0, 2);
    let applied = story.apply(&[]);
    assert_eq!(applied.status.code(), Some(0), "{}", text(&applied));
    let (code, shown) = story.plan();
    assert_eq!(code, 0, "the second plan is empty: {shown}");
    assert!(shown.contains("in sync: 5 hosts, 1 cluster"), "{shown}");

    std::fs::remove_file(story.file("w-1", "/etc/security/limits.d/90-provision.conf")).expect("removed");
    let stop = story.run(&["lab", "ssh", &story.at(), "cp-1", "systemctl stop chrony.service"]);
    if stop.status.success() {
        let (code, shown) = story.plan();
        assert_eq!(code, 2);
        assert!(shown.contains("+ file /etc/security/limits.d/90-provision.conf"), "{shown}");
        assert!(shown.contains("~ unit chrony.service") && shown.contains("active no -> yes"), "{shown}");
        assert!(shown.contains("Plan: 2 changes on 2 hosts"), "exactly that: {shown}");
    }
    let mended = story.apply(&[]);
    assert_eq!(mended.status.code(), Some(0), "{}", text(&mended));
    assert_eq!(story.plan().0, 0);
}

#[test]
fn a_stale_plan_is_refused_naming_file_and_host() {
    let story = Story::new();
    story.up();
    assert_eq!(story.apply(&[]).status.code(), Some(0));
    std::fs::write(story.file("w-1", "/etc/security/limits.d/90-provision.conf"), "edited\n")
        .expect("written");
    let saved = story.dir.path().join("plan.json").display().to_string();
    assert_eq!(story.run(&["plan", "-i", &story.at(), "-o", &saved]).status.code(), Some(2));
    crate::kit::write(story.file("t-1", "/opt/aws/neuron/logical_nc_config"), "by hand\n");
    // On a host on which the saved plan has something to do, too.
    let sysctl = std::fs::read_dir(story.file("w-1", "/etc/sysctl.d")).expect("a folder").flatten();
    let sysctl = sysctl.map(|entry| entry.path()).find(|path| path.is_file()).expect("a file of a role");
    crate::kit::write(&sysctl, "# by hand\n");
    let refused = story.apply(&[&saved]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(text(&refused).contains("file//opt/aws/neuron/logical_nc_config on t-1"), "{}", text(&refused));
    let rest = story.apply(&[&saved, "--skip-stale"]);
    assert_eq!(rest.status.code(), Some(1), "{}", text(&rest));
    assert_eq!(std::fs::read_to_string(&sysctl).expect("there"), "# by hand\n", "it was not in the plan");
    assert!(story.plan().1.contains("Plan: 2 changes on 2 hosts"), "the rest was done: {}", story.plan().1);
}

#[test]
fn a_saved_plan_is_carried_out_where_its_inventory_is_not() {
    let story = Story::new();
    story.up();
    let saved = story.dir.path().join("plan.json").display().to_string();
    let role = story.inventory.join("roles/base");
    std::fs::create_dir_all(&role).expect("made");
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("roles/base/role.yaml");
    let motd = std::fs::read_to_string(base).expect("the role")
        + "\n- file: {path: /etc/motd, content: \"by the plan\\n\"}\n";
    std::fs::write(role.join("role.yaml"), &motd).expect("written");
    let planned = story.run(&["plan", "-i", &story.at(), "--limit", "w-1,cp-1", "-o", &saved]);
    assert_eq!(planned.status.code(), Some(2), "{}", text(&planned));
    assert!(text(&planned).contains(&format!("provision apply {saved}\n")), "{}", text(&planned));
    // Another inventory by then: what was approved is carried out, on the hosts that it was made for.
    std::fs::write(role.join("role.yaml"), motd.replace("by the plan", "later")).expect("written");
    let stale = story.apply(&[&saved]);
    assert_eq!(stale.status.code(), Some(3), "named with -i it must be the same: {}", text(&stale));
    let other = story.run(&["apply", &saved, "--yes", "--limit", "w-1"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(text(&other).contains("saved with a different selection of hosts"), "{}", text(&other));
    let away = story.dir.path().join("away");
    std::fs::rename(&story.inventory, &away).expect("moved");
    let applied = story.run(&["apply", &saved, "--yes"]);
    assert_eq!(applied.status.code(), Some(0), "{}", text(&applied));
    assert_eq!(std::fs::read_to_string(story.file("w-1", "/etc/motd")).expect("there"), "by the plan\n");
    assert!(!story.file("t-1", "/etc/motd").exists(), "not selected");
    std::fs::rename(&away, &story.inventory).expect("moved back");
    // What `--output json` prints has no inventory in it.
    let printed = story.run(&["plan", "-i", &story.at(), "--output", "json"]);
    std::fs::write(&saved, &printed.stdout).expect("written");
    let without = story.run(&["apply", &saved, "--yes"]);
    assert_eq!(without.status.code(), Some(1));
    assert!(text(&without).contains("does not contain its inventory"), "{}", text(&without));
}

#[test]
fn one_bad_host_stops_itself_and_the_rest_serve() {
    let story = Story::new();
    let output = story.run(&["lab", "run", &story.at(), "--fault", "b-1=fail-package:nvlsm"]);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("b-1 failed at package/nvlsm (exit 100"), "{text}");
    assert!(text.contains("  | ") && text.contains("maintainer script"), "its last lines are shown: {text}");
    assert!(text.contains("LAB echo from qwen-gpu-"), "the others go on: {text}");
    // The command that the failure names shows all that was printed there.
    let named = text.lines().find_map(|l| l.trim().strip_prefix("= full output: provision ")).expect("named");
    let shown = story.run(&named.split_whitespace().collect::<Vec<_>>());
    let whole = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        whole.contains("package/nvlsm FAILED (exit 100") && whole.contains("maintainer script"),
        "{whole}"
    );
    assert!(whole.contains("package/chrony created in "), "what went well is there too: {whole}");
    let run = named.split_whitespace().nth(2).expect("the run");
    let list = story.run(&["history", "-i", &story.at()]);
    assert!(String::from_utf8_lossy(&list.stdout).starts_with(run), "it is the newest run");
}

/// The commands of the tutorial, word for word.
#[test]
fn the_tutorial_does_what_it_says() {
    let story = Story::new();
    let text_of_it = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tutorial.md"))
        .expect("read");
    let commands: Vec<&str> = text_of_it.lines().filter_map(|l| l.strip_prefix("$ provision ")).collect();
    assert!(commands.len() > 8, "the tutorial has commands");
    let three = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories/three-nodes").display().to_string();
    let mut plans = 0;
    for command in commands {
        // Its own copy of the lab, so that tests do not share addresses; else word for word.
        let own = command.replace("inventories/lab", &story.at()).replace("inventories/three-nodes", &three);
        let words: Vec<&str> = own.split_whitespace().collect();
        let output = story.run(&words);
        let code = output.status.code();
        let expected = match words[0] {
            "plan" => {
                plans += 1;
                if plans == 1 { 2 } else { 0 }
            }
            "diff" => 2,
            _ => 0,
        };
        assert_eq!(code, Some(expected), "provision {own}\n{}", text(&output));
    }
}
