//! Links between hosts: EFA devices bound to their driver, and InfiniBand or RoCE ports that are up. Read from sysfs, without
//! tools. Part of the quick test, and the gate of the role that sets them up.

use super::frame::{END, FRAME};

/// A port needs some seconds to train after its module was loaded; this long is "it does not come up".
const LINK_SECONDS: u32 = 30;

/// How many links a host should have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Links {
    /// EFA devices; each is one link.
    pub efa: Option<u32>,
    /// InfiniBand or RoCE ports that have to be up; there may be more.
    pub rdma: Option<u32>,
}

/// Counts a driver's active ports into `a` and names the others in `w`. Bridges inside NVSwitches (`SW_MNG`) are no links
/// of the host (gpu-driver-container asks for that text too).
const PORTS: &str = r#"ports() { a=0; w=
for i in /sys/class/infiniband/*; do
r=$(readlink "$i/device/driver"); [ "${r##*/}" = "$1" ] || continue
! grep -qs SW_MNG "$i/device/vpd" || continue
for p in "$i"/ports/*; do
s=; [ -r "$p/state" ] && read -r s <"$p/state"
case $s in *': ACTIVE') a=$((a + 1));; *) w="$w, ${i##*/} port ${p##*/} ${s#*: }";; esac
done; done; }
"#;

impl Links {
    /// Returns whether there are none.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Returns the part of the look.
    pub(super) fn look(self, wait: bool) -> String {
        if self.is_empty() {
            return String::new();
        }
        let mut text = format!("{PORTS}end=$(($(date +%s) + {}))\n", if wait { LINK_SECONDS } else { 0 });
        if let Some(count) = self.efa {
            text += &format!(
                r#"n=0; g=0
for d in /sys/bus/pci/devices/*; do
[ -r "$d/vendor" ] || continue; read -r v <"$d/vendor"; [ "$v" = 0x1d0f ] || continue
read -r c <"$d/device"; case $c in 0xefa*) n=$((n + 1));; *) continue;; esac
r=$(readlink "$d/driver"); case $r in */efa) g=$((g + 1));; *) bad E-EFA-DRIVER "EFA ${{d##*/}} is bound to ${{r:-no driver}}, not to efa: run modprobe efa; check dmesg if it is not bound";; esac
done
if [ $n -eq {count} ]; then okay "$n EFA devices on the PCI bus"; else bad E-EFA-COUNT "$n of {count} EFA devices are on the PCI bus"; fi
while ports efa; [ $a -lt $g ] && [ "$(date +%s)" -lt "$end" ]; do sleep 2; done
if [ $a -ge $g ] && [ $g -gt 0 ]; then okay "$a EFA links are active"; else bad E-EFA-LINK "$a of $g EFA links are active${{w}}: security group, and EFA of the network interface"; fi
"#
            );
        }
        if let Some(count) = self.rdma {
            text += &format!(
                r#"while ports mlx5_core; [ $a -lt {count} ] && [ "$(date +%s)" -lt "$end" ]; do sleep 2; done
if [ $a -ge {count} ]; then okay "$a InfiniBand or RoCE links are active"; else bad E-RDMA-LINK "$a of {count} InfiniBand or RoCE links are active${{w}}: cable, switch port, or subnet manager"; fi
"#
            );
        }
        text
    }
}

/// Returns the program that looks at links alone; `wait` gives ports time to come up.
pub fn links_gate(links: Links, wait: bool) -> String {
    format!("{FRAME}{}{END}", links.look(wait))
}
