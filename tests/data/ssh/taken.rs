//! Compromised hosts: their output must not affect this machine.

use super::server::{Files, Rules, Server};
use provision::event::Events;
use provision::executor::{HostSetup, HostTarget, STATE_DIR, Sudo};
use std::sync::Arc;
use std::time::Duration;

/// Returns a host of which every program does something else.
async fn host(instead: &'static str) -> (HostTarget, Server, Files) {
    let server = Server::start(Rules { instead: Some(instead), ..Rules::default() }).await;
    let files = Files::trusting(&[&server]);
    let target = HostTarget::new(HostSetup {
        host: "h-1".into(),
        dial: files.pool().host(server.endpoint("h-1")),
        sudo: Sudo::None,
        desired: Arc::new(|_| Ok(Vec::new())),
        run: "TEST1".into(),
        owner: "test@here".into(),
        state_dir: STATE_DIR.into(),
        steady_s: 1,
        reboot_deadline: Duration::from_secs(1),
        bmc: None,
        redact: Vec::new(),
        events: Events::none(),
    });
    (target, server, files)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_given_up_and_no_answer_is_none() {
    for (instead, code) in [
        ("flood 200000000", "E-FLOOD"),
        ("flood-aside 200000000", "E-FLOOD"),
        ("frames 200000", "E-FACTS"),
        ("frames 0", "E-FACTS"),
        ("say hello", "E-SHELL"),
        ("exit 3", "E-SHELL"),
    ] {
        let (target, _server, _files) = host(instead).await;
        let failure = target.facts().await.expect_err("no facts");
        assert_eq!(failure.code, code, "{instead}: {failure}");
        assert!(failure.tail.iter().map(String::len).sum::<usize>() < 100_000, "{instead}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_prints_without_end_is_given_up() {
    for instead in ["flood 200000000", "flood-aside 200000000"] {
        let (target, _server, _files) = host(instead).await;
        let ended = target.run("uptime", false, Duration::from_secs(60)).await;
        assert_eq!(ended.expect_err("given up").code, "E-FLOOD", "{instead}");
    }
}

/// A login whose key has a forced command: what the server says is shown, and no advice about sudo is given.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_forced_command_says_is_shown() {
    let says = "say Please login as the user \"ubuntu\" rather than the user \"root\".";
    let (target, _server, _files) = host(says).await;
    let failure = target.facts().await.expect_err("no facts");
    assert_eq!(failure.code, "E-SHELL");
    let cause = failure.cause.clone().unwrap_or_default();
    assert!(cause.contains("Please login as the user \"ubuntu\""), "{failure:?}");
    let hint = failure.hint.clone().unwrap_or_default();
    assert!(hint.contains("ssh.user") && !hint.contains("sudo"), "{hint}");
    assert!(failure.tail.iter().any(|line| line.contains("ubuntu")), "{failure:?}");
    let (target, _server, _files) = host("exit 3").await;
    let hint = target.facts().await.expect_err("no facts").hint.unwrap_or_default();
    assert_eq!(hint, "Log in and run: /bin/sh -c true", "it logs in as root");
}
