//! The command line as a reference: every command explains itself, and the page in `docs/` says the same.

use std::path::Path;

#[test]
fn the_reference_is_what_help_says() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/cli.md");
    let now = provision::cli::reference();
    let then = std::fs::read_to_string(&page).unwrap_or_default();
    let differs = now.lines().zip(then.lines()).find(|(a, b)| a != b);
    assert!(
        now == then,
        "docs/reference/cli.md is not what --help says ({differs:?}); provision man --markdown > docs/reference/cli.md"
    );
}

#[test]
fn every_command_has_examples_and_a_word_for_each_argument() {
    let text = provision::cli::reference();
    let sections: Vec<&str> = text.split("\n## ").skip(1).collect();
    assert!(sections.len() > 20, "all commands are there");
    for section in sections {
        let name = section.lines().next().unwrap_or_default();
        assert!(section.contains("Example"), "{name} has no example:\n{section}");
        // An argument that says nothing is followed by an empty line at once.
        let head = section.split("\nExample").next().unwrap_or_default();
        let lines: Vec<&str> = head.lines().collect();
        for pair in lines.windows(2) {
            let word = pair[0].trim_start();
            let note = ["- ", "[default", "[possible", "[env"].iter().any(|n| word.starts_with(n));
            let argument = pair[0].starts_with("  ") && word.starts_with(['-', '<', '[']) && !note;
            let said = word.contains("  ") || pair[1].starts_with("          ");
            assert!(!argument || said, "{name}: `{word}` is not explained");
        }
    }
}
