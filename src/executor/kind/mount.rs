//! Mount: a systemd mount unit, so that what needs the path can name it and a lost disk does not stop the boot.

use super::super::digest::sha256;
use super::file::put;
use super::{Context, HostQuery, How, Kind, QueryResult, Sum, fields, present};
use crate::state::{Fields, Mount, Observation};
use crate::template::quote;

/// Returns the name that systemd gives the mount unit of a path (systemd.unit(5), string escaping).
pub(in crate::executor) fn unit_name(path: &str) -> String {
    let mut name = String::new();
    for (n, byte) in path.trim_matches('/').bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if n == 0 => name.push_str("\\x2e"),
            b if b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'.') => name.push(b as char),
            b => name.push_str(&format!("\\x{b:02x}")),
        }
    }
    let name = if name.is_empty() { "-".to_owned() } else { name };
    format!("{name}.mount")
}

impl Mount {
    fn unit(&self) -> String {
        unit_name(&self.path)
    }

    fn file(&self) -> String {
        format!("/etc/systemd/system/{}", self.unit())
    }

    fn text(&self) -> String {
        format!(
            "[Unit]\nDescription=provision: {path}\n\n[Mount]\nWhat={what}\nWhere={path}\nType={kind}\nOptions={options}\n\n\
             [Install]\nWantedBy=multi-user.target\n",
            path = self.path,
            what = self.what,
            kind = self.kind,
            options = self.options
        )
    }
}

impl Kind for Mount {
    fn query(&self, _: &str, query: &mut HostQuery) {
        query.paths.insert(self.file());
        // Nothing of it is brought back: its name may hold backslashes, which the shell that shows texts does not undo.
        query.sums.insert(self.file(), Sum { sha256: sha256(self.text().as_bytes()), how: How::Secret });
        query.units.insert(self.unit());
    }

    fn observe(&self, _: &str, result: &QueryResult) -> Observation {
        match result.stat(&self.file()) {
            Ok(None) => return Observation::Absent,
            Ok(Some(_)) => {}
            Err(why) => return Observation::Unknown(why),
        }
        let Some(unit) = result.units.get(&self.unit()) else {
            return Observation::Unknown("systemctl printed nothing for the mount".to_owned());
        };
        let value = |key: &str| unit.get(key).map(String::as_str).unwrap_or_default();
        let definition = if result.sums.get(&self.file()) == Some(&true) { "as wanted" } else { "differs" };
        present([
            ("definition", definition.to_owned()),
            ("at boot", if value("UnitFileState") == "enabled" { "yes" } else { "no" }.to_owned()),
            ("mounted", if value("ActiveState") == "active" { "yes" } else { "no" }.to_owned()),
        ])
    }

    fn wanted(&self) -> Fields {
        fields([
            ("definition", "as wanted".to_owned()),
            ("at boot", "yes".to_owned()),
            ("mounted", "yes".to_owned()),
        ])
    }

    fn enact(&self, _: &Context) -> String {
        let (path, unit) = (quote(&self.path), quote(&self.unit()));
        // What was mounted by another definition is let go first; what uses it keeps that from happening.
        format!(
            "w={path}; mkdir -p -- \"$w\"\n\
             if systemctl is-active -q -- {unit}; then systemctl stop -- {unit}\n\
             elif ! mountpoint -q -- \"$w\" && [ -n \"$(ls -A -- \"$w\")\" ]; then echo \"$w holds files that the mount would hide: move them away\" >&2; exit 1; fi\n\
             ( {put} )\n\
             systemctl daemon-reload; systemctl enable -q -- {unit}\n\
             systemctl start -- {unit} || {{ r=$?; fallen {unit}; exit $r; }}\n",
            put = put(&self.file(), self.text().as_bytes(), 0o644, "root:root"),
        )
    }

    fn remove(&self, _: &Context) -> Option<String> {
        let unit = quote(&self.unit());
        // The folder and what is on the disk stay.
        Some(format!(
            "systemctl disable -q --now -- {unit} || systemctl stop -- {unit}\nrm -f -- {}\nsystemctl daemon-reload\n",
            quote(&self.file())
        ))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn unit_names_are_escaped_as_systemd_does() {
        let name = super::unit_name;
        assert_eq!(name("/var/lib/k0s"), "var-lib-k0s.mount");
        assert_eq!(name("/data/my-models"), "data-my\\x2dmodels.mount");
        assert_eq!(name("/.hidden"), "\\x2ehidden.mount");
    }
}
