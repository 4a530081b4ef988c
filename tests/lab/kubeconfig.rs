//! Kubeconfigs: the admin's and a user's, printed and merged, used through the tunnel.

use super::commands::{nodes, nodes_or};
use super::story::{Story, text};
use super::twin::{site, walk};
use base64::Engine as _;
use serde_json::Value;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

/// A tunnel on a port of its own, until dropped.
struct Tunnel {
    child: Child,
    port: u16,
}

impl Tunnel {
    fn open(story: &Story) -> Self {
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let at = story.at();
        let arguments = ["tunnel", "-i", &at, "--port", &port.to_string()];
        let mut child = story.command(&arguments).stdout(Stdio::null()).spawn().expect("the binary runs");
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(child.try_wait().expect("alive").is_none(), "the tunnel ended early");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { child, port }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", text(output));
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[test]
fn a_kubeconfig_of_limited_life_leaves_no_key_behind() {
    let story = Story::of(&site(1));
    story.up();
    let at = story.at();
    let none = story.run(&["kubeconfig", "-i", &at]);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none).contains("error[E-NO-CLUSTER]"), "{}", text(&none));
    story.applied();

    let tunnel = Tunnel::open(&story);
    let port = tunnel.port.to_string();
    let asked = |more: &[&str]| story.run(&[&["kubeconfig", "-i", &at, "--port", &port], more].concat());
    let admin = stdout(&asked(&[]));
    assert_eq!(nodes(&admin), ["h-1", "w-1"]);

    let before = story.tree();
    let output = asked(&["--user", "alice@example.com", "--group", "system:masters", "--ttl", "1h"]);
    let alice = stdout(&output);
    assert_eq!(nodes(&alice), ["h-1", "w-1"]);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("of alice@example.com is valid until 2"),
        "{}",
        text(&output)
    );
    let config: Value = serde_saphyr::from_str(&alice).expect("YAML");
    assert_eq!(config["current-context"], "alice@example.com@runs");
    let user = &config["users"][0]["user"];
    let decoded = |name: &str| {
        let data = user[name].as_str().expect("data");
        String::from_utf8(base64::engine::general_purpose::STANDARD.decode(data).expect("base64"))
            .expect("PEM")
    };
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(decoded("client-certificate-data").as_bytes()).expect("PEM");
    let life = pem.parse_x509().expect("a certificate").validity().not_after.timestamp()
        - jiff::Timestamp::now().as_second();
    assert!((3000..=3600).contains(&life), "{life} s");
    // No group may do anything in this cluster until it is bound to a role.
    let bob = stdout(&asked(&["--user", "bob", "--output", "json"]));
    match nodes_or(&bob) {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 403, "{status}"),
        other => panic!("{other:?}"),
    }
    // k0s leaves key and certificate of a user on the controller; they are gone, and so is any copy here.
    assert_eq!(story.tree(), before);
    let key = decoded("client-key-data");
    let secret = key.lines().nth(1).expect("a line of the key");
    walk(story.dir.path(), &mut |path| {
        let found = std::fs::read(path).unwrap_or_default();
        let found = String::from_utf8_lossy(&found);
        assert!(!found.contains(secret), "a key is in {}", path.display());
    });

    // A name that k0s has a file of would overwrite it.
    let taken = asked(&["--user", "admin"]);
    assert_eq!(taken.status.code(), Some(1));
    assert!(text(&taken).contains("user name admin is in use"), "{}", text(&taken));
    assert_eq!(story.tree(), before);
    for wrong in
        [&["--user", "../ca"][..], &["--user", "a", "--ttl", "5m"], &["--ttl", "1h"], &["--via", "endpoint"]]
    {
        let refused = asked(wrong);
        assert!(!refused.status.success() && refused.stdout.is_empty(), "{wrong:?}: {}", text(&refused));
    }
}

