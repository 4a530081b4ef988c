//! Ranges: `h-[001-064]`, `10.0.[1-2].[1,5-9]`. Padding is kept; several brackets multiply, the last turning fastest.

/// A bracket that stands for more than this is a slip, not a range.
const MOST: usize = 100_000;

/// Returns all texts that a pattern stands for; the error says what is wrong with it.
pub fn expand(pattern: &str) -> Result<Vec<String>, String> {
    let mut texts = vec![String::new()];
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('[') {
        let (inner, behind) =
            after.split_once(']').ok_or_else(|| format!("`{pattern}` has a `[` without `]`"))?;
        let choices = choices(inner).map_err(|why| format!("`[{inner}]` {why}"))?;
        if texts.len() * choices.len() > MOST {
            return Err(format!("`{pattern}` stands for more than {MOST} names"));
        }
        texts = texts
            .iter()
            .flat_map(|text| choices.iter().map(move |choice| format!("{text}{before}{choice}")))
            .collect();
        rest = behind;
    }
    for text in &mut texts {
        text.push_str(rest);
    }
    Ok(texts)
}

fn choices(inner: &str) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for part in inner.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            text.trim().parse::<usize>().map_err(|_| format!("holds `{part}`, which is no range"))
        };
        let (a, b) = (number(from)?, number(to)?);
        if a > b {
            return Err(format!("runs backwards: {a} to {b}"));
        }
        if b - a >= MOST {
            return Err(format!("stands for more than {MOST} names"));
        }
        let width = from.trim().len();
        all.extend((a..=b).map(|n| format!("{n:0width$}")));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::expand;
    use proptest::prelude::*;

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
        for bad in ["h-[3-1]", "h-[a-b]", "h-[1", "h-[]", "h-[1-999999]", "[1-9999][1-9999]"] {
            assert!(expand(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = expand(&text);
        }
    }
}
