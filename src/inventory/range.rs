//! Ranges: `h-[001-064]`, `10.0.[1-2].[1,5-9]`. Padding is kept; several brackets multiply, the last varying fastest. The
//! size of a pattern is checked before it is expanded.

/// Texts that all ranges of an inventory may stand for: four for each of 100,000 hosts (its name and its addresses).
pub(super) const MOST_OF_ALL: usize = 400_000;
/// A pattern that stands for more than this is a slip, not a range.
const MOST: usize = 100_000;
/// The longest text that a pattern may stand for, in bytes: a name of DNS.
const MOST_LENGTH: usize = 253;
/// Digits of a number with its padding.
const MOST_DIGITS: usize = 18;

/// A part of a pattern: text, then one of the numbers that follow it.
struct Part<'a> {
    before: &'a str,
    /// From, to, and the width to which numbers are padded.
    runs: Vec<(u64, u64, usize)>,
}

/// A pattern taken apart.
pub struct Range<'a> {
    parts: Vec<Part<'a>>,
    rest: &'a str,
    count: usize,
}

impl<'a> Range<'a> {
    /// Parses a pattern; the error says what is wrong with it.
    pub fn of(pattern: &'a str) -> Result<Self, String> {
        let (mut parts, mut rest, mut count, mut length) = (Vec::new(), pattern, 1usize, 0);
        while let Some((before, after)) = rest.split_once('[') {
            let (inner, behind) = after.split_once(']').ok_or("`[` without `]`")?;
            let (mut runs, mut choices, mut widest) = (Vec::new(), 0usize, 0);
            for run in inner.split(',') {
                let (from, to, width) = numbers(run)?;
                choices = choices
                    .saturating_add(usize::try_from(to - from).unwrap_or(usize::MAX))
                    .saturating_add(1);
                if count.saturating_mul(choices) > MOST {
                    return Err(format!("it expands to more than {MOST} names"));
                }
                widest = width.max(to.to_string().len()).max(widest);
                runs.push((from, to, width));
            }
            count *= choices;
            length += before.len() + widest;
            parts.push(Part { before, runs });
            rest = behind;
        }
        if length + rest.len() > MOST_LENGTH {
            return Err(format!("it expands to values of more than {MOST_LENGTH} characters"));
        }
        Ok(Self { parts, rest, count })
    }

    /// Returns how many texts it stands for.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns all texts that it stands for.
    pub fn texts(&self) -> Vec<String> {
        let mut texts = vec![String::new()];
        for part in &self.parts {
            let choices = || {
                let padded = |(from, to, width): &(u64, u64, usize)| {
                    let width = *width;
                    (*from..=*to).map(move |n| format!("{n:0width$}"))
                };
                part.runs.iter().flat_map(padded)
            };
            texts = texts
                .iter()
                .flat_map(|text| choices().map(move |choice| format!("{text}{}{choice}", part.before)))
                .collect();
        }
        for text in &mut texts {
            text.push_str(self.rest);
        }
        texts
    }
}

fn numbers(run: &str) -> Result<(u64, u64, usize), String> {
    let (from, to) = run.split_once('-').unwrap_or((run, run));
    let number = |text: &str| {
        let text = text.trim();
        let digits =
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && text.len() <= MOST_DIGITS;
        let shown: String = run.chars().take(2 * MOST_DIGITS).collect();
        text.parse().ok().filter(|_| digits).ok_or_else(|| format!("`{shown}` is not a range of numbers"))
    };
    let (a, b): (u64, u64) = (number(from)?, number(to)?);
    if a > b {
        return Err(format!("the range is reversed: {a} to {b}"));
    }
    Ok((a, b, from.trim().len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expand(pattern: &str) -> Result<Vec<String>, String> {
        Range::of(pattern).map(|range| range.texts())
    }

    #[test]
    fn padding_is_kept_and_brackets_multiply() {
        assert_eq!(
            expand("h-[008-010]").as_deref(),
            Ok(&["h-008".into(), "h-009".into(), "h-010".into()][..])
        );
        assert_eq!(expand("a[1,3-4]b").map(|v| v.join(" ")), Ok("a1b a3b a4b".into()));
        assert_eq!(expand("[1-2].[1-2]").map(|v| v.join(" ")), Ok("1.1 1.2 2.1 2.2".into()));
        assert_eq!(expand("plain").map(|v| v.join(" ")), Ok("plain".into()));
    }

    #[test]
    fn what_is_no_range_says_so() {
        for bad in ["h-[3-1]", "h-[a-b]", "h-[1", "h-[]", "h-[1-999999]", "[1-9999][1-9999]", "h-[+1-2]"] {
            assert!(expand(bad).is_err(), "{bad}");
        }
    }

    /// 8 kB once stood for 100,000,000 texts before any bound was asked, and padding of 60,000 digits panicked.
    #[test]
    fn a_pattern_is_measured_before_anything_is_made_of_it() {
        let commas = format!("h-[{}]", vec!["1-99999"; 1000].join(","));
        let brackets = "[1-99]".repeat(2000);
        let padded = format!("h-[{}1-99999]", "0".repeat(60_000));
        let singles = format!("h-[{}]", vec!["1"; 200_000].join(","));
        for bomb in [&commas, &brackets, &padded, &singles] {
            assert!(Range::of(bomb).is_err());
        }
        assert!(Range::of("h-[18446744073709551615-18446744073709551616]").is_err());
        assert!(Range::of("h-[1-18446744073709551615]").is_err());
        let most = Range::of("h-[1-100000]").expect("as many as allowed");
        assert_eq!((most.count(), most.texts().len()), (100_000, 100_000));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_counts_are_true(text in "[\\[\\]0-9,\\-aé ]{0,40}") {
            if let Ok(range) = Range::of(&text) && range.count() < 2000 {
                prop_assert_eq!(range.count(), range.texts().len());
            }
        }
    }
}