#[test]
fn a_kubeconfig_is_merged_under_a_context_of_its_own() {
    let story = Story::converged(1);
    let at = story.at();
    let tunnel = Tunnel::open(&story);
    let port = tunnel.port.to_string();
    let merge =
        |more: &[&str]| story.run(&[&["kubeconfig", "-i", &at, "--port", &port, "--merge"], more].concat());
    let first = merge(&[]);
    assert_eq!(
        stdout(&first).trim(),
        format!("Added context runs in {}/.kube/config", story.dir.path().display())
    );
    let config = story.dir.path().join(".kube/config");
    assert_eq!(std::fs::metadata(&config).expect("there").permissions().mode() & 0o777, 0o600);
    let read = || std::fs::read_to_string(&config).expect("read");
    assert_eq!(nodes(&read()), ["h-1", "w-1"], "the first context is the current one");
    let said = text(&first);
    for told in ["delete-context runs", "delete-cluster runs", "delete-user runs", "--port"] {
        assert!(said.contains(told), "how to use and undo it: {said}");
    }

    let again = merge(&["--output", "json"]);
    let json: Value = serde_json::from_str(&stdout(&again)).expect("JSON");
    assert_eq!((&json["context"], &json["replaced"]), (&Value::from("runs"), &Value::from(true)));
    stdout(&merge(&["--user", "alice", "--group", "system:masters"]));
    let whole: Value = serde_saphyr::from_str(&read()).expect("YAML");
    let names: Vec<&str> =
        whole["contexts"].as_array().expect("a list").iter().filter_map(|c| c["name"].as_str()).collect();
    assert_eq!(names, ["runs", "alice@runs"]);

    // A file that KUBECONFIG names, with another's context of that name in it.
    let other = story.dir.path().join("other");
    std::fs::write(&other, "contexts: [{name: runs, context: {cluster: c, user: u}}]\n").expect("written");
    let refused = story
        .command(&["kubeconfig", "-i", &at, "--merge"])
        .env("KUBECONFIG", &other)
        .output()
        .expect("the binary runs");
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("Choose another name: --context NAME"), "{}", text(&refused));
}

/// The commands of the how-to, word for word; kubectl is one that prints what it was given.
#[test]
fn the_how_to_does_what_it_says() {
    let story = Story::new();
    story.up();
    assert_eq!(story.apply(&[]).status.code(), Some(0));
    let bin = story.dir.path().join("bin");
    std::fs::create_dir(&bin).expect("made");
    let kubectl = bin.join("kubectl");
    std::fs::write(&kubectl, "#!/bin/sh\necho \"kubectl $*\"\n").expect("written");
    std::fs::set_permissions(&kubectl, std::fs::Permissions::from_mode(0o755)).expect("set");
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/how-to/kubeconfig.md");
    let page = std::fs::read_to_string(page).expect("read");
    let commands: Vec<&str> = page.lines().filter_map(|l| l.strip_prefix("$ provision ")).collect();
    assert_eq!(commands.len(), 3);
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    for command in commands {
        // Another test may have the port; else word for word.
        let own = command.replace("inventories/lab", &story.at()).replace("6443", "0");
        let words: Vec<&str> = own.split_whitespace().collect();
        let output = story.command(&words).env("PATH", &path).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(0), "provision {own}\n{}", text(&output));
    }
}

/// The tunnel is its command's until that has ended, and the kubeconfig goes in any case.
#[test]
fn a_signal_is_the_commands_and_no_kubeconfig_is_left() {
    use std::io::BufRead;
    let story = Story::of(&site(1));
    story.up();
    story.applied();
    let at = story.at();
    let program = "trap 'kill $!; echo got; exit 5' TERM; echo $KUBECONFIG; sleep 30 & wait";
    let words = ["tunnel", "-i", &at, "--", "sh", "-c", program];
    let mut tunnel =
        story.command(&words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    let mut lines = std::io::BufReader::new(tunnel.stdout.take().expect("a pipe")).lines();
    let kubeconfig = lines.next().expect("a line").expect("text");
    assert!(std::path::Path::new(&kubeconfig).exists(), "{kubeconfig}");
    super::twin::signal(&tunnel, rustix::process::Signal::TERM);
    assert_eq!(lines.next().expect("a line").expect("text"), "got");
    assert_eq!(tunnel.wait().expect("it ends").code(), Some(5));
    assert!(!std::path::Path::new(&kubeconfig).exists(), "it is removed");
    let killed = story.run(&["tunnel", "-i", &at, "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.status.code(), Some(137), "{}", text(&killed));

    let words = ["tunnel", "-i", &at];
    let mut tunnel =
        story.command(&words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    let mut lines = std::io::BufReader::new(tunnel.stdout.take().expect("a pipe")).lines();
    let export = lines.next().expect("a line").expect("text");
    let kubeconfig =
        export.strip_prefix("export KUBECONFIG=").expect("an export").trim_matches('\'').to_owned();
    super::twin::signal(&tunnel, rustix::process::Signal::HUP);
    assert_eq!(tunnel.wait().expect("it ends").code(), Some(0));
    assert!(!std::path::Path::new(&kubeconfig).exists(), "it is removed");
}
