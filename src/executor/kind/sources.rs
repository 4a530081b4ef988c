//! Other entries of a repository in apt's lists: those of a vendor's own guide, another tool, or the administrator. apt reads no
//! list at all when two entries of one repository name different keys ("Conflicting values set for option Signed-By"), so
//! entries of a key other than ours are turned off, in a way that can be undone, before ours is written.

use crate::template::quote;

/// Marks lines that are turned off.
const MARK: &str = "# replaced by provision: ";

/// An apt repository as deb822 has it.
pub(super) struct AptSource<'a> {
    uris: Vec<&'a str>,
    suites: Vec<&'a str>,
    signed_by: &'a str,
}

/// An awk program for a one-line list, or for a deb822 file by paragraphs. It prints the file with conflicting entries turned
/// off, and ends with 3 if there was none. apt puts the host's architecture in the place of `$(ARCH)` (sources.list(5)), and takes two
/// URIs for one repository whatever their scheme, user and %-encoding (seen with apt 2.6.2). It reads lists with DOS line ends.
const AWK: &str = r#"function plain(u,   at) {
  gsub(/[$][(]ARCH[)]/, arch, u); sub(/^[A-Za-z0-9+.-]+:(\/\/)?/, "", u); sub(/^[^\/@]*@/, "", u)
  while (match(u, /%[0-9A-Fa-f][0-9A-Fa-f]/)) {
    at = 16 * (index(hex, tolower(substr(u, RSTART + 1, 1))) - 1) + index(hex, tolower(substr(u, RSTART + 2, 1))) - 1
    u = substr(u, 1, RSTART - 1) (at > 32 && at != 37 ? sprintf("%c", at) : "?") substr(u, RSTART + 3)
  }
  sub(/\/+$/, "", u); return u
}
function same(s, t) { return s == t || (s == "/" || s == "./") && (t == "/" || t == "./") }
function conflicts(u, s, k,   i, j) {
  if (k == key) return 0
  for (i = 1; i <= nu; i++) for (j = 1; j <= ns; j++) if (plain(u) == plain(us[i]) && same(s, ss[j])) return 1
  return 0
}
BEGIN { hex = "0123456789abcdef"; nu = split(uris, us, " "); ns = split(suites, ss, " ") }
FILENAME ~ /[.]list$/ {
  l = $0; o = ""; gsub(/["\r]/, "", l)
  if (l !~ /^[ \t]*deb(-src)?[ \t]/) { print; next }
  if (match(l, /\[[^]]*\]/)) { o = substr(l, RSTART + 1, RLENGTH - 2); l = substr(l, 1, RSTART - 1) " " substr(l, RSTART + RLENGTH) }
  sub(/^[ \t]+/, "", l); split(l, w, /[ \t]+/)
  k = ""; low = tolower(o); if (match(low, /signed-by=[^ \t]+/)) k = substr(o, RSTART + 10, RLENGTH - 10)
  if (conflicts(w[2], w[3], k)) { hit = 1; print mark $0 } else print
  next
}
{ para[++np] = $0; if ($0 ~ /^[ \t\r]*$/) flush() }
function flush(   i, v, n, f, x, y, e, bad, a, b, p, q) {
  for (i = 1; i <= np; i++) {
    if (para[i] ~ /^#/) continue
    if (para[i] ~ /^[ \t]/) { f = para[i]; gsub(/\r/, "", f); v[n] = v[n] " " f; continue }
    n = tolower(para[i]); sub(/:.*/, "", n); f = para[i]; sub(/^[^:]*:[ \t]*/, "", f); gsub(/\r/, "", f); v[n] = f
  }
  e = tolower(v["enabled"]); f = v["signed-by"]; sub(/^[ \t]+/, "", f); sub(/[ \t]+$/, "", f)
  a = split(v["uris"], p, /[ \t]+/); b = split(v["suites"], q, /[ \t]+/); bad = 0
  if (e !~ /^(no|false|0|off|without|disable)/) for (x = 1; x <= a; x++) for (y = 1; y <= b; y++) if (conflicts(p[x], q[y], f)) bad = 1
  for (i = 1; i <= np; i++) print (bad && para[i] !~ /^[ \t]*$/ ? mark : "") para[i]
  if (bad) hit = 1
  np = 0
}
END { if (np) flush(); exit hit ? 0 : 3 }"#;

impl<'a> AptSource<'a> {
    /// Reads a definition; `None` for one that apt does not have.
    pub(super) fn of(definition: &'a str) -> Option<Self> {
        let field = |name: &str| definition.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let words = |name: &str| field(name).map(|value| value.split_whitespace().collect::<Vec<_>>());
        Some(Self {
            uris: words("URIs:")?,
            suites: words("Suites:").unwrap_or_default(),
            signed_by: field("Signed-By:").unwrap_or_default(),
        })
    }

    /// Returns shell that goes through the lists other than `own`: for each with conflicting entries it runs `found`, with the
    /// list in `$f` and the same list without these entries in `$n`.
    fn each(&self, own: &str, found: &str) -> String {
        format!(
            "a=$(dpkg --print-architecture 2>/dev/null)\nfor f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do\n\
             [ -f \"$f\" ] && [ \"$f\" != {own} ] || continue\n\
             n=$(awk -v arch=\"$a\" -v uris={} -v suites={} -v key={} -v mark={} {} \"$f\" 2>/dev/null && echo .) || continue\n{found}\ndone\n",
            quote(&self.uris.join(" ")),
            quote(&self.suites.join(" ")),
            quote(self.signed_by),
            quote(MARK),
            quote(AWK),
            own = quote(own),
        )
    }

    /// Returns a guard that prints, on one line, the lists with conflicting entries.
    pub(super) fn conflicting(&self, own: &str) -> String {
        format!("o=\n{}[ -z \"$o\" ] || echo \"${{o# }}\"\n", self.each(own, "o=\"$o $f\""))
    }

    /// Returns shell that turns conflicting entries off, and defines `restore`, which turns them on again.
    pub(super) fn turn_off(&self, own: &str) -> String {
        let off = self.each(
            own,
            "cp -p -- \"$f\" \"$f.provision-new\"; printf '%s' \"${n%.}\" >\"$f.provision-new\"; mv -f -- \"$f.provision-new\" \"$f\"\n\
             echo \"$f: disabled its entries for this repository, which use another key\"; off=\"$off $f\"",
        );
        format!("{RESTORE}off=\n{off}")
    }
}

/// A shell function that turns entries of lists on again.
const RESTORE: &str = "restore() { for f in \"$@\"; do [ ! -f \"$f\" ] || sed -i 's/^# replaced by provision: //' \"$f\"; done; }\n";

/// Returns shell that turns on again whatever was turned off, once ours is gone.
pub(super) fn turn_on() -> String {
    format!(
        "{RESTORE}restore $(grep -ls '^{MARK}' /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources)\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFINITION: &str =
        "Types: deb\nURIs: https://mirror.example/cuda/\nSuites: /\nSigned-By: /etc/apt/keyrings/cuda.asc\n";

    /// Runs shell with a folder in the place of /etc/apt.
    fn run(dir: &std::path::Path, shell: &str) -> String {
        let shell = shell.replace("/etc/apt/sources", &format!("{}/sources", dir.display()));
        let output = std::process::Command::new("sh").args(["-ec", &shell]).output().expect("sh runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).replace(&dir.display().to_string(), "")
    }

    #[test]
    fn other_entries_with_another_key_are_found_turned_off_and_turned_on_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let lists = dir.path().join("sources.list.d");
        std::fs::create_dir(&lists).expect("made");
        let conflicting = [
            (
                "one.list",
                "# the vendor's\ndeb [signed-by=/usr/share/keyrings/cuda.gpg] https://mirror.example/cuda/ /\ndeb http://deb.debian.org/debian bookworm main\n",
            ),
            (
                "arch.list",
                "deb [arch=amd64 signed-by=/usr/share/keyrings/cuda.gpg] https://mirror.example/cuda ./\n",
            ),
            // What apt takes for the same repository.
            ("http.list", "deb [signed-by=/k.gpg] http://mirror.example/cuda/ /\n"),
            ("lines.list", "deb [signed-by=/k.gpg] HTTPS://mirror.example/cuda/ /\r\n"),
            ("nokey.list", "  deb https://mirror.example/cuda /\n"),
            ("quoted.list", "deb [signed-by=\"/k.gpg\"] \"https://mirror.example/c%75da/\" /\n"),
            ("user.list", "deb [signed-by=/k.gpg] https://me:word@mirror.example/cuda/ /\n"),
            (
                "vendor.sources",
                "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: bookworm\nComponents: main\n\nEnabled: yes\nTypes: deb\nURIs: https://mirror.example/cuda\nSuites: /\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----\n",
            ),
        ];
        let harmless = [
            ("same-key.list", "deb [signed-by=/etc/apt/keyrings/cuda.asc] https://mirror.example/cuda/ /\n"),
            (
                "disabled.sources",
                "Enabled: without\nTypes: deb\nURIs: https://mirror.example/cuda/\nSuites: /\n",
            ),
            (
                "other-host.list",
                "deb http://mirror.example:8080/cuda/ /\ndeb http://mirror.example/c%2575da/ /\n",
            ),
            ("off.list", "# deb https://mirror.example/cuda/ /\n"),
            ("other-suite.list", "deb https://mirror.example/cuda/ stable main\n"),
            ("other.list", "deb https://mirror.example/cuda-12/ /\n"),
            ("off.sources", "Enabled: no\nTypes: deb\nURIs: https://mirror.example/cuda/\nSuites: /\n"),
            ("ours.sources", DEFINITION),
            ("old.list.save", "deb https://mirror.example/cuda/ /\n"),
        ];
        for (name, text) in conflicting.iter().chain(&harmless) {
            std::fs::write(lists.join(name), text).expect("written");
        }
        let source = AptSource::of(DEFINITION).expect("apt's");
        let own = "/etc/apt/sources.list.d/ours.sources";
        let found = run(dir.path(), &source.conflicting(own));
        let expected = [
            "arch.list",
            "http.list",
            "lines.list",
            "nokey.list",
            "one.list",
            "quoted.list",
            "user.list",
            "vendor.sources",
        ]
        .map(|n| format!("/sources.list.d/{n}"));
        assert_eq!(found.trim(), expected.join(" "));
        run(dir.path(), &source.turn_off(own));
        assert_eq!(run(dir.path(), &source.conflicting(own)), "");
        let read = |name: &str| std::fs::read_to_string(lists.join(name)).expect("there");
        let one = read("one.list");
        assert!(
            one.contains("\n# replaced by provision: deb [signed-by")
                && one.contains("\ndeb http://deb.debian.org"),
            "{one}"
        );
        assert!(read("vendor.sources").starts_with("Types: deb\nURIs: http://deb.debian.org"));
        run(dir.path(), &turn_on());
        for (name, text) in conflicting.iter().chain(&harmless) {
            assert_eq!(read(name), *text, "{name}");
        }
    }
}
