//! `import`: inventories of other tools, in the shapes that public repositories have, and what comes of them. Each file in
//! `foreign/` names the repository and path that its shape is from; tables have no comments, so [`TABLES`] does.

use proptest::prelude::*;
use provision::fleet::{Import, ImportResult, formats};
use provision::fuzz::imported;
use provision::import::{Note, NoteKind, note_lines};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A file, its format, and the codes that `validate` has for what only a person can fill in.
type Case = (&'static str, &'static str, &'static [&'static str]);

const CASES: [Case; 19] = [
    ("ansible-ranges/hosts", "ansible", &["E-CLUSTER-ADDRESS"]),
    ("deepops/inventory", "ansible", &[]),
    ("deepops-slurm/inventory", "ansible", &[]),
    ("k3s-ini/hosts.ini", "ansible", &[]),
    ("k3s-yaml/inventory.yml", "ansible", &[]),
    ("kubespray-ini/inventory.ini", "ansible", &[]),
    ("kubespray-two-networks/hosts.yaml", "ansible", &["W-EVEN-CONTROLLERS"]),
    ("kubespray-yaml/hosts.yaml", "ansible", &["W-EVEN-CONTROLLERS"]),
    ("k0sctl-bastion/k0sctl.yaml", "k0sctl", &["E-CLUSTER-INTERFACE"]),
    ("k0sctl-labels/k0sctl.yaml", "k0sctl", &[]),
    ("k0sctl-names/k0sctl.yaml", "k0sctl", &["E-CLUSTER-ADDRESS", "W-EVEN-CONTROLLERS"]),
    ("k0sctl-three/k0sctl.yaml", "k0sctl", &[]),
    ("ssh-jump/config", "ssh-config", &[]),
    ("ssh-wildcards/config", "ssh-config", &["E-CLUSTER-ADDRESS"]),
    ("skypilot-one/ssh_node_pools.yaml", "skypilot", &["E-CLUSTER-ADDRESS"]),
    ("skypilot-pools/ssh_node_pools.yaml", "skypilot", &[]),
    ("csv-eksa/hardware.csv", "csv", &[]),
    ("csv-netbox/devices.csv", "csv", &["E-MISSING"]),
    ("csv-stacki/hosts.csv", "csv", &[]),
];

/// Where the shapes of tables are from.
const TABLES: [(&str, &str); 3] = [
    ("csv-eksa", "aws/eks-anywhere, docs/content/en/docs/getting-started/baremetal/bare-preparation.md"),
    ("csv-netbox", "made up: what a DCIM exports, with columns for GPUs"),
    ("csv-stacki", "Teradata/stacki-wiki, hosts.csv"),
];

/// What no output may have: each secret in the files here says so.
const CANARY: &str = "CANARY";
const CANARY_IN_VAULT: &str = "43414e415259";

fn foreign() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/foreign")
}

fn import(path: &Path) -> Import {
    Import { path: path.to_owned(), format: None, columns: Vec::new(), name: None }
}

/// Returns what a screen and the comments say, without this machine's folder.
fn told(notes: &[Note]) -> String {
    note_lines(notes).join("\n").replace(&format!("{}/", foreign().display()), "")
}

/// Returns the part of an inventory that another source would change.
fn changing(inventory: &str) -> String {
    let from = inventory.find("ssh: {").expect("ssh");
    let to = inventory.find("\n# Router, models").expect("the end of pools");
    let lines = inventory[from..to].lines().filter(|line| !line.is_empty() && !line.starts_with("# "));
    lines
        .filter(|line| !line.starts_with("  # These networks"))
        .fold(String::new(), |text, line| text + line + "\n")
}

fn codes(result: &ImportResult) -> Vec<&str> {
    result.findings.all.iter().map(|found| found.code).collect()
}

#[test]
fn each_shape_becomes_the_inventory_and_the_notes_that_were_reviewed() {
    for (file, format, expected) in CASES {
        let result = import(&foreign().join(file)).run().unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!((result.format, codes(&result).as_slice()), (format, expected), "{file}");
        let name = file.split('/').next().expect("a folder");
        let text = format!("{}\n{}\n", changing(&result.inventory), told(&result.notes));
        insta::assert_snapshot!(format!("import-{name}"), text);
    }
}

