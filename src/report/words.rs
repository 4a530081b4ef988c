//! Formats numbers, durations and lists of names consistently.

/// Returns a number with its noun: `1 host`, `64 hosts`.
pub fn count(n: usize, word: &str) -> String {
    match (n, word.strip_suffix("ch")) {
        (1, _) => format!("1 {word}"),
        (_, Some(_)) => format!("{n} {word}es"),
        _ => format!("{n} {word}s"),
    }
}

/// Returns seconds as an estimate: `40 s`, `38 min`, `2 h 10 min`.
pub fn say(seconds: u64) -> String {
    match seconds {
        0..90 => format!("{} s", seconds.max(1)),
        90..7200 => format!("{} min", (seconds + 30) / 60),
        s => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
    }
}

/// Splits a name into what is before its last digits, the digits, and what follows.
fn parts(name: &str) -> Option<(&str, &str, &str)> {
    let end = name.rfind(|c: char| c.is_ascii_digit())? + 1;
    let start = name[..end].trim_end_matches(|c: char| c.is_ascii_digit()).len();
    Some((&name[..start], &name[start..end], &name[end..]))
}

/// Returns names with runs of numbers as ranges, as an inventory writes them: `h-[001-003], h-007, w-1`.
pub fn names(names: &[&str]) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut i = 0;
    while i < names.len() {
        let mut last = i;
        if let Some((before, digits, after)) = parts(names[i])
            && let Ok(first) = digits.parse::<u64>()
        {
            while let Some((b, d, a)) = names.get(last + 1).and_then(|n| parts(n)) {
                let next = first + (last - i) as u64 + 1;
                if (b, a, d) != (before, after, format!("{next:0width$}", width = digits.len()).as_str()) {
                    break;
                }
                last += 1;
            }
            if last - i >= 2 {
                let (_, end, _) = parts(names[last]).unwrap_or((before, digits, after));
                said.push(format!("{before}[{digits}-{end}]{after}"));
                i = last + 1;
                continue;
            }
        }
        said.push(names[i].to_owned());
        i += 1;
    }
    said.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_ranges() {
        assert_eq!(
            names(&["h-001", "h-002", "h-003", "h-007", "w-1", "w-2"]),
            "h-[001-003], h-007, w-1, w-2"
        );
        assert_eq!(names(&["h-9", "h-10", "h-11", "h-12"]), "h-[9-12]");
        assert_eq!(names(&["h-08", "h-09", "h-10"]), "h-[08-10]");
        assert_eq!(names(&["a", "r1-a", "r2-a", "r3-a"]), "a, r[1-3]-a");
        assert_eq!(names(&[]), "");
    }

    #[test]
    fn estimates_are_rounded_as_people_say_them() {
        assert_eq!([say(0), say(89), say(2290), say(7800)], ["1 s", "89 s", "38 min", "2 h 10 min"]);
    }
}
