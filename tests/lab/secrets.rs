//! Canary secrets: a sudo password, an SSH key's passphrase, a model token and join tokens are found in no output, argument
//! list, environment of the lab, saved plan, journal or file on a host; neither the stand-ins that the lab uses, nor what the
//! inventory's sources hold here. A text that nobody declared to be secret goes the same way through the same search, which
//! must find it in each of those places.

use crate::kit::Kit;
use crate::story::{Story, text};
use base64::Engine;
use provision::event::{Event, Events};
use provision::executor::Sudo;
use provision::plan::steps_of;
use provision::state::{Command as Guarded, Content, File, Resource, SecretText, Spec, StepOutputs, Target};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A controller, a GPU host and a model whose weights want a token; sudo asks, and the key has a passphrase.
const SITE: &str = "apiVersion: provision/v1
kind: Inventory
metadata: {name: canaries}
secrets:
  hf: {env: CANARY_TOKEN}
  sudo: {file: sudo-password}
  key: {env: CANARY_PASSPHRASE}
ssh:
  user: ubuntu
  port: 2222
  identities: [.lab/id_ed25519]
  hostKeys: {file: .lab/known_hosts}
  agent: false
  passphrase: {secret: key}
  sudoPassword: {secret: sudo}
cluster:
  k0s: {version: v1.35.7+k0s.0}
  network: {podCIDR: 10.240.0.0/16, serviceCIDR: 10.96.0.0/16}
