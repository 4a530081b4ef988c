//! Policies: the shipped ones on their cases, every mistake of a file at its place, and what a stranger's policy cannot do.

use crate::screens::{past, rack, upgrade};
use provision::catalog::Catalog;
use provision::fleet::{policies_at, test_policies};
use provision::inventory::{Inventory, load};
use provision::plan::{
    Effect, Facts, InventoryFacts, Moment, PlanFacts, Policies, PolicyReport, RuleOutcome,
};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns a policy of one rule.
fn policy(when: &str) -> String {
    let when = serde_json::to_string(when).expect("text");
    format!(
        "apiVersion: provision/v1\nkind: Policy\nmetadata: {{name: p}}\nparameters: {{most: 3}}\n\
         rules:\n  r:\n    when: {when}\n    effect: deny\n    message: not like this\n"
    )
}

fn read(text: &str) -> Policies {
    Policies::read("p", &[("p.yaml".to_owned(), text.to_owned())]).unwrap_or_else(|found| panic!("{found}"))
}

fn judge(when: &str, facts: &Facts) -> PolicyReport {
    read(&policy(when)).judge(facts)
}

fn outcome(when: &str, facts: &Facts) -> (RuleOutcome, String) {
    let report = judge(when, facts);
    (report.results[0].outcome, report.results[0].line())
}

/// Facts of the rack's driver upgrade.
fn facts() -> Facts {
    let inventory: Inventory = rack();
    let plan = upgrade(&inventory, &past());
    Facts {
        command: "plan".to_owned(),
        now: Moment::of(1_796_083_200),
        plan: PlanFacts::of(&plan, &inventory),
        inventory: InventoryFacts::of(&inventory),
        ..Facts::default()
    }
}

/// Facts of a large fleet.
fn many(hosts: usize) -> Facts {
    let mut facts = facts();
    let host = facts.plan.hosts[0].clone();
    let name = |n: usize| format!("h-{n:05}");
    facts.plan.hosts = (0..hosts)
        .map(|n| {
            let mut host = host.clone();
            host.name = name(n);
            host
        })
        .collect();
    let host = facts.inventory.hosts.values().next().expect("a host").clone();
    facts.inventory.hosts = (0..hosts).map(|n| (name(n), host.clone())).collect();
    facts
}

#[test]
fn the_shipped_policies_do_what_their_cases_say_and_every_rule_has_a_case() {
    let folder = root().join("examples/policies");
    let results = test_policies(&folder).unwrap_or_else(|error| panic!("{}", error.failure()));
    let wrong: Vec<_> = results.iter().filter(|case| !case.wrong.is_empty()).collect();
    assert!(wrong.is_empty() && results.len() > 30, "{wrong:#?}");
    let policies =
        policies_at(&folder.display().to_string()).unwrap_or_else(|error| panic!("{}", error.failure()));
    let mut cases = String::new();
    for file in std::fs::read_dir(folder.join("tests")).expect("cases").flatten() {
        cases += &std::fs::read_to_string(file.path()).expect("read");
    }
    let without: Vec<&str> =
        policies.rules.iter().map(|r| r.name.as_str()).filter(|rule| !cases.contains(rule)).collect();
    assert!(without.is_empty(), "{without:?}");
    let effects: BTreeSet<String> = policies.rules.iter().map(|r| format!("{:?}", r.effect)).collect();
    assert_eq!(effects.len(), 3, "{effects:?}");
}

#[test]
fn the_shipped_policies_judge_every_example_inventory_and_a_real_plan_without_failing() {
    let policies = policies_at(&root().join("examples/policies").display().to_string()).expect("read");
    let catalog = Catalog::builtin().expect("the catalog");
    for name in ["lab", "three-nodes", "h100-rack", "trn2-ultraserver", "mixed"] {
        let loaded = load(&root().join("inventories").join(name), &catalog).unwrap_or_else(|d| panic!("{d}"));
        let facts = Facts { inventory: InventoryFacts::of(&loaded.inventory), ..facts() };
        for result in policies.judge(&facts).results {
            assert_ne!(result.outcome, RuleOutcome::Failed, "{name}: {result:?}");
        }
    }
}