#[test]
fn the_comments_at_the_end_say_what_the_screen_says() {
    for (file, _, _) in CASES {
        let result = import(&foreign().join(file)).run().expect("imported");
        let (_, end) = result.inventory.rsplit_once("}}\n\n").expect("the commented examples end");
        let comments: Vec<&str> =
            end.lines().map(|line| line.strip_prefix("# ").expect("a comment")).collect();
        assert_eq!(comments, note_lines(&result.notes), "{file}");
        // What a person has to fill in is marked where it belongs, once each.
        let gaps = result.notes.iter().filter(|note| note.kind == NoteKind::FillIn).count();
        assert_eq!(result.inventory.matches("# FILL IN").count() >= 1, gaps > 0, "{file}");
    }
}

#[test]
fn every_file_names_where_its_shape_is_from() {
    for (file, _, _) in CASES {
        let text = std::fs::read_to_string(foreign().join(file)).expect("read");
        let folder = file.split('/').next().expect("a folder");
        let named = text.lines().take(2).any(|line| line.starts_with("# The "));
        assert!(
            named || TABLES.iter().any(|(table, source)| *table == folder && !source.is_empty()),
            "{file}"
        );
    }
}

#[test]
fn no_secret_is_copied_or_shown() {
    let (mut seen, mut files) = (0, Vec::new());
    let mut folders = vec![foreign()];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path())
        {
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    for path in files {
        let text = std::fs::read_to_string(&path).expect("read").to_lowercase();
        seen += text.matches(&CANARY.to_lowercase()).count() + text.matches(CANARY_IN_VAULT).count();
    }
    assert!(seen > 12, "the files have secrets to find: {seen}");
    for (file, _, _) in CASES {
        for arguments in [&["import"][..], &["import", "--output", "json"]] {
            let output = provision(&foreign(), &[arguments, &[file]].concat());
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(output.status.success(), "{file}: {said}");
            assert!(!said.contains(CANARY) && !said.contains(CANARY_IN_VAULT), "{file}: {said}");
        }
    }
}

fn provision(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_provision"));
    command.args(arguments).current_dir(folder).env_remove("PROVISION_INVENTORY").output().expect("run")
}

#[test]
fn columns_and_the_name_can_be_given() {
    let column = |what: &str, header: &str| (what.to_owned(), header.to_owned());
    let columns = vec![column("role", "labels"), column("rack", "disk")];
    let path = foreign().join("csv-eksa/hardware.csv");
    let result = Import { columns, name: Some("ams".to_owned()), ..import(&path) }.run().expect("imported");
    let expected = "  control:\n    role: controller\n    hosts:\n      \
        \"eksa-cp[01-03]\": {address: \"10.85.50.[2-4]\", rack: /dev/sda, bmc: \"10.85.44.[1-3]\"}\n";
    assert!(result.inventory.contains(expected), "{}", result.inventory);
    assert!(result.inventory.contains("metadata: {name: ams}"), "{}", result.inventory);
    assert_eq!(codes(&result), [""; 0]);
}

