//! Hosts with consecutive names and addresses, as one range: the inverse of `inventory::Range`.

use crate::inventory::StarterHost;

/// The most digits that a range of the inventory may have.
const MOST_DIGITS: usize = 18;

/// A text as what stands around one of its numbers.
#[derive(Clone, PartialEq, Eq)]
struct Split<'a> {
    before: &'a str,
    digits: &'a str,
    after: &'a str,
}

/// Returns a text split at each of its numbers, the last one first.
fn splits(text: &str) -> Vec<Split<'_>> {
    let (mut found, mut end) = (Vec::new(), text.len());
    while let Some(last) = text[..end].rfind(|c: char| c.is_ascii_digit()) {
        let start = text[..last]
            .rfind(|c: char| !c.is_ascii_digit())
            .map_or(0, |at| at + text[at..].chars().next().map_or(1, char::len_utf8));
        let split = Split { before: &text[..start], digits: &text[start..=last], after: &text[last + 1..] };
        if split.digits.len() <= MOST_DIGITS {
            found.push(split);
        }
        end = start;
    }
    found
}

/// Texts that count up by one, from a first to a last.
#[derive(Clone)]
struct Run<'a> {
    first: Split<'a>,
    next: String,
    last: &'a str,
}

impl<'a> Run<'a> {
    fn of(first: Split<'a>) -> Option<Self> {
        let next = successor(first.digits, first.digits.len())?;
        Some(Self { last: first.digits, first, next })
    }

    /// Returns the run with one text more, if that is the next one.
    fn with(&self, text: &'a str) -> Option<Self> {
        let rest = text.strip_prefix(self.first.before)?.strip_suffix(self.first.after)?;
        let next = (rest == self.next).then(|| successor(rest, self.first.digits.len()))??;
        Some(Self { first: self.first.clone(), next, last: rest })
    }

    fn pattern(&self) -> String {
        let Split { before, digits, after } = &self.first;
        format!("{before}[{digits}-{}]{after}", self.last)
    }
}

/// Returns the number after this one, padded as a range that begins with so many digits is.
fn successor(digits: &str, width: usize) -> Option<String> {
    let next = digits.parse::<u64>().ok()?.checked_add(1)?;
    Some(format!("{next:0width$}"))
}

/// A text that counts up, one that stays as it is, or none.
fn runs(text: Option<&str>) -> Vec<Option<Run<'_>>> {
    match text {
        None => vec![None],
        Some(text) => splits(text).into_iter().filter_map(Run::of).map(Some).collect(),
    }
}

/// Hosts that are one range so far.
#[derive(Clone)]
struct Range<'a> {
    name: Run<'a>,
    /// Address, cluster address, BMC.
    others: [Option<Run<'a>>; 3],
    count: usize,
}

fn others(host: &StarterHost) -> [Option<&str>; 3] {
    [host.address.as_deref(), host.cluster_address.as_deref(), host.bmc.as_deref()]
}

/// Returns whether two hosts differ in nothing but what a range counts up.
fn alike(a: &StarterHost, b: &StarterHost) -> bool {
    let rest = |host: &StarterHost| StarterHost {
        name: String::new(),
        address: None,
        cluster_address: None,
        bmc: None,
        ..host.clone()
    };
    rest(a) == rest(b)
}

impl<'a> Range<'a> {
    /// Returns the longest range that begins with the first of these hosts; `None` if it is alone.
    fn longest(hosts: &'a [StarterHost]) -> Option<Self> {
        let (first, second) = (hosts.first()?, hosts.get(1)?);
        if first.address.is_none() || first.serial.is_some() || !alike(first, second) {
            return None;
        }
        let mut range: Option<Self> = None;
        // Of several numbers in a text, the next host says which one counts.
        'name: for name in splits(&first.name).into_iter().filter_map(Run::of) {
            let Some(name) = name.with(&second.name) else { continue };
            let mut runs_of: [Option<Run<'a>>; 3] = [None, None, None];
            for ((slot, one), two) in runs_of.iter_mut().zip(others(first)).zip(others(second)) {
                let next = |run: Option<Run<'a>>| match (run, two) {
                    (None, None) => Some(None),
                    (Some(run), Some(two)) => run.with(two).map(Some),
                    _ => None,
                };
                let Some(found) = runs(one).into_iter().find_map(next) else { continue 'name };
                *slot = found;
            }
            range = Some(Self { name, others: runs_of, count: 2 });
            break;
        }
        let mut range = range?;
        for host in hosts.iter().skip(2).take_while(|host| alike(first, host)) {
            match range.with(host) {
                Some(longer) => range = longer,
                None => break,
            }
        }
        Some(range)
    }

