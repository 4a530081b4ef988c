//! Tier 4: a real control plane. Run by `tests/run`, since it needs Go (or `KUBEBUILDER_ASSETS`): `cargo test --test
//! controlplane`, with parts of names to run only those cases. One control plane serves all of them, one after the other;
//! the last line is `tier controlplane: N passed, M failed`. Exit code 77: there is no control plane to test against.

// Functions around tests fail as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod assets;
mod contract;
mod kit;
mod lab;
mod manifests;
mod nodes;
mod pki;
mod reconciler;
mod servers;
mod waves;

use futures::FutureExt;
use futures::future::BoxFuture;
use servers::ControlPlane;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Nothing here waits longer than this for anything.
const CASE_DEADLINE: Duration = Duration::from_secs(180);
/// As in automake: what was to be tested is not there.
const NOT_RUN: u8 = 77;

/// A test: its name, and what it does on the control plane.
type Test = (&'static str, Run);
/// What a test does.
type Run = for<'a> fn(&'a ControlPlane) -> BoxFuture<'a, ()>;

macro_rules! contract_tests {
    ($($module:ident: [$($case:ident),* $(,)?],)*) => {
        [$($((
            concat!("contract::", stringify!($case)),
            (|plane| Box::pin(contract::run(plane, stringify!($case)))) as Run,
        ),)*)*]
    };
}

/// Lists tests of a module by the names of its functions.
macro_rules! tests {
    ($module:ident: $($case:ident),* $(,)?) => {
        [$((
            concat!(stringify!($module), "::", stringify!($case)),
            (|plane| Box::pin(crate::$module::$case(plane))) as crate::Run,
        ),)*]
    };
}
pub(crate) use tests;

fn all() -> Vec<Test> {
    let mut all: Vec<Test> = contract::cases!(contract_tests).to_vec();
    all.extend(reconciler::tests());
    all.extend(nodes::tests());
    all.extend(waves::tests());
    all.extend(manifests::tests());
    all.extend(lab::tests());
    all
}

async fn run(tests: &[Test], plane: &ControlPlane) -> usize {
    let mut failed = 0;
    for (name, test) in tests {
        let began = Instant::now();
        let ended = tokio::time::timeout(CASE_DEADLINE, AssertUnwindSafe(test(plane)).catch_unwind()).await;
        let took = began.elapsed().as_millis();
        match &ended {
            Ok(Ok(())) => println!("ok: {name} ({took} ms)"),
            // The panic said why on stderr.
            Ok(Err(_)) => {
                println!("FAILED: {name}");
                failed += 1;
            }
            Err(_) => {
                println!("FAILED: {name}: not done after {} s", CASE_DEADLINE.as_secs());
                failed += 1;
            }
        }
        if let Err(why) = plane.all_run() {
            eprintln!("{why}");
            return failed + 1;
        }
        let sweep = AssertUnwindSafe(nodes::sweep(plane)).catch_unwind();
        let _ = tokio::time::timeout(CASE_DEADLINE, sweep).await;
    }
    failed
}

fn main() -> ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let mut tests = all();
    tests.retain(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str())));
    if std::env::args().any(|a| a == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let programs = match assets::programs() {
        Ok(programs) => programs,
        Err(why) => {
            println!("NOT RUN: a real control plane: {why}");
            return ExitCode::from(NOT_RUN);
        }
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let began = Instant::now();
    let started = runtime.block_on(ControlPlane::start(&programs));
    let plane = match started {
        Ok(plane) => plane,
        Err(why) => {
            eprintln!("the control plane did not start: {why}");
            println!("tier controlplane: 0 passed, 1 failed");
            return ExitCode::FAILURE;
        }
    };
    println!("control plane of {} started in {} ms", programs.display(), began.elapsed().as_millis());
    let failed = runtime.block_on(run(&tests, &plane));
    plane.end();
    println!("tier controlplane: {} passed, {failed} failed", tests.len().saturating_sub(failed));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
