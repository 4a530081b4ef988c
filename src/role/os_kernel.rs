//! Template values of the kernel that a host runs: which one, what holds it, and the modules that its base package lacks.

use crate::template::quote;
use serde_json::{Value, json};

/// Prints the installed packages that bring a kernel: kernels themselves, meta packages that depend on one, and the meta
/// packages above them (linux-generic-hwe-22.04, linux-image-aws). dpkg is asked, for flavours have no end: a list of their
/// names is never whole (hwe, hwe-edge, nvidia, azure-fde, lowlatency, oem, cloud, rt, …).
const BRINGS_KERNELS: &str = r#"dpkg-query -W -f '${db:Status-Abbrev}\t${Package}\t${Depends}, ${Pre-Depends}\n' 2>/dev/null | awk -F '\t' '
function kernel(p) { return p ~ /^(linux|pve|proxmox)-(image|headers|modules|kernel)(-[a-z]+)*-[0-9]+[.][0-9]+[.-]/ }
$1 ~ /^[ih]i/ { n++; name[n] = $2; needs[n] = $3 }
END {
  for (i = 1; i <= n; i++) if (kernel(name[i])) is[name[i]] = 1
  do {
    more = 0
    for (i = 1; i <= n; i++) {
      if (name[i] in is || name[i] !~ /^(linux|pve|proxmox)-/) continue
      m = split(needs[i], all, /[,|]/)
      for (j = 1; j <= m; j++) {
        p = all[j]; sub(/^ +/, "", p); sub(/[ :(].*/, "", p)
        if (kernel(p) || p in is) { is[name[i]] = more = 1; break }
      }
    }
  } while (more)
  for (i = 1; i <= n; i++) if (name[i] in is && (!kernel(name[i]) || index(name[i], release))) print name[i]
}' release={RELEASE} | sort -u"#;

/// Returns the shell that finds, holds and frees what would bring another kernel than this one.
fn hold(release: &str) -> Value {
    // awk takes assignments among its operands before it reads standard input.
    let names = BRINGS_KERNELS.replace("release={RELEASE}", &format!("release={} -", quote(release)));
    let names = names.replace("END {", "END {\n  if (n == 0) exit");
    json!({
        "guard": format!(
            "h=\" $(apt-mark showhold | tr '\\n' ' ')\"\nfor p in $({names}); do\n  \
             case $h in *\" $p \"*) ;; *) echo \"$p is not held\"; exit 1;; esac\ndone\n"
        ),
        "apply": format!("{names} | xargs -r apt-mark hold\n"),
        "undo": format!("{names} | xargs -r apt-mark unhold\n"),
    })
}

/// Returns the shell that finds and installs the RDMA modules of a kernel of RHEL or Amazon Linux. The package is named after
/// that of the kernel: kernel-modules-extra, kernel6.12-modules-extra. rpm says on standard output, too, that nothing owns a file.
fn modules_extra(release: &str) -> Value {
    let guard = format!(
        "for m in mlx5_ib ib_umad; do\n  [ -n \"$(find /lib/modules/{release} -name \"$m.ko*\" 2>/dev/null)\" ] || \
         {{ echo \"no $m\"; exit 1; }}\ndone\n"
    );
    let apply = format!(
        "k=$(rpm -qf --qf '%{{NAME}}\\n' /lib/modules/{release}/vmlinuz 2>/dev/null | grep -v ' ' | head -n 1); k=${{k%-core}}\n\
         dnf -y install \"${{k:-kernel}}-modules-extra-{release}\"\n{guard}"
    );
    json!({"guard": guard, "apply": apply})
}

/// Returns `kernel`: which one the host has to run, whether the inventory asks for it, and how it stays.
pub(super) fn context(release: &str, wanted: bool) -> Value {
    json!({
        "release": release,
        "wanted": wanted,
        "hold": hold(release),
        "modules_extra": modules_extra(release),
    })
}
