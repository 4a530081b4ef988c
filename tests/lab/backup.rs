//! Backups of the control plane, and clusters that begin again with one.

use super::preflight::stand_in;
use super::story::{Story, text};
use super::twin::site;
use age::secrecy::ExposeSecret;
use base64::Engine as _;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

impl Story {
    fn backup(&self, more: &[&str]) -> Output {
        let at = self.at();
        self.run(&[&["backup", "-i", &at], more].concat())
    }

    /// Makes a backup and returns its file.
    fn backed_up(&self, more: &[&str]) -> PathBuf {
        let output = self.backup(more);
        assert_eq!(code(&output), Some(0), "{}", text(&output));
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    }

    fn restore(&self, file: &Path, more: &[&str]) -> Output {
        let (at, file) = (self.at(), file.display().to_string());
        self.run(&[&["restore", "-i", &at, &file], more].concat())
    }

    fn destroyed(&self) {
        let at = self.at();
        let output = self.run(&["destroy", "-i", &at, "--yes"]);
        assert_eq!(code(&output), Some(0), "{}", text(&output));
    }

    /// Returns the inventory with this below `cluster`.
    fn with_policy(&self, policy: &str) {
        let file = self.inventory.join("inventory.yaml");
        let before = std::fs::read_to_string(&file).expect("read");
        let first = before.lines().filter(|line| !line.starts_with("  backup:"));
        let text: Vec<String> = first
            .flat_map(|line| match line {
                "cluster:" => vec![line.to_owned(), format!("  backup: {policy}")],
                line => vec![line.to_owned()],
            })
            .collect();
        std::fs::write(&file, text.join("\n") + "\n").expect("written");
    }
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn record(file: &Path) -> Value {
    let text = std::fs::read_to_string(format!("{}.json", file.display())).expect("a record");
    serde_json::from_str(&text).expect("JSON")
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_destroyed_cluster_begins_again_with_its_backup() {
    let story = Story::of(&site(3));
    story.up();
    let none = story.backup(&[]);
    assert_eq!(code(&none), Some(1));
    assert!(text(&none).contains("error[E-NO-CLUSTER]"), "{}", text(&none));
    story.applied();

    let before = story.tree();
    let file = story.backed_up(&[]);
    assert_eq!(story.tree(), before, "nothing stays on any host");
    assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    let cluster = record(&file)["cluster"].as_str().expect("a uid").to_owned();
    let listed = story.backup(&["--list", "--output", "json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(listed[0]["file"], file.display().to_string());
    assert_eq!((&listed[0]["host"], listed.as_array().map(Vec::len)), (&"cp-1".into(), Some(1)));

    let running = story.restore(&file, &["--yes"]);
    assert_eq!(code(&running), Some(3), "{}", text(&running));
    assert_eq!(text(&running).matches("error[E-RESTORE]").count(), 3, "{}", text(&running));
    assert_eq!(story.tree(), before);

    story.destroyed();
    let fresh = story.tree();
    let dry = story.restore(&file, &["--dry-run"]);
    assert_eq!(code(&dry), Some(2), "{}", text(&dry));
    assert!(text(&dry).contains("> command k0s-restore"), "{}", text(&dry));
    assert!(text(&dry).contains(&file.file_name().expect("a name").to_string_lossy()[..]), "{}", text(&dry));
    assert_eq!(story.tree(), fresh);
    let unconfirmed = story.restore(&file, &[]);
    assert_eq!(code(&unconfirmed), Some(1), "without a terminal: {}", text(&unconfirmed));
    assert_eq!(story.tree(), fresh);

    // What another run has put there, from another machine, is not touched.
    let lock = "{\"owner\":\"eva@desk\",\"run\":\"BBBBB\",\"boot_id\":\"x\",\"expires_s\":9999999999}";
    story.on("cp-1", &format!("sudo mkdir -p /var/lib/provision; echo '{lock}' | sudo tee /var/lib/provision/lock; echo theirs | sudo tee /var/lib/provision/restore.tar.gz"));
    let locked = story.restore(&file, &["--yes"]);
    assert_eq!(code(&locked), Some(4), "{}", text(&locked));
    assert!(
        text(&locked).contains("error[E-LOCKED]: cp-1 is locked by eva@desk (run BBBBB)"),
        "{}",
        text(&locked)
    );
    assert_eq!(story.on("cp-1", "sudo cat /var/lib/provision/restore.tar.gz").trim(), "theirs");
    story.on("cp-1", "sudo rm -r /var/lib/provision");

    // Killed on the way, it is still the same cluster in the end. What runs on a host goes on, so that less and less is left.
    let killed = story.restore(&file, &["--yes", "--fault", "kill@10"]);
    assert_eq!(code(&killed), None, "{}", text(&killed));
    let again = ["kill@30", "kill@20", "kill@1000000"].map(|fault| ["--yes", "--fault", fault]);
    let mut again = again.iter().map(|flags| story.restore(&file, flags));
    let restored = again.find(|output| code(output).is_some()).expect("the last one ends");
    assert_eq!(code(&restored), Some(0), "{}", text(&restored));
    let same = format!("matches the backup (uid {cluster})");
    assert!(text(&restored).contains(&same), "{}", text(&restored));
    let (rc, shown) = story.plan();
    assert_eq!(rc, 0, "{shown}");
    assert_eq!(record(&story.backed_up(&[]))["cluster"], cluster);
    assert_eq!(story.members().len(), 3);
    for left in ["restore.tar.gz", "k0s.restored", "k0s.restoring", "backup", "backup.lock"] {
        assert!(!story.file("cp-1", &format!("/var/lib/provision/{left}")).exists(), "{left}");
    }
    assert_eq!(code(&story.restore(&file, &["--yes"])), Some(3), "it runs again");
    // What an interrupted restore has left there once is no leave to wipe what runs by now.
    let running = story.tree();
    let sha256 = record(&file)["sha256"].as_str().expect("a sum").to_owned();
    story.on("cp-1", &format!("echo {sha256} | sudo tee /var/lib/provision/k0s.restoring >/dev/null"));
    let refused = story.restore(&file, &["--yes"]);
    assert_eq!(code(&refused), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains("cp-1 has a control plane: k0s was started on it"), "{}", text(&refused));
    story.on("cp-1", &format!("sudo rm /var/lib/provision/k0s.restoring; echo {sha256} | sudo tee /var/lib/provision/k0s.restored >/dev/null"));
    let over = story.restore(&file, &["--yes"]);
    assert_eq!(code(&over), Some(0), "{}", text(&over));
    assert!(text(&over).contains("changes made in the cluster since then are kept"), "{}", text(&over));
    assert_eq!(story.tree(), running, "the record of it is gone, too");

    // An apply makes no new cluster where a restore is not finished, and otherwise one with another uid.
    story.destroyed();
    story.on("cp-2", "sudo mkdir -p /var/lib/provision && sudo touch /var/lib/provision/restore.tar.gz");
    let other = story.apply(&[]);
    assert_eq!(code(&other), Some(1), "{}", text(&other));
    assert!(text(&other).contains("cp-[1-3] failed preflight [E-RESTORE]"), "{}", text(&other));
    assert!(!story.file("cp-1", "/var/lib/k0s/pki").exists());
    story.on("cp-2", "sudo rm /var/lib/provision/restore.tar.gz");
    story.applied();
    assert_ne!(record(&story.backed_up(&[]))["cluster"], cluster);
}

#[test]
fn backups_are_encrypted_and_only_so_many_are_kept() {
    let story = Story::of(&site(1));
    let (ours, theirs) = (age::x25519::Identity::generate(), age::x25519::Identity::generate());
    let key = |name: &str, identity: &age::x25519::Identity| {
        let path = story.dir.path().join(name);
        std::fs::write(&path, identity.to_string().expose_secret()).expect("written");
        path.display().to_string()
    };
    let (ours_at, theirs_at) = (key("ours", &ours), key("theirs", &theirs));
    story.with_policy(&format!("{{recipients: [{}], keep: 2}}", ours.to_public()));
    story.up();
    story.applied();
    let to = story.dir.path().join("kept");
    let to = to.to_str().expect("text");
    std::fs::create_dir(to).expect("made");
    std::fs::write(Path::new(to).join("mine.tar.gz"), "mine").expect("written");
    let first = story.backed_up(&["--to", to]);
    let bytes = std::fs::read(&first).expect("read");
    assert!(bytes.starts_with(b"age-encryption.org/v1"), "{}", first.display());
    let all: Vec<PathBuf> = (0..3)
        .map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1100));
            story.backed_up(&["--to", to])
        })
        .collect();
    assert_eq!(files(Path::new(to)).len(), 5, "two backups, their records, and a file of somebody else");
    assert!(
        !first.exists() && all[1].exists() && all[2].exists() && Path::new(to).join("mine.tar.gz").exists()
    );

