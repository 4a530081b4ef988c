//! Framing of a program's output: `\x1e<name>` opens a section, `\x1eend <rc>` ends the output. Without the closing
//! frame the result is unknown, never "absent".

use std::collections::BTreeMap;

/// The byte that opens a frame line.
const MARK: char = '\x1e';
/// The same, in a packet.
pub(super) const MARK_BYTE: u8 = 0x1e;

/// Lines and sections of one answer: a host with 10,000 resources has fewer.
const MOST_LINES: usize = 1_000_000;
const MOST_SECTIONS: usize = 50_000;

/// Returns what stands before a frame on its line, and the frame, if there is one.
pub(super) fn split(line: &str) -> (&str, Option<&str>) {
    match line.split_once(MARK) {
        Some((before, frame)) => (before, Some(frame)),
        None => (line, None),
    }
}

/// Sections of one answer, by name, each the lines between its frame and the next.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sections(BTreeMap<String, Vec<String>>);

impl Sections {
    /// Reads a whole answer; `None` if it was cut before its end frame, or has more in it than any answer.
    pub fn parse(text: &str) -> Option<Self> {
        let mut sections = BTreeMap::<String, Vec<String>>::new();
        let mut current: Option<String> = None;
        for (n, line) in text.split('\n').enumerate() {
            if n > MOST_LINES || sections.len() > MOST_SECTIONS {
                return None;
            }
            // Output that does not end its line (an /etc/hostname without a newline) stands before the next frame.
            let (line, frame) = split(line);
            if !(line.is_empty() && frame.is_some())
                && let Some(lines) = current.as_ref().and_then(|name| sections.get_mut(name))
            {
                lines.push(line.to_owned());
            }
            match frame {
                Some(frame) if frame == "end" || frame.starts_with("end ") => return Some(Self(sections)),
                Some(frame) => {
                    sections.entry(frame.to_owned()).or_default();
                    current = Some(frame.to_owned());
                }
                None => {}
            }
        }
        None
    }

    /// Returns the lines of a section; empty if it is not there.
    pub fn lines(&self, name: &str) -> &[String] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns whether a section was answered at all.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Returns the first line of a section, trimmed.
    pub fn first(&self, name: &str) -> &str {
        self.lines(name).first().map(|l| l.trim()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_cut_answer_is_no_answer() {
        let whole = "\x1ea\n1\n2\n\x1eb\n\x1eend 0\n";
        let sections = Sections::parse(whole).expect("whole");
        assert_eq!(sections.lines("a"), ["1", "2"]);
        assert!(sections.has("b") && sections.lines("b").is_empty() && !sections.has("c"));
        for cut in 0..whole.len() - 3 {
            assert_eq!(Sections::parse(&whole[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn a_line_without_its_end_hides_no_frame() {
        let sections = Sections::parse("\x1ehostname\nh-1\x1emachine\nabc\x1eend 0\n").expect("whole");
        assert_eq!((sections.first("hostname"), sections.first("machine")), ("h-1", "abc"));
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "\\PC*") {
            let _ = Sections::parse(&text);
        }
    }
}