#[test]
fn a_real_plan_has_the_facts_that_policies_ask_for() {
    let facts = facts();
    for (when, names) in [
        ("plan.pools.filter(p, p.drains > 0 && p.downAtOnce <= p.size).map(p, p.name)", "h100"),
        ("plan.pools.filter(p, p.capacity != null && p.capacity.unit == 'GPUs').map(p, p.name)", "h100"),
        ("plan.hosts.filter(h, h.controller).map(h, h.name)", "cp-1"),
        (
            "plan.changes.filter(c, c.kind == 'package' && c.hosts > 1 && c.fields.exists(f, f.to != null)).map(c, c.pool)",
            "h100",
        ),
        ("plan.cluster.objects.filter(o, o.kind == 'ModelRoute').map(o, o.verb)", "create"),
        ("inventory.pools.filter(p, inventory.pools[p].accelerators > 0)", "h100"),
    ] {
        let report = judge(when, &facts);
        assert_eq!(report.results[0].outcome, RuleOutcome::Applies, "{when}: {:?}", report.results[0]);
        assert!(
            report.results[0].names.iter().any(|n| n.starts_with(names)),
            "{when}: {:?}",
            report.results[0]
        );
    }
    let said = outcome("now.weekday == 2 && now.date == '2026-12-01' && now.time == '00:00'", &facts);
    assert_eq!(said.0, RuleOutcome::Applies, "{:?} {}", facts.now, said.1);
}

/// A change window is in the time zone of its file, before and after clocks change, and wherever the machine is.
#[test]
fn a_time_zone_has_its_daylight_saving_time() {
    use RuleOutcome::{Applies, Passed};
    let night = "now.time >= '01:00' && now.time < '03:00' && now.weekday == 7";
    let in_zone = |zone: &str, at: &str| {
        let text = policy(night).replace("parameters:", &format!("zone: {zone}\nparameters:"));
        let seconds = at.parse::<jiff::Timestamp>().expect("a time").as_second();
        let facts = Facts { now: Moment::of(seconds), ..facts() };
        read(&text).judge(&facts).results[0].outcome
    };
    for (zone, at, wanted) in [
        ("UTC", "2026-03-29T00:30:00Z", Passed),
        ("UTC", "2026-03-29T01:00:00Z", Applies),
        // Central European Time is an hour ahead until 01:00Z of this day, then two: 02:00 to 03:00 does not exist.
        ("Europe/Berlin", "2026-03-28T23:59:59Z", Passed),
        ("Europe/Berlin", "2026-03-29T00:00:00Z", Applies),
        ("Europe/Berlin", "2026-03-29T00:59:59Z", Applies),
        ("Europe/Berlin", "2026-03-29T01:00:00Z", Passed),
        // And back on 25 October: 02:00 to 03:00 is there twice.
        ("Europe/Berlin", "2026-10-24T22:59:59Z", Passed),
        ("Europe/Berlin", "2026-10-24T23:00:00Z", Applies),
        ("Europe/Berlin", "2026-10-25T01:59:59Z", Applies),
        ("Europe/Berlin", "2026-10-25T02:00:00Z", Passed),
        // The date and the day of the week are those of the zone too.
        ("America/Los_Angeles", "2026-06-14T08:30:00Z", Applies),
        ("Asia/Tokyo", "2026-06-13T16:30:00Z", Applies),
        ("Asia/Kathmandu", "2026-06-13T19:15:00Z", Applies),
    ] {
        assert_eq!(in_zone(zone, at), wanted, "{zone} {at}");
    }
}

/// A case gives an instant, which each zone reads, or the time that a rule sees.
#[test]
fn cases_are_at_an_instant_or_at_a_local_time() {
    let dir = tempfile::tempdir().expect("a folder");
    let rule = policy("now.time >= '09:00'").replace("parameters:", "zone: Europe/Berlin\nparameters:");
    std::fs::write(dir.path().join("p.yaml"), rule).expect("written");
    let case = |given: &str, applies: &str| format!("  - {{name: c, {given}, applies: [{applies}]}}\n");
    let cases = [
        case("at: '2026-07-01T06:59:00Z'", ""),
        case("at: '2026-07-01T07:00:00Z'", "p/r"),
        case("at: '2026-01-01T07:59:00Z'", ""),
        case("at: '2026-01-01T08:00:00Z'", "p/r"),
        case("facts: {now: {time: '08:59'}}", ""),
        case("facts: {now: {time: '09:00'}}", "p/r"),
        case("at: '2026-07-01T07:00:00Z', facts: {now: {time: '08:00'}}", ""),
    ];
    let text =
        format!("apiVersion: provision/v1\nkind: PolicyTest\npolicies: p.yaml\ncases:\n{}", cases.concat());
    let file = dir.path().join("cases.yaml");
    std::fs::write(&file, &text).expect("written");
    let results = test_policies(&file).unwrap_or_else(|error| panic!("{}", error.failure()));
    assert!(results.iter().all(|case| case.wrong.is_empty()), "{results:#?}");
    std::fs::write(&file, text.replace("2026-07-01T07:00:00Z", "tomorrow")).expect("written");
    assert!(test_policies(&file).is_err());
}

