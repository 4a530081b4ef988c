//! Reads the output of health programs: the findings and measurements of a host, the tools that only the burn-in runs, and
//! how measurements compare with published floors and the other hosts of the pool. The quick and the standard level are
//! judged on the host (`quick`, `standard`). A tool that is missing, hangs or prints unexpected output is unknown, never
//! healthy.

use super::levels::Level;
use super::quick::QuickInput;
use crate::catalog::Vendor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The code of a host that is far below the others of its pool.
pub const BELOW_POOL: &str = "E-HEALTH-MEDIAN";

/// A host this much below its pool's median is named, as a fraction: absolute numbers vary with library versions, those
/// of one pool do not (accelerators.md §5.2).
const BELOW_MEDIAN: f64 = 0.05;
/// Local disks of one model differ by less, as a fraction (oci-hpc).
const DISK_BELOW_MEDIAN: f64 = 0.02;
/// Hosts that make a median worth comparing with.
const FEWEST: usize = 3;

/// What comes of a check.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Healthy,
    /// Unknown.
    Unknown,
    /// Not as it should be.
    Unhealthy,
}

/// One thing found.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Finding {
    /// What comes of it.
    pub verdict: Verdict,
    /// A stable code; empty for what is as it should be.
    pub code: String,
    /// What, and what to do.
    pub detail: String,
}

/// A measurement of a test.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Measure {
    /// The test, such as `all-reduce`.
    pub test: String,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// The published floor, if there is one for this host.
    pub floor: Option<f64>,
    /// The median of the pool, where there are hosts enough.
    pub median: Option<f64>,
}

/// The health of one host.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Health {
    /// The worst of its findings.
    pub verdict: Verdict,
    /// How much was tested.
    pub level: Level,
    /// When the tests beyond the quick look ran, in seconds since 1970, where that was not now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tested_s: Option<i64>,
    /// All of them, worst first.
    pub findings: Vec<Finding>,
    /// Numbers.
    pub measures: Vec<Measure>,
}

impl Health {
    /// Returns the health of a host of which only this is known.
    pub fn of(finding: Finding) -> Self {
        let (verdict, level) = (finding.verdict, Level::Quick);
        Self { verdict, level, tested_s: None, findings: vec![finding], measures: Vec::new() }
    }

