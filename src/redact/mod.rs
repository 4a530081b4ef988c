//! Redacts secrets in text that leaves a site: the secrets of the inventory, values of fields and flags with sensitive
//! names, strings that look like keys or tokens, and matches of the gitleaks rules.

mod blocks;
mod fields;
mod flags;
mod published;
mod shapes;
mod text;

use crate::state::{REDACTED, SecretText};
use std::ops::Range;
use text::Text;

/// Takes secrets out of a text: those that are known, and what looks like one.
pub fn redacted(text: &str, secrets: &[SecretText]) -> String {
    let mut found = Vec::new();
    for secret in secrets {
        for form in secret.forms() {
            found.extend(text.match_indices(form.as_str()).map(|(at, part)| at..at + part.len()));
        }
    }
    let whole = Text::new(text.as_bytes());
    blocks::find(&whole, &mut found);
    fields::find(&whole, &mut found);
    flags::find(&whole, &mut found);
    shapes::find(&whole, &mut found);
    published::find(&whole, &mut found);
    replaced(text, found)
}

/// Returns a text with these parts of it replaced; parts may overlap.
fn replaced(text: &str, mut found: Vec<Range<usize>>) -> String {
    found.retain(|part| part.start < part.end);
    found.sort_by_key(|part| (part.start, part.end));
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    let mut parts = found.into_iter().peekable();
    while let Some(mut part) = parts.next() {
        while let Some(next) = parts.next_if(|next| next.start <= part.end) {
            part.end = part.end.max(next.end);
        }
        // Patterns match bytes: a character that is cut goes as a whole.
        let start = boundary(text, part.start).max(done);
        let end =
            (part.end..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len()).max(start);
        out.push_str(text.get(done..start).unwrap_or_default());
        out.push_str(REDACTED);
        done = end;
    }
    out.push_str(text.get(done..).unwrap_or_default());
    out
}

/// Returns the nearest place at or before `at` where no character is cut; a stable method of `str` only from 1.91 on.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_overlap_are_replaced_once_and_no_character_is_cut() {
        assert_eq!(replaced("abcdef", vec![1..3, 2..4]), format!("a{REDACTED}ef"));
        assert_eq!(replaced("aäb", vec![2..3, 0..0]), format!("a{REDACTED}b"));
        assert_eq!(replaced("ab", vec![0..2, 1..2]), REDACTED);
    }

    #[test]
    fn quotes_are_closed_by_their_own_kind() {
        let inside = |text: &str| {
            let (range, quoted) = Text::new(text.as_bytes()).value(0);
            (text[range].to_owned(), quoted)
        };
        assert_eq!(inside(r#""a \" b", c"#), (r#"a \" b"#.to_owned(), true));
        assert_eq!(inside(r#"\"a b\",\"c\""#), ("a b".to_owned(), true));
        assert_eq!(inside("'a b' c"), ("a b".to_owned(), true));
        assert_eq!(inside("ab,c d"), ("ab,c".to_owned(), false));
        assert_eq!(inside("\"no end"), ("no end".to_owned(), true));
    }

    #[test]
    fn every_pattern_compiles() {
        assert!(
            shapes::complete() && fields::complete() && flags::complete(),
            "a pattern of our own does not compile"
        );
    }
}
