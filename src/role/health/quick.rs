//! The quick test of accelerators, under 30 s: count, driver, fabric, ECC, row remapping, PCIe width, and what the kernel
//! log holds since boot. One shell program: a guard of the roles, their gate after a change, and the first part of
//! `verify`, so that the three always agree.
//!
//! It prints a line per finding, worst first: `E-NV-ECC: what and what to do`, `E-NV-HUNG: unknown: …` for what could not
//! be read, `ok: …`. Exit 0 healthy, 1 not, 125 if something is unknown and nothing is unhealthy.

use super::frame::{END, FRAME};
use super::links::Links;
use super::xid::decided;
use crate::catalog::{Catalog, Fabric, Product, Vendor};
use crate::template::quote;

/// nvidia-smi answers in 2 s with the persistence daemon, in 10 s without; a wedged GPU hangs it for ever.
const TOOL_SECONDS: u32 = 10;
/// Fabric Manager needs about 45 s after its start (nvtrust#128); twice that is "it does not come".
const FABRIC_SECONDS: u32 = 90;

/// What a host should have.
#[derive(Clone, Copy)]
pub struct QuickInput<'a> {
    /// The catalog, for Xids.
    pub catalog: &'a Catalog,
    /// The product.
    pub product: &'a Product,
    /// How many.
    pub count: u32,
    /// The driver's version, or a line such as `2.29.*`.
    pub driver: &'a str,
    /// Daemons that have to run before the fabric can come up.
    pub units: &'a [&'a str],
    /// Wait for what is on its way: the fabric after a start of its daemon.
    pub wait: bool,
    /// Its GPUs are split: collectives do not run over instances.
    pub mig: bool,
    /// Its links to other hosts.
    pub links: Links,
}

impl QuickInput<'_> {
    /// Returns whether there are several whole devices, so that what goes on between them can be tested.
    pub(super) fn several(&self) -> bool {
        self.count > 1 && !self.mig
    }
}

/// Returns a shell pattern that a version has to fit.
fn fits(driver: &str) -> String {
    match driver.strip_suffix('*') {
        Some(line) => quote(line) + "*",
        None => quote(driver),
    }
}

/// Returns the program.
pub fn quick(input: QuickInput<'_>) -> String {
    let body = match input.product.vendor {
        Vendor::Nvidia => nvidia(&input),
        Vendor::Neuron => neuron(&input),
    };
    format!("{FRAME}{body}{}{END}", input.links.look(input.wait))
}

/// Returns the program, with its output framed.
pub(super) fn framed(input: QuickInput<'_>) -> String {
    format!("printf '@@ quick\\n'; ( {}); printf '@@rc quick %s\\n' $?\n", quick(input))
}

