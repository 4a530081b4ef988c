//! The command reference: every command has help, the page in `docs/` matches it, and commands in messages parse.

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

/// Returns the string literals of a source text outside comments and tests, continued lines joined.
fn literals(text: &str) -> Vec<String> {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = text.get(at..).unwrap_or_default().find(['/', '"', '\'']).map(|n| at + n) {
        let rest = &text[next..];
        at = next + 1;
        if rest.starts_with("//") {
            at = rest.find('\n').map_or(text.len(), |end| next + end);
        } else if rest.starts_with("'\"'") {
            at = next + 3;
        } else if rest.starts_with('"') && text[..next].ends_with("r#") {
            at = rest.find("\"#").map_or(text.len(), |end| next + end + 2);
            found.push(rest[1..at - next].trim_end_matches("\"#").to_owned());
        } else if let Some(literal) = rest.strip_prefix('"') {
            let mut escaped = false;
            let end = literal.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            let end = end.unwrap_or(literal.len());
            let lines = literal[..end].split("\\\n").enumerate();
            let joined: String =
                lines.map(|(n, line)| if n == 0 { line } else { line.trim_start() }).collect();
            found.push(joined.replace("\\n", "\n").replace("\\\"", "\""));
            at = next + end + 2;
        }
    }
    found
}

/// Returns the commands of provision that a text for people names, placeholders filled in. A command ends with its
/// backtick; without backticks it ends at a redirection, a gap before a comment, `, then`, `;` or the end of the line.
fn commands(text: &str, names: &[&str]) -> Vec<String> {
    const ENDS: [&str; 4] = ["   ", ", then", "; ", " | "];
    let mut found = Vec::new();
    for line in text.lines() {
        for (at, _) in line.match_indices("provision ") {
            let (before, rest) = line.split_at(at);
            let word = &rest["provision ".len()..];
            let name = word.split(|c: char| !c.is_ascii_lowercase()).next().unwrap_or_default();
            if !names.contains(&name) || before.ends_with(|c: char| c.is_alphanumeric() || "-.$".contains(c))
            {
                continue;
            }
            let command = match before.ends_with('`') {
                true => rest.split('`').next().unwrap_or_default(),
                false => ENDS.iter().fold(rest, |rest, end| rest.split(end).next().unwrap_or(rest)),
            };
            let command = command.split(" > ").next().unwrap_or_default();
            let mut filled = command.replace("{place}", "-i x").replace("{port}", "1");
            while let Some((before, rest)) = filled.split_once('{') {
                filled = format!("{before}x{}", rest.split_once('}').map_or("", |(_, after)| after));
            }
            found.push(filled.trim_end_matches(['.', ')', ',']).to_owned());
        }
    }
    found
}

/// Splits a command as a shell does, as far as texts have it: at blanks outside quotes.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut quote) = (vec![String::new()], None);
    for c in command.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, c) if c.is_whitespace() => words.push(String::new()),
            (_, c) => words.last_mut().expect("one word").push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// A hint that cannot be typed as it stands costs its reader a search.
#[test]
fn every_command_in_a_text_parses() {
    fn sources(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(dir).expect("src is readable").map(|e| e.expect("entry").path()) {
            match entry.is_dir() {
                true if entry.ends_with("src/lab") => {}
                true => sources(&entry, found),
                false => found.push(entry),
            }
        }
    }
    let reference = provision::cli::reference();
    let names: Vec<&str> = reference
        .lines()
        .filter_map(|l| l.strip_prefix("## provision "))
        .filter(|name| !name.contains(' '))
        .collect();
    assert!(names.len() > 20, "{names:?}");
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let (mut count, mut wrong) = (0, Vec::new());
    for file in files {
        for literal in literals(&std::fs::read_to_string(&file).expect("a source")) {
            for command in commands(&literal, &names) {
                count += 1;
                if let Err(why) = provision::cli::parses(words(&command).iter().map(String::as_str)) {
                    let why = why.lines().next().unwrap_or_default().to_owned();
                    wrong.push(format!("{}: {command}: {why}", file.display()));
                }
            }
        }
    }
    assert!(count > 50, "hints and examples were found: {count}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