/// Returns what `import` says of a file with this text.
fn refused(name: &str, text: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join(name), text).expect("written");
    let output = provision(folder.path(), &["import", name]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{name}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_cannot_be_imported_says_why_and_what_to_do() {
    for (name, text, expected) in [
        (
            "notes.txt",
            "buy milk\n",
            ["its format is not known", "--from ansible|k0sctl|ssh-config|skypilot|csv"],
        ),
        (
            "ec2.py",
            "#!/usr/bin/env python3\nprint()\n",
            ["it is a program", "ansible-inventory -i FILE --list --yaml"],
        ),
        (
            "config",
            "Host git.example\n  User git\nHost *\n  User eva\n",
            ["it has no host", "git.example: its login is git"],
        ),
        ("k0sctl.yaml", "apiVersion: k0sctl.k0sproject.io/v1beta1\nspec: {}\n", ["it has no host", "--from"]),
        ("hosts", "[a]\nh[1:99999][1:9]\n", ["it has no host", "it stands for too many hosts"]),
    ] {
        let said = refused(name, text);
        assert!(expected.iter().all(|part| said.contains(part)), "{name}: {said}");
        assert!(said.starts_with("error[E-IMPORT]: cannot import "), "{name}: {said}");
    }
    let yaml = foreign().join("k0sctl-three/k0sctl.yaml");
    let wrong = Import { format: Some("csv".to_owned()), ..import(&yaml) }.run().expect_err("no table");
    assert!(wrong.to_string().contains("none of its columns is known"), "{wrong}");
    let wrong = Import { columns: vec![("name".to_owned(), "x".to_owned())], ..import(&yaml) }.run();
    assert!(wrong.expect_err("no columns").to_string().contains("--column is for CSV files"));
    // What begins as YAML is never read as anything else, whatever it is called.
    for (name, text) in
        [("hosts", "all:\n  hosts:\n    h1: {ansible_host: 10.0.0.1}\n\th2: {}\n"), ("a.yaml", "x: [}\n")]
    {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(name), text).expect("written");
        for from in [&["import", name][..], &["import", name, "--from", "ansible"]] {
            let output = provision(folder.path(), from);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code() == Some(1) && said.contains("error[E-YAML]"), "{name}: {said}");
        }
    }
    // A mistake in YAML has its line, but shows none: it may hold a secret.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pools.yaml");
    std::fs::write(&path, "pool:\n  password: CANARY\n  hosts: [}\n").expect("written");
    let wrong = Import { format: Some("skypilot".to_owned()), ..import(&path) }.run().expect_err("not YAML");
    let said = wrong.to_string();
    assert!(said.contains("E-YAML") && said.contains("pools.yaml:3") && !said.contains(CANARY), "{said}");
}

/// A mark of an editor, an address in brackets, and a section that nobody knows lose no host unnamed.
#[test]
fn every_host_of_an_ini_file_is_read_or_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hosts");
    let text = "\u{feff}[kube_control_plane]\r\ncp-1 ansible_host=10.0.0.1\r\n[kube_node]\nw-1 ansible_host=10.0.0.2\n\
                [2001:db8::1]:2200\nw-2 ansible_host=10.0.0.3\n[kube_node:odd]\nw-3 ansible_host=10.0.0.4\n";
    std::fs::write(&path, text).expect("written");
    let result = import(&path).run().expect("it is read");
    let (inventory, notes) = (&result.inventory, told(&result.notes));
    assert_eq!(result.hosts, 4, "{inventory}");
    for part in
        ["cp-1: {address: \"10.0.0.1\"}", "address: \"2001:db8::1\", port: 2200", "w-2", "role: controller\n"]
    {
        assert!(inventory.contains(part), "{part}: {inventory}");
    }
    assert!(notes.contains("w-3: its section is of no kind that is known"), "{notes}");
}

#[test]
fn tags_and_templates_are_not_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    for (format, text, what) in [
        (
            "ansible",
            "all: {hosts: {h1: {ansible_host: !include x.yml, ansible_user: !!str eva}}}\n",
            "ansible_host: its YAML tag",
        ),
        (
            "ansible",
            "all: {hosts: {h1: {ansible_host: \"{{ x }}\", ansible_user: eva}}}\n",
            "ansible_host: it is a template",
        ),
        (
            "ansible",
            "[a]\nh1 ansible_user=eva ansible_host=\"{{ lookup('pipe', 'id') }}\"\n",
            "ansible_host: it is a template",
        ),
        ("skypilot", "a: {user: eva, identity_file: !env KEY, hosts: [h1]}\n", "identity_file: its YAML tag"),
        ("csv", "name,user,ip\nh1,eva,{{ x }}\n", "address: it is a template"),
    ] {
        std::fs::write(&path, text).expect("written");
        let result = Import { format: Some(format.to_owned()), ..import(&path) }.run().expect("imported");
        assert!(note_lines(&result.notes).iter().any(|line| line.contains(what)), "{text}{:?}", result.notes);
        assert!(result.inventory.contains("ssh: {user: eva}"), "{text}{}", result.inventory);
    }
}

