//! Package: an exact version from apt or dnf, held on request. The package manager waits for its own locks.

use super::{Context, HostQuery, Kind, QueryResult, fields, present};
use crate::state::{Ensure, Fields, Observation, Package, PackageManager};
use crate::template::quote;

/// How long apt waits for another apt, in seconds: unattended-upgrades takes minutes on first boot.
const LOCK_SECONDS: u32 = 600;

impl Package {
    /// Returns an installed version as it compares: `1.2-*` is satisfied by any revision of 1.2.
    fn shown(&self, installed: &str) -> String {
        match &self.version {
            None => "any".to_owned(),
            Some(wanted) => match wanted.strip_suffix('*') {
                Some(prefix) if installed.starts_with(prefix) => wanted.clone(),
                _ => installed.to_owned(),
            },
        }
    }

    /// Returns the start of an apt command line. What nothing needs any more stays, whatever the host's apt.conf says.
    fn apt(&self, word: &str) -> String {
        format!(
            "apt-get {word} -y -o DPkg::Lock::Timeout={LOCK_SECONDS} -o APT::Get::AutomaticRemove=false \
             -o Dpkg::Options::=--force-confold -o Dpkg::Options::=--force-confdef"
        )
    }
}

/// Shell functions of package steps. `$D` names the packages that may go: those that the plan removes (`$G`), or installs
/// later (`$W`).
/// - `turn NAME` begins the package's own step.
/// - `spare DOING NAME PACKAGE…` ends the step if the packages are neither NAME nor in `$D`: well where `$LEAVES` is set, as NAME stays
///   then, else not.
/// - `left NAME VERSION` deals with what a failed installation left: packages that it broke are taken back, so that the package
///   manager works as before; a module that was not built is named, with the end of its log; where only packages that were broken
///   before fail again, and NAME is installed, `$r` becomes 0.
/// - `apt_removes APT…` prints what this apt command would remove.
/// - `dnf_removes DNF…` prints what this dnf command would remove or replace. A heading ends in a colon, and a blank line ends the
///   table; where a column is too wide for 80 characters, the rest of the row is a line of its own, which begins with the
///   architecture, the repository or the size. dnf 5 also says of the older version of a package that it is replaced.
/// - `rpm_needs NAME` prints what needs the package, other than what is in `$D`. dnf would print what nothing needs any more, too.
pub(crate) const PACKAGES: &str = r#"turn() { D=; for p in $W; do [ "$p" = "$1" ] || D="$D $p"; done; W=$D; D=$G$W; }
spare() {
d=$1; n=$2; shift 2; m=; for p in "$@"; do case "$D $n " in *" ${p%%:*} "*) ;; *) m="$m $p";; esac; done
[ -z "$m" ] || [ -z "$LEAVES" ] || { echo "$n stays, needed by:$m"; exit 0; }
[ -z "$m" ] || { echo "E-PACKAGE-REMOVES: $d $n would also remove$m, which the plan does not name: remove them first, or declare them absent"; exit 1; }
}
all_packages() { dpkg-query -W -f '${Package} ${Version} ${db:Status-Abbrev}\n' 2>/dev/null; }
left() {
awk '{ s = substr($3, 2, 1) } NR == FNR { if (s == "i") was[$1] = $2; else if (s != "c" && s != "n") bad[$1] = 1; next }
s != "i" && s != "c" && s != "n" { print ($1 in bad ? "before" : "now"), $1, ($1 in was ? was[$1] : "-") }' "$B/packages" - <<ALL >"$B/left"
$(all_packages)
ALL
gone=; old=; mine=
while read -r when p v; do case $when in
before) mine="$mine $p";;
*) if [ "$v" = - ]; then gone="$gone $p"; else old="$old $p=$v"; fi;; esac; done <"$B/left"; rm -f -- "$B/left"
l=$(sed -n 's/.*Consult \(\/[^ ]*make\.log\) for more.*/\1/p' "$B/apt" | tail -n 1); m=${l#/var/lib/dkms/}; m=${m%%/*}
# What dkms refuses before it builds has no log: no headers of the kernel, a module that is not for it.
e=; if [ -z "$l" ] && grep -q '^dpkg: error processing' "$B/apt"; then
e=$(sed -n -e 's/^Error! echo$//' -e 's/^Error! \(..*\)/\1/p' -e '/^Your kernel headers/p' "$B/apt" | head -n 1)
m=$(sed -n 's/^Loading new \(.*\)-[0-9][^ ]* DKMS files.*/\1/p' "$B/apt" | tail -n 1); fi
[ -z "$l" ] || tail -n 8 -- "$l" 2>/dev/null || true
[ -z "$gone" ] || dpkg --force-remove-reinstreq --remove $gone || true
[ -z "$old" ] || apt-get -y -o DPkg::Lock::Timeout=600 --allow-downgrades --allow-change-held-packages install $old || true
[ -z "$gone$old" ] || echo "undone, so that apt works again:$gone$old"
[ -z "$l$e" ] || { case $m in nvidia*) c=E-NV-DKMS;; *neuron*) c=E-NEURON-DKMS;; efa*) c=E-EFA-DKMS;; *) c=E-DKMS;; esac
echo "$c: the module${m:+ $m} was not built for this kernel${l:+; the end of its log is above ($l)}${e:+: $e}"; return 0; }
[ -n "$mine" ] && [ -z "$gone$old" ] || return 0
v=$(dpkg-query -W -f '${db:Status-Abbrev}${Version}' "$1" 2>/dev/null)
case $v in ?i" "$2) echo "$1 is installed; already broken before, and still broken:$mine"; r=0;;
*) echo "E-DPKG-BROKEN: packages on this host were already broken and prevent apt from working:$mine (run dpkg --configure -a to see why)";; esac
}
apt_removes() { "$@" -s 2>/dev/null | sed -n -e 's/^Remv \([^ ]*\).*/\1/p' -e 's/^Purg \([^ ]*\).*/\1/p'; }
dnf_removes() {
"$@" --assumeno 2>/dev/null | { s=; q=; while read -r a n m; do case "$a $n $m" in
Removing*:*) s=yes; continue;; '  '|*:\ *|*:) s=; continue;; esac
case $a in *[!0-9.]*) ;; *) continue;; esac
case $a in
replacing) case ${n##*.} in x86_64|aarch64|noarch|i686) n=${n%.*};; esac; [ "$n" = "$q" ] || echo "$n";;
=*|@*|x86_64|aarch64|noarch|i686) ;;
?*) q=$a; [ -z "$s" ] || echo "$a";; esac; done; }
}
rpm_needs() {
r=; for p in "$1" $D; do ! rpm -q "$p" >/dev/null 2>&1 || r="$r $p"; done
rpm -e --test --allmatches $r 2>&1 | sed -n 's/.* is needed by (installed) //p' | sort -u
}"#;

