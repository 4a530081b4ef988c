//! Hosts that print what they should not: escape sequences, and lines without an end. Everything that shows what a host
//! said is run as a user runs it.

use crate::story::{Story, text};
use std::path::Path;

/// One host is enough.
const SITE: &str = "apiVersion: provision/v1\nkind: Inventory\nmetadata: {name: hostile}\n\
    ssh: {user: ubuntu, port: 2222, identities: [.lab/id_ed25519], hostKeys: {file: .lab/known_hosts}, agent: false}\n\
    cluster:\n  k0s: {version: v1.35.7+k0s.0}\n  network: {podCIDR: 10.240.0.0/16, serviceCIDR: 10.96.0.0/16}\n\
    pools:\n  c: {role: single, hosts: {a-1: {address: 127.77.0.41}}}\n";

/// Returns a site whose base role begins with an entry more.
fn site(entry: &str) -> Story {
    let story = Story::of(SITE);
    let role = Path::new(env!("CARGO_MANIFEST_DIR")).join("roles/base");
    let mine = story.inventory.join("roles/base");
    std::fs::create_dir_all(mine.join("templates")).expect("made");
    for file in std::fs::read_dir(role.join("templates")).expect("templates").flatten() {
        std::fs::copy(file.path(), mine.join("templates").join(file.file_name())).expect("copied");
    }
    let base = std::fs::read_to_string(role.join("role.yaml")).expect("the role");
    std::fs::write(mine.join("role.yaml"), format!("{entry}\n{base}")).expect("written");
    story.up();
    story
}

/// Returns what steers a terminal in a text, if anything does.
fn steering(text: &str) -> Option<char> {
    text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t') || matches!(c, '\u{202a}'..='\u{202e}'))
}

#[test]
fn nothing_that_a_host_prints_steers_the_terminal() {
    let story = site(
        "- command:\n    name: esc\n    wanted: probed\n    guard: \"printf '\\\\033]0;GUARD\\\\007state'; exit 1\"\n    \
         apply: \"printf 'a\\\\033]0;TITLE\\\\007b\\\\033[2J\\\\302\\\\233c\\\\342\\\\200\\\\256d\\\\r\\\\n'; printf 'E\\\\033[1A\\\\033[2Khidden\\\\n' >&2; exit 7\"",
    );
    let at = story.at();
    let show = "printf '\\033]0;EXEC\\007x\\033[2J\\n'; printf '\\033[1Ay\\n' >&2; exit 3";
    let commands: &[&[&str]] = &[
        &["exec", "-i", &at, "--limit", "a-1", "--", show],
        &["exec", "-i", &at, "--limit", "a-1", "-v", "--", show],
        &["exec", "-i", &at, "--limit", "a-1", "--output", "json", "--", show],
        &["plan", "-i", &at, "-v"],
        &["plan", "-i", &at, "--output", "json"],
        &["apply", "-i", &at, "--yes", "-v"],
        &["apply", "-i", &at, "--yes", "--output", "json"],
        &["facts", "-i", &at],
    ];
    for command in commands {
        let output = story.run(command);
        let said = text(&output);
        assert_eq!(steering(&said), None, "{command:?}: {said:?}");
        assert!(!said.is_empty(), "{command:?}");
    }
    let applied = text(&story.apply(&["-v"]));
    assert!(applied.contains("a␛]0;TITLE␇b␛[2J") && applied.contains("E␛[1A␛[2Khidden"), "{applied}");
    let runs = text(&story.run(&["history", "-i", &at]));
    let run = runs.split_whitespace().next().expect("a run").to_owned();
    for more in [&["history", "show", &run, "-i", &at][..], &["history", "show", &run, "a-1", "-i", &at][..]]
    {
        let said = text(&story.run(more));
        assert_eq!(steering(&said), None, "{more:?}: {said:?}");
    }
    let said = text(&story.run(&["history", "show", &run, "a-1", "-i", &at]));
    assert!(said.contains("TITLE"), "{said}");
}

/// 300 MB without a newline were read once per packet.
#[test]
fn a_step_may_print_a_line_without_an_end() {
    let story = site(
        "- command:\n    name: longline\n    wanted: x\n    guard: test -e /var/lib/ll\n    \
         apply: \"head -c 100000000 /dev/zero | tr '\\\\0' x; touch /var/lib/ll\"",
    );
    let output = story.apply(&["-v"]);
    let said = text(&output);
    assert!(output.status.success(), "{}", &said[said.len().saturating_sub(2000)..]);
    assert!(said.len() < 1 << 20, "{} bytes were said", said.len());
}

/// What a host asks of the lab for a stand-in of k0s may be made by hand.
#[tokio::test]
async fn a_host_has_no_snapshot_restored_that_the_lab_did_not_make_and_no_endless_certificate() {
    let lab = crate::kit::Kit::up(&["h"], |_| {}).await;
    let cluster = lab.lab.cluster();
    for forged in ["", "AAAA", "bm90IGEgc25hcHNob3Qgb2YgYW55IGxhYiwgYnV0IGxvbmcgZW5vdWdoIGZvciBvbmU="] {
        let refused = cluster.restore("h", forged).expect_err("not one of this lab");
        assert!(refused.starts_with("snapshot file integrity check failed"), "{refused}");
    }
    cluster.client_certificate("u".into(), "g".into(), u64::MAX).expect_err("no certificate is for ever");
}
