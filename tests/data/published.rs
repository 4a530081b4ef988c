//! Outputs that people published: `published/<parser>.yaml` has, for each parser of tool output, texts of the shape of outputs in
//! issues, documents and other projects' test data, with the source of each and what must be read from it. They are shortened
//! and rewritten: serial numbers, addresses and identifiers are made up. Each runs through the program that hosts run, with the
//! tool replaced, or through the parser that reads its output.

mod accelerators;
mod access;
mod host;
mod roles;
mod steps;

use provision::executor::enact_program;
use provision::state::Facts;
use serde::Deserialize;
use std::path::Path;

/// One output.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Output {
    /// Where one of this shape was published.
    source: String,
    text: String,
    /// Exit status of the tool.
    #[serde(default)]
    exit: i32,
    /// What must be read from it.
    read: String,
}

/// What was read, for people.
type Parser = fn(&Output) -> String;

/// A parser of tool output: its file below `published`, the tool, where it is read, and the parser.
type Row = (&'static str, &'static str, &'static str, Parser);

fn parsers() -> impl Iterator<Item = &'static Row> {
    let all = [accelerators::PARSERS, host::PARSERS, steps::PARSERS, roles::PARSERS, access::PARSERS];
    all.into_iter().flatten()
}

/// Fewer published outputs than that are too few to call a parser tried.
const FEWEST: usize = 3;

fn outputs(name: &str) -> Vec<Output> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/published").join(format!("{name}.yaml"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn published_outputs_are_read_as_they_are_meant() {
    let mut wrong = String::new();
    for (name, _, _, parser) in parsers() {
        for output in outputs(name) {
            let read = parser(&output);
            if read.trim() != output.read.trim() {
                wrong += &format!("{name}: {}\nwanted:\n{}\nread:\n{}\n\n", output.source, output.read, read);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The page says how many outputs each parser was tried on; with `PROVISION_UPDATE_DOCS=1` this writes it.
#[test]
fn every_parser_of_tool_output_was_tried_on_published_ones() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut table = "| output | read by | published outputs tried |\n|---|---|---|\n".to_owned();
    let mut names = std::collections::BTreeSet::new();
    for (name, tool, file, _) in parsers() {
        let of = outputs(name);
        let sources: std::collections::BTreeSet<_> = of.iter().map(|o| o.source.as_str()).collect();
        assert!(sources.len() >= FEWEST, "{name}: {} sources", sources.len());
        assert!(file.split(", ").all(|file| root.join(file).exists()), "{name}: {file}");
        names.insert(format!("{name}.yaml"));
        table += &format!("| {tool} | {file} | {} |\n", of.len());
    }
    let files = std::fs::read_dir(root.join("tests/data/published")).expect("a folder");
    let files = files.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned());
    let files = files.filter(|name| name.ends_with(".yaml"));
    assert_eq!(files.collect::<std::collections::BTreeSet<_>>(), names, "each file is a parser's");
    let path = root.join("docs/reference/parsers.md");
    let page = std::fs::read_to_string(&path).expect("the page");
    let (before, rest) = page.split_once("| output | read by").expect("the table");
    let after = rest.split_once("\n\n").map_or("", |(_, after)| after);
    let made = format!("{before}{table}\n{after}");
    if std::env::var_os("PROVISION_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &made).expect("written");
        return;
    }
    assert_eq!(page, made, "PROVISION_UPDATE_DOCS=1 cargo test --test data every_parser");
}

// What tools on a host say, through the programs that run there.

/// A stand-in for a tool: prints the text and exits as it did.
fn said(output: &Output) -> String {
    format!(
        "cat <<'PUBLISHED_END'\n{}\nPUBLISHED_END\nexit {}",
        output.text.trim_end_matches('\n'),
        output.exit
    )
}

/// The functions that steps have for units.
fn unit_functions() -> String {
    let program = enact_program(&[], &Facts::default());
    let from = program.find("\nUNITS=").expect("the functions");
    let to = program[from..].find("; export UNITS").expect("their end") + from;
    format!("{}\neval \"$UNITS\"; ", &program[from..to])
}

fn lines(text: &str, keep: impl Fn(&str) -> bool) -> String {
    text.lines().filter(|line| keep(line)).map(|line| format!("{line}\n")).collect()
}
