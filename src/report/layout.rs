//! Fits text into the columns of a terminal: prose is wrapped between words, columns of a table share the width. Names, paths
//! and commands to copy stay whole. Without a terminal there is no limit, so that nothing is lost for grep and diff.

use rustix::fd::AsFd;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// A narrower terminal is treated as if it had this many columns.
const LEAST: usize = 40;
/// Columns that a shortened or wrapped cell needs to be of use on the line of its row.
const LEAST_CELL: usize = 16;
/// Spaces between columns.
const GAP: usize = 2;
/// Begin a line, and stay with the word that follows.
const MARKS: [&str; 9] = ["=", "|", "-->", "~", "+", "-", ">", "!", "…"];
/// Stay with the number before them.
const UNITS: [&str; 6] = ["s", "min", "h", "GiB", "GB/s", "%"];
/// After one of these words, the rest is a command.
const COMMAND_FOLLOWS: [&str; 3] = ["with:", "run:", "hand:"];

/// Returns columns and rows of the terminal that a stream is; `None` if it is none or has no size.
pub(super) fn terminal_size(stream: impl AsFd) -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(stream).ok()?;
    Some((usize::from(size.ws_col), usize::from(size.ws_row)))
        .filter(|(columns, rows)| *columns > 0 && *rows > 0)
}

/// Returns the columns to lay out for; `None` if the stream is no terminal.
pub fn columns(stream: impl AsFd) -> Option<usize> {
    terminal_size(stream).map(|(columns, _)| columns.max(LEAST))
}

/// A part of a line that is not broken.
struct Word {
    /// Spaces before it.
    gap: usize,
    /// As printed, with colours.
    text: String,
    width: usize,
}

/// Returns a text without colours.
fn uncoloured(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    first + &parts.map(|part| part.split_once('m').map_or(part, |(_, rest)| rest)).collect::<String>()
}

/// Returns the colours that a text leaves on.
fn colours(text: &str) -> String {
    let last = text.rsplit("\u{1b}[0m").next().unwrap_or_default();
    let codes = last.split("\u{1b}[").skip(1).filter_map(|part| Some(part.split_once('m')?.0));
    codes.map(|code| format!("\u{1b}[{code}m")).collect()
}

/// Returns the columns that a text takes.
fn width_of(text: &str) -> usize {
    if text.contains('\u{1b}') { uncoloured(text).width() } else { text.width() }
}

/// Splits a line at its spaces.
fn words(line: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let (mut gap, mut at, mut text) = (0, 0, String::new());
    let mut end = |gap: &mut usize, text: &mut String| {
        if !uncoloured(text).is_empty() {
            let width = width_of(text);
            words.push(Word { gap: std::mem::take(gap), text: std::mem::take(text), width });
        }
    };
    let mut colour = false;
    for c in line.chars() {
        match c {
            ' ' | '\t' => {
                end(&mut gap, &mut text);
                let wide = if c == '\t' { 8 - at % 8 } else { 1 };
                gap += wide;
                at += wide;
            }
            c => {
                text.push(c);
                colour |= c == '\u{1b}';
                at += if colour { 0 } else { c.width().unwrap_or(1) };
                colour &= c != 'm';
            }
        }
    }
    end(&mut gap, &mut text);
    if let Some(last) = words.last_mut() {
        // A colour that ends behind the last space.
        last.text += &text;
    }
    words
}