fn nvidia(input: &QuickInput<'_>) -> String {
    let QuickInput { catalog, product, count, driver, units, wait, .. } = *input;
    let wait_s = if wait && product.fabric != Fabric::None { FABRIC_SECONDS } else { 0 };
    let start: String = match wait {
        true => units.iter().map(|u| format!("systemctl start {} || true\n", quote(u))).collect(),
        false => String::new(),
    };
    format!(
        r#"{start}n=0
for d in /sys/bus/pci/devices/*; do
[ -r "$d/vendor" ] || continue; read -r v <"$d/vendor"; [ "$v" = 0x10de ] || continue
read -r c <"$d/class"; case $c in 0x0300*|0x0302*) ;; *) continue;; esac
n=$((n + 1)); w=; m=
[ -r "$d/current_link_width" ] && read -r w <"$d/current_link_width"
[ -r "$d/max_link_width" ] && read -r m <"$d/max_link_width"
case $w in ''|*[!0-9]*) ;; *) case $m in ''|*[!0-9]*) ;; *) [ "$w" -ge "$m" ] || bad E-NV-PCIE "${{d##*/}} runs at x$w of x$m: reseat it, or look at its riser";; esac;; esac
done
if [ $n -eq {count} ]; then okay "$n GPUs on the PCI bus"; else bad E-NV-COUNT "$n of {count} GPUs are on the PCI bus"; fi
[ ! -d /sys/module/nouveau ] || bad E-NOUVEAU "nouveau is loaded and holds the GPUs: reboot with it blacklisted"
v=; [ -r /sys/module/nvidia/version ] && read -r v </sys/module/nvidia/version
case $v in {version}) okay "module nvidia $v is loaded";; '') bad E-NV-DRIVER "module nvidia is not loaded";;
*) bad E-NV-MODULE-VERSION "module nvidia $v is loaded, {driver} is wanted: reboot to load it";; esac
smi() {{ tool {TOOL_SECONDS} nvidia-smi --query-gpu="$1" --format=csv,noheader,nounits >"$T" 2>&1; r=$?; a=$(cat "$T"); }}
# Fields of a GPU that lacks a feature say so. Any other text in place of a value ([Unknown Error], [GPU requires reset],
# ERR!, a field that is not there) hides one.
lacks() {{ case $1 in N/A|'[N/A]'|'[Not Supported]'|*'been deprecated'*) ;; *) return 1;; esac; }}
hides() {{ bad "$1" "unknown: $at reports \"$3\" as its $2: look at nvidia-smi -q and dmesg"; }}
all=1; core=index,pci.bus_id,driver_version,ecc.errors.uncorrected.volatile.total
left={wait_s}
# A daemon that has been up for longer than that will not bring the fabric any more.
if [ $left -gt 0 ]; then
s=$(systemctl show -p ActiveEnterTimestampMonotonic --value {daemon} 2>/dev/null); read -r u _ </proc/uptime
case $s in ''|*[!0-9]*) left=0;; *) left=$((left - (${{u%%.*}} - s / 1000000)));; esac
fi
end=$(($(date +%s) + left))
rest=fabric.state,fabric.status,remapped_rows.pending,remapped_rows.failure
while :; do
# What the driver itself recommends; older ones do not know the field.
smi "$core,$rest,gpu_recovery_action"
case $a in *'"gpu_recovery_action" is not a valid field'*) smi "$core,$rest";; esac
# One field that an older driver does not know fails the whole call.
case $a in *'not a valid field'*) all=; smi $core; bad E-NV-FIELDS "unknown: this nvidia-smi reports neither fabric state nor row remapping";; esac
case $a in *', In Progress,'*) [ "$(date +%s)" -lt "$end" ] || break; sleep 3;; *) break;; esac
done
l=${{a%%
*}}
case "$r $a" in
*'Driver/library version mismatch'*) bad E-NV-MISMATCH "the driver's libraries and its loaded module have different versions: packages were changed while the module was loaded; reboot, or reinstall {driver}";;
*'device handle for GPU'*|*'GPU is lost'*) bad E-NV-LOST "a GPU is off the bus: $l";;
*'No devices were'*) bad E-NV-LOST "the driver found no working GPU: check dmesg";;
'124 '*|'137 '*) bad E-NV-HUNG "unknown: nvidia-smi timed out after {TOOL_SECONDS} s, so the state of the GPUs is unknown";;
'9 '*) bad E-NV-DRIVER "nvidia-smi cannot reach the driver";;
'0 '*)
g=0
while IFS=, read -r i bus drv ecc state status pending failure action; do
g=$((g + 1)); at="GPU $i (${{bus# }})"
case ${{drv# }} in {version}) ;; ''|'['*|ERR!) hides E-NV-MISMATCH "driver version" "${{drv# }}";; *) bad E-NV-MISMATCH "$at is driven by ${{drv# }}, {driver} is wanted";; esac
case ${{ecc# }} in 0) ;; ''|*[!0-9]*) lacks "${{ecc# }}" || hides E-NV-ECC "count of uncorrectable memory errors" "${{ecc# }}";; *) bad E-NV-ECC "$at has ${{ecc# }} uncorrectable memory errors since boot: reboot it; if they come back, replace it";; esac
[ -n "$all" ] || continue
case ${{state# }} in
'In Progress') bad E-NV-FABRIC "$at is not in the fabric yet (In Progress; CUDA fails with 802): look at nvidia-fabricmanager and its log";;
Completed) case ${{status# }} in Success) ;; ''|'['*|N/A|ERR!) lacks "${{status# }}" || hides E-NV-FABRIC "fabric status" "${{status# }}";; *) bad E-NV-FABRIC "$at was rejected by the fabric: ${{status# }}";; esac;;
''|'['*|N/A|ERR!) lacks "${{state# }}" || hides E-NV-FABRIC "fabric state" "${{state# }}";;
*) bad E-NV-FABRIC "$at has fabric state ${{state# }}";; esac
case ${{pending# }} in [Nn]o|0) ;; [Yy]es|1) bad E-NV-REMAP "$at waits for a reset to remap rows: reboot the host";; *) lacks "${{pending# }}" || hides E-NV-REMAP "pending row remapping" "${{pending# }}";; esac
case ${{failure# }} in [Nn]o|0) ;; [Yy]es|1) bad E-NV-REMAP "$at could not remap a row: replace it";; *) lacks "${{failure# }}" || hides E-NV-REMAP "failed row remapping" "${{failure# }}";; esac
case ${{action# }} in ''|None) ;; Reset|'Drain and Reset') bad E-NV-RECOVERY "$at reports the recovery action ${{action# }}: drain and reboot the host";;
Reboot) bad E-NV-RECOVERY "$at reports the recovery action Reboot: drain and reboot the host";;
'Drain P2P') bad E-NV-RECOVERY "$at reports the recovery action Drain P2P: drain the host; if it is still reported afterwards, reboot it";;
*) lacks "${{action# }}" || hides E-NV-RECOVERY "recovery action" "${{action# }}";; esac
done <"$T"
if [ $g -eq {count} ]; then okay "nvidia-smi sees $g GPUs"; else bad E-NV-COUNT "nvidia-smi sees $g of {count} GPUs"; fi;;
*) bad E-NV-SMI "unknown: nvidia-smi failed (exit $r): $l";;
esac
if tool 5 dmesg >"$T" 2>/dev/null; then
<"$T" {decided} >"$T.x" || bad E-NV-LOG "unknown: the Xids of the kernel log cannot be read"
while read -r a what; do
case $a in
ignore) okay "$what needs no action";;
nonfatal|contained) okay "$what is $a and needs no action";;
decided) okay "$what: a later Xid 154 overrides it";;
none) okay "$what: the GPU needs no recovery";;
restart-app) okay "$what: restart the program that caused it";;
reset) bad E-NV-XID "$what requires a GPU reset: reboot the host";;
reboot) bad E-NV-XID "$what requires a reboot";;
drain) bad E-NV-XID "$what requires a drain; if it is still reported afterwards, reboot the host";;
isolate) bad E-NV-XID "$what: take the host out of service for an operator to check";;
unreadable) bad E-NV-XID "unknown: cannot read what the kernel log says about $what";;
*) bad E-NV-XID "$what is not in the catalog: an operator must check it";; esac
done <"$T.x"
okay "kernel log read"
else bad E-NV-LOG "unknown: the kernel log cannot be read"; fi
"#,
        daemon = if product.fabric == Fabric::Imex {
            "nvidia-imex.service"
        } else {
            "nvidia-fabricmanager.service"
        },
        version = fits(driver),
        decided = decided(catalog),
    )
}

