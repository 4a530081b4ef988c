//! Sanitises external text for display: a host, an API or an inventory must not control a terminal.

use std::borrow::Cow;

/// What stands in the place of a character that has no picture of its own.
const REPLACEMENT: char = '\u{fffd}';

/// Returns whether a character steers a terminal or the direction of text, or is not seen at all: control characters (C0,
/// DEL, C1), the bidirectional ones of Unicode (UAX #9), line separators, tags, and letters that are blank.
pub fn is_steering(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{ad}' | '\u{180e}' | '\u{200b}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
        || matches!(c, '\u{115f}' | '\u{1160}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}')
}

/// Returns what a character is shown as; itself, unless it steers.
fn shown(c: char) -> char {
    match c {
        '\0'..='\u{1f}' => char::from_u32(0x2400 + c as u32).unwrap_or(REPLACEMENT),
        '\u{7f}' => '\u{2421}',
        c if is_steering(c) => REPLACEMENT,
        c => c,
    }
}

/// Returns a text of several lines as it may be printed: lines and tabs stay, whatever else steers a terminal is replaced
/// by a picture of it.
pub fn plain(text: &str) -> Cow<'_, str> {
    let kept = |c: char| matches!(c, '\n' | '\t');
    if !text.chars().any(|c| is_steering(c) && !kept(c)) {
        return Cow::Borrowed(text);
    }
    // Lines that end as on Windows or on a terminal are lines.
    let text = text.replace("\r\n", "\n");
    Cow::Owned(text.chars().map(|c| if kept(c) { c } else { shown(c) }).collect())
}

/// Returns a text as one line: a line break is shown as a picture too.
pub fn plain_line(text: &str) -> Cow<'_, str> {
    let text = text.strip_suffix('\r').unwrap_or(text);
    if !text.chars().any(|c| is_steering(c) && c != '\t') {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if c == '\t' { c } else { shown(c) }).collect())
}

/// Returns a text with its steering characters replaced by as many bytes, so that places in it stay what they are.
pub fn plain_in_place(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| is_steering(c) && !matches!(c, '\n' | '\t')) {
        return Cow::Borrowed(text);
    }
    let same_length = |c: char| match c {
        '\n' | '\t' => c,
        c if !is_steering(c) => c,
        c => match c.len_utf8() {
            1 => '?',
            2 => '\u{bf}',
            3 => REPLACEMENT,
            _ => '\u{1f6ab}',
        },
    };
    Cow::Owned(text.chars().map(same_length).collect())
}

/// Returns JSON in which no character steers a terminal: they stand within strings only, and are escaped there.
pub fn plain_json(json: &str) -> Cow<'_, str> {
    let kept = |c: char| !is_steering(c) || matches!(c, '\n' | '\t');
    if json.chars().all(kept) {
        return Cow::Borrowed(json);
    }
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if kept(c) {
            text.push(c);
        } else {
            let units =
                c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
            text.push_str(&units);
        }
    }
    Cow::Owned(text)
}

/// Returns the beginning of a text, of at most so many characters; an ellipsis marks a cut.
pub fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        None => Cow::Borrowed(text),
        Some((at, _)) => Cow::Owned(format!("{}…", &text[..at])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_steers_a_terminal_is_shown_instead() {
        let hostile = "a\u{1b}]0;T\u{7}b\u{9b}2Jc\u{202e}d\re\u{7f}f\u{2028}g\u{e0041}";
        assert_eq!(plain(hostile), "a␛]0;T␇b\u{fffd}2Jc\u{fffd}d␍e␡f\u{fffd}g\u{fffd}");
        assert_eq!(plain("one\r\ntwo\tthree\n"), "one\ntwo\tthree\n");
        assert_eq!(plain_line("one\ntwo\r"), "one␊two");
        assert!(matches!(plain("grün, 日本語 ✓"), Cow::Borrowed(_)));
        assert_eq!(shortened("añb", 2), "añ…");
    }

    proptest! {
        #[test]
        fn nothing_that_steers_is_left_and_places_stay(text in any::<String>()) {
            let steers = |c: char| is_steering(c) && !matches!(c, '\n' | '\t');
            prop_assert!(!plain(&text).chars().any(steers));
            prop_assert!(!plain_line(&text).chars().any(|c| is_steering(c) && c != '\t'));
            let json = serde_json::to_string(&text).expect("JSON");
            let safe = plain_json(&json);
            prop_assert!(!safe.chars().any(steers));
            prop_assert_eq!(serde_json::from_str::<String>(&safe).expect("still JSON"), text.clone());
            let same = plain_in_place(&text);
            prop_assert!(!same.chars().any(steers) && same.len() == text.len());
        }
    }
}
