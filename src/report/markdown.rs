//! Escapes untrusted text for a Markdown document: it creates no markup, neither when Markdown is parsed nor when the site
//! that shows it turns names and numbers into links.

use std::fmt::Write;

/// Has no width: what has it inside is not recognised as a mention, a reference or an address. Written as an entity, as the
/// character itself is replaced on its way to a terminal.
const ZERO_WIDTH: &str = "&#8203;";

/// Returns whether a character is one that a reader does not see, but that moves or hides what they do see: direction marks,
/// joiners, tags, separators of lines.
fn is_hidden(c: char) -> bool {
    matches!(c,
        '\u{80}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// Returns a text as Markdown that renders as that text. It stands within a line, never at its beginning.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for (at, c) in text.char_indices() {
        let rest = &text[at + c.len_utf8()..];
        match c {
            // Control characters have pictures of their own.
            '\0'..='\u{1f}' => out.extend(char::from_u32(0x2400 + u32::from(c))),
            '\u{7f}' => out.push('\u{2421}'),
            c if is_hidden(c) => out.push(char::REPLACEMENT_CHARACTER),
            // Also in a table's cell, where backslashes are read twice.
            '&' | '<' | '>' | '|' | '\\' | '`' => drop(write!(out, "&#{};", u32::from(c))),
            // Mathematics and strikethrough; labels and snippets of other sites.
            '$' | '~' => drop(write!(out, "&#{};{ZERO_WIDTH}", u32::from(c))),
            '*' | '_' | '[' | ']' => out.extend(['\\', c]),
            '@' | '#' | '!' => out += &format!("{c}{ZERO_WIDTH}"),
            // An address of the web becomes a link by itself.
            // So does one of mail; and a word between two is a picture.
            ':' if rest.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '+' | '-')) => {
                out += &format!("{c}{ZERO_WIDTH}");
            }
            '.' if ends_with(&text[..at], "www") => out += &format!("{ZERO_WIDTH}{c}"),
            // GH-123 is an issue, too.
            '-' if ends_with(&text[..at], "gh") && rest.starts_with(|c: char| c.is_ascii_digit()) => {
                out += &format!("{c}{ZERO_WIDTH}");
            }
            c => out.push(c),
        }
    }
    out
}

fn ends_with(text: &str, word: &str) -> bool {
    text.len() >= word.len()
        && text.as_bytes()[text.len() - word.len()..].eq_ignore_ascii_case(word.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_inventories_usually_say_stays_readable() {
        for plain in
            ["580.126.09", "v1.35.7+k0s.0", "h-001, h-002 (rack 7)", "10.20.0.0/16", "{\"a\": 1}", "Zürich"]
        {
            assert_eq!(escaped(plain), plain);
        }
        assert_eq!(escaped("h-[001-064]"), "h-\\[001-064\\]");
    }

    #[test]
    fn what_cannot_be_seen_is_shown() {
        assert_eq!(escaped("a\nb\r\u{1b}[1m"), "a\u{240a}b\u{240d}\u{241b}\\[1m");
        assert_eq!(escaped("x\u{202e}gnp.exe\u{2066}\u{85}"), "x\u{fffd}gnp.exe\u{fffd}\u{fffd}");
    }
}
