//! `provision diff` of two inventories of 10,000 hosts: the whole process.
//! Bounds: under 1 s and under 200 MB.

// Functions around tests fail as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Hosts of each inventory.
const HOSTS: usize = 10_000;
/// Pools that they are in.
const POOLS: usize = 10;
/// Runs of each comparison; the middle one counts.
const RUNS: usize = 5;
/// The most that a comparison may take, in seconds.
const MOST_SECONDS: f64 = 1.0;
/// The most memory that it may hold, in MB.
const MOST_MB: f64 = 200.0;

/// How hosts are written down.
#[derive(Clone, Copy)]
enum Form {
    /// `hostsFrom`, a row each, with rack, BMC and serial number.
    Csv,
    /// An entry of YAML each, with the same fields.
    Entries,
    /// One range a pool.
    Ranges,
}

/// What is another in the second inventory.
#[derive(Clone, Copy, PartialEq)]
enum Change {
    /// What a person changes: a driver, a few hosts that come, go and move.
    Usual,
    /// Every host.
    All,
}

fn address(n: usize, changed: bool) -> String {
    format!("172.{}.{}.{}", if changed { 20 } else { 16 } + n / 62_500, n / 250 % 250, n % 250 + 1)
}

/// Writes one inventory.
fn write(folder: &Path, form: Form, change: Option<Change>) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let usual = change == Some(Change::Usual);
    let driver = if usual { "580.178.04" } else { "580.126.09" };
    let mut text = String::from(
        "apiVersion: provision/v1\nkind: Inventory\nmetadata: {name: bench}\nsecrets: {hf: {env: HF_TOKEN}}\n\
         cluster:\n  k0s: {version: v1.35.7+k0s.0}\n  endpoint: {nodeLocal: {}}\n  network: {podCIDR: 10.128.0.0/9, serviceCIDR: 10.96.0.0/16}\n\
         router: {kthena: {version: v1.0.0}, expose: {nodePort: {base: 30080}}}\n\
         pools:\n  control:\n    role: controller\n    hosts: {\"cp-[1-3]\": {address: \"172.31.0.[1-3]\"}}\n  \
         general:\n    role: worker\n    hosts: {\"w-[1-2]\": {address: \"172.31.0.[11-12]\"}}\n",
    );
    let each = HOSTS / POOLS;
    for pool in 0..POOLS {
        let _ = write!(
            text,
            "  h100-{pool}:\n    role: worker\n    accelerator: {{nvidia: {{product: h100-sxm5-80gb, count: 8, driver: \"{driver}\"}}}}\n    \
             disruption: {{maxUnavailable: 10%, maxFailed: 3}}\n"
        );
        let numbers = pool * each..(pool + 1) * each;
        let moved = |n: usize| change == Some(Change::All) || (usual && n % 100 == 7);
        let gone = |n: usize| usual && n % 500 == 3;
        match form {
            Form::Csv => {
                let mut rows = String::from("name,address,rack,bmc,serial\n");
                for n in numbers.filter(|n| !gone(*n)) {
                    let rack = n / 32;
                    let _ = writeln!(
                        rows,
                        "h-{n:05},{},r{rack},10.1.{}.{},SN{n:08}",
                        address(n, moved(n)),
                        n / 250,
                        n % 250
                    );
                }
                std::fs::write(folder.join(format!("hosts-{pool}.csv")), rows)?;
                let _ = writeln!(text, "    hostsFrom: hosts-{pool}.csv");
            }
            Form::Entries => {
                text += "    hosts:\n";
                for n in numbers.filter(|n| !gone(*n)) {
                    let at = address(n, moved(n));
                    let _ = writeln!(
                        text,
                        "      h-{n:05}: {{address: {at}, rack: r{}, bmc: 10.1.{}.{}, serial: SN{n:08}}}",
                        n / 32,
                        n / 250,
                        n % 250
                    );
                }
            }
            Form::Ranges => {
                text += "    hosts:\n";
                for first in numbers.step_by(250) {
                    let at = address(first, change == Some(Change::All));
                    let start = at.rsplit_once('.').map_or("", |(start, _)| start);
                    let last = first + if usual && first == 0 { 239 } else { 249 };
                    let _ = writeln!(
                        text,
                        "      \"h-[{first:05}-{last:05}]\": {{address: \"{start}.[1-{}]\"}}",
                        last - first + 1
                    );
                }
            }
        }
    }
    text += "models:\n  m:\n    source: {huggingFace: {repo: a/b, revision: main, token: {secret: hf}}}\n    \
             engine: {vllm: {image: \"vllm/vllm-openai:v0.11.0\"}}\n    placement: {pool: h100-0, acceleratorsPerReplica: 8, replicas: 2}\n\
             tenants:\n  t: {gateway: {port: 8081}, routes: {m: {to: {m: 100}}}}\n";
    std::fs::write(folder.join("inventory.yaml"), text)
}

