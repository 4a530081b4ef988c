//! systemd unit: enabled, running, masked.

use super::{Answer, Ask, Context, Kind};
use crate::state::{Fields, Observation, Seen, Unit};
use crate::template::quote;

impl Kind for Unit {
    fn ask(&self, _: &str, ask: &mut Ask) {
        ask.units.insert(self.name.clone());
    }

    fn observe(&self, _: &str, answer: &Answer) -> Observation {
        let Some(unit) = answer.units.get(&self.name) else {
            // systemctl says something even of a unit that is not there.
            let why = match answer.units.is_empty() {
                true => "timed out: systemctl gave no answer",
                false => "systemctl gave no answer for the unit",
            };
            return Observation::Unknown(why.to_owned());
        };
        let value = |key: &str| unit.get(key).map(String::as_str).unwrap_or("");
        if value("LoadState") == "not-found" {
            // A unit that is not there is neither enabled nor running, which may be all that is wanted.
            let nothing = !self.masked && self.enabled != Some(true) && self.active != Some(true);
            return match nothing {
                true => Observation::Present(Seen { fields: self.wanted(), ..Seen::default() }),
                false => Observation::Absent,
            };
        }
        let mut seen = Seen::default();
        let mut set = |name: &str, text: &str| seen.fields.insert(name.to_owned(), text.to_owned());
        set("masked", if value("LoadState") == "masked" { "yes" } else { "no" });
        set(
            "enabled",
            match (value("UnitFileState"), self.enabled) {
                ("enabled" | "alias", _) => "yes",
                ("enabled-runtime", _) => "until reboot",
                // These can be neither enabled nor disabled: they are as wanted.
                ("static" | "indirect" | "generated" | "transient", Some(true)) => "yes",
                _ => "no",
            },
        );
        set(
            "active",
            match value("ActiveState") {
                "active" | "reloading" | "refreshing" => "yes",
                "activating" => "starting",
                "failed" => "failed",
                _ => "no",
            },
        );
        Observation::Present(seen)
    }

    fn wanted(&self) -> Fields {
        let word = |b: bool| if b { "yes" } else { "no" }.to_owned();
        let mut fields = Fields::new();
        if self.masked {
            fields.insert("masked".to_owned(), "yes".to_owned());
            return fields;
        }
        fields.insert("masked".to_owned(), "no".to_owned());
        if let Some(enabled) = self.enabled {
            fields.insert("enabled".to_owned(), word(enabled));
        }
        if let Some(active) = self.active {
            fields.insert("active".to_owned(), word(active));
        }
        fields
    }

    fn enact(&self, _: &Context) -> String {
        let name = quote(&self.name);
        if self.masked {
            return format!("systemctl mask --now -- {name}\n");
        }
        let mut shell =
            format!("systemctl daemon-reload; systemctl unmask -q -- {name} 2>/dev/null || true\n");
        match self.enabled {
            Some(true) => shell += &format!("systemctl enable -q -- {name}\n"),
            Some(false) => shell += &format!("systemctl disable -q -- {name}\n"),
            None => {}
        }
        match self.active {
            Some(true) => {
                shell += &format!(
                    "systemctl reset-failed -- {name} 2>/dev/null || true\nsystemctl start -- {name} || {{ r=$?; systemctl \
                     status --no-pager -n 20 -- {name} 2>&1 || true; exit $r; }}\n"
                );
            }
            Some(false) => shell += &format!("systemctl stop -- {name}\n"),
            None => {}
        }
        shell
    }

    fn remove(&self, _: &Context) -> Option<String> {
        let name = quote(&self.name);
        if self.masked {
            return Some(format!("systemctl unmask -- {name}\n"));
        }
        // What we had stopped or disabled is not started: whoever wants it again says so.
        let ours = self.enabled == Some(true) || self.active == Some(true);
        ours.then(|| format!("systemctl disable --now -q -- {name} 2>/dev/null || true\n"))
    }
}
