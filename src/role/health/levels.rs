//! What `provision verify` runs on a host at each level, in one program. The heavy tests need idle accelerators:
//! if workloads are running, they are skipped and reported as unknown. The tools of the standard level are judged on the
//! host (`standard`), those that only the burn-in has by `judge`.

use super::frame::FRAME;
use super::quick::{QuickInput, framed};
use super::standard::{Purpose, judging};
use crate::catalog::Vendor;
use crate::template::quote;
use serde::{Deserialize, Serialize};

/// The test level.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Seconds: what every apply looks at.
    Quick,
    /// Minutes: diagnostics and one collective, before a host takes work.
    Standard,
    /// Half an hour or more: bandwidth, stress, local disks.
    Burnin,
}

impl Level {
    /// Returns how long a host may take, in seconds: dcgmi's third level alone takes 15 to 45 min (DCGM documents).
    pub fn deadline_s(self) -> u64 {
        match self {
            Level::Quick => 60,
            Level::Standard => 1_200,
            Level::Burnin => 7_200,
        }
    }

    /// Returns its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Quick => "quick",
            Level::Standard => "standard",
            Level::Burnin => "burnin",
        }
    }
}

/// Runs a tool and frames its output: `@@ NAME`, its output, `@@rc NAME STATUS`; `missing` where there is none.
const RUN: &str = r#"PATH=$PATH:/opt/aws/neuron/bin:/opt/nccl-tests/build
run() { name=$1; s=$2; shift 2; printf '@@ %s\n' "$name"
if command -v "$1" >/dev/null 2>&1; then tool "$s" "$@" 2>&1; r=$?; printf '\n@@rc %s %s\n' "$name" $r; else printf '@@rc %s missing\n' "$name"; fi; }
"#;

/// Returns shell that runs `tests` unless workloads use the accelerators; how many do is printed as `@@busy N`, or
/// `@@busy unknown` where neuron-ls does not say it.
fn when_idle(input: &QuickInput<'_>, tests: &str) -> String {
    let busy = match input.product.vendor {
        // Errors of nvidia-smi go to standard output too, and name versions and addresses.
        Vendor::Nvidia => {
            "b=$(tool 10 nvidia-smi --query-compute-apps=pid --format=csv,noheader 2>/dev/null | \
             grep -c '^[0-9][0-9]*[[:space:]]*$')"
        }
        // SDK 2.34 drops -j for the other form (announced for it on 2026-10-16 in the SDK's documents), of which no output
        // is published. In both, an idle device has to say that it has no processes.
        Vendor::Neuron => {
            "l=$({ tool 10 neuron-ls -j || tool 10 neuron-ls --output-format json; } 2>/dev/null | tr -d ' \\r\\n')\n\
             b=$(printf '%s' \"$l\" | grep -o '\"pid\":[0-9]' | grep -c .)\n\
             case $l in *'\"neuron_processes\":'*) ;; *) [ \"$b\" -gt 0 ] || ! command -v neuron-ls >/dev/null 2>&1 || b=unknown;; esac"
        }
    };
    format!("{busy}\ncase $b in ''|0)\n{tests};; *) printf '@@busy %s\\n' \"$b\";; esac\n")
}

/// Returns shell that prints the quick test and the output of the standard level's tools, for `judging` to read.
pub(super) fn look(level: Level, input: &QuickInput<'_>) -> String {
    let tests = match input.product.vendor {
        Vendor::Nvidia => {
            let (diagnostic, seconds) = if level == Level::Burnin { (3, 3_600) } else { (2, 600) };
            let mut tests = format!("run dcgmi {seconds} dcgmi diag -r {diagnostic} -j\n");
            if input.several() {
                // Floors are published for 1 to 16 GiB (accelerators.md §5.2).
                tests += &format!("run all-reduce 600 all_reduce_perf -b 4G -e 8G -f 2 -g {}\n", input.count);
            }
            tests
        }
        Vendor::Neuron => format!(
            "run nccom-test 900 nccom-test -r {} -b 32M -e 32M allr --check --non-interactive\n",
            input.count
        ),
    };
    [framed(*input), FRAME.to_owned(), RUN.to_owned(), when_idle(input, &tests)].concat()
}

/// Returns shell that judges the look in file `$K` and frames the findings.
pub(super) fn judged(input: &QuickInput<'_>, purpose: Purpose) -> String {
    format!("printf '@@ judged\\n'; ( {}); printf '@@rc judged %s\\n' $?\n", judging(input, purpose))
}

/// Returns shell that prints the output of the tools that only the burn-in runs, for `judge` to read.
fn burnin(input: &QuickInput<'_>, disk: &str) -> String {
    let mut tests = String::new();
    if input.product.vendor == Vendor::Nvidia {
        tests += "run host-to-device 600 nvbandwidth -t host_to_device_memcpy_ce\n";
        if input.several() {
            tests += "run device-to-device 600 nvbandwidth -t device_to_device_memcpy_read_ce\n";
        }
    }
    let tests = if tests.is_empty() { String::new() } else { when_idle(input, &tests) };
    let disk = quote(disk);
    format!(
        "( {FRAME}{RUN}{tests}mkdir -p -- {disk}\nrun fio 120 fio --name=provision --directory={disk} --rw=randread --bs=4k \
         --iodepth=64 --size=1G --runtime=30 --time_based --direct=1 --ioengine=libaio --unlink=1 \
         --output-format=json\n)\n"
    )
}

/// Returns the program of a level. `disk` is a folder on the disk that models are kept on.
pub fn program(level: Level, input: QuickInput<'_>, disk: &str) -> String {
    if level == Level::Quick {
        return framed(input);
    }
    let mut text = format!(
        "K=$(mktemp) || exit 125\ntrap 'rm -f -- \"$K\"' EXIT\n( {}) >\"$K\" 2>&1\n{}",
        look(level, &input),
        judged(&input, Purpose::Verify)
    );
    if level == Level::Burnin {
        text += &burnin(&input, disk);
    }
    text
}