/// Joins words that belong together: a mark and what follows it, an arrow and what it leads to, what stands in backticks, and
/// commands, which begin with `provision` or follow `check with:` and the like.
fn joined(words: Vec<Word>) -> Vec<Word> {
    let plain: Vec<String> = words.iter().map(|word| uncoloured(&word.text)).collect();
    let backticks = |text: &str| text.matches('`').count() % 2 == 1;
    let mut parts: Vec<Word> = Vec::new();
    let (mut quoted, mut command) = (false, false);
    for (at, word) in words.into_iter().enumerate() {
        let now = plain[at].as_str();
        let before = at.checked_sub(1).map(|at| plain[at].as_str());
        let marked = at == 1 && before.is_some_and(|mark| MARKS.contains(&mark));
        let unit = UNITS.contains(&now.trim_end_matches([',', ')', ';']))
            && before.is_some_and(|number| number.ends_with(|c: char| c.is_ascii_digit()));
        let join = quoted || command || marked || unit || before == Some("->") || now == "·";
        if backticks(now) {
            quoted = !quoted && plain[at + 1..].iter().any(|text| backticks(text));
        }
        command = match before {
            _ if now.ends_with([',', ';', ')']) => false,
            _ if command => true,
            None => now == "provision" && word.gap > 0,
            Some(before) => {
                COMMAND_FOLLOWS.iter().any(|end| before.ends_with(end))
                    || now == "provision" && (before.ends_with(':') || before == "then")
            }
        };
        match parts.last_mut().filter(|_| join) {
            Some(last) => {
                last.text += &" ".repeat(word.gap);
                last.text += &word.text;
                last.width += word.gap + word.width;
            }
            None => parts.push(word),
        }
    }
    parts
}

/// Wraps a line between words; where it goes on is given, or follows from how it begins.
fn wrapped(line: &str, width: usize, hang: Option<usize>) -> String {
    let words = words(line);
    let line_width: usize = words.iter().map(|word| word.gap + word.width).sum();
    let is_source = words.len() > 1
        && uncoloured(&words[0].text).bytes().all(|b| b.is_ascii_digit())
        && uncoloured(&words[1].text) == "|";
    // Carets below a line of source point at its columns.
    if line_width <= width || is_source {
        return line.to_owned();
    }
    let lead = words[0].gap;
    // What a host says does not look like a line of provision: behind a message it is indented further than `= next`, and
    // every line of an output has its mark.
    let (mark, usual) = match (uncoloured(&words[0].text).as_str(), words.get(1)) {
        ("|", Some(next)) => (format!("{}{} ", " ".repeat(lead), words[0].text), lead + 1 + next.gap + GAP),
        (first, _) if MARKS.contains(&first) => (String::new(), lead + GAP),
        _ => (String::new(), lead + 2 * GAP),
    };
    let most = width_of(&mark).max(lead) + 2 * GAP;
    let hang = hang.unwrap_or(usual);
    let hang = if hang + LEAST_CELL > width { most } else { hang };
    let next = format!("{mark}{}", " ".repeat(hang.saturating_sub(width_of(&mark))));
    let (mut text, mut at) = (String::new(), 0);
    for word in joined(words) {
        if at == 0 || at + word.gap + word.width <= width {
            text += &" ".repeat(word.gap);
            at += word.gap + word.width;
        } else {
            let on = colours(&text);
            let off = if on.is_empty() { "" } else { "\u{1b}[0m" };
            text += &format!("{off}\n{next}{on}");
            at = hang + word.width;
        }
        text += &word.text;
    }
    text
}

/// Returns a text whose lines are no wider than the terminal: they are wrapped between words, with what follows indented. A
/// word or a command that is wider stays whole, on a line of its own.
pub fn fit(text: &str, width: Option<usize>) -> String {
    let Some(width) = width else { return text.to_owned() };
    text.split_inclusive('\n')
        .map(|line| match line.strip_suffix('\n') {
            Some(line) => wrapped(line, width, None) + "\n",
            None => wrapped(line, width, None),
        })
        .collect()
}

/// Returns the beginning of a text, with `…` if it is wider than it may be.
fn shortened(text: &str, most: usize) -> String {
    if text.width() <= most {
        return text.to_owned();
    }
    let mut at = 0;
    let fits = |c: &char| {
        at += c.width().unwrap_or(0);
        at < most
    };
    text.chars().take_while(fits).collect::<String>().trim_end().to_owned() + "…"
}

/// What becomes of the last cell of a row that is too wide.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// It is cut, with `…`.
    Shorten,
    /// It is wrapped within its column.
    Wrap,
    /// It stays whole.
    Whole,
}

/// The columns of a table.
pub struct Columns<'a> {
    /// Spaces before the first.
    pub indent: usize,
    /// The widest that each column gets, but for the last; a wider cell runs on, and the next one follows it.
    pub most: &'a [usize],
    /// The first column that goes on a line below where a row does not fit.
    pub below: usize,
    /// What becomes of the last cell.
    pub last: Last,
}