    story.destroyed();
    let newest = &all[2];
    let fresh = story.tree();
    let refused = |file: &Path, more: &[&str], why: &str| {
        let output = story.restore(file, &[&["--yes"], more].concat());
        assert_ne!(code(&output), Some(0), "{more:?}: {}", text(&output));
        assert!(text(&output).contains(why), "{why}: {}", text(&output));
        assert_eq!(story.tree(), fresh);
    };
    refused(newest, &[], "is encrypted");
    refused(newest, &["--identity", &theirs_at], "error[E-BACKUP]");
    let secret = ours.to_string().expose_secret().to_owned();
    let mistaken = story.command(&["restore", "-i", &story.at(), newest.to_str().expect("text"), "--yes"]);
    let mistaken = { mistaken }.env("PROVISION_AGE_IDENTITY", &secret).output().expect("it runs");
    assert!(text(&mistaken).contains("instead of a file that contains it"), "{}", text(&mistaken));
    assert!(!text(&mistaken).contains(&secret[20..]), "{}", text(&mistaken));
    let inventory = std::fs::read_to_string(story.inventory.join("inventory.yaml")).expect("read");
    story.with_policy(&format!("{{recipients: [{secret}]}}"));
    let mistaken = story.run(&["validate", "-i", &story.at()]);
    assert!(text(&mistaken).contains("which is a secret key"), "{}", text(&mistaken));
    assert!(!text(&mistaken).contains(&secret[20..]), "{}", text(&mistaken));
    std::fs::write(story.inventory.join("inventory.yaml"), inventory).expect("written");
    let bytes = std::fs::read(newest).expect("read");
    let cut = story.dir.path().join("cut.tar.gz.age");
    std::fs::write(&cut, &bytes[..bytes.len() - 7]).expect("written");
    refused(&cut, &["--identity", &ours_at], "damaged");
    // A record of another inventory, and of a newer k0s.
    for (name, value, why) in [
        ("inventory", "other", "belongs to inventory other"),
        ("k0s", "v1.36.4+k0s.1", "made with k0s v1.36.4"),
    ] {
        let other = story.dir.path().join(format!("{name}.tar.gz.age"));
        std::fs::copy(newest, &other).expect("copied");
        let mut edited = record(newest);
        edited[name] = value.into();
        std::fs::write(format!("{}.json", other.display()), edited.to_string()).expect("written");
        refused(&other, &["--identity", &ours_at], why);
    }
    refused(&story.inventory, &["--identity", &ours_at], "no backup of runs in");