pools:
  control:
    role: controller
    hosts: {\"cp-[1-3]\": {address: \"127.77.0.[11-13]\"}}
  general:
    role: worker
    hosts: {w-1: {address: 127.77.0.21}}
  h100:
    role: worker
    accelerator: {nvidia: {product: h100-sxm5-80gb, count: 8, driver: \"580.178.04\"}}
    hosts: {h-1: {address: 127.77.0.31}}
router: {kthena: {version: v1.0.0, gatewayAPI: true, inferenceExtension: true}, expose: {nodePort: {base: 30080}}}
models:
  qwen:
    source: {huggingFace: {repo: a/b, revision: c, token: {secret: hf}}}
    engine: {vllm: {image: \"vllm/vllm-openai:v0.11.0\"}}
    placement: {pool: h100, acceleratorsPerReplica: 8, replicas: 1}
tenants:
  ads: {gateway: {port: 8081}, routes: {qwen: {to: {qwen: 100}}}}
";

/// What a role of the site prints, runs, exports and writes although nobody may see it.
const PLANTED: &str = "planted-canary+4711=nobody-declared";

/// Entries behind those of the role `base`: the planted text in a name, an argument list, an environment, a file and an
/// output.
const PLANTING: &str = r#"
- command:
    name: plant
    wanted: planted
    guard: |
      PLANTED='@' sh -c ": '@'; sleep 0.3; :"
      echo '@ is not there'; [ -e /etc/planted-by-command ]
    apply: |
      echo 'printed: @'
      : >/etc/planted-by-command
- directory: {path: "/opt/@", mode: 0o755, owner: "root:root"}
- file: {path: /etc/planted, content: "@ in a file\n"}
"#;

/// The texts by which a secret would be known: as it is, in URLs, in base64 alone, and within anything that was encoded.
fn forms(secret: &str) -> Vec<Vec<u8>> {
    let standard = base64::engine::general_purpose::STANDARD;
    let percent = |keep: &dyn Fn(u8) -> bool| -> String {
        let byte = |b: u8| if keep(b) { (b as char).to_string() } else { format!("%{b:02X}") };
        secret.bytes().map(byte).collect()
    };
    let mut forms = vec![
        secret.to_owned(),
        percent(&|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b)),
        percent(&|b| b.is_ascii_alphanumeric() || b"-._~/+".contains(&b)),
        standard.encode(secret),
        base64::engine::general_purpose::URL_SAFE.encode(secret),
        // As Rust, JSON and shells would quote it.
        format!("{secret:?}").trim_matches('"').to_owned(),
    ];
    // Inside a longer text it begins at any of three places, and its first and last letters mix with what is around it.
    for before in 0..3 {
        let padded = [vec![b'x'; before], secret.as_bytes().to_vec()].concat();
        let encoded = standard.encode(&padded);
        let start = if before == 0 { 0 } else { 4 };
        let whole = padded.len() / 3 * 4;
        if whole > start + 8 {
            forms.push(encoded[start..whole].to_owned());
        }
    }
    forms.into_iter().collect::<BTreeSet<_>>().into_iter().map(String::into_bytes).collect()
}

fn holds(bytes: &[u8], forms: &[Vec<u8>]) -> bool {
    forms.iter().any(|form| bytes.windows(form.len()).any(|w| w == form))
}

/// Returns the files below a folder that hold one of the texts.
fn files(folder: &Path, forms: &[Vec<u8>], found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            files(&path, forms, found);
        } else if path.ends_with("tool") {
            // The executable, which is older than any secret.
        } else if kind.is_file() && std::fs::read(&path).is_ok_and(|bytes| holds(&bytes, forms)) {
            found.push(path);
        }
    }
}

/// What was seen of running processes: every argument list on the machine, and every environment of the lab and its hosts.
#[derive(Default)]
struct Seen {
    arguments: BTreeSet<Vec<u8>>,
    environments: BTreeSet<Vec<u8>>,
}

/// Looks at running processes until it is told to end.
struct Watch {
    ended: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: JoinHandle<()>,
}

impl Watch {
    fn start(lab: u32) -> Self {
        let (ended, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let (stop, into) = (ended.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                look(lab, &into);
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        Self { ended, seen, thread }
    }

    fn end(self) -> Seen {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().expect("it watched to the end");
        std::mem::take(&mut *self.seen.lock().expect("a lock"))
    }
}

fn look(lab: u32, into: &Mutex<Seen>) {
    let me = std::process::id();
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|e| e.file_name().to_string_lossy().parse::<u32>().ok());
    let read = |pid: u32, name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let parent = |pid: u32| -> Option<u32> {
        let stat = String::from_utf8_lossy(&read(pid, "stat")).into_owned();
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    for pid in pids.filter(|pid| *pid != me) {
        let arguments = read(pid, "cmdline");
        let of_the_lab = std::iter::successors(Some(pid), |up| parent(*up)).any(|up| up == lab);
        let environment = if of_the_lab { read(pid, "environ") } else { Vec::new() };
        let mut seen = into.lock().expect("a lock");
        seen.arguments.insert(arguments);
        seen.environments.insert(environment);
    }
}

/// Everything that a run has left and shown.
struct Traces<'a> {
    story: &'a Story,
    outputs: Vec<(&'static str, Vec<u8>)>,
    seen: Seen,
}

impl Traces<'_> {
    /// Returns the sorts of places that hold a secret.
    fn of(&self, secret: &str) -> BTreeSet<String> {
        let forms = forms(secret);
        let mut places = BTreeSet::new();
        for (name, output) in &self.outputs {
            if holds(output, &forms) {
                places.insert(format!("output of {name}"));
            }
        }
        for (name, all) in [("arguments", &self.seen.arguments), ("environment", &self.seen.environments)] {
            if all.iter().any(|bytes| holds(bytes, &forms)) {
                places.insert(name.to_owned());
            }
        }
        let mut found = Vec::new();
        files(self.story.dir.path(), &forms, &mut found);
        for path in found {
            let inside = path.strip_prefix(self.story.dir.path()).expect("inside").display().to_string();
            places.insert(match inside.as_str() {
                // Where the secrets of this test come from, and where the lab keeps the tokens that it saw.
                "site/sudo-password" | "site/roles/base/role.yaml" => continue,
                lab if lab.ends_with("/tokens.seen") => continue,
                "plan.json" => "saved plan".to_owned(),
                journal if journal.contains("provision/runs/") => "journal".to_owned(),
                host if host.starts_with("state/provision/lab/") && host.contains("/hosts/") => {
                    "file on a host".to_owned()
                }
                other => format!("file {other}"),
            });
        }
        places
    }
}

/// Returns the secrets inside a join token: base64 of gzip of a kubeconfig.
fn inside(token: &str) -> String {
    let packed = base64::engine::general_purpose::STANDARD.decode(token).expect("base64");
    let mut config = String::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut config).expect("gzip");
    let line = config.lines().find_map(|l| l.trim().strip_prefix("token:")).expect("a token");
    line.trim().trim_matches('"').to_owned()
}

#[test]
fn canary_secrets_are_found_nowhere_and_a_planted_one_everywhere() {
    let story = Story::of(SITE);
    let (sudo, token, passphrase) =
        ("sudo canary/4711+x", "hf_canary-4711+do/not=print", "passphrase canary & 4711/x");
    let stand_in = "lab-stand-in-key";
    std::fs::write(story.inventory.join("sudo-password"), format!("{sudo}\n")).expect("written");
    let roles = story.inventory.join("roles/base");
    std::fs::create_dir_all(&roles).expect("made");
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("roles/base/role.yaml");
    let base = std::fs::read_to_string(base).expect("the role") + &PLANTING.replace('@', PLANTED);
    std::fs::write(roles.join("role.yaml"), base).expect("written");
    let run = |arguments: &[&str]| {
        let mut command = story.command(arguments);
        command.env("CANARY_TOKEN", token).env("CANARY_PASSPHRASE", passphrase);
        command.output().expect("runs")
    };
    let at = story.at();
    let up = run(&["lab", "up", &at]);
    assert!(up.status.success(), "{}", text(&up));
    lock_the_key(&story.lab().join("id_ed25519"), stand_in);
    let watch = Watch::start(story.control().pid());

    let saved = story.dir.path().join("plan.json").display().to_string();
    let mut outputs = Vec::new();
    for (name, arguments) in [
        ("plan -v", vec!["plan", "-v", "-i", &at, "-o", &saved]),
        ("plan", vec!["plan", "-i", &at]),
        ("plan as JSON", vec!["plan", "-i", &at, "--output", "json"]),
        ("apply", vec!["apply", "--yes", "-i", &at]),
        ("apply -v", vec!["apply", "--yes", "-v", "-i", &at]),
        ("apply as JSON", vec!["apply", "--yes", "-i", &at, "--output", "json"]),
    ] {
        // What the command has made is taken away, so that it runs, and prints, each time.
        let _ = std::fs::remove_file(story.file("w-1", "/etc/planted-by-command"));
        let output = run(&arguments);
        assert!(matches!(output.status.code(), Some(0 | 2)), "{name}: {}", text(&output));
        outputs.push((name, [output.stdout, output.stderr].concat()));
    }
    let status = run(&["status", "-i", &at]);
    assert_eq!(status.status.code(), Some(0), "{}", text(&status));
    outputs.push(("status", [status.stdout, status.stderr].concat()));
    let traces = Traces { story: &story, outputs, seen: watch.end() };

    for (name, secret) in [
        ("sudo", sudo),
        ("token", token),
        ("passphrase", passphrase),
        ("stand-in of sudo", "lab-stand-in-sudo"),
        ("stand-in of the token", "lab-stand-in-hf"),
        ("stand-in of the passphrase", stand_in),
    ] {
        assert_eq!(traces.of(secret), BTreeSet::new(), "{name}");
    }
    let tokens = std::fs::read_to_string(story.lab().join("tokens.seen")).expect("tokens were given");
    assert_eq!(tokens.lines().count(), 4, "two controllers and two workers joined");
    for token in tokens.lines() {
        assert_eq!(traces.of(token), BTreeSet::new(), "a join token");
        assert_eq!(traces.of(&inside(token)), BTreeSet::new(), "what a join token holds");
    }
    let found = traces.of(PLANTED);
    for place in [
        "output of plan -v",
        "output of plan",
        "output of plan as JSON",
        "output of apply",
        "output of apply -v",
        "output of apply as JSON",
        "arguments",
        "environment",
        "saved plan",
        "journal",
        "file on a host",
    ] {
        assert!(found.contains(place), "the search would miss it in {place}: it found {found:?}");
    }
}

/// Encrypts the lab's client key, as a person's own key would be.
fn lock_the_key(file: &Path, passphrase: &str) {
    use russh::keys::ssh_key::{Cipher, Kdf, LineEnding, PrivateKey};
    let key = PrivateKey::read_openssh_file(file).expect("the key");
    // Few rounds: the key opens anew for each command.
    let kdf = Kdf::Bcrypt { salt: vec![7; 16], rounds: 4 };
    let locked = key.encrypt_with(Cipher::Aes256Ctr, kdf, 77, passphrase).expect("encrypted");
    locked.write_openssh_file(file, LineEnding::LF).expect("written");
}

#[test]
fn the_search_knows_every_form() {
    let secret = "a b/c+d=e f";
    let standard = base64::engine::general_purpose::STANDARD;
    for hidden in [
        "xx a b/c+d=e f".to_owned(),
        "url?q=a%20b%2Fc%2Bd%3De%20f".to_owned(),
        standard.encode(secret),
        standard.encode(format!("token: {secret}\n")),
        standard.encode(format!("a token: {secret}, and more")),
        standard.encode(format!("my token: {secret}, and more")),
    ] {
        assert!(holds(hidden.as_bytes(), &forms(secret)), "{hidden}");
    }
    assert!(!holds(b"a b c d e f", &forms(secret)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_prints_of_a_secret_reaches_neither_screen_nor_disk() {
    let kit = Kit::up(&["a"], |_| {}).await;
    let secret = "printed-canary/4711";
    let file = File {
        path: "/etc/token".into(),
        content: Content::Secret(SecretText::new(secret)),
        mode: 0o600,
        owner: "root:root".into(),
        validate: None,
    };
    let chatty = Guarded {
        name: "chatty".into(),
        guard: "[ -e /etc/said ]".into(),
        apply: "echo before; cat /etc/token; echo; base64 -w0 /etc/token; echo; echo after; : >/etc/said"
            .into(),
        undo: None,
        wanted: "said".into(),
        when_changed: Vec::new(),
    };
    let resources =
        vec![Resource::new("test", Spec::File(file)), Resource::new("test", Spec::Command(chatty))];
    let (events, mut receiver) = Events::channel();
    let target = kit.target_with("a", resources, Sudo::Required(None), events);
    let (steps, _) = steps_of(&target.observe().await.expect("observed"));
    target.enact(&steps, &StepOutputs::new()).await.expect("enacted");
    let found = |below: &str| {
        let mut found = Vec::new();
        files(&kit.file("a", below), &forms(secret), &mut found);
        found
    };
    assert_eq!(found("/var"), Vec::<PathBuf>::new(), "no disk holds what it printed");
    assert_eq!(found("/etc"), [kit.file("a", "/etc/token")]);
    assert_eq!(found("/dev/shm").len(), 1, "its output is in memory until the run ends");
    target.finish().await.expect("finished");
    assert_eq!(found("/dev/shm"), Vec::<PathBuf>::new());
    drop(target);
    let mut lines = Vec::new();
    while let Some(event) = receiver.recv().await {
        if let Event::Output { line, .. } = event {
            lines.push(line);
        }
    }
    assert_eq!(lines, ["before", "<secret>", "<secret>", "after"]);
    kit.lab.down().await;
}