/// Returns shell that brings apt's lists up to date: its output is in `$o` and passed on, its status in `$u`. apt waits
/// for dpkg's lock, but not for that of the lists, which apt-daily holds for as long as a mirror is slow.
pub(super) fn update(options: &str) -> String {
    format!(
        "e=$(($(date +%s)+{LOCK_SECONDS})); while :; do u=0; o=$(apt-get update -o DPkg::Lock::Timeout={LOCK_SECONDS}{options} 2>&1) || u=$?; \
         case $o in *'Could not get lock'*) [ \"$(date +%s)\" -ge $e ] || {{ sleep 2; continue; }};; esac; break; done; printf '%s\\n' \"$o\""
    )
}

impl Kind for Package {
    fn query(&self, _: &str, query: &mut HostQuery) {
        query.packages.insert(self.name.clone());
        query.holds |= self.hold;
    }

    fn observe(&self, _: &str, result: &QueryResult) -> Observation {
        let installed = match result.package(&self.name) {
            Ok(installed) => installed,
            Err(why) => return Observation::Unknown(why),
        };
        match (installed, self.ensure) {
            (None, Ensure::Present) => Observation::Absent,
            (None, Ensure::Absent) => present([("installed", "no".to_owned())]),
            (Some(_), Ensure::Absent) => present([("installed", "yes".to_owned())]),
            (Some(version), Ensure::Present) => present([
                ("version", self.shown(version)),
                (
                    "held",
                    if result.holds.contains(&self.name) || !self.hold { self.hold } else { false }
                        .to_string(),
                ),
            ]),
        }
    }

