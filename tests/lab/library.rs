//! The library without the command line: several inventories in one process, and calls that are dropped half-way.

use provision::event::{Event, Events};
use provision::fleet::{Fleet, Loaded, Purpose, Selection, Source, StateDir};
use provision::run::{Cancel, RunReport};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

static NEXT: AtomicU8 = AtomicU8::new(1);

/// Loads the smallest lab inventory under a name and addresses of its own.
fn loaded(dir: &Path, name: &str) -> Loaded {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories/lab/inventory.yaml");
    let text = std::fs::read_to_string(example).expect("the example");
    let net = format!("127.{}.{}.", std::process::id() % 50 + 70, NEXT.fetch_add(1, Ordering::Relaxed));
    let site = dir.join(name);
    std::fs::create_dir(&site).expect("made");
    let text = text.replace("127.77.0.", &net).replacen("name: lab", &format!("name: {name}"), 1);
    assert!(text.contains(&format!("name: {name}")), "the example is called lab: {text}");
    std::fs::write(site.join("inventory.yaml"), text).expect("written");
    let source = Source {
        program: Some(env!("CARGO_BIN_EXE_provision").into()),
        state: StateDir::below(dir.join("state")),
        ..Source::at(site)
    };
    source.load().expect("valid")
}

async fn open(loaded: Loaded, events: &Events) -> Fleet {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let lab = Selection { lab: true, ..Selection::default() };
    Fleet::open(loaded, &lab, Purpose::Change, events).await.expect("opened")
}

async fn apply(fleet: &Fleet, events: &Events) -> RunReport {
    let (plan, _) = fleet.plan_to_apply(events).await;
    let (_stop, cancel) = Cancel::new();
    fleet.apply(&plan, events.clone(), cancel, None).await.expect("carried out")
}

fn steps(fleet: &Fleet, observation: provision::fleet::Observation) -> usize {
    fleet.plan(observation).steps()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_inventories_converge_at_once_in_one_process() {
    let dir = tempfile::tempdir().expect("a folder");
    let events = Events::none();
    let (one, two) = tokio::join!(async { open(loaded(dir.path(), "one"), &events).await }, async {
        open(loaded(dir.path(), "two"), &events).await
    });
    let (first, second) = tokio::join!(apply(&one, &events), apply(&two, &events));
    for report in [&first, &second] {
        let failures: Vec<_> =
            report.failures().map(|(target, failure)| format!("{target} {failure}")).collect();
        assert!(failures.is_empty(), "{failures:?}");
    }
    for fleet in [&one, &two] {
        let seen = fleet.observe(&events).await;
        assert_eq!(steps(fleet, seen), 0, "{} is in sync", fleet.inventory.name);
        let status = fleet.status(false).await.expect("a status");
        assert_eq!((&status.inventory, status.lab), (&fleet.inventory.name, true));
        assert!(!status.is_troubled(), "{status:?}");
    }
    let answers = one.ask_models("Who are you?", Duration::from_secs(20)).await;
    assert!(!answers.is_empty() && answers.iter().all(|a| a.answer.is_ok()), "each tenant's model answers");
    one.close().expect("ended");
    two.close().expect("ended");
    let labs = std::fs::read_dir(dir.path().join("state/provision/lab")).expect("labs were up").flatten();
    for lab in labs {
        assert!(!lab.path().join("hosts").exists(), "{} is gone", lab.path().display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_dropped_half_way_is_made_good_by_the_next() {
    let dir = tempfile::tempdir().expect("a folder");
    let (events, mut seen) = Events::channel();
    let fleet = open(loaded(dir.path(), "cut"), &events).await;
    let began = async {
        while let Some(event) = seen.recv().await {
            if matches!(event, Event::StepDone { .. }) {
                return;
            }
        }
    };
    tokio::select! {
        report = apply(&fleet, &events) => panic!("it was to be cut off: {:?}", report.counts()),
        () = began => {}
    }
    let report = apply(&fleet, &events).await;
    let failures: Vec<_> = report.failures().map(|(target, failure)| format!("{target} {failure}")).collect();
    assert!(failures.is_empty(), "{failures:?}");
    let seen = fleet.observe(&events).await;
    assert_eq!(steps(&fleet, seen), 0);
    fleet.close().expect("ended");
}