/// A rule that cannot be evaluated refuses, whatever it would have done.
#[test]
fn a_rule_that_fails_is_a_refusal_and_says_why() {
    let facts = facts();
    for (when, why) in [
        ("plan.pool > 1", "No such key: pool"),
        ("plan.steps", "expected true, false or a list of texts, got int"),
        ("[1, 2]", "got a list with int"),
        ("plan.steps / 0 > 1", "zero"),
        ("inventory.pools['nope'].hosts > 1", "No such key"),
        ("plan.hosts[100000].steps > 1", "out of bounds"),
        ("plan.steps + 'x' == 1", "operator"),
        ("commit.signed", "null_type"),
    ] {
        let (outcome, said) = outcome(when, &facts);
        assert_eq!(outcome, RuleOutcome::Failed, "{when}: {said}");
        assert!(said.to_lowercase().contains(&why.to_lowercase()), "{when}: {said}");
    }
    for effect in ["warn", "requireApproval"] {
        let policies = read(&policy("plan.pool > 1").replace("deny", effect));
        let report = policies.judge(&facts);
        assert!(report.is_denied() && report.results[0].effect != Effect::Deny, "{report:?}");
        let shown = policies.findings(&report, None).to_string();
        assert!(shown.contains("error[E-POLICY-EVALUATION]") && shown.contains("--> p.yaml:6:3"), "{shown}");
    }
}

/// Whoever writes a policy, what it may do is counted, and it ends when that is used up.
#[test]
fn no_expression_hangs_or_exhausts_memory() {
    let facts = many(10_000);
    let (sane, said) = outcome(
        "plan.hosts.filter(h, h.drains && h.name in inventory.hosts && !(h.pool in inventory.pools)).map(h, h.name)",
        &facts,
    );
    assert_eq!(sane, RuleOutcome::Passed, "what a policy needs fits: {said}");
    let facts = many(3000);
    let ones = format!("[{}]", vec!["1"; 300].join(","));
    let mut doubled = "inventory.hosts.map(h, h)".to_owned();
    let mut text = "string(1)".to_owned();
    for _ in 0..12 {
        doubled = format!("[{doubled}].map(x, x + x)[0]");
        text = format!("[{text}].map(x, x + x + x + x + x + x)[0]");
    }
    for when in [
        "plan.hosts.all(a, plan.hosts.all(b, plan.hosts.all(c, a.name != '' && b.name != c.name || true)))",
        "plan.hosts.all(a, plan.hosts == plan.hosts)",
        "plan.hosts.all(a, a in plan.hosts)",
        "size(plan.hosts.map(a, plan.hosts.map(b, plan.hosts))) > 0",
        &format!("{ones}.all(a, {ones}.all(b, {ones}.all(c, {ones}.all(d, a > 0))))"),
        &format!("size({doubled}) > 1"),
        &format!("size({text}) > 1"),
        // An error inside is no way around.
        "plan.hosts.all(a, plan.hosts.all(b, a.x == b)) || true",
        "plan.hosts.all(a, inventory + 1 == 1) || plan.hosts.exists(a, plan.hosts.exists(b, b.x)) || true",
    ] {
        let (came, said) = outcome(when, &facts);
        assert_eq!(came, RuleOutcome::Failed, "{when}: {said}");
        assert!(said.contains("too much work"), "{when}: {said}");
    }
    // All rules together have a limit too.
    let rule = "  rN:\n    when: plan.hosts.all(a, plan.hosts.all(b, a == b && a.name != '' || true))\n    effect: warn\n    message: m\n";
    let rules: String = (0..60).map(|n| rule.replace("rN", &format!("r{n}"))).collect();
    let text = format!("apiVersion: provision/v1\nkind: Policy\nmetadata: {{name: p}}\nrules:\n{rules}");
    let report = read(&text).judge(&many(2000));
    assert!(report.results.iter().all(|r| r.outcome == RuleOutcome::Failed), "{:?}", report.results[0]);
}

