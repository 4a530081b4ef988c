//! Nothing of the machine that a lab runs on is in what its hosts answer, or in committed golden files.

use crate::story::{Story, text};
use std::io::Read;
use std::path::Path;
use std::process::Command;

/// The environment of a machine like no other: one of its words in an answer came from the machine.
const STRANGE: [(&str, &str); 7] = [
    ("USER", "strange-user"),
    ("LOGNAME", "strange-user"),
    ("TZ", "Asia/Kathmandu"),
    ("LC_ALL", "de_DE.strange-locale"),
    ("LANG", "de_DE.strange-locale"),
    ("HOSTNAME", "strange-host"),
    ("PROVISION_STRANGE", "strange-variable"),
];

/// Runs the binary on a machine of another name, kernel, user, language, time zone and number of processors.
fn strange(story: &Story, arguments: &str) -> String {
    // Who is root need not become it, and would have nobody else to be on the hosts.
    let user = if rustix::process::geteuid().is_root() { "" } else { "--user --map-root-user" };
    let text_of = format!(
        "exec setarch --uname-2.6 unshare {user} --uts /bin/sh -c 'echo strange-host >/proc/sys/kernel/hostname; \
         exec taskset -c 0 {} {arguments}'",
        env!("CARGO_BIN_EXE_provision")
    );
    let output = story.shell(&text_of).envs(STRANGE).output().expect("a shell");
    assert!(matches!(output.status.code(), Some(0 | 2)), "{arguments}: {}", text(&output));
    text(&output)
}

/// Returns all texts of a `tar.gz`.
fn unpacked(path: &Path) -> String {
    let file = std::fs::File::open(path).expect("the archive");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut all = String::new();
    for entry in archive.entries().expect("entries") {
        entry.expect("an entry").read_to_string(&mut all).expect("text");
    }
    all
}

/// Returns what is known of this machine that a text may not hold.
fn own() -> Vec<String> {
    let uname = rustix::system::uname();
    let mut words = vec![
        uname.release().to_string_lossy().into_owned(),
        env!("CARGO_MANIFEST_DIR").to_owned(),
        std::env::temp_dir().join(".tmp").display().to_string(),
    ];
    words.extend(["version", "cmdline"].into_iter().filter_map(|name| {
        let text = std::fs::read_to_string(Path::new("/proc").join(name)).ok()?;
        Some(text.trim().to_owned())
    }));
    // A name alone may be any word; beside an at sign it is a person's or a machine's.
    words.push(format!("@{}", uname.nodename().to_string_lossy()));
    words.extend(std::env::var("USER").ok().filter(|user| user != "root").map(|user| format!("{user}@")));
    let of_hosts = ["/", "/root", "/home/ubuntu"];
    words.extend(
        std::env::var("HOME").ok().filter(|home| home.len() > 1 && !of_hosts.contains(&home.as_str())),
    );
    words
}

fn holds_none(name: &str, text: &str, words: &[String]) {
    for word in words {
        assert!(!text.contains(word.as_str()), "{name} holds `{word}` of the machine");
    }
}

#[test]
fn hosts_of_a_lab_say_nothing_of_the_machine() {
    let story = Story::new();
    let at = story.at();
    strange(&story, &format!("lab up {at}"));
    let facts = strange(&story, &format!("facts -i {at} --output json"));
    let plan = strange(&story, &format!("plan -i {at}"));
    let archive = story.dir.path().join("w-1.tar.gz");
    strange(&story, &format!("support -i {at} w-1 -o {}", archive.display()));
    let answers = strange(
        &story,
        &format!(
            "exec -i {at} --output json --limit w-1 -- \"uname -a; nproc; date +%Z; id -un; env; cat /proc/stat /proc/sys/kernel/osrelease\""
        ),
    );
    let support = unpacked(&archive);

    let host = &serde_json::from_str::<serde_json::Value>(&facts).expect("JSON")["w-1"];
    assert_eq!(host["kernel"], "6.1.0-99-amd64");
    assert_eq!(host["arch"], "x86_64");
    assert_eq!(host["cpus"], 192);
    assert_eq!(host["memory_kib"], 2_u64 << 30);
    assert_eq!(host["cgroup"], 2);
    assert_eq!(host["uptime_s"], 86_400);
    assert!(answers.contains("Linux localhost 6.1.0-99-amd64 #1 SMP"), "{answers}");
    assert!(answers.contains("UTC") && answers.contains("root"), "{answers}");

    let mut words = own();
    words.extend(["strange", "2.6.", "Kathmandu", "+0545"].map(str::to_owned));
    for (name, text) in [("facts", &facts), ("plan", &plan), ("the archive", &support), ("exec", &answers)] {
        // What to do next names the inventory as it was given.
        holds_none(name, &text.replace(&at, "SITE"), &words);
    }
}

#[test]
fn golden_files_say_nothing_of_the_machine_they_were_recorded_on() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = Command::new("git").args(["ls-files", "tests", "docs"]).current_dir(root).output();
    let listed = listed.expect("git");
    let mut words = own();
    // A kernel that no distribution made is of the machine that recorded it.
    words.push("-fc-v".to_owned());
    let mut read = 0;
    for name in String::from_utf8_lossy(&listed.stdout).lines() {
        if [".stdout", ".snap", ".svg", ".md", ".yaml", ".json"].iter().any(|end| name.ends_with(end)) {
            holds_none(name, &std::fs::read_to_string(root.join(name)).unwrap_or_default(), &words);
            read += 1;
        }
    }
    assert!(read > 50 || listed.stdout.is_empty(), "{read} golden files");
}
