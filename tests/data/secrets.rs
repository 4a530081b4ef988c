//! Data tests of secrets: each source returns its text, and no error contains it.

use crate::inventory::{GOOD, catalog};
use provision::inventory::{Secrets, load};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const CANARY: &str = "canary-5c1d";

/// Loads the good inventory with these secrets beside it.
fn secrets(dir: &Path, source: &str) -> Secrets {
    let path = dir.join("site.yaml");
    std::fs::write(&path, GOOD.replacen("{hf: {env: HF}}", &format!("{{hf: {source}}}"), 1))
        .expect("written");
    Secrets::of_site(&load(&path, &catalog()).unwrap_or_else(|d| panic!("{d}")).inventory)
}

/// Resolves the one secret; an error must not hold what a tool printed.
async fn read(dir: &Path, source: &str) -> Result<String, String> {
    match secrets(dir, source).resolve("hf").await {
        Ok(secret) => {
            assert!(!format!("{secret:?}").contains(CANARY), "it is not shown by accident");
            Ok(secret.expose().to_owned())
        }
        Err(error) => {
            assert!(!error.to_string().contains(CANARY), "{error}");
            Err(error.to_string())
        }
    }
}

fn program(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("made executable");
}

#[tokio::test]
async fn a_variable_of_the_environment() {
    let dir = tempfile::tempdir().expect("a folder");
    // Cargo sets it for every test; setting one of our own would race with the others.
    assert_eq!(read(dir.path(), "{env: CARGO_PKG_NAME}").await.as_deref(), Ok("provision"));
    let error = read(dir.path(), "{env: PROVISION_TEST_NOT_SET}").await.expect_err("not set");
    assert!(error.contains("`hf`") && error.contains("PROVISION_TEST_NOT_SET is not set"), "{error}");
}

#[tokio::test]
async fn a_file_without_its_last_newline() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("token"), format!("{CANARY}\n")).expect("written");
    assert_eq!(read(dir.path(), "{file: token}").await.as_deref(), Ok(CANARY));
    assert!(read(dir.path(), "{file: nowhere}").await.is_err_and(|e| e.contains("nowhere")));
    std::fs::write(dir.path().join("empty"), "\n").expect("written");
    assert!(read(dir.path(), "{file: empty}").await.is_err_and(|e| e.contains("empty")));
}

#[tokio::test]
async fn a_file_encrypted_with_age() {
    use age::secrecy::ExposeSecret;
    let dir = tempfile::tempdir().expect("a folder");
    let key = age::x25519::Identity::generate();
    let another = age::x25519::Identity::generate();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
    write("key.txt", key.to_string().expose_secret());
    write("another.txt", another.to_string().expose_secret());
    let sealed = age::encrypt_and_armor(&key.to_public(), CANARY.as_bytes()).expect("encrypted");
    write("token.age", &sealed);
    let source = |identity: &str| format!("{{age: {{file: token.age, identity: {identity}}}}}");
    assert_eq!(read(dir.path(), &source("key.txt")).await.as_deref(), Ok(CANARY));
    assert!(read(dir.path(), &source("another.txt")).await.is_err_and(|e| e.contains("token.age")));
    assert!(read(dir.path(), &source("nowhere.txt")).await.is_err_and(|e| e.contains("nowhere.txt")));
}

/// `sops` is looked up in PATH; the stand-in answers only to the arguments that the real one takes.
#[test]
fn a_key_of_a_sops_file_through_its_binary() {
    let dir = tempfile::tempdir().expect("a folder");
    let bin = dir.path().join("bin");
    std::fs::create_dir(&bin).expect("made");
    let script = format!(
        "#!/bin/sh\n[ \"$1 $2\" = '--decrypt --extract' ] || exit 9\n[ \"$3\" = '[\"hf\"][\"token\"]' ] || {{ echo {CANARY}-noise; exit 128; }}\n\
         case $4 in */vault.yaml) echo {CANARY};; *) exit 2;; esac\n"
    );
    program(&bin.join("sops"), &script);
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    std::fs::write(
        dir.path().join("site.yaml"),
        GOOD.replacen("{hf: {env: HF}}", "{hf: {sops: {file: vault.yaml, key: hf.token}}}", 1).replacen(
            "ssh: {user: root}",
            "ssh: {user: root, sudoPassword: {secret: hf}}",
            1,
        ),
    )
    .expect("written");
    std::fs::write(dir.path().join("provision.lock"), "artifacts: {}\n").expect("written");
    let plan = |path: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_provision"))
            .args(["facts", "--limit", "cp-1", "-i"])
            .arg(dir.path())
            .env("PATH", path)
            .env("HOME", dir.path())
            .output()
            .expect("runs");
        let text =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!text.contains(CANARY), "{text}");
        text
    };
    // With its secret it goes on to the host, where nobody listens.
    assert!(!plan(&path).contains("cannot read secret"));
    // Without, it says so and goes on: sudo may want no password.
    let without = plan("/nowhere");
    assert!(without.contains("cannot read secret `hf`") && without.contains("cannot run sops"), "{without}");
    assert!(without.contains("warning: ") && without.contains("cp-1: "), "{without}");
    program(&bin.join("sops"), &script.replace("token", "another"));
    let refused = plan(&path);
    assert!(refused.contains("sops failed (exit status: 128"), "{refused}");
}