    fn wanted(&self) -> Fields {
        match self.ensure {
            Ensure::Absent => fields([("installed", "no".to_owned())]),
            Ensure::Present => fields([
                ("version", self.version.clone().unwrap_or_else(|| "any".to_owned())),
                ("held", self.hold.to_string()),
            ]),
        }
    }

    fn enact(&self, context: &Context) -> String {
        let name = quote(&self.name);
        match (context.package_manager, self.ensure) {
            (Some(PackageManager::Dnf), Ensure::Present) => {
                let exact = match &self.version {
                    Some(version) => quote(&format!("{}-{version}", self.name)),
                    None => name.clone(),
                };
                // A lock on another version would hide the wanted one; the plugin is not everywhere.
                let (unlock, lock) = match self.hold {
                    true => (
                        format!(
                            "dnf -q versionlock list >/dev/null 2>&1 || dnf install -y 'dnf-command(versionlock)'\n\
                             dnf -q versionlock delete {name} >/dev/null 2>&1 || true\n"
                        ),
                        format!("dnf -q versionlock add {name}\n"),
                    ),
                    false => (String::new(), String::new()),
                };
                format!(
                    "{unlock}spare installing {name} $(dnf_removes dnf install {exact})\ndnf install -y {exact}\n{lock}"
                )
            }
            // A hold keeps apt from removing a package too, and dnf from seeing it.
            (Some(PackageManager::Dnf), Ensure::Absent) => {
                format!(
                    "spare removing {name} $(rpm_needs {name})\ndnf -q versionlock delete {name} >/dev/null 2>&1 || true\n\
                     dnf remove -y --setopt=clean_requirements_on_remove=False {name}\n"
                )
            }
            (_, Ensure::Present) => {
                let exact = match &self.version {
                    Some(version) => quote(&format!("{}={version}", self.name)),
                    None => name.clone(),
                };
                let install = format!(
                    "{} --allow-downgrades --allow-change-held-packages {exact}",
                    self.apt("install")
                );
                let hold =
                    if self.hold { format!("apt-mark hold {name} >/dev/null\n") } else { String::new() };
                let lists = update("");
                let wanted = quote(self.version.as_deref().unwrap_or("*"));
                // Its output is passed on while it runs and read once more afterwards: a fresh image has no package
                // lists, and an operation that lost its power half-way has to be ended first.
                format!(
                    "all_packages >\"$B/packages\" || true\n\
                     i() {{ : >\"$B/apt.rc\"; {{ {install} \"$@\" 2>&1 || echo $? >\"$B/apt.rc\"; }} | tee \"$B/apt\"; r=; read -r r <\"$B/apt.rc\" || true; r=${{r:-0}}; }}\n\
                     i --no-remove; if [ $r -ne 0 ]; then case $(cat \"$B/apt\") in\n\
                     *'Unable to locate package'*|*'has no installation candidate'*|*' was not found'*) {lists}; i --no-remove;;\n\
                     *'dpkg was interrupted'*) dpkg --force-confold --force-confdef --configure -a; i --no-remove;; esac; fi\n\
                     if [ $r -ne 0 ]; then case $(cat \"$B/apt\") in *'remove is disabled'*) spare installing {name} $(apt_removes {install}); i;; esac; fi\n\
                     [ $r -eq 0 ] || left {name} {wanted}\n\
                     rm -f -- \"$B/apt\" \"$B/apt.rc\" \"$B/packages\"; [ $r -eq 0 ] || exit $r\n{hold}"
                )
            }
            // A package that is not there, or that no repository has any more, is as wanted.
            (_, Ensure::Absent) => {
                let remove = format!("{} {name}", self.apt("remove"));
                format!(
                    "dpkg-query -W -f '${{Package}}' {name} >/dev/null 2>&1 || exit 0\n\
                     spare removing {name} $(apt_removes {remove} --allow-change-held-packages)\n\
                     apt-mark unhold {name} >/dev/null 2>&1 || true\n{remove}\n"
                )
            }
        }
    }