fn main() -> ExitCode {
    match measure() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("the bench could not run: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> std::io::Result<ExitCode> {
    println!("diff of two inventories of {HOSTS} hosts; {}", kit::machine());
    let folder = tempfile::tempdir()?;
    let mut bounds = kit::Bounds::default();
    for (name, form, change, output) in [
        ("CSV files, the usual change", Form::Csv, Change::Usual, "text"),
        ("an entry each, the usual change", Form::Entries, Change::Usual, "text"),
        ("ranges, the usual change", Form::Ranges, Change::Usual, "text"),
        ("an entry each, every host changes", Form::Entries, Change::All, "text"),
        ("an entry each, every host changes, Markdown", Form::Entries, Change::All, "markdown"),
        ("an entry each, every host changes, JSON", Form::Entries, Change::All, "json"),
    ] {
        let (before, after) = (folder.path().join("before"), folder.path().join("after"));
        for side in [&before, &after] {
            if side.exists() {
                std::fs::remove_dir_all(side)?;
            }
        }
        write(&before, form, None)?;
        write(&after, form, Some(change))?;
        let mut times = Vec::new();
        let mut peak_kib = 0;
        for _ in 0..RUNS {
            let mut command = Command::new(env!("CARGO_BIN_EXE_provision"));
            command.arg("diff").args([&before, &after]).args(["--output", output]);
            let run = kit::run(&mut command)?;
            if run.status != Some(2) {
                return Err(std::io::Error::other(format!(
                    "provision diff exited with {:?}, not 2",
                    run.status
                )));
            }
            times.push(run.time);
            peak_kib = peak_kib.max(run.peak_kib);
        }
        println!("{name}: {:?}", times.iter().map(|t| t.as_millis()).collect::<Vec<_>>());
        bounds.hold(&format!("{name}, time"), kit::median(&times).as_secs_f64(), MOST_SECONDS, "s");
        bounds.hold(&format!("{name}, memory"), peak_kib as f64 * 1024.0 / 1e6, MOST_MB, "MB");
    }
    ansible(folder.path())?;
    Ok(bounds.verdict())
}

/// Lists as many hosts with Ansible, where it is installed: what people are used to. It has no bound.
fn ansible(folder: &Path) -> std::io::Result<()> {
    let mut text = String::from("all:\n  children:\n");
    let each = HOSTS / POOLS;
    for pool in 0..POOLS {
        let _ = write!(text, "    h100_{pool}:\n      hosts:\n");
        for n in pool * each..(pool + 1) * each {
            let (at, rack) = (address(n, false), n / 32);
            let _ = writeln!(
                text,
                "        h-{n:05}: {{ansible_host: {at}, rack: r{rack}, bmc: 10.1.{}.{}, sn: SN{n:08}}}",
                n / 250,
                n % 250
            );
        }
    }
    let file = folder.join("hosts.yml");
    std::fs::write(&file, text)?;
    let mut command = Command::new("ansible-inventory");
    command.arg("-i").arg(&file).args(["--list", "--output"]).arg(folder.join("list.json"));
    match kit::run(&mut command) {
        Ok(run) if run.status == Some(0) => {
            let peak = run.peak_kib as f64 * 1024.0 / 1e6;
            println!(
                "beside it, ansible-inventory --list, an entry each: {} ms, {peak:.0} MB",
                run.time.as_millis()
            );
        }
        Ok(run) => println!("NOT RUN: ansible-inventory exited with {:?}", run.status),
        Err(error) => println!("NOT RUN: ansible-inventory ({error})"),
    }
    Ok(())
}
