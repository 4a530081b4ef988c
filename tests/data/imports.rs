//! What source files import from each other: paths that begin with `crate`, `super` or `self`, and those through a file's
//! own child modules, grouped (`use crate::{a::X, b}`) or not; and the circles among them. Comments, texts and code that
//! only tests see are passed over where `Seen` says so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A module by its path below the crate: `["inventory", "load"]` is `src/inventory/load.rs`, and `[]` is `src/lib.rs`.
pub type Module = Vec<String>;

/// One path of a source file, from the crate's root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Import {
    /// `["inventory", "model", "Pool"]`.
    pub path: Vec<String>,
    /// The name under which a `use` makes it known; `None` for a path in code.
    name: Option<String>,
    /// A `pub use`: what it names is handed on, not used.
    handed_on: bool,
    /// Inside `mod tests`.
    pub in_tests: bool,
}

/// Every Rust file below a folder.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("the folder is readable") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The module that a file below `src` holds.
pub fn module_of(inside: &Path) -> Module {
    let mut module: Module =
        inside.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
        module.pop();
    }
    module
}

/// Words and punctuation of a source text, without comments and with `""` for each text.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let skip_to = |from: usize, end: &str| {
        let end: Vec<char> = end.chars().collect();
        (from..chars.len()).find(|i| chars[*i..].starts_with(&end)).map_or(chars.len(), |i| i + end.len())
    };
    while at < chars.len() {
        let rest = &chars[at..];
        // `r"…"`, `br#"…"#`: up to the same number of `#`.
        let raw = if rest[0] == 'b' { 1 } else { 0 };
        let fences = rest.iter().skip(raw + 1).take_while(|c| **c == '#').count();
        if rest.get(raw) == Some(&'r') && rest.get(raw + 1 + fences) == Some(&'"') {
            at = skip_to(at + raw + 2 + fences, &format!("\"{}", "#".repeat(fences)));
            found.push("\"\"".to_owned());
        } else if rest.starts_with(&['/', '/']) {
            at = skip_to(at, "\n");
        } else if rest.starts_with(&['/', '*']) {
            at = skip_to(at + 2, "*/");
        } else if rest[0] == '"' {
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
            found.push("\"\"".to_owned());
        } else if rest[0] == '\'' {
            // A character, or else a lifetime, which is a word.
            at += match rest.get(1) {
                Some('\\') => skip_to(at + 3, "'") - at,
                Some(_) if rest.get(2) == Some(&'\'') => 3,
                _ => 1,
            };
        } else if word(rest[0]) {
            let length = rest.iter().take_while(|c| word(**c)).count();
            found.push(rest[..length].iter().collect());
            at += length;
        } else if rest.starts_with(&[':', ':']) {
            found.push("::".to_owned());
            at += 2;
        } else {
            if !rest[0].is_whitespace() {
                found.push(rest[0].to_string());
            }
            at += 1;
        }
    }
    found
}

/// Reads the tree behind a `use`, or a path in code, at a token; adds each leaf's segments and name, and returns where it ends.
fn tree(
    tokens: &[String],
    mut at: usize,
    before: &[String],
    found: &mut Vec<(Vec<String>, String)>,
) -> usize {
    let mut path = before.to_vec();
    while let Some(token) = tokens.get(at) {
        if token == "{" {
            at += 1;
            while tokens.get(at).is_some_and(|t| t != "}") {
                at = tree(tokens, at, &path, found);
                if tokens.get(at).is_some_and(|t| t == ",") {
                    at += 1;
                }
            }
            return at + 1;
        }
        // `self` at the end of a group is what stands before the group.
        if token != "self" || path.is_empty() {
            path.push(token.clone());
        }
        at += 1;
        if tokens.get(at).is_none_or(|t| t != "::") {
            break;
        }
        at += 1;
        // Type arguments: `Vec::<u8>::new`.
        if tokens.get(at).is_some_and(|t| t == "<") {
            break;
        }
    }
    let mut name = path.last().cloned().unwrap_or_default();
    if tokens.get(at).is_some_and(|t| t == "as") {
        name = tokens.get(at + 1).cloned().unwrap_or_default();
        at += 2;
    }
    found.push((path, name));
    at
}