/// What is no expression, too large or too deep is refused when it is read.
#[test]
fn expressions_are_bounded_when_they_are_read() {
    let repeated = |part: &str, n: usize| part.repeat(n);
    for (when, why) in [
        (repeated("(", 4000), "inside one another"),
        (format!("{}true{}", repeated("(", 2000), repeated(")", 2000)), "inside one another"),
        (repeated("[", 4000), "inside one another"),
        (repeated("{", 4000), "inside one another"),
        (format!("{}false", repeated("true?true:", 400)), "inside one another"),
        (format!("plan{}", repeated(".a", 2000)), "inside one another"),
        (format!("1{} > 1", repeated("+1", 2000)), "inside one another"),
        (format!("true{}", repeated("&&true", 600)), ""),
        (repeated("a ", 2000), "mismatched input"),
        (repeated("x", 4097), "longer than 4096 bytes"),
        (repeated("'", 4000), "mismatched input"),
        ("plans.x == 1".to_owned(), "unknown variable `plans`"),
        ("plan.hosts.all(h, g.name == '')".to_owned(), "unknown variable `g`"),
        ("h.name == '' || plan.hosts.all(h, true)".to_owned(), "unknown variable `h`"),
        ("timestamp('2026-01-01T00:00:00Z') > now".to_owned(), "unknown function `timestamp`"),
        ("'a'.matches('(a+)+$')".to_owned(), "unknown function `matches`"),
        ("plan.hosts.all(h)".to_owned(), "`all` is not called like this"),
        ("Foo{a: 1} == 1".to_owned(), "unknown type `Foo`"),
        ("plan.?steps == 1".to_owned(), "unknown function"),
        ("plan.steps >".to_owned(), "line 1"),
    ] {
        match Policies::read("p", &[("p.yaml".to_owned(), policy(&when))]) {
            Ok(_) => assert_eq!(why, "", "{when}"),
            Err(found) => {
                let text = found.to_string();
                assert!(
                    text.contains("E-POLICY-EXPRESSION") && text.contains(why) && !why.is_empty(),
                    "{why}: {text}"
                );
            }
        }
    }
}

#[test]
fn mistakes_in_a_policy_are_shown_like_those_of_an_inventory() {
    let good = policy("plan.steps > parameters.most");
    let cases = [
        ("an unknown key", "effect: deny", "efect: deny"),
        ("an unknown key of the file", "parameters:", "params:"),
        ("an effect that is none", "effect: deny", "effect: refuse"),
        ("an expression that is none", "plan.steps >", "plan.steps =>"),
        ("approvals of a denial", "effect: deny", "effect: deny\n    approvals: 2"),
        ("no people", "effect: deny", "effect: requireApproval\n    approvals: 0"),
        ("no message", "    message: not like this\n", ""),
        ("a message that is a list", "not like this", "[a]"),
        ("a name that is none", "  r:", "  R_1:"),
        ("a duplicate rule", "rules:\n", "rules:\n  r: {when: 'true', effect: deny, message: m}\n"),
        ("another kind", "kind: Policy", "kind: Inventory"),
        ("another version", "provision/v1", "provision/v2"),
        ("a time zone with a slip", "parameters:", "zone: Europe/Berln\nparameters:"),
        ("a time zone that is none", "parameters:", "zone: '+02:00'\nparameters:"),
        ("no YAML", "metadata: {name: p}", "metadata: {name: p"),
        ("rules that are a list", "rules:\n  r:\n", "rules:\n  - x:\n"),
    ];
    let mut text = String::new();
    for (what, from, to) in cases {
        assert!(good.contains(from), "{from}");
        let files = [("p.yaml".to_owned(), good.replacen(from, to, 1))];
        let found = Policies::read("p.yaml", &files).expect_err(what);
        let _ = write!(text, "## {what}\n{found}\n");
    }
    insta::assert_snapshot!("policy-mistakes", text);
}