    /// Takes over what a host judged itself: the lines of a part of its output. `what` names it in an error.
    fn judged(&mut self, parts: &[Part<'_>], name: &str, what: &str, input: &QuickInput<'_>) {
        let Some(part) = parts.iter().find(|p| p.name == name).filter(|p| p.status.is_some()) else {
            self.findings.push(Finding::unknown("E-HEALTH", format!("{what} was interrupted")));
            return;
        };
        let before = self.findings.len();
        for line in &part.lines {
            if let Some(finding) = Finding::parse(line) {
                self.findings.push(finding);
            } else if let Some(line) = line.strip_prefix("measured ")
                && let [test, value, unit] = line.split(' ').collect::<Vec<_>>()[..]
                && let Ok(value) = value.parse()
            {
                self.measures.push(Measure::of(test, value, unit, input));
            }
        }
        // Exit 0 without a word is not what the program does.
        if self.findings.len() == before {
            self.findings.push(Finding::unknown("E-HEALTH", format!("{what} printed nothing")));
        }
    }

    /// Judges one tool of the burn-in by its output; `busy` are the processes that kept the tests from running.
    fn tool(&mut self, test: &str, part: Option<&Part<'_>>, busy: Option<&str>, input: &QuickInput<'_>) {
        let code = format!("E-HEALTH-{}", test.to_uppercase());
        let unknown = |detail: String| Finding::unknown(&code, detail);
        let finding = match (part.map(|p| (p, p.status)), busy) {
            (None, Some("unknown")) => unknown(
                "skipped: cannot tell whether processes use the accelerators: neuron-ls does not list them"
                    .to_owned(),
            ),
            (None, Some(n)) => {
                unknown(format!("skipped: {n} processes use the accelerators; drain the host first"))
            }
            (None, None) | (Some((_, None)), _) => unknown(format!("{test} was interrupted")),
            (Some((_, Some("missing"))), _) => unknown(format!("{test} is not installed")),
            (Some((_, Some("124" | "137"))), _) => unknown(format!("{test} timed out")),
            (Some((part, Some("0"))), _) => match read(test, &part.lines) {
                Ok((value, unit)) => {
                    let measure = Measure::of(test, value, unit, input);
                    let finding = measure.against_floor();
                    self.measures.push(measure);
                    finding
                }
                Err(why) => unknown(format!("{why} (exit 0)")),
            },
            (Some((part, Some(status))), _) => {
                let last = part.lines.iter().rev().find(|l| !l.trim().is_empty());
                let last = last.map_or("no output", |l| l.trim());
                Finding::bad(&code, format!("{test} failed (exit {status}): {last}"))
            }
        };
        self.findings.push(finding);
    }

    fn settle(&mut self) {
        self.findings.sort_by_key(|f| std::cmp::Reverse(f.verdict));
        self.verdict = self.findings.first().map_or(Verdict::Unknown, |f| f.verdict);
    }
}

impl Measure {
    /// Returns a measurement with the published floor of this host, if there is one.
    fn of(test: &str, value: f64, unit: &str, input: &QuickInput<'_>) -> Self {
        let floor = input.catalog.floor(test, &input.product.slug, input.count).map(|f| f.floor);
        Self { test: test.to_owned(), value, unit: unit.to_owned(), floor, median: None }
    }

    fn against_floor(&self) -> Finding {
        let Self { test, value, unit, .. } = self;
        match self.floor.filter(|floor| value < floor) {
            Some(floor) => {
                Finding::bad("E-HEALTH-FLOOR", format!("{test} {value} {unit} is below the floor of {floor}"))
            }
            None => Finding::good(format!("{test} {value} {unit}")),
        }
    }
}

impl Finding {
    /// Returns an unknown finding.
    pub fn unknown(code: &str, detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Unknown, code: code.to_owned(), detail: detail.into() }
    }

    fn bad(code: &str, detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Unhealthy, code: code.to_owned(), detail: detail.into() }
    }

    fn good(detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Healthy, code: String::new(), detail: detail.into() }
    }

    /// Reads a line of the quick look.
    fn parse(line: &str) -> Option<Self> {
        if let Some(detail) = line.strip_prefix("ok: ") {
            return Some(Self::good(detail));
        }
        let (code, detail) = line.split_once(": ").filter(|(code, _)| code.starts_with("E-"))?;
        Some(match detail.strip_prefix("unknown: ") {
            Some(detail) => Self::unknown(code, detail),
            None => Self::bad(code, detail),
        })
    }
}

/// The output of one tool.
struct Part<'a> {
    name: &'a str,
    lines: Vec<&'a str>,
    /// Exit status, or `missing`; none if the program was cut.
    status: Option<&'a str>,
}

fn parts(text: &str) -> Vec<Part<'_>> {
    let mut all: Vec<Part<'_>> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("@@ ") {
            all.push(Part { name, lines: Vec::new(), status: None });
        } else if let Some((name, status)) = line.strip_prefix("@@rc ").and_then(|l| l.split_once(' ')) {
            if let Some(part) = all.iter_mut().find(|p| p.name == name) {
                part.status = Some(status);
            }
        } else if let Some(part) = all.last_mut().filter(|p| p.status.is_none()) {
            part.lines.push(line);
        }
    }
    all
}