#[test]
fn variables_count_in_the_order_of_ansible() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    };
    write(
        "hosts",
        "[all:vars]\nansible_user=a\n[out:children]\nin\n[out:vars]\nansible_user=b\n[in:vars]\nansible_user=c\n\
         [in]\nh1 ansible_host=192.0.2.1\nh2 ansible_host=192.0.2.8 ansible_user=f\nh3 ansible_host=192.0.2.4 ansible_user=f\n\
         [rest]\nh4 ansible_host=192.0.2.6\n",
    );
    let users = || {
        let result = import(&folder.path().join("hosts")).run().expect("imported");
        let shared =
            result.inventory.split("ssh: {user: ").nth(1).and_then(|t| t.split('}').next()).expect("a user");
        let user = |host: &str| {
            let line = result
                .inventory
                .lines()
                .find(|line| line.contains(&format!(" {host}: {{")))
                .expect("the host");
            line.split("user: ")
                .nth(1)
                .map_or(shared, |rest| rest.split(['}', ',']).next().unwrap_or(rest))
                .to_owned()
        };
        ["h1", "h2", "h3", "h4"].map(user).join("")
    };
    assert_eq!(users(), "cffa", "a group inside another says more, a host the most");
    write("group_vars/all.yml", "ansible_user: d\n");
    assert_eq!(users(), "dffd", "files beside it count for more than its groups");
    write("group_vars/in/login.yml", "ansible_user: e\n");
    write("group_vars/in/notes.txt", "ansible_user: never\n");
    write("group_vars/unknown.yml", "ansible_user: never\n");
    assert_eq!(users(), "effd");
    write("host_vars/h3.yaml", "ansible_user: g\n");
    assert_eq!(users(), "efgd");
}

/// The inventory may be written anywhere: a key outside the folder of the source is named by its whole path.
#[test]
fn keys_outside_the_folder_of_the_source_are_found_from_everywhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ansible/hosts.ini");
    std::fs::create_dir(folder.path().join("ansible")).expect("made");
    let line =
        |n: usize, key: &str| format!("h{n} ansible_host=10.0.0.{n} ansible_ssh_private_key_file={key}\n");
    let keys = ["../keys/id", "keys/id", "~/.ssh/id", "/etc/id"];
    let text: String = keys.iter().enumerate().map(|(n, key)| line(n + 1, key)).collect();
    std::fs::write(&path, format!("[all]\n{text}")).expect("written");
    let inventory = import(&path).run().expect("imported").inventory;
    let outside = folder.path().join("keys/id").display().to_string();
    for key in [outside.as_str(), "[keys/id]", "~/.ssh/id", "/etc/id"] {
        assert!(inventory.contains(key), "{key}: {inventory}");
    }
    assert!(!inventory.contains("../"), "{inventory}");
}

#[test]
fn hosts_inside_the_usual_networks_move_the_networks() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hosts.csv");
    std::fs::write(&path, "name,ip\ncp-1,10.241.0.1\nw-1,172.16.0.9\n").expect("written");
    let result = import(&path).run().expect("imported");
    assert!(
        result.inventory.contains("{podCIDR: 100.64.0.0/13, serviceCIDR: 100.72.0.0/16}"),
        "{}",
        result.inventory
    );
    assert!(
        told(&result.notes).contains("cluster.network: hosts are in the usual networks"),
        "{:?}",
        result.notes
    );
    assert_eq!(codes(&result), [""; 0]);
}

