//! The systemd stand-in: units, their state, and starting things that outlive their starter.

use super::common::{Ended, fail, here, load, plain, request, save};
use crate::lab::request::Request;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Serialize, Deserialize, Default, Clone)]
pub(super) struct State {
    active: bool,
    failed: bool,
    enabled: bool,
    masked: bool,
}

type States = BTreeMap<String, State>;

fn states(root: &Path) -> States {
    load(root, "units.json")
}

fn exists(root: &Path, unit: &str, states: &States) -> bool {
    root.join("etc/systemd/system").join(unit).exists() || states.contains_key(unit)
}

/// Brings a packaged unit into being, running and enabled, as Debian's packages do.
pub(super) fn install(unit: &str, running: bool) {
    let mut all = states(here());
    all.entry(unit.to_owned()).or_insert(State { active: running, enabled: true, ..State::default() });
    save(here(), "units.json", &all);
}

/// Takes a packaged unit away.
pub(super) fn uninstall(unit: &str) {
    let mut all = states(here());
    all.remove(unit);
    save(here(), "units.json", &all);
}

/// Returns the enabled units below a root.
pub(crate) fn enabled(root: &Path) -> Vec<String> {
    states(root).into_iter().filter(|(_, s)| s.enabled).map(|(n, _)| n).collect()
}

/// Records whether a unit runs.
pub(crate) fn set_active(root: &Path, unit: &str, active: bool) {
    let mut all = states(root);
    let state = all.entry(unit.to_owned()).or_default();
    state.active = active;
    state.failed = !active;
    save(root, "units.json", &all);
}

/// Splits a command line at blanks outside double quotes, as systemd does.
pub(super) fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => {
                if let Some(word) = words.last_mut() {
                    word.push(c);
                }
            }
        }
    }
    words.retain(|w| !w.is_empty());
    words
}

/// Returns the flags of a unit file's ExecStart, by name.
pub(crate) fn exec_flags(unit: &str) -> BTreeMap<String, String> {
    let line = unit.lines().find_map(|l| l.strip_prefix("ExecStart=")).unwrap_or_default();
    let mut flags = BTreeMap::new();
    for word in words(line) {
        if let Some(flag) = word.strip_prefix("--") {
            let (name, value) = flag.split_once('=').unwrap_or((flag, "true"));
            flags.insert(name.to_owned(), value.to_owned());
        }
    }
    flags
}

fn full(name: &str) -> String {
    if name.contains('.') { name.to_owned() } else { format!("{name}.service") }
}

fn show(units: &[String], all: &States) {
    for (index, unit) in units.iter().enumerate() {
        if index > 0 {
            println!();
        }
        let state = all.get(unit).cloned().unwrap_or_default();
        let load = match () {
            () if state.masked => "masked",
            () if exists(here(), unit, all) => "loaded",
            () => "not-found",
        };
        let (active, sub) = match (state.active, state.failed) {
            (true, _) => ("active", "running"),
            (false, true) => ("failed", "failed"),
            (false, false) => ("inactive", "dead"),
        };
        let file = match () {
            () if state.masked => "masked",
            () if load == "not-found" => "",
            () if state.enabled => "enabled",
            () => "disabled",
        };
        println!("Id={unit}\nLoadState={load}\nActiveState={active}\nSubState={sub}\nUnitFileState={file}");
    }
}

fn start(unit: &str, all: &mut States) -> Result<(), String> {
    if !exists(here(), unit, all) {
        return Err(format!("Failed to start {unit}: Unit {unit} not found."));
    }
    if all.get(unit).is_some_and(|s| s.masked) {
        return Err(format!("Failed to start {unit}: Unit {unit} is masked."));
    }
    let result =
        if unit.starts_with("k0s") { request(&Request::Start { unit: unit.to_owned() }) } else { Ok(()) };
    let state = all.entry(unit.to_owned()).or_default();
    state.active = result.is_ok();
    state.failed = result.is_err();
    result.map_err(|error| {
        let mut log: Vec<String> = load(here(), "journal.json");
        log.push(format!("{unit}: Error: {error}"));
        save(here(), "journal.json", &log);
        format!("Job for {unit} failed because the control process exited with error code.\nLAB: {error}")
    })
}

