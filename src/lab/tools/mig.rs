//! MIG as nvidia-smi has it: a mode for all GPUs, and instances that take slices of a GPU until it is full. They are gone
//! after a reboot, unless a unit that makes them is enabled.

use super::common::{Ended, Settings, fail, here, load, save};
use super::units;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The unit that makes instances at boot.
const UNIT: &str = "provision-mig.service";

/// What is set up on a host.
#[derive(Serialize, Deserialize, Default, Clone)]
pub(super) struct Mig {
    /// MIG mode of all GPUs.
    pub enabled: bool,
    /// Profiles of the instances, by GPU.
    pub instances: BTreeMap<u32, Vec<String>>,
}

impl Mig {
    /// Returns what is set up below a root.
    pub(super) fn of(root: &Path) -> Self {
        load(root, "mig.json")
    }

    /// Returns how many instances there are of each profile.
    pub(super) fn counts(&self) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for profile in self.instances.values().flatten() {
            *counts.entry(profile.clone()).or_default() += 1;
        }
        counts
    }
}

/// What a reboot leaves.
pub(super) fn boot(root: &Path) {
    let mut mig = Mig::of(root);
    if !units::enabled(root).iter().any(|unit| unit == UNIT) {
        mig.instances.clear();
        save(root, "mig.json", &mig);
    }
}

/// Returns compute slices and memory slices of a profile, of 7 and 8: `3g` and `4g` take half of the memory, and the
/// `1g` with twice the memory of the smallest takes two slices.
fn slices(profile: &str, total_gib: u64) -> Option<(u64, u64)> {
    let (compute, memory) = profile.split_once("g.")?;
    let compute: u64 = compute.parse().ok()?;
    let memory: u64 = memory.strip_suffix("gb")?.parse().ok()?;
    Some((compute, (memory * 8).div_ceil(total_gib.max(1)).next_power_of_two()))
}

/// `nvidia-smi -mig 0|1` and `nvidia-smi mig …`; `None` if it is neither.
pub(super) fn run(settings: &Settings, arguments: &[&str], gpus: u32) -> Option<Ended> {
    let mut mig = Mig::of(here());
    match arguments {
        ["-mig", flag] => {
            mig.enabled = *flag == "1";
            mig.instances.clear();
            save(here(), "mig.json", &mig);
            let word = if mig.enabled { "Enabled" } else { "Disabled" };
            for gpu in 0..gpus {
                println!("{word} MIG Mode for GPU 00000000:{:02X}:00.0", 0x0c + gpu);
            }
            println!("All done.");
            Some(Ok(()))
        }
        ["--gpu-reset", ..] => Some(Ok(())),
        ["mig", rest @ ..] => {
            let value = |name: &str| rest.iter().skip_while(|a| **a != name).nth(1).copied();
            let on: Vec<u32> = match value("-i").and_then(|i| i.parse().ok()) {
                Some(gpu) => vec![gpu],
                None => (0..gpus).collect(),
            };
            if !mig.enabled {
                return Some(fail(6, "No MIG-enabled devices found."));
            }
            let ended = change(settings, &mut mig, rest, &on, value("-cgi"));
            save(here(), "mig.json", &mig);
            Some(ended)
        }
        _ => None,
    }
}

fn change(settings: &Settings, mig: &mut Mig, rest: &[&str], on: &[u32], create: Option<&str>) -> Ended {
    if rest.contains(&"-dci") || rest.contains(&"-dgi") {
        if on.iter().all(|gpu| mig.instances.get(gpu).is_none_or(Vec::is_empty)) {
            return fail(6, "No GPU instances found: Not Found");
        }
        if rest.contains(&"-dgi") {
            mig.instances.retain(|gpu, _| !on.contains(gpu));
        }
        return Ok(());
    }
    let Some(profiles) = create else { return fail(2, "LAB: this mig command is not simulated") };
    let total = settings.hardware.as_ref().map_or(80, |h| h.memory_mib / 1024);
    for gpu in on {
        for profile in profiles.split(',') {
            let there = mig.instances.entry(*gpu).or_default();
            let sum = |of: fn((u64, u64)) -> u64| {
                let taken = there.iter().map(String::as_str).chain([profile]);
                taken.map(|p| slices(p, total).map_or(99, of)).sum::<u64>()
            };
            if sum(|s| s.0) > 7 || sum(|s| s.1) > 8 {
                let what = format!("a GPU instance on GPU  {gpu} using profile {profile}");
                return fail(6, format!("Unable to create {what}: Insufficient Resources"));
            }
            there.push(profile.to_owned());
            let id = there.len();
            println!("Successfully created GPU instance ID  {id} on GPU  {gpu} using profile MIG {profile}");
        }
    }
    Ok(())
}
