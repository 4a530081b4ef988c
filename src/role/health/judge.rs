//! Reading what health programs printed: findings, numbers, and how both compare with published floors and with the
//! other hosts of the pool. A tool that is missing, hangs or says something unexpected is unknown, never healthy.

use super::levels::Level;
use super::quick::QuickInput;
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
    /// It could not be told.
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

/// A number that a test came to.
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

    fn settle(&mut self) {
        self.findings.sort_by_key(|f| std::cmp::Reverse(f.verdict));
        self.verdict = self.findings.first().map_or(Verdict::Unknown, |f| f.verdict);
    }
}

impl Finding {
    /// Returns something that could not be told.
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

/// What one tool said.
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

/// Returns the tests of a level beyond the quick look.
fn expected(level: Level, input: &QuickInput<'_>) -> Vec<&'static str> {
    use crate::catalog::Vendor;
    let several = input.several();
    let mut tests = match (level, input.product.vendor) {
        (Level::Quick, _) => return Vec::new(),
        (_, Vendor::Neuron) => vec!["nccom-test"],
        (_, Vendor::Nvidia) if several => vec!["dcgmi", "all-reduce"],
        (_, Vendor::Nvidia) => vec!["dcgmi"],
    };
    if level == Level::Burnin {
        if input.product.vendor == Vendor::Nvidia {
            tests.push("host-to-device");
            if several {
                tests.push("device-to-device");
            }
        }
        tests.push("fio");
    }
    tests
}

/// Judges what `kept` printed: the quick look of now, and the standard one of before, if there was one.
pub fn judge_kept(text: &str, input: &QuickInput<'_>) -> Health {
    let tested = text.lines().find_map(|l| l.strip_prefix("@@standard "));
    let level = if tested.is_some() { Level::Standard } else { Level::Quick };
    let mut health = judge(text, level, input);
    health.tested_s = tested.and_then(|t| t.trim().parse().ok());
    // Nobody asked for a tool that is not there: the gate passed without it.
    for finding in &mut health.findings {
        if finding.detail.ends_with(NOT_INSTALLED) {
            *finding = Finding::good(format!("{}, so it was not run", finding.detail));
        }
    }
    health.settle();
    health
}

/// What is said of a tool that a host does not have, after its name.
const NOT_INSTALLED: &str = " is not installed";

/// Judges what a host's program printed.
pub fn judge(text: &str, level: Level, input: &QuickInput<'_>) -> Health {
    let (verdict, tested_s) = (Verdict::Unknown, None);
    let mut health = Health { verdict, level, tested_s, findings: Vec::new(), measures: Vec::new() };
    let parts = parts(text);
    let found = |name: &str| parts.iter().find(|p| p.name == name);
    match found("quick") {
        Some(part) if part.status.is_some() => {
            health.findings.extend(part.lines.iter().filter_map(|line| Finding::parse(line)));
            // Exit 0 without a word is not what the program does.
            if health.findings.is_empty() {
                health.findings.push(Finding::unknown("E-HEALTH", "the quick look said nothing"));
            }
        }
        _ => health.findings.push(Finding::unknown("E-HEALTH", "the quick look was cut off")),
    }
    let busy = text.lines().find_map(|l| l.strip_prefix("@@busy "));
    for test in expected(level, input) {
        let code = format!("E-HEALTH-{}", test.to_uppercase());
        let finding = match (found(test), busy) {
            (None, Some(n)) => Finding::unknown(
                &code,
                format!("left out: {n} processes use the accelerators; drain the host first"),
            ),
            (None, None) => Finding::unknown(&code, format!("{test} was cut off")),
            (Some(part), _) => match part.status {
                Some("missing") => Finding::unknown(&code, format!("{test}{NOT_INSTALLED}")),
                Some("124" | "137") => Finding::unknown(&code, format!("{test} did not end in time")),
                None => Finding::unknown(&code, format!("{test} was cut off")),
                Some(status) => read(test, status, &part.lines, input, &mut health.measures)
                    .unwrap_or_else(|why| Finding::unknown(&code, format!("{why} (exit {status})"))),
            },
        };
        health.findings.push(finding);
    }
    for measure in &health.measures {
        if let Some(floor) = measure.floor.filter(|floor| measure.value < *floor) {
            let Measure { test, value, unit, .. } = measure;
            health.findings.push(Finding::bad(
                "E-HEALTH-FLOOR",
                format!("{test} {value} {unit} is below the floor of {floor}"),
            ));
        }
    }
    health.settle();
    health
}

/// Reads one tool's output: a finding, and a number for those that measure.
fn read(
    test: &str,
    status: &str,
    lines: &[&str],
    input: &QuickInput<'_>,
    measures: &mut Vec<Measure>,
) -> Result<Finding, String> {
    let code = format!("E-HEALTH-{}", test.to_uppercase());
    if test == "dcgmi" {
        // Judged by what its tests say, not by its exit status: 205 was seen with all passing (facebookresearch/gcm).
        return diagnostics(&lines.join("\n"));
    }
    if status != "0" {
        let last = lines.iter().rev().find(|l| !l.trim().is_empty()).copied().unwrap_or("no output");
        return Ok(Finding::bad(&code, format!("{test} failed (exit {status}): {}", last.trim())));
    }
    let (value, unit) = match test {
        "all-reduce" => {
            let wrong = lines.iter().find(|l| l.contains("Out of bounds values"));
            match wrong {
                Some(line) if line.trim_end().ends_with("OK") => {}
                Some(line) => {
                    return Ok(Finding::bad(
                        &code,
                        format!("wrong results: {}", line.trim_start_matches('#').trim()),
                    ));
                }
                None => return Err("its check of results is missing".to_owned()),
            }
            (after(lines, "Avg bus bandwidth").ok_or("it gives no bandwidth")?, "GB/s")
        }
        "nccom-test" => {
            if let Some(line) = lines.iter().find(|l| l.contains("Failure running")) {
                return Ok(Finding::bad(&code, (*line).trim().to_owned()));
            }
            (after(lines, "Avg bus bandwidth").ok_or("it gives no bandwidth")?, "GB/s")
        }
        "host-to-device" | "device-to-device" => {
            let caption =
                lines.iter().position(|l| l.contains("bandwidth (GB/s)")).ok_or("it gives no table")?;
            let values = lines[caption + 1..]
                .iter()
                .take_while(|l| !l.trim().is_empty() && !l.contains("SUM"))
                .flat_map(|l| l.split_whitespace().skip(1))
                .filter(|w| w.contains('.'))
                .filter_map(|w| w.parse::<f64>().ok())
                .filter(|v| *v > 0.0);
            (values.reduce(f64::min).ok_or("its table is empty")?, "GB/s")
        }
        "fio" => {
            let text = lines.join("\n");
            let start = text.find('{').ok_or("it gives no JSON")?;
            let json: serde_json::Value = serde_json::from_str(text[start..].trim())
                .map_err(|e| format!("its JSON cannot be read: {e}"))?;
            let iops = json.pointer("/jobs/0/read/iops").and_then(serde_json::Value::as_f64);
            (iops.ok_or("its JSON has no read.iops")?, "IOPS")
        }
        other => return Err(format!("nobody knows how to read {other}")),
    };
    let floor = input.catalog.floor(test, &input.product.slug, input.count).map(|f| f.floor);
    measures.push(Measure { test: test.to_owned(), value, unit: unit.to_owned(), floor, median: None });
    Ok(Finding::good(format!("{test} {value} {unit}")))
}

/// Returns the first number behind a phrase and its colon; the unit may be glued to it (`40.7GB/s`).
fn after(lines: &[&str], phrase: &str) -> Option<f64> {
    let line = lines.iter().rev().find(|l| l.contains(phrase))?;
    let number: String = line
        .rsplit_once(':')?
        .1
        .trim_start()
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    number.parse().ok()
}

/// Reads `dcgmi diag -j` of DCGM 3 and 4, which differ in the first key and in a summary per test
/// (facebookresearch/gcm#38, NVIDIA/DCGM's own tests of nvvs); another shape is an error.
fn diagnostics(text: &str) -> Result<Finding, String> {
    let start = text.find('{').ok_or("dcgmi gives no JSON")?;
    let json: serde_json::Value = serde_json::from_str(text[start..].trim())
        .map_err(|e| format!("dcgmi's JSON cannot be read: {e}"))?;
    let categories = ["DCGM GPU Diagnostic", "DCGM Diagnostic"]
        .iter()
        .find_map(|key| json[*key]["test_categories"].as_array())
        .ok_or("dcgmi's JSON has another shape than those of DCGM 3 and 4")?;
    let tests = categories.iter().filter_map(|c| c["tests"].as_array()).flatten();
    let (mut passed, mut failed, mut other) = (0, Vec::new(), Vec::new());
    for test in tests {
        let name = test["name"].as_str().unwrap_or("a test without a name");
        let summary = Some(&test["test_summary"]).filter(|s| !s.is_null());
        for result in test["results"].as_array().into_iter().flatten().chain(summary) {
            match result["status"].as_str() {
                Some("Pass" | "PASS") => passed += 1,
                Some("Fail" | "FAIL") => failed.push(name.to_owned()),
                Some("Skip" | "SKIP") => {}
                status => other.push(format!("{name}: {}", status.unwrap_or("no status"))),
            }
        }
    }
    match (failed.is_empty(), other.is_empty(), passed) {
        (false, ..) => Ok(Finding::bad("E-HEALTH-DCGMI", format!("dcgmi: {} failed", failed.join(", ")))),
        (true, false, _) => Ok(Finding::unknown("E-HEALTH-DCGMI", format!("dcgmi: {}", other.join(", ")))),
        (true, true, 0) => Err("dcgmi ran no test".to_owned()),
        (true, true, n) => Ok(Finding::good(format!("dcgmi: {n} tests passed"))),
    }
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
                    "{test} {} {} is more than {:.0} % below the pool's median of {median}",
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