/// Returns what a module's text imports: `children` are the names of its child modules.
pub fn imports(text: &str, module: &Module, children: &BTreeSet<String>) -> Vec<Import> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    // The depth of braces, and at which depths inline modules began.
    let (mut depth, mut inline) = (0, Vec::<(usize, bool)>::new());
    let mut at = 0;
    while at < tokens.len() {
        let token = tokens[at].as_str();
        let before = at.checked_sub(1).and_then(|i| tokens.get(i)).map_or("", String::as_str);
        let next = tokens.get(at + 1).map_or("", String::as_str);
        match token {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                inline.retain(|(began, _)| *began <= depth);
            }
            "mod" if tokens.get(at + 2).is_some_and(|t| t == "{") => {
                inline.push((depth + 1, next.contains("test")));
            }
            _ => {}
        }
        let is_use = token == "use" && matches!(before, "" | ";" | "}" | "{" | "pub" | ")" | "]" | "\"\"");
        let is_path = next == "::"
            && before != "::"
            && (matches!(token, "crate" | "super" | "self") || children.contains(token));
        if !is_use && !is_path {
            at += 1;
            continue;
        }
        let mut leaves = Vec::new();
        at = tree(&tokens, if is_use { at + 1 } else { at }, &[], &mut leaves);
        let in_tests = inline.iter().any(|(_, tests)| *tests);
        for (path, name) in leaves {
            if let Some(path) = from_root(&path, module, children, inline.len()) {
                let handed_on = is_use && matches!(before, "pub" | ")");
                found.push(Import { path, name: is_use.then_some(name), handed_on, in_tests });
            }
        }
    }
    found
}

/// Returns a path from the crate's root; `None` for one into another crate. Each inline module takes one `super`.
fn from_root(
    path: &[String],
    module: &Module,
    children: &BTreeSet<String>,
    inline: usize,
) -> Option<Vec<String>> {
    let supers = path.iter().take_while(|s| *s == "super").count();
    let rest = &path[supers.max(usize::from(matches!(path[0].as_str(), "crate" | "self")))..];
    let base = match path[0].as_str() {
        "crate" => &[],
        "self" if inline > 0 => return None,
        "self" => &module[..],
        "super" if supers < inline => return None,
        "super" => &module[..module.len().checked_sub(supers - inline)?],
        first if inline == 0 && children.contains(first) => &module[..],
        _ => return None,
    };
    Some([base, rest].concat())
}

/// The names that a text defines, whatever they are inside of.
fn defined(text: &str) -> BTreeSet<String> {
    const BEFORE: [&str; 8] = ["fn", "struct", "enum", "trait", "type", "const", "static", "mod"];
    tokens(text).windows(2).filter(|w| BEFORE.contains(&w[0].as_str())).map(|w| w[1].clone()).collect()
}

/// A module's text, read.
pub struct Source {
    /// What it imports.
    pub imports: Vec<Import>,
    defined: BTreeSet<String>,
}

/// All modules below `src`.
pub struct Crate(pub BTreeMap<Module, Source>);

impl Crate {
    /// Reads a source tree.
    pub fn read(src: &Path) -> Self {
        let sources: BTreeMap<Module, String> = files(src)
            .into_iter()
            .filter(|file| file.file_name().is_some_and(|name| name != "main.rs"))
            .map(|file| {
                let inside = file.strip_prefix(src).expect("below src");
                (module_of(inside), std::fs::read_to_string(&file).expect("a source file"))
            })
            .collect();
        Self::of(&sources)
    }

    /// Takes sources that are given.
    pub fn of(sources: &BTreeMap<Module, String>) -> Self {
        let children = |of: &Module| -> BTreeSet<String> {
            sources
                .keys()
                .filter(|m| m.len() == of.len() + 1 && m.starts_with(of))
                .filter_map(|m| m.last().cloned())
                .collect()
        };
        let read = |m: &Module, text: &str| Source {
            imports: imports(text, m, &children(m)),
            defined: defined(text),
        };
        Self(sources.iter().map(|(m, text)| (m.clone(), read(m, text))).collect())
    }

