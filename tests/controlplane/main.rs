//! Tier 4: a real control plane. Run by `tests/run`, since it needs Go (or `KUBEBUILDER_ASSETS`): `cargo test --test
//! controlplane`, with parts of names to run only those cases. One control plane serves all of them, one after the other;
//! the last line is `tier controlplane: N passed, M failed`. The cases of `routing` have a network and a control plane of
//! their own, and a line `tier routing: …`. Exit code 77: there is no control plane, router or Envoy to test against.

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
mod routing;
mod servers;
mod waves;

use futures::FutureExt;
use futures::future::BoxFuture;
use routing::{edge, ends, mixed};
use servers::ControlPlane;
use std::panic::AssertUnwindSafe;
use std::path::Path;
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

async fn run(tests: &[Test], plane: &ControlPlane, sweeps: bool) -> usize {
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
        if !sweeps {
            continue;
        }
        let sweep = AssertUnwindSafe(nodes::sweep(plane)).catch_unwind();
        let _ = tokio::time::timeout(CASE_DEADLINE, sweep).await;
    }
    failed
}

/// Runs tests on a control plane of their own; prints what came out of it under a name.
fn tier(name: &str, tests: &[Test], programs: &Path) -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let began = Instant::now();
    let started = runtime.block_on(ControlPlane::start(programs));
    let plane = match started {
        Ok(plane) => plane,
        Err(why) => {
            eprintln!("the control plane did not start: {why}");
            println!("tier {name}: 0 passed, 1 failed");
            return ExitCode::FAILURE;
        }
    };
    println!("control plane of {} started in {} ms", programs.display(), began.elapsed().as_millis());
    // Nodes of the routing cases stay, with their pods.
    let failed = runtime.block_on(run(tests, &plane, !routing::network::inside()));
    runtime.block_on(routing::end());
    plane.end();
    println!("tier {name}: {} passed, {failed} failed", tests.len().saturating_sub(failed));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the routing cases in a network of their own.
fn routing_tier() -> ExitCode {
    // What comes out of the network comes before there is none.
    if let Err(why) = routing::assets() {
        println!("NOT RUN: a real router: {why}");
        return ExitCode::from(NOT_RUN);
    }
    let ended = routing::network::run_inside().expect("unshare runs");
    if ended.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn main() -> ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let is_wanted = |(name, _): &Test| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str()));
    let tests: Vec<Test> = all().into_iter().filter(is_wanted).collect();
    let routing =
        routing::tests().into_iter().chain(edge::tests()).chain(mixed::tests()).chain(ends::tests());
    let routing: Vec<Test> = routing.filter(is_wanted).collect();
    if std::env::args().any(|a| a == "--list") {
        tests.iter().chain(&routing).for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let programs = match assets::programs() {
        Ok(programs) => programs,
        Err(why) => {
            println!("NOT RUN: a real control plane: {why}");
            return ExitCode::from(NOT_RUN);
        }
    };
    if routing::network::inside() {
        routing::network::bring_up();
        return tier("routing", &routing, &programs);
    }
    let first = if tests.is_empty() && !routing.is_empty() {
        ExitCode::SUCCESS
    } else {
        tier("controlplane", &tests, &programs)
    };
    let second = if routing.is_empty() { ExitCode::SUCCESS } else { routing_tier() };
    if first == ExitCode::SUCCESS { second } else { first }
}