fn neuron(input: &QuickInput<'_>) -> String {
    let QuickInput { product, count, driver, .. } = *input;
    let ids: Vec<String> = product.pci.iter().map(|id| format!("0x{}", id.device)).collect();
    format!(
        r#"n=0
for d in /sys/bus/pci/devices/*; do
[ -r "$d/vendor" ] || continue; read -r v <"$d/vendor"; [ "$v" = 0x1d0f ] || continue
read -r c <"$d/device"; case $c in {ids}) n=$((n + 1));; esac
done
if [ $n -eq {count} ]; then okay "$n devices on the PCI bus"; else bad E-NEURON-COUNT "$n of {count} devices are on the PCI bus"; fi
v=; [ -r /sys/module/neuron/version ] && read -r v </sys/module/neuron/version
case $v in {version}) okay "module neuron $v is loaded";; '') bad E-NEURON-DRIVER "module neuron is not loaded";;
*) bad E-NEURON-WINDOW "module neuron $v is loaded, {driver} is wanted: it does not work with the runtimes of this SDK; a process holds the old module, so reboot";; esac
# Driver 2.31 moved nodes of sysfs (AWS's sysfs guide of SDK 2.33.0), so a counter that is not where drivers had it before is
# looked for by name anywhere below its device: a file, or a folder with a total.
counters() {{
if [ -e "$h/$1" ]; then echo "$h/$1"; return; fi
for p in $moved; do
case ${{p#"$d"/}} in
*unhealthy_components) k=health_status/unhealthy_components;;
*repairable*) k=mem_ecc_repairable_uncorrected;;
*sram*) k=sram_ecc_uncorrected;;
*mem*|*hbm*|*dram*) k=mem_ecc_uncorrected;;
*) k=;; esac
[ "$k" != "$1" ] || echo "$p"
done
}}
# Of several, the highest; not a number if one of them cannot be read.
highest() {{ e=
for p in $(counters "$1"); do
[ ! -d "$p" ] || p=$p/total
v=; [ -r "$p" ] && read -r v <"$p"
case $v in ''|*[!0-9]*) e=unreadable; return;; *) [ "$v" -le "${{e:--1}}" ] || e=$v;; esac
done
}}
g=0
for d in /sys/devices/virtual/neuron_device/neuron*; do
[ -d "$d" ] || continue; g=$((g + 1)); at=${{d##*/}}; moved=; h=$d/stats/hardware
for p in "$h/mem_ecc_uncorrected" "$h/sram_ecc_uncorrected" "$h/health_status/unhealthy_components"; do [ -e "$p" ] || moved=y; done
[ -z "$moved" ] || moved=$(find "$d/" -path '*ecc*uncorrected' -o -name unhealthy_components 2>/dev/null)
for f in mem_ecc_uncorrected sram_ecc_uncorrected; do
highest $f
case $e in 0) ;; ''|*[!0-9]*) bad E-NEURON-ECC "unknown: $at does not report $f";; *) bad E-NEURON-ECC "$at has $f $e: take the instance out of service";; esac
done
highest mem_ecc_repairable_uncorrected
case $e in ''|0|*[!0-9]*) ;; *) bad E-NEURON-REPAIR "$at has $e memory errors that a reset repairs: reboot the host";; esac
# Reported by driver 2.30.2 and newer on Trn2 and Trn3 only.
for p in $(counters health_status/unhealthy_components); do
e=; [ -r "$p" ] && read -r e <"$p"
[ -z "$e" ] || bad E-NEURON-UNHEALTHY "$at reports unhealthy components: $e"
done
done
if [ $g -eq {count} ]; then okay "the driver has $g devices"; else bad E-NEURON-COUNT "the driver has $g of {count} devices"; fi
if tool 5 dmesg >"$T" 2>/dev/null; then
e=$(sed -n 's/.*NEURON_HW_ERR=\([A-Z_]*\).*/\1/p' "$T" | sort -u | tr '\n' ' ')
[ -z "$e" ] || bad E-NEURON-HW "the kernel log has ${{e% }} since boot: take the instance out of service"
okay "kernel log read"
else bad E-NEURON-LOG "unknown: the kernel log cannot be read"; fi
"#,
        ids = ids.join("|"),
        version = fits(driver),
    )
}
