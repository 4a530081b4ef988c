//! What `provision verify` runs on a host at each level, in one program. The heavy tests want idle accelerators: where
//! something runs on them, they are left out and read as unknown.

use super::quick::{FRAME, QuickInput, quick};
use crate::catalog::Vendor;
use crate::template::quote;
use serde::{Deserialize, Serialize};

/// How much is tested.
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

/// Runs a tool and frames what it says: `@@ NAME`, its output, `@@rc NAME STATUS`; `missing` where there is none.
const RUN: &str = r#"PATH=$PATH:/opt/aws/neuron/bin:/opt/nccl-tests/build
run() { name=$1; s=$2; shift 2; printf '@@ %s\n' "$name"
if command -v "$1" >/dev/null 2>&1; then tool "$s" "$@" 2>&1; r=$?; printf '\n@@rc %s %s\n' "$name" $r; else printf '@@rc %s missing\n' "$name"; fi; }
"#;

/// Returns the program of a level. `disk` is a folder on the disk that models are kept on.
pub fn program(level: Level, input: QuickInput<'_>, disk: &str) -> String {
    let mut text = format!("printf '@@ quick\\n'; ( {}); printf '@@rc quick %s\\n' $?\n", quick(input));
    if level == Level::Quick {
        return text;
    }
    let count = input.count;
    text += FRAME;
    text += RUN;
    let (busy, tests) = match input.product.vendor {
        Vendor::Nvidia => {
            let diagnostic = if level == Level::Burnin { (3, 3_600) } else { (2, 600) };
            let mut tests = format!("run dcgmi {} dcgmi diag -r {} -j\n", diagnostic.1, diagnostic.0);
            if input.several() {
                // Floors are published for 1 to 16 GiB (accelerators.md §5.2).
                tests += &format!("run all-reduce 600 all_reduce_perf -b 4G -e 8G -f 2 -g {count}\n");
            }
            if level == Level::Burnin {
                tests += "run host-to-device 600 nvbandwidth -t host_to_device_memcpy_ce\n";
                if input.several() {
                    tests += "run device-to-device 600 nvbandwidth -t device_to_device_memcpy_read_ce\n";
                }
            }
            ("tool 10 nvidia-smi --query-compute-apps=pid --format=csv,noheader 2>/dev/null", tests)
        }
        Vendor::Neuron => (
            "tool 10 neuron-ls -j 2>/dev/null | tr -d ' \\n' | grep -o '\"pid\":[0-9]*'",
            format!(
                "run nccom-test 900 nccom-test -r {count} -b 32M -e 32M allr --check --non-interactive\n"
            ),
        ),
    };
    let fio = match level {
        Level::Burnin => format!(
            "mkdir -p -- {0}\nrun fio 120 fio --name=provision --directory={0} --rw=randread --bs=4k --iodepth=64 \
             --size=1G --runtime=30 --time_based --direct=1 --ioengine=libaio --unlink=1 --output-format=json\n",
            quote(disk)
        ),
        _ => String::new(),
    };
    text + &format!(
        "b=$({busy} | grep -c '[0-9]')\nif [ \"${{b:-0}}\" -gt 0 ]; then printf '@@busy %s\\n' \"$b\"; else\n{tests}fi\n{fio}"
    )
}
