//! Untrusted inventories: runs the commands that `docs/security.md` lists as safe, as a user runs them.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// An inventory that is fine, with what a case replaces.
const FINE: &str = "apiVersion: provision/v1\nkind: Inventory\nmetadata: {name: t}\nssh: {user: ubuntu}\n\
    cluster:\n  k0s: {version: v1.35.7+k0s.0}\n  network: {podCIDR: 10.240.0.0/13, serviceCIDR: 10.96.0.0/16}\n\
    pools:\n  c: {role: controller+worker, hosts: {a-1: {address: 192.0.2.1}}}\n";
/// What no command may need for a megabyte of input, as docs/security.md promises: MiB of memory, and seconds, of which a
/// build that is not optimised and shares its processors gets more.
const MOST_MIB: u64 = 1024;
const MOST_SECONDS: u64 = 240;

struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    /// Writes an inventory into a folder of its own, `site`.
    fn of(text: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("site")).expect("made");
        let site = Self { dir };
        std::fs::write(site.at("site/inventory.yaml"), text).expect("written");
        site
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        std::fs::write(self.at(path), text).expect("written");
    }

    /// Runs a command within the promised bounds: a shell limits memory, and the process is ended when time is up.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("ulimit -v {}; exec \"$@\"", (MOST_MIB + 1024) << 10), "sh"])
            .arg(env!("CARGO_BIN_EXE_provision"))
            .args(arguments)
            .current_dir(self.dir.path())
            .env("XDG_STATE_HOME", self.at("state"))
            .env("HOME", self.dir.path())
            .env("TOKIO_WORKER_THREADS", "2")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell");
        let (mut stdout, mut stderr) =
            (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let deadline = std::time::Instant::now() + Duration::from_secs(MOST_SECONDS);
        let status = std::thread::scope(|threads| {
            threads.spawn(|| stdout.read_to_end(&mut out));
            threads.spawn(|| stderr.read_to_end(&mut err));
            loop {
                if let Some(status) = child.try_wait().expect("a child") {
                    return status;
                }
                if std::time::Instant::now() > deadline {
                    let _ = child.kill();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Output { status, stdout: out, stderr: err }
    }

    /// Runs `validate`, which must refuse, and returns what it says.
    fn refused(&self) -> String {
        let output = self.run(&["validate", "-i", "site"]);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{}", &said[..said.len().min(2000)]);
        said
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Returns the fine inventory with one piece replaced.
fn with(piece: &str, instead: &str) -> String {
    assert!(FINE.contains(piece));
    FINE.replacen(piece, instead, 1)
}

#[test]
fn no_line_of_another_file_is_shown_whatever_names_it() {
    const CANARY: &str = "canary-4711";
    let secret = format!("root:{CANARY}:19000:0:99999:7:::\n{CANARY}\n");
    for (name, inventory) in [
        ("extends", format!("extends: ../secret\n{FINE}")),
        ("extends-json", format!("extends: ../secret.json\n{FINE}")),
        ("extends-inside", format!("extends: .env\n{FINE}")),
        ("extends-kubernetes", format!("extends: secret-of-kubernetes.yaml\n{FINE}")),
        ("extends-link", format!("extends: link\n{FINE}")),
        ("hostsFrom", with("hosts: {a-1: {address: 192.0.2.1}}", "hostsFrom: ../secret")),
        ("hostsFrom-inside", with("hosts: {a-1: {address: 192.0.2.1}}", "hostsFrom: .env")),
        ("caBundle", format!("{FINE}network: {{caBundle: ../secret}}\n")),
        ("absolute", format!("extends: /etc/passwd\n{FINE}")),
        ("git", format!("extends: ../.git/config\n{FINE}")),
    ] {
        let site = Site::of(&inventory);
        for file in ["secret", "site/.env", "site/secret"] {
            site.write(file, &secret);
        }
        site.write("secret.json", &format!("{{\"private_key\": \"{CANARY}\", \"{CANARY}\": 1}}"));
        site.write(
            "site/secret-of-kubernetes.yaml",
            &format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: x}}\nstringData: {{a: {CANARY}}}\n{CANARY}: 1\n"),
        );
        std::fs::create_dir(site.at(".git")).expect("made");
        site.write(".git/config", &secret);
        std::os::unix::fs::symlink("../secret", site.at("site/link")).expect("a link");
        // The other files of a folder merge; here one file is the inventory.
        let said = text(&site.run(&["validate", "-i", "site/inventory.yaml"]));
        assert!(!said.contains(CANARY) && !said.contains("root:x:"), "{name}: {said}");
        assert!(said.contains("error["), "{name}: {said}");
        let said = text(&site.run(&["render", "-i", "site/inventory.yaml", "--explain", "ssh"]));
        assert!(!said.contains(CANARY), "{name}: {said}");
    }
}

#[test]
fn a_folder_outside_is_read_where_it_is_allowed_by_name() {
    let site = Site::of("extends: ../base/base.yaml\nmetadata: {name: mine}\n");
    std::fs::create_dir(site.at("base")).expect("made");
    site.write("base/base.yaml", FINE);
    let refused = site.refused();
    assert!(refused.contains("E-READ") && refused.contains("--allow-outside"), "{refused}");
    let allowed = site.run(&["validate", "-i", "site", "--allow-outside", "base"]);
    assert!(allowed.status.success(), "{}", text(&allowed));
    let keys = text(&site.run(&["key", "list", "-i", "site", "nobody", "--allow-outside", "base"]));
    assert!(keys.contains("the inventory has no tenant `nobody`"), "{keys}");
}

#[test]
fn what_is_no_regular_file_is_not_waited_for() {
    let site = Site::of(FINE);
    let made = Command::new("mkfifo").arg(site.at("site/b.yaml")).arg(site.at("fifo")).status();
    assert!(made.expect("mkfifo").success());
    let said = site.refused();
    assert!(said.contains("not a regular file"), "{said}");
    let output = site.run(&["validate", "-i", "fifo"]);
    assert!(text(&output).contains("not a regular file"), "{}", text(&output));
    let output = site.run(&["diff", "fifo", "/dev/zero"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let output = site.run(&["catalog", "check", "-i", "/dev/zero"]);
    assert!(output.status.code().is_some_and(|code| code < 2), "{}", text(&output));
}

#[test]
fn small_inputs_stay_small_whatever_they_stand_for() {
    let hosts = |hosts: &str| with("{a-1: {address: 192.0.2.1}}", hosts);
    let commas = vec!["1-99999"; 1000].join(",");
    let many_ranges: String =
        (0..10_000).map(|n| format!("'r{n}-[1-99999]': {{address: '10.0.0.[1-99998]'}}, ")).collect();
    let large_note = "x".repeat(1 << 19);
    let billion = (0..20).fold("a0: &a0 [x]\n".to_owned(), |text, n| {
        text + &format!("a{}: &a{} [{}]\n", n + 1, n + 1, vec![format!("*a{n}"); 20].join(", "))
    });
    let aliases = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 19), vec!["*a"; 100_000].join(","));
    let unknown: String = (0..40_000).map(|n| format!("  k{n}: x\n")).collect();
    let misspelt: String =
        (0..10_000).map(|n| format!("    h-{n}: {{adress: 10.1.{}.{}}}\n", n / 250, n % 250 + 1)).collect();
    let tenants: String = (0..8_000)
        .map(|n| {
            format!("  t{n}: {{gateway: {{port: {}}}, routes: {{a: {{to: {{m{n}: 1}}}}}}}}\n", n % 60_000)
        })
        .collect();
    let pools: String = (0..10_000)
        .map(|n| format!("  p{n}: {{role: worker, hosts: {{w{n}: {{address: w{n}}}}}}}\n"))
        .collect();
    let models: String = (0..5_000)
        .map(|n| format!("  m{n}: {{source: {{path: /m}}, engine: {{vllm: {{image: a}}}}, placement: {{pool: q{n}, acceleratorsPerReplica: 1}}}}\n"))
        .collect();
    let expressions: String = (0..5_000)
        .map(|n| {
            let headers: String =
                (0..8).map(|h| format!("h{h}: {{regex: 'x(\\w{{9}}[^a]{{20}}){{9}}'}}, ")).collect();
            format!("r{n}: {{rules: [{{headers: {{{headers}}}, to: {{m: 1}}}}], to: {{m: 1}}}}, ")
        })
        .collect();
    for (name, inventory) in [
        ("range of commas", hosts(&format!("{{a-1: {{address: '[{commas}]'}}}}"))),
        ("range of commas in a name", hosts(&format!("{{'a-[{commas}]': {{address: 192.0.2.1}}}}"))),
        (
            "range with padding",
            hosts(&format!("{{'a-[{}1-99999]': {{address: 192.0.2.1}}}}", "0".repeat(60_000))),
        ),
        ("ranges, each of which fits", hosts(&format!("{{{many_ranges}}}"))),
        (
            "a note copied to each of 100,000",
            hosts(&format!(
                "{{'a-[1-100000]': {{address: '10.[0-9].[0-99].[0-99]', reason: {large_note}}}}}"
            )),
        ),
        (
            "100,000 hosts of which half are the others",
            with(
                "{a-1: {address: 192.0.2.1}}",
                "{'h-[1-50000]': {address: '10.0.[0-249].[0-199]'}}}\n  d: {role: worker, hosts: {'g-[1-50000]': {address: '10.0.[0-249].[0-199]'}}",
            ),
        ),
        ("a billion laughs", format!("{FINE}{billion}")),
        ("aliases of a long text", format!("{FINE}{aliases}")),
        ("40,000 unknown keys", format!("{FINE}network:\n{unknown}")),
        ("a misspelt key on 10,000 hosts", format!("{FINE}  d:\n   role: worker\n   hosts:\n{misspelt}")),
        ("8,000 tenants", format!("{FINE}router: {{kthena: {{version: v1.0.0}}}}\ntenants:\n{tenants}")),
        (
            "40,000 regular expressions",
            format!(
                "{FINE}router: {{kthena: {{version: v1.0.0}}}}\ntenants: {{t: {{gateway: {{port: 8081}}, routes: {{{expressions}}}}}}}\n"
            ),
        ),
        (
            "20,000 extra objects",
            format!(
                "{FINE}extraObjects: [{}]\n",
                "{apiVersion: v1, kind: Pod, metadata: {name: x}}, ".repeat(20_000)
            ),
        ),
        ("10,000 pools", format!("{FINE}{pools}models:\n{models}")),
        ("one line of a megabyte", format!("{FINE}labels: {{{}}}\n", "a: [b], ".repeat(120_000))),
        ("nesting", format!("{FINE}labels: {}\n", "[".repeat(500_000))),
        ("nesting of mappings", format!("{FINE}labels: {}\n", "{a: ".repeat(200_000))),
        ("a key of a megabyte", format!("{FINE}? {}\n: x\n", "k".repeat(1 << 20))),
        (
            "noProxy of 100,000",
            format!("{FINE}network: {{proxy: 'http://p:1', noProxy: [{}]}}\n", "10.0.0.0/8,".repeat(80_000)),
        ),
    ] {
        let site = Site::of(&inventory);
        let said = site.refused();
        assert!(said.len() < 200_000, "{name}: {} bytes were said", said.len());
        assert!(!said.contains("panicked") && !said.contains("E-PANIC"), "{name}: {said}");
    }
    let site = Site::of(&hosts(&format!("{{{many_ranges}}}")));
    let output = site.run(&["diff", "site", "site"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
}

#[test]
fn a_fault_of_one_kind_is_shown_twenty_times_and_then_counted() {
    let misspelt: String = (0..300).map(|n| format!("    h-{n}: {{adress: 10.1.0.1}}\n")).collect();
    let said = Site::of(&format!("{FINE}  d:\n   role: worker\n   hosts:\n{misspelt}")).refused();
    assert_eq!(said.matches("error[E-UNKNOWN-KEY]").count(), 20);
    assert!(said.contains("… and 280 more of E-UNKNOWN-KEY"), "{said}");
    assert!(said.contains("600 errors in"), "{said}");
}

#[test]
fn a_mistake_at_any_character_is_shown_and_never_a_panic() {
    for piece in ["“ams”", "é", "日本", "🚫", "x\u{301}", "\u{feff}"] {
        for shape in [
            "metadata: {name: @}\nssh: {user: @",
            "name: @: y",
            "a: @é",
            "a: \"x\" @",
            "a: [1]@",
            "@\t- x\n\t@",
            "? @\n- @",
        ] {
            let text = shape.replace('@', piece);
            for text in [text.clone(), format!("pools:\n{text}"), format!("{FINE}{text}")] {
                let said = Site::of(&text).refused();
                assert!(said.contains("error[") && !said.contains("panicked"), "{text}: {said}");
            }
        }
    }
}

#[test]
fn nothing_that_an_inventory_chooses_is_an_option_or_an_address_of_another_kind() {
    for (piece, instead, code) in [
        ("user: ubuntu", "user: \"-oProxyCommand=touch x\"", "E-USER"),
        ("{user: ubuntu}", "{user: ubuntu, bastions: [\"-oProxyCommand=x\"]}", "E-BASTION"),
        ("{user: ubuntu}", "{user: ubuntu, bastions: [\"jump -oProxyCommand=x\"]}", "E-BASTION"),
        ("address: 192.0.2.1", "address: \"-oProxyCommand=x\"", "E-ADDRESS"),
        ("address: 192.0.2.1", "address: 192.0.2.1, user: \"-lroot\"", "E-USER"),
        ("address: 192.0.2.1", "address: \"192.0.2.1:22\"", "E-ADDRESS"),
        ("address: 192.0.2.1", "address: \"[fd00::1]\"", "E-ADDRESS"),
        ("address: 192.0.2.1", "address: \"ssh://a\"", "E-ADDRESS"),
        ("address: 192.0.2.1", "address: 192.0.2.0/24", "E-ADDRESS"),
        ("address: 192.0.2.1", "address: 192.0.2.010", "E-ADDRESS"),
        ("address: 192.0.2.1", "address: 192.0.2.1, rack: \"a\\nb\"", "E-NOTE"),
        ("address: 192.0.2.1", "address: 192.0.2.1, reason: \"\\e[2J\"", "E-CHARACTER"),
        ("address: 192.0.2.1", "address: 192.0.2.1, reason: \"\\u202e\"", "E-CHARACTER"),
        (
            "metadata: {name: t}",
            "metadata: {name: t}\nregistries: {\"../x\": {mirror: \"https://a\"}}",
            "E-FORM",
        ),
        (
            "metadata: {name: t}",
            "metadata: {name: t}\nregistries: {a: {mirror: \"https://a\\\"\\nb\"}}",
            "E-MIRROR",
        ),
        ("metadata: {name: t}", "metadata: {name: t}\nos: {sysctls: {\"../../x\": 1}}", "E-FORM"),
        ("metadata: {name: t}", "metadata: {name: t}\nos: {sysctls: {\"a b\": 1}}", "E-FORM"),
        ("metadata: {name: t}", "metadata: {name: t}\nos: {ntp: [\"a\\nserver b\"]}", "E-ADDRESS"),
        ("metadata: {name: t}", "metadata: {name: t}\nsecrets: {x: {env: \"A=B\"}}", "E-FORM"),
        ("pools:\n  c:", "pools:\n  \"-c\":", "E-FORM"),
    ] {
        let said = Site::of(&with(piece, instead)).refused();
        assert!(said.contains(&format!("error[{code}]")), "{instead}: {said}");
        assert!(!said.contains('\u{1b}') && !said.contains('\u{202e}'), "{instead}: {said:?}");
    }
}

#[test]
fn a_line_of_csv_is_counted_as_an_editor_counts_it() {
    let site = Site::of(&with("hosts: {a-1: {address: 192.0.2.1}}", "hostsFrom: h.csv"));
    site.write("site/h.csv", "name,address\n\n\na-1,10.0.0.1\n\nA_2,10.0.0.2\n");
    let said = site.refused();
    assert!(said.contains("h.csv:6:1"), "{said}");
    site.write("site/h.csv", "name,address,rack\r\n\r\n\"a-1\",10.0.0.1,\"two\r\nlines\"\r\n\r\na-3\r\n");
    let said = site.refused();
    assert!(said.contains("h.csv:6:1") && said.contains("3 columns"), "{said}");
}

#[test]
fn output_that_cannot_be_written_is_reported_and_never_a_panic() {
    let site = Site::of(FINE);
    std::fs::create_dir(site.at("other")).expect("made");
    site.write("other/inventory.yaml", &with("user: ubuntu", "user: admin"));
    let provision = env!("CARGO_BIN_EXE_provision");
    let shell = |line: &str| {
        let output = Command::new("/bin/sh")
            .args(["-c", line, "sh", provision])
            .current_dir(site.dir.path())
            .env("HOME", site.dir.path())
            .output()
            .expect("a shell");
        (output.status.code(), text(&output))
    };
    for command in [
        "schema",
        "catalog",
        "validate -i site",
        "man --markdown",
        "completions bash",
        "--help",
        "diff site site",
    ] {
        let (code, said) = shell(&format!("\"$1\" {command} >/dev/full"));
        assert_eq!(code, Some(1), "{command}: {said}");
        assert!(!said.contains("panicked"), "{command}: {said}");
        let (_, said) = shell(&format!("{{ \"$1\" {command}; echo \"ended $?\" >&2; }} | true"));
        assert!(!said.contains("panicked") && said.contains("ended "), "{command}: {said}");
    }
    let (_, said) = shell("\"$1\" schema >/dev/full");
    assert!(said.contains("error[E-OUTPUT]"), "{said}");
    let (code, said) = shell("\"$1\" validate -i nowhere 2>/dev/full");
    assert_eq!(code, Some(1), "{said}");
}

#[test]
fn no_state_is_kept_where_others_could_have_made_it() {
    let site = Site::of(FINE);
    let folder = site.at("state/provision");
    std::fs::create_dir_all(site.at("state")).expect("made");
    std::fs::create_dir(site.at("elsewhere")).expect("made");
    std::os::unix::fs::symlink(site.at("elsewhere"), &folder).expect("a link");
    let output = site.run(&["history", "-i", "site"]);
    assert_ne!(output.status.code(), None);
    assert!(Path::new(&site.at("elsewhere")).read_dir().expect("read").next().is_none(), "{}", text(&output));
}

/// What 20 kB of input stood for by itself stayed below a bound of one file, and each of 60 files had its own.
#[test]
fn budgets_are_those_of_the_whole_inventory() {
    let site = Site::of(FINE);
    for n in 0..60 {
        let level = |to: usize, from: usize| {
            let all: Vec<String> = (0..10).map(|k| format!("k{k}: *b{from}")).collect();
            format!("a{to}: &b{to} {{{}}}", all.join(","))
        };
        let levels: Vec<String> = (1..5).map(|to| level(to, to - 1)).collect();
        let text = format!(
            "cluster: {{k0s: {{config: {{spec: {{r{n}: {{a0: &b0 {{x: '1',y: '2'}}, {}}}}}}}}}}}\n",
            levels.join(", ")
        );
        site.write(&format!("site/f{n:03}.yaml"), &text);
    }
    let said = site.refused();
    assert!(said.contains("exceeds the limit"), "{said}");
    let catalog = site.at("site/catalog");
    std::fs::create_dir(&catalog).expect("made");
    let pattern = "a*".repeat(100) + "x";
    site.write(
        "site/catalog/a.yaml",
        &format!("engineImages: [{{image: '{pattern}', cuda: 12, source: s}}]\n"),
    );
    for n in 0..60 {
        std::fs::remove_file(site.at(&format!("site/f{n:03}.yaml"))).expect("removed");
    }
    let image = "a".repeat(200);
    site.write(
        "site/inventory.yaml",
        &format!(
            "{FINE}  w: {{role: worker, accelerator: {{nvidia: {{product: l40s, count: 1, driver: '580.178.04'}}}}, hosts: {{w-1: {{address: 192.0.2.2}}}}}}\n\
             models: {{m: {{source: {{path: /m}}, engine: {{vllm: {{image: '{image}:v1'}}}}, placement: {{pool: w, acceleratorsPerReplica: 1}}}}}}\n"
        ),
    );
    let output = site.run(&["validate", "-i", "site"]);
    assert!(output.status.code().is_some(), "{}", text(&output));
    site.write("site/catalog/a.yaml", &"# x\n".repeat(100_000));
    assert!(text(&site.run(&["validate", "-i", "site"])).contains("262144 bytes in total"));
}

#[test]
fn a_line_break_in_what_an_inventory_says_makes_no_line_of_ours() {
    const FORGED: &str = "\nin sync: all\n  = next: forged";
    let forged =
        |said: &str| said.lines().any(|l| l.starts_with("in sync") || l.starts_with("  = next: forged"));
    let config = |key: &str| {
        with("v1.35.7+k0s.0}", &format!("v1.35.7+k0s.0, config: {{spec: {{\"k{key}\": \"v{key}\"}}}}}}"))
    };
    let before = Site::of(FINE);
    before.write("after.yaml", &config(&FORGED.replace('\n', "\\n")));
    let output = before.run(&["diff", "site/inventory.yaml", "after.yaml"]);
    let said = text(&output);
    assert!(output.status.code() == Some(2) && said.contains("␊in sync") && !forged(&said), "{said}");
    let said = text(&before.run(&["render", "-i", "after.yaml", "--explain", "cluster"]));
    assert!(said.contains("␊in sync") && !forged(&said), "{said}");

    let site = Site::of(FINE);
    site.write(&format!("site/x{FORGED}.yaml"), "metadata: {nam: x}\n");
    let said = site.refused();
    assert!(said.contains("␊in sync") && !forged(&said), "{said}");
    let site = Site::of(FINE);
    let lock = format!(
        "artifacts: {{\"efa{}\": {{version: x, urls: [x], sha256: x, size: 1}}}}\n",
        FORGED.replace('\n', "\\n")
    );
    site.write("site/provision.lock", &lock);
    let said = site.refused();
    assert!(!forged(&said), "{said}");
}

#[test]
fn a_lock_file_that_leads_elsewhere_is_not_followed() {
    let site = Site::of(FINE);
    site.write("secret", "root:canary-4711:x\n");
    std::os::unix::fs::symlink("../secret", site.at("site/provision.lock")).expect("a link");
    let said = site.refused();
    assert!(said.contains("symbolic link") && !said.contains("canary"), "{said}");
}