    /// Returns the module that defines what a path names: through `use`s, which hand names on.
    fn owner(&self, path: &[String], steps: usize) -> Module {
        let holds = (0..=path.len()).rev().find(|n| self.0.contains_key(&path[..*n])).unwrap_or(0);
        let module = path[..holds].to_vec();
        let Some(name) = path.get(holds) else { return module };
        let source = &self.0[&module];
        let named =
            |name: &str| source.imports.iter().find(|i| !i.in_tests && i.name.as_deref() == Some(name));
        let further = match (named(name), named("*")) {
            (Some(import), _) => [&import.path[..], &path[holds + 1..]].concat(),
            (None, Some(all)) if all.handed_on && !source.defined.contains(name) => {
                [&all.path[..all.path.len() - 1], &path[holds..]].concat()
            }
            _ => return module,
        };
        if steps == 0 || further == path { module } else { self.owner(&further, steps - 1) }
    }

    /// Returns the circles among the modules below one of the crate's: each the set of modules that reach each other.
    pub fn circles(&self, top: &str) -> BTreeSet<BTreeSet<String>> {
        let within = |m: &Module| m.first().is_some_and(|first| first == top);
        let mut reached: BTreeMap<&Module, BTreeSet<Module>> = BTreeMap::new();
        for (module, source) in self.0.iter().filter(|(m, _)| within(m)) {
            let used =
                source.imports.iter().filter(|i| !i.in_tests && !i.handed_on).map(|i| self.owner(&i.path, 8));
            reached.insert(module, used.filter(|m| within(m) && m != module).collect());
        }
        loop {
            let mut grown = reached.clone();
            for set in grown.values_mut() {
                let further: Vec<Module> = set.iter().flat_map(|m| reached[m].iter().cloned()).collect();
                set.extend(further);
            }
            if grown == reached {
                break;
            }
            reached = grown;
        }
        let name = |m: &Module| m.join("::");
        reached
            .iter()
            .filter(|(module, set)| set.contains(**module))
            .map(|(module, set)| set.iter().filter(|m| reached[*m].contains(*module)).map(name).collect())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(files: &[(&str, &str)]) -> Crate {
        let module = |path: &str| path.split("::").filter(|p| !p.is_empty()).map(str::to_owned).collect();
        Crate::of(&files.iter().map(|(path, text)| (module(path), (*text).to_owned())).collect())
    }

    fn paths(text: &str) -> Vec<String> {
        let children = BTreeSet::from(["child".to_owned()]);
        let module = ["a".to_owned(), "b".to_owned()].to_vec();
        imports(text, &module, &children).iter().map(|i| i.path.join("::")).collect()
    }

    #[test]
    fn paths_are_seen_however_they_are_written() {
        assert_eq!(paths("use crate::{x::{Y, self as z}, w};"), ["x::Y", "x", "w"]);
        assert_eq!(paths("use super::{c::D, super::e as f};"), ["a::c::D", "e"]);
        assert_eq!(paths("fn f() -> crate::x::Y { super::g(Vec::<u8>::new()) }"), ["x::Y", "a::g"]);
        assert_eq!(paths("pub use child::Z; fn f() { child::g() }"), ["a::b::child::Z", "a::b::child::g"]);
        assert_eq!(paths("mod tests { use super::*; fn f() { super::super::h() } }"), ["a::b::*", "a::h"]);
        let none = "// crate::x\n/* crate::x */ const T: &str = \"crate::\\\"x\"; const R: &str = r#\"\"crate::x\"#; \
                    const C: char = '\"'; fn f<'a>(x: &'a str) { std::child::g(); other::g() }";
        assert_eq!(paths(none), [""; 0]);
    }

    #[test]
    fn circles_are_found_through_names_that_are_handed_on() {
        let map = ("m", "mod a; mod b; mod c; pub use a::A; pub use b::B;");
        let straight = sources(&[
            ("", ""),
            map,
            ("m::a", "use super::B;"),
            ("m::b", ""),
            ("m::c", "use super::{A, B};"),
        ]);
        assert!(straight.circles("m").is_empty());
        let circle = sources(&[
            ("", ""),
            map,
            ("m::a", "use super::B;"),
            ("m::b", "use crate::m::A;"),
            ("m::c", "use super::A;"),
        ]);
        assert_eq!(
            circle.circles("m"),
            BTreeSet::from([BTreeSet::from(["m::a".to_owned(), "m::b".to_owned()])])
        );
    }

    #[test]
    fn what_only_tests_import_makes_no_circle() {
        let tests = "#[cfg(test)] mod tests { use super::super::b::B; }";
        let read =
            sources(&[("", ""), ("m", "mod a; mod b;"), ("m::a", tests), ("m::b", "use super::a::A;")]);
        assert!(read.circles("m").is_empty());
    }
}