#[tokio::test]
async fn the_output_of_a_command() {
    let dir = tempfile::tempdir().expect("a folder");
    program(
        &dir.path().join("vault"),
        &format!("#!/bin/sh\n[ \"$1\" = get ] && echo {CANARY} || {{ echo {CANARY} >&2; exit 3; }}\n"),
    );
    assert_eq!(read(dir.path(), "{exec: [./vault, get]}").await.as_deref(), Ok(CANARY));
    let error = read(dir.path(), "{exec: [./vault, put]}").await.expect_err("refused");
    assert!(error.contains("./vault failed (exit status: 3"), "{error}");
    assert!(read(dir.path(), "{exec: [./nowhere]}").await.is_err_and(|e| e.contains("cannot run ./nowhere")));
}

/// Sources of simulated hosts leave no trace: not even a file that is not there is missed.
#[tokio::test]
async fn stand_ins_for_simulated_hosts_look_at_no_source() {
    let dir = tempfile::tempdir().expect("a folder");
    let proof = dir.path().join("proof");
    for source in [
        "{env: PROVISION_TEST_NOT_SET}",
        "{file: nowhere}",
        "{age: {file: nowhere}}",
        "{sops: {file: nowhere, key: a}}",
        &format!("{{exec: [touch, {}]}}", proof.display()),
    ] {
        let path = dir.path().join("site.yaml");
        let text = GOOD.replacen("{hf: {env: HF}}", &format!("{{hf: {source}, hub: {source}}}"), 1)
            + "registries: {docker.io: {credentials: {secret: hub}}}\n";
        std::fs::write(&path, text).expect("written");
        let inventory = load(&path, &catalog()).unwrap_or_else(|d| panic!("{d}")).inventory;
        let secrets = Secrets::of_lab(&inventory);
        let read = async |name: &str| secrets.resolve(name).await.map(|s| s.expose().to_owned());
        assert_eq!(read("hf").await.expect("a stand-in"), "lab-stand-in-hf", "{source}");
        assert_eq!(read("hub").await.expect("a stand-in"), "lab:lab-stand-in-hub", "{source}");
        assert!(read("other").await.is_err(), "only what the inventory names");
    }
    assert!(!proof.exists());
}

/// Nothing is planned, so neither a registry's credentials nor a model's token are asked for.
#[test]
fn commands_that_only_look_need_no_secret() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = GOOD.replacen("{hf: {env: HF}}", "{hf: {env: PROVISION_TEST_NOT_SET}}", 1).replacen(
        "ssh: {user: root}",
        "ssh: {user: root, password: {secret: hf}, passphrase: {secret: hf}}",
        1,
    ) + "registries: {docker.io: {credentials: {secret: hf}}}\n";
    std::fs::write(dir.path().join("site.yaml"), text).expect("written");
    let run = |command: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_provision"))
            .args(command)
            .args(["--limit", "cp-1", "-i"])
            .arg(dir.path().join("site.yaml"))
            .env("HOME", dir.path())
            .env("XDG_STATE_HOME", dir.path())
            .output()
            .expect("runs");
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
    };
    for command in [&["facts"][..], &["status"], &["preflight"], &["attach"], &["trust", "--yes"]] {
        let said = run(command);
        assert!(said.contains("warning: cannot read secret `hf`"), "{command:?}: {said}");
        assert!(!said.contains("error[E-SECRET]") && said.contains("cp-1"), "{command:?}: {said}");
    }
    let (path, catalog) = (dir.path().join("site.yaml"), crate::inventory::catalog());
    let inventory = provision::inventory::load(&path, &catalog).expect("an inventory").inventory;
    let lock = provision::artifact::Lock::unresolved(&provision::role::artifacts(&inventory, &catalog));
    lock.save(&dir.path().join("provision.lock")).expect("written");
    let planned = run(&["plan"]);
    assert!(planned.contains("error[E-SECRET]"), "what is planned needs it: {planned}");
}