    let restored = story.restore(Path::new(to), &["--yes", "--identity", &ours_at, "--output", "json"]);
    assert_eq!(code(&restored), Some(0), "{}", text(&restored));
    assert_eq!(story.plan().0, 0);
}

#[test]
fn what_is_no_backup_is_not_kept() {
    let story = Story::of(&site(1));
    story.up();
    story.applied();
    let to = story.dir.path().join("kept");
    let to_text = to.to_str().expect("text");
    let wrong = story.backup(&["--from", "w-1"]);
    assert!(text(&wrong).contains("w-1 is not a controller"), "{}", text(&wrong));
    story.on("cp-1", "sudo cp /usr/local/bin/k0s /usr/local/bin/k0s.real");
    for (plays, why) in [
        ("echo no archive", "is not an archive"),
        ("head -c 5000000 /dev/urandom", "is not an archive"),
        ("echo 'Error: etcd is tired' >&2; exit 3", "etcd is tired"),
        ("/usr/local/bin/k0s.real \"$@\" | head -c 3000", "incomplete or damaged"),
    ] {
        let script = format!(
            "#!/bin/sh\ncase $1 in backup) {plays};; *) exec /usr/local/bin/k0s.real \"$@\";; esac\n"
        );
        let packed = base64::engine::general_purpose::STANDARD.encode(script);
        story.on("cp-1", &format!("echo {packed} | base64 -d | sudo tee /usr/local/bin/k0s >/dev/null"));
        let output = story.backup(&["--to", to_text]);
        assert_eq!(code(&output), Some(1), "{plays}: {}", text(&output));
        assert!(text(&output).contains(why), "{plays}: {}", text(&output));
        assert_eq!(files(&to), Vec::<String>::new(), "{plays}");
    }
    assert!(!story.file("cp-1", "/var/lib/provision/backup").exists());

    // Nothing stays of one that is stopped, here or there.
    let script = "#!/bin/sh\ncase $1 in backup) sleep 60;; *) exec /usr/local/bin/k0s.real \"$@\";; esac\n";
    let packed = base64::engine::general_purpose::STANDARD.encode(script);
    story.on("cp-1", &format!("echo {packed} | base64 -d | sudo tee /usr/local/bin/k0s >/dev/null"));
    let at = story.at();
    let mut command = story.command(&["backup", "-i", &at, "--to", to_text]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    while files(&to).is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("sent");
    let stopped = child.wait_with_output().expect("it ends");
    assert_eq!(code(&stopped), Some(130), "{}", text(&stopped));
    assert_eq!(files(&to), Vec::<String>::new());
}

#[test]
fn an_upgrade_of_k0s_is_backed_up_first() {
    const TOLD: &str = "the control plane is backed up to this machine";
    let story = Story::of(&site(1));
    story.up();
    story.applied();
    assert!(!story.plan().1.contains(TOLD));
    let script = "K0S_LAB_VERSION=v1.34.10+k0s.0 exec /opt/lab/tool k0s \"$@\"";
    stand_in(&story, "cp-1", "k0s", script);
    let (rc, shown) = story.plan();
    assert!(rc == 2 && shown.contains(TOLD), "{shown}");

    // A control plane that cannot be backed up is not upgraded.
    story.on("cp-1", "sudo systemctl stop k0scontroller.service");
    let before = story.tree();
    let refused = story.apply(&[]);
    assert_eq!(code(&refused), Some(1), "{}", text(&refused));
    assert!(
        text(&refused).contains("no backup before the upgrade, nothing was changed"),
        "{}",
        text(&refused)
    );
    assert_eq!(story.tree(), before);
    story.with_policy("{beforeUpgrade: false}");
    assert!(!story.plan().1.contains(TOLD));
    story.with_policy("{keep: 3}");
    story.on("cp-1", "sudo systemctl start k0scontroller.service");

    let upgraded = story.apply(&[]);
    assert_eq!(code(&upgraded), Some(0), "{}", text(&upgraded));
    assert!(text(&upgraded).contains("cp-1: backing up k0s v1.34.10+k0s.0"), "{}", text(&upgraded));
    let listed: Value =
        serde_json::from_slice(&story.backup(&["--list", "--output", "json"]).stdout).expect("JSON");
    assert_eq!(listed[0]["k0s"], "v1.34.10+k0s.0");
    let (rc, shown) = story.plan();
    assert_eq!(rc, 0, "{shown}");
}

/// The commands of the how-to, word for word.
#[test]
fn the_how_to_does_what_it_says() {
    let story = Story::new();
    story.up();
    assert_eq!(code(&story.apply(&[])), Some(0));
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/how-to/backup.md");
    let page = std::fs::read_to_string(page).expect("read");
    let commands =
        page.lines().filter_map(|l| l.strip_prefix("$ ")).filter(|c| c.contains("inventories/lab"));
    let commands: Vec<&str> = commands.collect();
    assert_eq!(commands.len(), 5);
    for command in commands {
        let own = command.replace("inventories/lab", &story.at());
        let own = own.replacen("provision", env!("CARGO_BIN_EXE_provision"), 1);
        let output = story.shell(&own).output().expect("it runs");
        let expected = if own.contains("--dry-run") { 2 } else { 0 };
        assert_eq!(code(&output), Some(expected), "{own}\n{}", text(&output));
    }
}