impl Columns<'_> {
    /// Returns where each column begins, if none but the first is wider than a part of what it may be.
    fn starts(&self, rows: &[Vec<&str>], (part, of): (usize, usize)) -> Vec<usize> {
        let mut starts = vec![self.indent];
        for (column, most) in self.most.iter().enumerate() {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width());
            let most = if column == 0 { *most } else { most / of * part };
            let widest = cells.filter(|width| *width <= most).max().unwrap_or(0);
            starts.push(starts[column] + if widest > 0 { widest + GAP } else { 0 });
        }
        starts
    }

    /// Returns cells on one line, each where its column begins or behind the one before it. `None` if they do not fit.
    fn line(&self, cells: &[&str], starts: &[usize], width: Option<usize>) -> Option<String> {
        let mut line = String::new();
        let mut at = 0;
        for (column, cell) in cells.iter().enumerate().filter(|(_, cell)| !cell.trim().is_empty()) {
            let (start, cell) = starts.get(column).map_or((0, cell.trim()), |start| (*start, *cell));
            let start = start.max(if at == 0 { self.indent } else { at + GAP });
            line += &" ".repeat(start - at);
            let room = width.map_or(usize::MAX, |width| width.saturating_sub(start));
            let is_last = column > 0 && column == self.most.len();
            if cell.width() <= room {
                line += cell;
                at = start + cell.width();
            } else if !is_last || self.last == Last::Whole || room < LEAST_CELL {
                return None;
            } else if self.last == Last::Shorten {
                return Some(line + &shortened(cell, room));
            } else {
                return width.map(|width| wrapped(&(line + cell), width, Some(start)));
            }
        }
        Some(line.trim_end().to_owned())
    }

    /// Returns cells on two lines; on one if the first line has a single cell, and the others fit behind it.
    fn lines(&self, cells: &[&str], starts: &[usize], width: Option<usize>) -> String {
        let (above, below) = cells.split_at(self.below.min(cells.len()));
        let (above_most, below_most) = self.most.split_at(above.len().min(self.most.len()));
        let starts = &starts[..above.len().min(starts.len())];
        if let Some(line) = self.line(cells, starts, width).filter(|_| self.below == 1) {
            return line;
        }
        let whole = |columns: &Columns<'_>, cells: &[&str], starts: &[usize]| {
            let line = columns.line(cells, starts, width).or_else(|| columns.line(cells, starts, None));
            let line = line.unwrap_or_default();
            match width {
                Some(width) => wrapped(&line, width, Some(columns.indent + GAP)),
                None => line,
            }
        };
        let text = whole(&Columns { most: above_most, ..*self }, above, starts);
        let below = whole(&Columns { indent: self.indent + 2 * GAP, most: below_most, ..*self }, below, &[]);
        if below.is_empty() { text } else { format!("{text}\n{below}") }
    }

    /// Returns the rows of a table, each with its line break. They are aligned as far as they fit; where most do not, none is.
    pub fn rows(&self, rows: &[Vec<String>], width: Option<usize>) -> Vec<String> {
        let rows: Vec<Vec<&str>> = rows.iter().map(|row| row.iter().map(String::as_str).collect()).collect();
        // Narrower columns have more rows on one line, and more cells that run on.
        let parts = [(1, 1), (3, 4), (1, 2)].map(|part| self.starts(&rows, part));
        let fitting =
            |starts: &Vec<usize>| rows.iter().filter(|row| self.line(row, starts, width).is_some()).count();
        let (fits, starts) = parts
            .into_iter()
            .map(|starts| (fitting(&starts), starts))
            .reduce(|best, next| if next.0 > best.0 { next } else { best })
            .unwrap_or_default();
        let is_aligned = fits * 2 >= rows.len();
        let text = |row: &Vec<&str>| {
            let line = self.line(row, &starts, width).filter(|_| is_aligned);
            line.unwrap_or_else(|| self.lines(row, &starts, width)) + "\n"
        };
        rows.iter().map(text).collect()
    }
}