    fn remove(&self, context: &Context) -> Option<String> {
        Some(Package { ensure: Ensure::Absent, ..self.clone() }.enact(context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Runs `left` after a failed installation of aws-neuronx-dkms: package states before and after, and what apt printed.
    fn left(before: &str, after: &str, said: &str) -> String {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
        write("packages", before);
        write("apt", said);
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).expect("made");
        for (name, body) in [
            (
                "dpkg-query",
                "case \"$*\" in *aws-neuronx-dkms) printf 'ii 2.30.2.0';; *) cat \"$B/after\";; esac",
            ),
            ("dpkg", "echo \"ran dpkg $*\""),
            ("apt-get", "echo \"ran apt-get $*\""),
        ] {
            write("after", after);
            std::fs::write(bin.join(name), format!("#!/bin/sh\n{body}\n")).expect("written");
            std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755)).expect("set");
        }
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let shell = format!("{PACKAGES}\nr=100\nleft aws-neuronx-dkms '2.30.2.0*'\necho \"status $r\"\n");
        let output = std::process::Command::new("sh")
            .args(["-ec", &shell])
            .env("B", dir.path())
            .env("PATH", path)
            .output()
            .expect("sh runs");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    const BUILD: &str = "Building initial module for 6.5.0-1015-azure\n\
        Error! Bad return status for module build on kernel: 6.5.0-1015-azure (x86_64)\n\
        Consult /var/lib/dkms/aws-neuronx/2.24.7.0/build/make.log for more information.\n\
        dpkg: error processing package aws-neuronx-dkms (--configure):\n";

    #[test]
    fn a_package_whose_module_is_not_built_is_named_and_taken_back() {
        let text = left("curl 8.0 ii \n", "curl 8.0 ii \naws-neuronx-dkms 2.24.7.0 iF \n", BUILD);
        assert!(text.contains("ran dpkg --force-remove-reinstreq --remove aws-neuronx-dkms"), "{text}");
        assert!(text.contains("E-NEURON-DKMS: the module aws-neuronx was not built"), "{text}");
        assert!(text.contains("status 100"), "{text}");
        let other = left("", "nvidia-dkms-580 1 iF \n", &BUILD.replace("aws-neuronx", "nvidia"));
        assert!(other.contains("E-NV-DKMS: the module nvidia"), "{other}");
        let third = left("", "zfs-dkms 1 iF \n", &BUILD.replace("aws-neuronx", "zfs"));
        assert!(third.contains("E-DKMS: the module zfs"), "{third}");
    }

    #[test]
    fn an_upgrade_that_fails_goes_back_to_the_version_before() {
        let text = left("lib 1.0 ii \n", "lib 2.0 iF \nextra 2.0 iU \n", "dpkg: error\n");
        assert!(text.contains("install lib=1.0") && text.contains("--remove extra"), "{text}");
        assert!(text.contains("undone, so that apt works again: extra lib=1.0"), "{text}");
        assert!(text.contains("status 100"), "{text}");
    }

    /// Somebody else's package that does not configure makes every call of apt fail; ours is installed all the same.
    #[test]
    fn what_was_broken_before_does_not_fail_what_was_installed() {
        let state = "old-thing 1 iF \n";
        let text = left(
            state,
            &format!("{state}aws-neuronx-dkms 2.30.2.0 ii \n"),
            "dpkg: error processing package old-thing\n",
        );
        assert!(text.contains("aws-neuronx-dkms is installed") && text.contains("status 0"), "{text}");
        assert!(!text.contains("ran "), "nothing of it is touched: {text}");
    }

    /// Removes `a`, with which `b` would go, on a host that leaves or not; returns whether the step goes on, and what it says.
    fn removed(leaves: &str) -> (i32, String) {
        let shell =
            format!("LEAVES={leaves} G=' a' W=; {PACKAGES}\nturn a\n( spare removing a a b; exit 7 )");
        let output = std::process::Command::new("/bin/sh").args(["-c", &shell]).output().expect("a shell");
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    #[test]
    fn a_package_that_others_need_stays_on_a_host_that_leaves_and_stops_any_other() {
        assert_eq!(removed("yes"), (0, "a stays, needed by: b\n".to_owned()));
        let (rc, said) = removed("");
        assert!(
            rc == 1 && said.starts_with("E-PACKAGE-REMOVES: removing a would also remove b"),
            "{rc} {said}"
        );
    }
}
