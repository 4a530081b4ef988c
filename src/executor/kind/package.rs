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
/// - `apt_removes APT…` prints what this apt command would remove.
/// - `dnf_removes DNF…` prints what this dnf command would remove or replace. dnf 5 also says of the older version of a package that
///   it is replaced.
/// - `rpm_needs NAME` prints what needs the package, other than what is in `$D`. dnf would print what nothing needs any more, too.
pub(crate) const PACKAGES: &str = r#"turn() { D=; for p in $W; do [ "$p" = "$1" ] || D="$D $p"; done; W=$D; D=$G$W; }
spare() {
d=$1; n=$2; shift 2; m=; for p in "$@"; do case "$D $n " in *" ${p%%:*} "*) ;; *) m="$m $p";; esac; done
[ -z "$m" ] || [ -z "$LEAVES" ] || { echo "$n stays, needed by:$m"; exit 0; }
[ -z "$m" ] || { echo "E-PACKAGE-REMOVES: $d $n would also remove$m, which the plan does not name: remove them first, or declare them absent"; exit 1; }
}
apt_removes() { "$@" -s 2>/dev/null | sed -n -e 's/^Remv \([^ ]*\).*/\1/p' -e 's/^Purg \([^ ]*\).*/\1/p'; }
dnf_removes() {
"$@" --assumeno 2>/dev/null | { s=; q=; while read -r a n _; do case $a in
replacing) case ${n##*.} in x86_64|aarch64|noarch|i686) n=${n%.*};; esac; [ "$n" = "$q" ] || echo "$n";;
=*|x86_64|aarch64|noarch|i686) ;;
Removing*) s=yes;;
Transaction|Installing*|Upgrading*|Downgrading*|Reinstalling*|Skipping*) s=;;
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
                // Its output is passed on while it runs and read once more afterwards: a fresh image has no package
                // lists, and an operation that lost its power half-way has to be ended first.
                format!(
                    "i() {{ : >\"$B/apt.rc\"; {{ {install} \"$@\" 2>&1 || echo $? >\"$B/apt.rc\"; }} | tee \"$B/apt\"; r=; read -r r <\"$B/apt.rc\" || true; r=${{r:-0}}; }}\n\
                     i --no-remove; if [ $r -ne 0 ]; then case $(cat \"$B/apt\") in\n\
                     *'Unable to locate package'*|*'has no installation candidate'*|*' was not found'*) {lists}; i --no-remove;;\n\
                     *'dpkg was interrupted'*) dpkg --force-confold --force-confdef --configure -a; i --no-remove;; esac; fi\n\
                     if [ $r -ne 0 ]; then case $(cat \"$B/apt\") in *'remove is disabled'*) spare installing {name} $(apt_removes {install}); i;; esac; fi\n\
                     rm -f -- \"$B/apt\" \"$B/apt.rc\"; [ $r -eq 0 ] || exit $r\n{hold}"
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
    use super::PACKAGES;
    use std::process::Command;

    /// Removes `a`, with which `b` would go, on a host that leaves or not; returns whether the step goes on, and what it says.
    fn removed(leaves: &str) -> (i32, String) {
        let shell =
            format!("LEAVES={leaves} G=' a' W=; {PACKAGES}\nturn a\n( spare removing a a b; exit 7 )");
        let output = Command::new("/bin/sh").args(["-c", &shell]).output().expect("a shell");
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