#[test]
fn json_has_the_inventory_and_every_note() {
    let output = provision(&foreign(), &["import", "k0sctl-names/k0sctl.yaml", "--output", "json"]);
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((said["format"].as_str(), said["hosts"].as_u64()), (Some("k0sctl"), Some(3)));
    assert!(said["inventory"].as_str().is_some_and(|text| text.contains("kind: Inventory")));
    let note = serde_json::json!({
        "kind": "left-out",
        "file": "k0sctl-names/k0sctl.yaml",
        "line": 10,
        "what": "k0sBinaryPath",
        "why": "provision installs k0s in its own way",
    });
    let notes = said["notes"].as_array().expect("notes");
    assert!(notes.contains(&note), "{notes:?}");
    assert!(
        ["fill-in", "renamed", "left-out"].iter().all(|kind| notes.iter().any(|note| note["kind"] == **kind))
    );
    assert_eq!(said["findings"][0]["code"], "E-CLUSTER-ADDRESS");
    assert!(output.stderr.is_empty());
}

/// Each of these once took minutes, or all memory: little text that stands for much.
#[test]
fn small_files_stay_small_whatever_they_stand_for() {
    let chain: String = (0..3000).map(|n| format!("[g{}:children]\ng{n}\n", n + 1)).collect();
    let many = |n: usize, line: &dyn Fn(usize) -> String| (0..n).map(line).collect::<String>();
    for (format, text, expected) in [
        ("ansible", format!("[a]\n{}", "h[1:99999]\n".repeat(400)), "too many"),
        ("ansible", format!("{chain}[g0]\nh[1:99999]\n"), "nested too deeply"),
        ("ansible", format!("[a]\nh[1:99999] {}\n", many(2000, &|n| format!("v{n}=1 "))), "too many"),
        ("ssh-config", many(3000, &|n| format!("Host h{n}\nIdentityFile k{n}\n")), "too many"),
        ("csv", format!("name,ip\n{}", "h,\n".repeat(100_001)), "more than 100000 hosts"),
    ] {
        let said = refused_as(format, &text);
        assert!(said.contains(expected), "{format}: {said}");
    }
    // Names that all become one, and a long value at each host of a range.
    assert!(imported("csv", &format!("name,ip\n{}", "h!,\n".repeat(5_000))).is_some());
    assert!(imported("ansible", &format!("[a]\nh[1:5000] x={}\n", "y".repeat(1 << 20))).is_some());
}

/// Returns why a text is not imported.
fn refused_as(format: &str, text: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    std::fs::write(&path, text).expect("written");
    Import { format: Some(format.to_owned()), ..import(&path) }.run().expect_err("too much").to_string()
}

/// What `validate` may find in an inventory that was imported, whatever the file says: only a person can know better.
const FOR_A_PERSON: [&str; 8] = [
    "E-CIDR-OVERLAP",
    "E-CLUSTER-ADDRESS",
    "E-CLUSTER-INTERFACE",
    "E-DUPLICATE-ADDRESS",
    "E-MISSING",
    "E-POD-CIDR",
    "W-EVEN-CONTROLLERS",
    "W-K0S-EOL",
];

/// Values as they should be, and as nobody expects them.
fn value() -> impl Strategy<Value = String> {
    let fine = || "(10\\.[0-3]\\.0\\.[1-9]|n-[0-9]{1,2}|[a-z]{1,4}\\.example|[0-9]{1,4}|fd00::[1-9])";
    prop_oneof![4 => fine(), 2 => "[ -~]{0,12}", 1 => ".{0,12}"]
}

fn table() -> impl Strategy<Value = String> {
    let header = "name,ip,clusterip,user,port,role,rack,bmc,serial,gpu,gpus,pool";
    let quoted = |value: &String| format!("\"{}\"", value.replace('"', "\"\""));
    let row = prop::collection::vec(value(), 12)
        .prop_map(move |row| row.iter().map(quoted).collect::<Vec<_>>().join(","));
    prop::collection::vec(row, 1..8).prop_map(move |rows| format!("{header}\n{}\n", rows.join("\n")))
}

