//! The parsers of external input, each as a function of bytes, for fuzzing: `fuzz/` runs them under libFuzzer,
//! `tests/data/fuzz.rs` for seconds on every build. Each must return for any bytes. Not part of the public API.

use crate::catalog::Catalog;
use crate::import::{FORMATS, Format, Input};
use crate::inventory::{Inventory, Range, Snapshot, catalog_beside, load_from, select};
use crate::k0s::{ControllerOutput, QuestionAnswer};
use crate::plan::{Cases, Facts, Plan, Policies};
use crate::report::{PlanView, fit, plan_text};
use crate::state::HostName;
use crate::{artifact, executor, import, reconciler, redact, run, ssh};
use std::path::Path;
use std::sync::LazyLock;

/// What one parser is called, and the parser.
pub type Target = (&'static str, fn(&[u8]));

/// All of them. Those that read documents come first.
pub const TARGETS: [Target; 20] = [
    ("inventory", inventory),
    ("csv", csv),
    ("import", foreign),
    ("lock", lock),
    ("bundle", bundle),
    ("plan", plan),
    ("policy", policy),
    ("journal", journal),
    ("ranges", ranges),
    ("limit", limit),
    ("known_hosts", known_hosts),
    ("frame", frame),
    ("progress", progress),
    ("catalog", catalog),
    ("keys", keys),
    ("redaction", redaction),
    ("ssh_config", ssh_config),
    ("k0s", k0s),
    ("backup", backup),
    ("pods", pods),
];

/// The inventory that other parsers need one of.
const SMALL: &str = "metadata: {name: x}\nssh: {user: u}\ncluster: {k0s: {version: v1.35.7+k0s.0}}\n\
    pools:\n  c: {role: controller, hosts: {cp-1: {address: 10.0.0.1}}}\n";

static CATALOG: LazyLock<Option<Catalog>> = LazyLock::new(|| Catalog::builtin().ok());
static INVENTORY: LazyLock<Option<Inventory>> = LazyLock::new(|| {
    let files = Snapshot::from_iter([("site/site.yaml", SMALL.to_owned())]);
    Some(load_from(&files, Path::new("site/site.yaml"), CATALOG.as_ref()?).ok()?.inventory)
});

fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

/// Loads an inventory of these files; what is found wrong is shown.
fn load(files: &[(&str, String)], path: &str) {
    let files: Snapshot = files.iter().map(|(path, text)| (path, text.clone())).collect();
    let Some(catalog) = CATALOG.as_ref() else { return };
    if let Err(found) = load_from(&files, Path::new(path), catalog) {
        let _ = (found.render(false), found.render(true));
    }
}

fn inventory(data: &[u8]) {
    load(&[("site/site.yaml", text(data))], "site/site.yaml");
}

fn csv(data: &[u8]) {
    let site = SMALL.replace("{role: controller, hosts", "{role: controller, hostsFrom: hosts.csv, hosts");
    load(&[("site/site.yaml", site), ("site/hosts.csv", text(data))], "site/site.yaml");
}

/// Imports a text as one of another tool's inventories; returns the inventory, and the codes of what is wrong with it.
pub fn imported(format: &str, text: &str) -> Option<(String, Vec<&'static str>)> {
    let (_, format) = FORMATS.iter().find(|(name, _)| *name == format)?;
    let (path, beside) = (Path::new("site/hosts"), Snapshot::default());
    let input = Input { path, text: text.to_owned(), format: Some(*format), columns: &[], beside: &beside };
    let (_, hosts) = import::read(input).ok()?;
    let made = import::starter(hosts, None, CATALOG.as_ref()?).inventory;
    let files = Snapshot::from_iter([("site/site.yaml", made.clone())]);
    let found = match load_from(&files, Path::new("site/site.yaml"), CATALOG.as_ref()?) {
        Ok(loaded) => loaded.diagnostics,
        Err(found) => found,
    };
    Some((made, found.all.iter().map(|found| found.code).collect()))
}

/// An inventory of another tool, in its own format and taken for each of the others, with the same text beside it.
fn foreign(data: &[u8]) {
    let text = text(data);
    for (format, _) in FORMATS {
        let _ = imported(format, &text);
    }
    let beside = ["group_vars/all.yml", "host_vars/h1/x.yml"].map(|path| (path, text.clone()));
    let beside = Snapshot::from_iter(beside);
    let (path, columns) = (Path::new("hosts"), [("name".to_owned(), "ip".to_owned())]);
    let _ = import::read(Input { path, text: text.clone(), format: None, columns: &[], beside: &beside });
    let _ = import::read(Input { path, text, format: Some(Format::Csv), columns: &columns, beside: &beside });
}

fn catalog(data: &[u8]) {
    let files = Snapshot::from_iter([("site/catalog/rows.yaml", text(data))]);
    let _ = catalog_beside(&files, Path::new("site"));
}

fn lock(data: &[u8]) {
    let _ = artifact::Lock::parse(&text(data));
}

/// The index of a bundle, and names of images.
fn bundle(data: &[u8]) {
    let text = text(data);
    if let Ok(index) = artifact::Index::parse(&text) {
        let _ = (index.text(), index.sums());
    }
    let _ = artifact::image_key(&text);
}

fn plan(data: &[u8]) {
    if let Ok(plan) = serde_json::from_slice::<Plan>(data) {
        for verbose in [false, true] {
            let (place, width) = ("-i site".to_owned(), verbose.then_some(60));
            let view = PlanView { hosts: verbose, verbose, observed_in: None, place, width };
            let _ = fit(&plan_text(&plan, &view), width);
        }
        let _ = crate::plan::stale(&plan, &plan);
    }
}

/// A file of policies, evaluated on nothing.
fn policy(data: &[u8]) {
    let text = text(data);
    match Policies::read("policies", &[("p.yaml".to_owned(), text.clone())]) {
        Ok(policies) => {
            let report = policies.judge(&Facts::default());
            let _ = policies.findings(&report, Some(0)).render(false);
        }
        Err(found) => drop(found.render(false)),
    }
    let _ = Cases::read("cases.yaml", &text);
}

fn journal(data: &[u8]) {
    let _ = run::records(Path::new("RUN.jsonl"), &text(data));
}

fn ranges(data: &[u8]) {
    if let Ok(range) = Range::of(&text(data)) {
        let _ = range.texts();
    }
}

fn limit(data: &[u8]) {
    if let Some(inventory) = INVENTORY.as_ref() {
        let _ = select(inventory, Some(&text(data)));
    }
}

fn known_hosts(data: &[u8]) {
    let mut known = ssh::known_hosts::KnownHosts::default();
    known.add(Path::new("known_hosts"), &text(data));
    let keys = known.lookup("cp-1", 22);
    let _ = (keys.algorithms(), keys.has_authority());
    let _ = known.lookup("10.0.0.1", 2222).algorithms();
}

fn keys(data: &[u8]) {
    let _ = artifact::fingerprints(data);
}

/// What `ssh -G` prints.
fn ssh_config(data: &[u8]) {
    let asked = ssh::Asked { host: "h-1".to_owned(), ..ssh::Asked::default() };
    let _ = ssh::parse_user_config(&text(data), &asked, Path::new("/nowhere"));
}

/// What k0s and programs on controllers print.
fn k0s(data: &[u8]) {
    let said = text(data);
    let _ = crate::k0s::sysinfo(&said);
    let _ = crate::k0s::control_plane(|_| Some(QuestionAnswer { text: said.clone(), exit: Some(0) }));
    let _ = crate::k0s::read_restore_state(&said);
    let _ = crate::k0s::subject_and_end(data);
    let certificates = crate::k0s::certificates_of(&said);
    for now_s in [i64::MIN, 0, i64::MAX] {
        let _ = (crate::k0s::due(&certificates, now_s), crate::k0s::authority_ends(&certificates, now_s, 1));
    }
    let answer = |host: &str| ControllerOutput {
        host: HostName::new(host),
        address: "10.0.0.1".to_owned(),
        output: Ok(said.clone()),
    };
    let answers = [answer("cp-1"), answer("cp-2")];
    let _ = crate::k0s::etcd::members(&answers);
    let _ = crate::k0s::etcd::ready(&answers);
    let _ = crate::k0s::etcd::without(&answers, &HostName::new("cp-1"), "10.0.0.1");
    let _ = crate::k0s::etcd::hindrance(&answers, &HostName::new("cp-1"));
}

/// An archive of a controller, and what is kept beside it.
fn backup(data: &[u8]) {
    let _ = crate::k0s::check_archive(data);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    if std::io::Write::write_all(&mut packed, data).is_ok()
        && let Ok(packed) = packed.finish()
    {
        let _ = crate::k0s::check_archive(&packed[..]);
    }
    let _ = serde_json::from_slice::<crate::fleet::BackupRecord>(data);
}

fn redaction(data: &[u8]) {
    let _ = redact::redacted(&text(data), &[]);
}

fn pods(data: &[u8]) {
    reconciler::fuzz::pods(&text(data));
}

fn frame(data: &[u8]) {
    executor::fuzz::query_output(&text(data));
}

fn progress(data: &[u8]) {
    executor::fuzz::output(data);
}