/// Returns the tests that only the burn-in has.
fn burnin(input: &QuickInput<'_>) -> Vec<&'static str> {
    match (input.product.vendor, input.several()) {
        (Vendor::Neuron, _) => vec!["fio"],
        (Vendor::Nvidia, false) => vec!["host-to-device", "fio"],
        (Vendor::Nvidia, true) => vec!["host-to-device", "device-to-device", "fio"],
    }
}

/// Judges what `kept` printed: the quick test of now, and the standard look of before, if there was one.
pub fn judge_kept(text: &str, input: &QuickInput<'_>) -> Health {
    let mut health = judge(text, Level::Quick, input);
    if let Some(tested) = text.lines().find_map(|l| l.strip_prefix("@@standard ")) {
        health.level = Level::Standard;
        health.tested_s = tested.trim().parse().ok();
        health.judged(&parts(text), "judged", "the standard test", input);
        health.settle();
    }
    health
}

/// Judges what a host's program printed.
pub fn judge(text: &str, level: Level, input: &QuickInput<'_>) -> Health {
    let (verdict, tested_s) = (Verdict::Unknown, None);
    let mut health = Health { verdict, level, tested_s, findings: Vec::new(), measures: Vec::new() };
    let parts = parts(text);
    match level {
        Level::Quick => health.judged(&parts, "quick", "the quick test", input),
        Level::Standard | Level::Burnin => health.judged(&parts, "judged", "the test", input),
    }
    if level == Level::Burnin {
        let busy = text.lines().find_map(|l| l.strip_prefix("@@busy "));
        for test in burnin(input) {
            health.tool(test, parts.iter().find(|p| p.name == test), busy, input);
        }
    }
    health.settle();
    health
}

/// Reads the number that one tool of the burn-in measured, and its unit.
fn read(test: &str, lines: &[&str]) -> Result<(f64, &'static str), String> {
    if test == "fio" {
        let text = lines.join("\n");
        let start = text.find('{').ok_or("its output is not JSON")?;
        // Its notes come before the JSON, or after it.
        let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<serde_json::Value>();
        let json = values.next().ok_or("its output is not JSON")?;
        let json = json.map_err(|e| format!("cannot parse its JSON: {e}"))?;
        let iops = json.pointer("/jobs/0/read/iops").and_then(serde_json::Value::as_f64);
        return Ok((iops.ok_or("its JSON has no read.iops")?, "IOPS"));
    }
    // nvbandwidth prints a matrix under its caption; a device does not copy to itself.
    let caption = lines.iter().position(|l| l.contains("bandwidth (GB/s)")).ok_or("printed no table")?;
    let values = lines[caption + 1..]
        .iter()
        .take_while(|l| !l.trim().is_empty() && !l.contains("SUM"))
        .flat_map(|l| l.split_whitespace().skip(1))
        .filter(|w| w.contains('.'))
        .filter_map(|w| w.parse::<f64>().ok())
        .filter(|v| *v > 0.0);
    Ok((values.reduce(f64::min).ok_or("its table is empty")?, "GB/s"))
}

/// Compares the hosts of a pool with each other.
pub fn median_findings(pool: &mut BTreeMap<String, Health>) {
    let mut by_test: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for measure in pool.values().flat_map(|h| &h.measures) {
        by_test.entry(measure.test.clone()).or_default().push(measure.value);
    }
    for (test, mut values) in by_test {
        if values.len() < FEWEST {
            continue;
        }
        values.sort_by(f64::total_cmp);
        let median = values[values.len() / 2];
        let allowed = if test == "fio" { DISK_BELOW_MEDIAN } else { BELOW_MEDIAN };
        for health in pool.values_mut() {
            let Some(measure) = health.measures.iter_mut().find(|m| m.test == test) else { continue };
            measure.median = Some(median);
            if measure.value < median * (1.0 - allowed) {
                let detail = format!(
                    "{test} {} {} is more than {:.0} % below the pool median of {median}",
                    measure.value,
                    measure.unit,
                    allowed * 100.0
                );
                health.findings.push(Finding::bad(BELOW_POOL, detail));
            }
            health.settle();
        }
    }
}