fn stop(unit: &str, all: &mut States) {
    if unit.starts_with("k0s") && all.get(unit).is_some_and(|s| s.active) {
        let _ = request(&Request::Stop);
    }
    if let Some(state) = all.get_mut(unit) {
        state.active = false;
        state.failed = false;
    }
}

/// `systemctl`.
pub(super) fn systemctl(arguments: &[&str]) -> Ended {
    let words = plain(arguments, &["-p", "-n", "-o"]);
    let now = arguments.contains(&"--now");
    let Some((verb, units)) = words.split_first() else { return Ok(()) };
    let units: Vec<String> = units.iter().map(|u| full(u)).collect();
    let mut all = states(here());
    let is = |unit: &String, what: fn(&State) -> bool| all.get(unit).is_some_and(what);
    match *verb {
        "show" => {
            show(&units, &all);
            return Ok(());
        }
        "daemon-reload" | "reset-failed" => return Ok(()),
        "is-active" => {
            let active = units.iter().all(|u| is(u, |s| s.active));
            println!("{}", if active { "active" } else { "inactive" });
            return if active { Ok(()) } else { fail(3, "") };
        }
        "is-enabled" => {
            let enabled = units.iter().all(|u| is(u, |s| s.enabled));
            println!("{}", if enabled { "enabled" } else { "disabled" });
            return if enabled { Ok(()) } else { fail(1, "") };
        }
        "status" => {
            for unit in &units {
                let active = if is(unit, |s| s.active) { "active (running)" } else { "inactive (dead)" };
                println!("{unit}\n   Active: {active}");
            }
            return journalctl();
        }
        "reboot" => return Ok(request(&Request::Reboot)?),
        _ => {}
    }
    for unit in &units {
        let known = exists(here(), unit, &all);
        let active = all.get(unit).is_some_and(|s| s.active);
        let mut result = Ok(());
        match *verb {
            "enable" | "disable" if !known => {
                result = Err(format!("Failed to {verb} unit: Unit file {unit} does not exist."));
            }
            "enable" | "disable" => {
                all.entry(unit.clone()).or_default().enabled = *verb == "enable";
                if now && *verb == "enable" {
                    result = start(unit, &mut all);
                } else if now {
                    stop(unit, &mut all);
                }
            }
            "start" if active => {}
            "start" => result = start(unit, &mut all),
            "stop" => stop(unit, &mut all),
            "try-restart" if !active => {}
            "restart" | "try-restart" => {
                stop(unit, &mut all);
                result = start(unit, &mut all);
            }
            "mask" => {
                if now {
                    stop(unit, &mut all);
                }
                all.entry(unit.clone()).or_default().masked = true;
            }
            "unmask" => drop(all.get_mut(unit).map(|state| state.masked = false)),
            other => result = Err(format!("LAB: systemctl {other} is not simulated")),
        }
        save(here(), "units.json", &all);
        result?;
    }
    Ok(())
}

/// `systemd-run`: the command goes on after its starter has gone.
pub(super) fn systemd_run(arguments: &[&str]) -> Ended {
    let command: Vec<String> = arguments
        .iter()
        .skip_while(|a| a.starts_with('-'))
        .map(|a| format!("'{}'", a.replace('\'', "'\\''")))
        .collect();
    Ok(request(&Request::Run { command: command.join(" ") })?)
}

/// `journalctl`.
pub(super) fn journalctl() -> Ended {
    let log: Vec<String> = load(here(), "journal.json");
    for line in log {
        println!("{line}");
    }
    Ok(())
}

/// Returns whether a unit runs on the host that this process is on.
pub(super) fn systemctl_is_active(unit: &str) -> bool {
    states(here()).get(unit).is_some_and(|s| s.active)
}