/// Runs git in a folder; `None` where there is none.
fn git(folder: &Path, arguments: &[&str]) -> Option<()> {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=a", "-c", "user.email=a@example.net", "-c", "commit.gpgsign=false"]);
    let output = command.args(arguments).current_dir(folder).output().ok()?;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

/// The policies of the earlier side judge a change, or those that are named: a change does not choose its own.
#[test]
fn a_comparison_is_judged_by_the_policies_of_the_protected_branch() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = dir.path();
    if git(at, &["init", "-q", "-b", "main"]).is_none() {
        return;
    }
    let site = std::fs::read_to_string(root().join("inventories/h100-rack/inventory.yaml")).expect("read");
    std::fs::create_dir_all(at.join("site/policies")).expect("made");
    std::fs::write(at.join("site/inventory.yaml"), &site).expect("written");
    for file in std::fs::read_dir(root().join("inventories/h100-rack")).expect("read").flatten() {
        if file.path().is_file() && !at.join("site").join(file.file_name()).exists() {
            std::fs::copy(file.path(), at.join("site").join(file.file_name())).expect("copied");
        }
    }
    let rule = policy("plan.pools.filter(p, p.drains > 0).map(p, p.name)");
    std::fs::write(at.join("site/policies/p.yaml"), &rule).expect("written");
    git(at, &["add", "-A"]).and_then(|()| git(at, &["commit", "-qm", "site"])).expect("git");
    // The change upgrades the driver, and takes the rule away.
    std::fs::write(at.join("site/inventory.yaml"), site.replace("580.178.04", "580.126.09"))
        .expect("written");
    std::fs::write(at.join("site/policies/p.yaml"), policy("false")).expect("written");
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_provision"))
            .args(arguments)
            .current_dir(at)
            .output()
            .expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, err) = run(&["diff", "main:site", "site"]);
    assert_eq!(code, Some(3), "{out}{err}");
    assert!(err.contains("error[E-POLICY]: p/r: not like this: h100") && err.contains("p.yaml:6:3"), "{err}");
    assert!(out.contains("policy refused: p/r: not like this: h100"), "{out}");
    let (code, ..) = run(&["diff", "main:site", "site", "--policies", "site/policies"]);
    assert_eq!(code, Some(2), "named ones replace those of the earlier side");
    let (code, ..) = run(&["diff", "site", "main:site", "--policies", "main:site/policies"]);
    assert_eq!(code, Some(3), "a revision can be named");
    let (code, out, _) = run(&["diff", "main:site", "site", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &json["policy"]["results"][0]["outcome"]), (Some(3), &"applies".into()));
    let (_, out, _) = run(&["diff", "main:site", "site", "--output", "markdown"]);
    assert!(out.contains("**policy refused** p/r: not like this: h100"), "{out}");
    // A typo is no free pass.
    let (code, _, err) = run(&["diff", "main:site", "site", "--policies", "main:polices"]);
    assert!(code == Some(1) && err.contains("E-"), "{err}");
    let (code, _, err) = run(&["diff", "main:site", "site", "--policies", "site/inventory.yaml"]);
    assert!(code == Some(1) && err.contains("is not Policy"), "{err}");
    let (code, out, err) = run(&["policy", "check", "main:site/policies"]);
    assert!(code == Some(0) && out.contains("p/r") && out.contains("1 rule"), "{out}{err}");
}

#[test]
fn cases_that_fail_are_named_with_what_differs() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("p.yaml"), policy("plan.steps > parameters.most")).expect("written");
    std::fs::create_dir(dir.path().join("tests")).expect("made");
    let cases = "apiVersion: provision/v1\nkind: PolicyTest\npolicies: ../p.yaml\ncases:\n\
        - {name: few, facts: {plan: {steps: 3}}}\n\
        - {name: many, facts: {plan: {steps: 4}}}\n\
        - {name: wrong, facts: {plan: {step: 4}}}\n\
        - {name: none, applies: [p/r, p/s]}\n";
    std::fs::write(dir.path().join("tests/p.yaml"), cases).expect("written");
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_provision"));
        command.args(["policy", "test", "."]).args(more).current_dir(dir.path());
        let output = command.output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, out) = run(&[]);
    assert_eq!(code, Some(1), "{out}");
    for line in [
        "ok      few\n",
        "FAILED  many   ./tests/p.yaml:6\n        p/r applies: not like this\n",
        "FAILED  wrong",
        "unknown field `step`",
        "there is no rule p/s",
        "p/r does not apply",
        "4 cases: 1 passed, 3 failed",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
    let (code, out) = run(&["--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &json["failed"]), (Some(1), &3.into()));
}
