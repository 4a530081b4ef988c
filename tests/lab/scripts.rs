//! Stories told as scripts: `scripts/*.script` run by /bin/sh against a twin of `scripts/*.yaml`, what they print compared
//! with `*.stdout`, ids, times and addresses masked. To accept what is printed now: UPDATE_SCRIPTS=1 cargo test scripts,
//! and read the change. A step is heard of a little after it began, so scripts give a fault that begins with one time.
//!
//! A script's first line names its site (`# site: faults.yaml`); a line beginning with `$ ` is run and shown with its
//! output and exit status; `provision` is the binary under test, `SITE` its inventory and `TWIN` the folder of its lab. Other
//! lines are shown as they are.

use crate::story::Story;
use regex::Regex;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/scripts")
}

/// What differs from run to run, and what stands there instead; in this order.
static MASKS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        // The blanks of a column behind an address, whose length differs.
        (r"(127\.\d+\.\d+\.\d+ [a-z0-9-]+) {2,}", "$1  "),
        (r"127\.\d+\.\d+\.", "127.0.0."),
        (r"\b\d+m\d\ds\b", "TIME"),
        (r"\b\d+(\.\d+)? (s|ms)\b", "TIME"),
        (r"\brun [0-9A-Z]{5}\b", "run RUN"),
        (r"\block [0-9a-f]{7,}\b", "lock LOCK"),
        (r"SHA256:[A-Za-z0-9+/]{43}", "SHA256:KEY"),
        (r"history show [0-9A-Z]{5}\b", "history show RUN"),
        (r"attach [0-9A-Z]{5}\b", "attach RUN"),
    ]
    .map(|(pattern, mask)| (Regex::new(pattern).expect("a pattern"), mask))
    .to_vec()
});

fn masked(text: &str, story: &Story) -> String {
    let twin = story.lab().display().to_string();
    let mut text = text
        .replace(&twin, "TWIN")
        .replace(&story.at(), "SITE")
        .replace(&story.dir.path().display().to_string(), "HOME");
    for (pattern, mask) in MASKS.iter() {
        text = pattern.replace_all(&text, *mask).into_owned();
    }
    text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Runs a script and returns what a person would have seen.
fn play(name: &str) -> String {
    let script = std::fs::read_to_string(folder().join(format!("{name}.script"))).expect("the script");
    let site =
        script.lines().next().and_then(|l| l.strip_prefix("# site: ")).expect("a first line with the site");
    let story = Story::of(&std::fs::read_to_string(folder().join(site)).expect("the site"));
    let mut shown = String::new();
    for line in script.lines().skip(1) {
        shown += line;
        shown.push('\n');
        let Some(command) = line.strip_prefix("$ ") else { continue };
        let text = format!(
            "provision() {{ timeout 120 {} \"$@\"; }}\nexec 2>&1\n{command}\n",
            env!("CARGO_BIN_EXE_provision")
        );
        let mut text = text.replace("SITE", &story.at());
        if text.contains("TWIN") {
            text = text.replace("TWIN", &story.lab().display().to_string());
        }
        let output = story.shell(&text).output().expect("a shell");
        shown += &String::from_utf8_lossy(&output.stdout);
        match output.status.code() {
            Some(0) => {}
            Some(code) => shown += &format!("[exit {code}]\n"),
            None => shown += "[killed]\n",
        }
    }
    masked(&shown, &story)
}

fn check(name: &str) {
    let shown = play(name);
    let golden = folder().join(format!("{name}.stdout"));
    if std::env::var_os("UPDATE_SCRIPTS").is_some() {
        std::fs::write(&golden, shown).expect("written");
        return;
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    let diff = similar::TextDiff::from_lines(&expected, &shown);
    assert!(expected == shown, "{name}:\n{}", diff.unified_diff().header("expected", "shown"));
}

/// A test for each script, so that they run side by side.
macro_rules! scripts {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { check(&stringify!($name).replace('_', "-")); })*
        const ALL: &[&str] = &[$(stringify!($name)),*];
    };
}

scripts! { faults_from_the_start, faults_at_a_step, faults_while_it_runs, lost_controller }

#[test]
fn every_script_is_run() {
    let mut found: Vec<String> = std::fs::read_dir(folder())
        .expect("the folder")
        .flatten()
        .filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".script")?.replace('-', "_")))
        .collect();
    found.sort();
    let mut all = ALL.to_vec();
    all.sort_unstable();
    assert_eq!(found, all);
}