fn lines() -> impl Strategy<Value = String> {
    let names = [
        "ansible_host",
        "ansible_user",
        "ansible_port",
        "ip",
        "access_ip",
        "ansible_ssh_private_key_file",
        "ansible_ssh_common_args",
        "x",
    ];
    let sections = [
        "[kube_node]",
        "[etcd]",
        "[gpu]",
        "[bastion]",
        "[kube_control_plane]",
        "[all:vars]",
        "[gpu:children]",
    ];
    let host = (value(), prop::sample::select(names.to_vec()), value()).prop_map(|(host, name, value)| {
        format!("{} {name}='{}'", host.replace(char::is_whitespace, ""), value.replace('\'', ""))
    });
    let line = prop_oneof![3 => host, 1 => prop::sample::select(sections.to_vec()).prop_map(str::to_owned)];
    prop::collection::vec(line, 1..12).prop_map(|lines| format!("[all]\n{}\n", lines.join("\n")))
}

fn document() -> impl Strategy<Value = String> {
    let keys = ["role", "hostname", "privateAddress", "privateInterface"];
    let host = (value(), value(), prop::sample::select(keys.to_vec()), value()).prop_map(|(address, user, key, value)| {
        serde_json::json!({"ssh": {"address": address, "user": user, "keyPath": value}, key: value, "role": "worker",
            "installFlags": [format!("--labels={user}={address}"), format!("--taints={value}")]})
    });
    (prop::collection::vec(host, 1..6), value(), value()).prop_map(|(hosts, version, sans)| {
        serde_json::json!({"apiVersion": "k0sctl.k0sproject.io/v1beta1", "metadata": {"name": version},
            "spec": {"hosts": hosts, "k0s": {"version": version, "config": {"spec": {
                "api": {"sans": [sans], "externalAddress": sans}, "network": {"podCIDR": version}}}}}})
        .to_string()
    })
}

fn valid_but_for_a_person(format: &str, text: &str) -> Result<(), TestCaseError> {
    let Some((inventory, codes)) = imported(format, text) else { return Ok(()) };
    let wrong: Vec<&&str> = codes.iter().filter(|code| !FOR_A_PERSON.contains(code)).collect();
    let mut said = String::new();
    let _ = writeln!(said, "{wrong:?} of\n{text}\nas\n{inventory}");
    prop_assert!(wrong.is_empty(), "{}", said);
    // What is missing is marked.
    let marked = inventory.contains("# Fill in:");
    prop_assert!(marked || codes.iter().all(|code| code.starts_with("W-")), "{}", said);
    Ok(())
}

proptest! {
    #[test]
    fn a_table_becomes_an_inventory_that_loads(text in table()) {
        valid_but_for_a_person("csv", &text)?;
    }

    #[test]
    fn lines_of_ansible_become_an_inventory_that_loads(text in lines()) {
        valid_but_for_a_person("ansible", &text)?;
    }

    #[test]
    fn a_k0sctl_file_becomes_an_inventory_that_loads(text in document()) {
        valid_but_for_a_person("k0sctl", &text)?;
    }
}

/// The commands of the how-to, word for word, in a folder with the files that it names.
#[test]
fn the_how_to_does_what_it_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = |from: &str, to: &str| {
        let to = folder.path().join(to);
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("made");
        std::fs::copy(foreign().join(from), to).expect("copied");
    };
    copy("deepops/inventory", "inventory/hosts.ini");
    copy("deepops/group_vars/all/all.yml", "inventory/group_vars/all/all.yml");
    copy("k0sctl-three/k0sctl.yaml", "k0sctl.yaml");
    copy("ssh-jump/config", ".ssh/config");
    copy("skypilot-pools/ssh_node_pools.yaml", ".sky/ssh_node_pools.yaml");
    copy("csv-netbox/devices.csv", "assets.csv");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/how-to/import.md");
    let page = std::fs::read_to_string(page).expect("read");
    let commands: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    assert!(commands.len() >= 8 && formats().iter().all(|format| page.contains(format)), "{commands:?}");
    let programs =
        Path::new(env!("CARGO_BIN_EXE_provision")).parent().expect("a folder").display().to_string();
    for command in commands {
        let output = Command::new("/bin/sh")
            .args(["-c", command])
            .current_dir(folder.path())
            .env("HOME", folder.path())
            .env("PATH", format!("{programs}:/usr/bin:/bin"))
            .output()
            .expect("run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {said}");
    }
}
