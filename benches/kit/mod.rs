//! Shared by the benches: running a program with its time and peak memory, the description of the machine, and the verdict.

#![allow(dead_code, reason = "each bench is a program of its own and uses a part of this")]

use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// What one run of a program took.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// From its start to its end.
    pub time: Duration,
    /// The most memory that it held at once, in KiB (VmHWM, read every millisecond).
    pub peak_kib: u64,
    /// Its exit status.
    pub status: Option<i32>,
}

/// Runs a program to its end; its output is read and dropped.
pub fn run(command: &mut Command) -> std::io::Result<Run> {
    let began = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
    let stdout = child.stdout.take();
    let reader =
        std::thread::spawn(move || stdout.map(|mut out| std::io::copy(&mut out, &mut std::io::sink())));
    let mut peak_kib = 0;
    let status = loop {
        peak_kib = peak_kib.max(high_water_kib(&child).unwrap_or(0));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let time = began.elapsed();
    let _ = reader.join();
    Ok(Run { time, peak_kib, status: status.code() })
}

/// Returns the most memory that a running program has held, in KiB.
fn high_water_kib(child: &Child) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    text.lines().find_map(|l| l.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

/// Returns the middle one.
pub fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Says on what machine the numbers were taken.
pub fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = memory
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|l| l.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    format!("{processors} processors, {} GiB of memory, load {load} at the start", kib >> 20)
}

/// The bounds that a bench keeps; each is printed with what was measured.
#[derive(Default)]
pub struct Bounds {
    broken: usize,
}

impl Bounds {
    /// Holds a number against its bound.
    pub fn hold(&mut self, what: &str, measured: f64, most: f64, unit: &str) {
        let kept = measured <= most;
        self.broken += usize::from(!kept);
        let verdict = if kept { "kept" } else { "BROKEN" };
        println!("bound {verdict}: {what}: {measured:.2} {unit}, at most {most} {unit}");
    }

    /// Returns failure if one was broken.
    pub fn verdict(self) -> ExitCode {
        if self.broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