    fn with(&self, host: &'a StarterHost) -> Option<Self> {
        let mut longer = self.clone();
        longer.name = self.name.with(&host.name)?;
        longer.count += 1;
        for (run, text) in longer.others.iter_mut().zip(others(host)) {
            *run = match (run.as_ref(), text) {
                (None, None) => None,
                (Some(run), Some(text)) => Some(run.with(text)?),
                _ => return None,
            };
        }
        Some(longer)
    }
}

/// Returns hosts with ranges in the place of those that follow one another.
pub(super) fn ranges(hosts: &[StarterHost]) -> Vec<StarterHost> {
    let (mut found, mut rest) = (Vec::new(), hosts);
    while let Some(first) = rest.first() {
        let Some(range) = Range::longest(rest) else {
            found.push(first.clone());
            rest = &rest[1..];
            continue;
        };
        let pattern = |run: &Option<Run<'_>>| run.as_ref().map(Run::pattern);
        let [address, cluster_address, bmc] = range.others.each_ref().map(pattern);
        found.push(StarterHost {
            name: range.name.pattern(),
            address,
            cluster_address,
            bmc,
            ..first.clone()
        });
        rest = &rest[range.count..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Range as Pattern;
    use proptest::prelude::*;

    fn host(name: &str, address: &str) -> StarterHost {
        StarterHost { name: name.to_owned(), address: Some(address.to_owned()), ..StarterHost::default() }
    }

    fn shown(hosts: &[(&str, &str)]) -> String {
        let hosts: Vec<StarterHost> = hosts.iter().map(|(name, address)| host(name, address)).collect();
        let line =
            |host: &StarterHost| format!("{} {}", host.name, host.address.as_deref().unwrap_or_default());
        ranges(&hosts).iter().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn hosts_that_follow_one_another_are_a_range() {
        let padded = shown(&[("h-009", "10.0.1.9"), ("h-010", "10.0.1.10"), ("h-011", "10.0.1.11")]);
        assert_eq!(padded, "h-[009-011] 10.0.1.[9-11]");
        let gap =
            shown(&[("h-1", "10.0.1.1"), ("h-2", "10.0.1.2"), ("h-4", "10.0.1.4"), ("h-5", "10.0.1.6")]);
        assert_eq!(gap, "h-[1-2] 10.0.1.[1-2]\nh-4 10.0.1.4\nh-5 10.0.1.6");
        let inner = shown(&[("r1-n1", "10.1.1.5"), ("r2-n1", "10.2.1.5")]);
        assert_eq!(inner, "r[1-2]-n1 10.[1-2].1.5");
        let names = shown(&[("n1", "n1.example"), ("n2", "n2.example")]);
        assert_eq!(names, "n[1-2] n[1-2].example");
        assert_eq!(shown(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]), "a 10.0.0.1\nb 10.0.0.2");
        // Padding that a range would lose.
        assert_eq!(shown(&[("h-09", "10.0.0.9"), ("h-010", "10.0.0.10")]), "h-09 10.0.0.9\nh-010 10.0.0.10");
    }

    proptest! {
        #[test]
        fn ranges_stand_for_the_hosts_that_they_replace(
            numbers in prop::collection::vec((0u32..12, 0u32..12, 0usize..3), 0..24)
        ) {
            let hosts: Vec<StarterHost> = numbers
                .iter()
                .map(|(name, address, width)| host(&format!("h{name:0width$}-x"), &format!("10.0.{address}.{name}")))
                .collect();
            let mut again = Vec::new();
            for range in ranges(&hosts) {
                let texts = |text: &str| Pattern::of(text).map(|pattern| pattern.texts()).expect("a range");
                let names = texts(&range.name);
                let addresses = texts(range.address.as_deref().expect("an address"));
                prop_assert_eq!(names.len(), addresses.len());
                again.extend(names.iter().zip(addresses).map(|(name, address)| host(name, &address)));
            }
            prop_assert_eq!(again, hosts);
        }
    }
}
