//! A comparison as Markdown, rendered as a code host would: values of an inventory must not create any markup.

use comrak::nodes::NodeValue;
use comrak::{Arena, Options, parse_document};
use proptest::prelude::*;
use provision::plan::{
    Effect, FieldChange, HostChange, InventoryDiff, PolicyReport, PoolChange, PortMove, RuleOutcome,
    RuleResult,
};
use provision::report::comparison_markdown;
use std::mem::discriminant;

/// Returns a comparison in which every text is this one.
fn all(text: &str) -> InventoryDiff {
    let t = || text.to_owned();
    let field = |name: String| FieldChange { name, before: Some(t()), after: Some(t()), place: Some(t()) };
    let fields = || vec![field(t())];
    InventoryDiff {
        name: t(),
        added: [(t(), t())].into(),
        removed: [(t(), t())].into(),
        retired: [(t(), t())].into(),
        changed: vec![HostChange { host: t(), fields: fields(), place: Some(t()) }],
        pools: ["h100", text]
            .map(|pool| PoolChange {
                pool: pool.to_owned(),
                hosts: 2,
                fields: fields(),
                drains: 2,
                waves: Some((2, 1)),
                reboots: 2,
                restarts: [(t(), 2)].into(),
                unit: "GPUs".to_owned(),
                capacity: Some((16, 8)),
                models: vec![t()],
                replicas: vec![(t(), 1, 2)],
            })
            .into(),
        new_pools: vec![t()],
        gone_pools: vec![t()],
        roles: vec![t()],
        site: vec![field(t()), field("cluster.k0s.version".to_owned())],
        errors: vec![t()],
        warnings: vec![t()],
        policy: Some(PolicyReport {
            source: t(),
            digest: t(),
            results: vec![RuleResult {
                rule: t(),
                effect: Effect::Deny,
                outcome: RuleOutcome::Applies,
                message: t(),
                names: vec![t()],
                approvals: 0,
                place: t(),
            }],
        }),
        ports: vec![PortMove { tenant: t(), before: 30081, after: 30082, keep: t() }],
        drains: 2,
        reboots: 2,
        restarts: [(t(), 2)].into(),
    }
}

/// Returns the kinds of all nodes but texts, in order, and all text.
fn read(markdown: &str) -> (Vec<std::mem::Discriminant<NodeValue>>, String) {
    let mut options = Options::default();
    let extension = &mut options.extension;
    (extension.strikethrough, extension.table, extension.autolink) = (true, true, true);
    (extension.tasklist, extension.footnotes, extension.inline_footnotes) = (true, true, true);
    (extension.math_dollars, extension.math_code, extension.alerts) = (true, true, true);
    (options.parse.relaxed_autolinks, options.parse.relaxed_tasklist_matching) = (true, true);
    let arena = Arena::new();
    let (mut kinds, mut text) = (Vec::new(), String::new());
    for node in parse_document(&arena, markdown, &options).descendants() {
        match &node.data().value {
            NodeValue::Text(said) => text += said,
            other => {
                text.push('\n');
                kinds.push(discriminant(other));
            }
        }
    }
    (kinds, text)
}

/// What turns into a link after Markdown was read: mentions, issues, addresses of the web.
fn made_into_links() -> regex::Regex {
    regex::Regex::new(r"@[A-Za-z0-9]|#[0-9]|(?i:gh-[0-9])|://|(?i:www\.)|![0-9]").expect("a pattern")
}

fn harmless(text: &str) {
    let markdown = comparison_markdown(&all(text));
    let (kinds, said) = read(&markdown);
    let (plain, _) = read(&comparison_markdown(&all("x")));
    assert!(kinds == plain, "`{text}` makes something of its own:\n{markdown}");
    let link = made_into_links();
    assert!(!link.is_match(&said), "{:?} of `{text}` becomes a link", link.find(&said));
    let visible = |c: char| c == '\n' || !c.is_control() && !('\u{202a}'..='\u{202e}').contains(&c);
    assert!(said.chars().all(visible), "`{}` hides something", text.escape_debug());
}

#[test]
fn hostile_texts_are_texts() {
    for text in [
        "x\n\n# Approved by @security\n\n![ok](https://evil.example/x.png)\n",
        "rack | 7 | <img src=x onerror=alert(1)> | `code` | \\| \\",
        "`",
        "``` ",
        "a ` b `` c",
        "[link](https://evil.example)",
        "[x]: https://evil.example",
        "![i](u)",
        "<https://evil.example>",
        "https://evil.example/a?b=c&d",
        "HTTP://evil.example",
        "www.evil.example",
        "WWW.evil.example",
        "ops@evil.example",
        "mailto:ops@evil.example",
        "@org/team",
        "@everyone",
        "fixes #123",
        "org/repo#123",
        "GH-123",
        "gh-1",
        "!42",
        "<b>bold</b>",
        "<!-- hidden",
        "</details>",
        "<details>",
        "&lt;b&gt;",
        "&#64;org",
        "&commat;org",
        "*a* **b** _c_ __d__",
        "~~gone~~ ~gone~",
        "$x$ $$y$$ $`z`$",
        "[^1]",
        "^[note]",
        "- [ ] todo",
        "1. one",
        "> quote",
        "---",
        "===",
        "    code",
        "a\r\nb",
        "a\u{2028}b",
        "a\u{85}b",
        "\u{202e}dlrow\u{202c}",
        "\u{2066}x",
        "tab\tthere",
        "\0",
        "\u{1b}[31mred",
        "ends with \\",
        "two  ",
        "",
        "hôte-é7",
        "𞤀0",
    ] {
        harmless(text);
    }
}

#[test]
fn names_and_versions_read_as_they_are() {
    for text in [
        "580.126.09",
        "h-[001-064]",
        "v1.35.7+k0s.0",
        "cluster.k0s_version",
        "10.20.0.0/16",
        "{\"a\": [1, 2]}",
        "a | b",
    ] {
        let (_, said) = read(&comparison_markdown(&all(text)));
        assert!(said.contains(&format!("{text}: {text} → {text}")), "{text}\n{said}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_makes_anything_of_the_document(text in "(\\PC|[\\n\\r\\t#*_`|<>\\[\\]()!@$~&;:/.\\\\=+0-9-]|www|http|://|GH-|x)*{0,40}") {
        harmless(&text);
    }
}
