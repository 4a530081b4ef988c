//! The pipeline of `examples/ci` as a team plays it: a scratch repository, the lab as the fleet, and who would get around it.

use crate::story::{Story, text};
use std::path::Path;
use std::process::Output;

/// A repository with the lab's inventory in `site/` and keys of three people.
struct Team {
    story: Story,
}

impl Team {
    /// `None` where git or ssh-keygen is missing, which plain `cargo test` must do without; in CI that is a failure.
    fn new() -> Option<Self> {
        let team = Self { story: Story::new() };
        let tools = team.sh("git --version && command -v ssh-keygen");
        if !tools.status.success() && std::env::var_os("CI").is_none() {
            eprintln!("NOT RUN: the pipeline (it needs git and ssh-keygen)");
            return None;
        }
        team.ok("git init -q -b main && git config commit.gpgsign false && mkdir keys
                 for p in ada bob eve; do ssh-keygen -q -t ed25519 -N '' -f keys/$p; done
                 for p in ada bob; do echo \"$p@example.net $(cut -d' ' -f1,2 keys/$p.pub)\"; done >approvers
                 printf '/state\\n/ci-out\\n/keys\\n/.*\\n' >.gitignore");
        team.commit("ada", "the first inventory");
        team.ok("git branch policy");
        Some(team)
    }

    /// Runs a script in the repository.
    fn sh(&self, script: &str) -> Output {
        let ci = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/ci/provision-ci");
        let mut shell = self.story.shell(script);
        shell.env("CI_SCRIPT", ci).env("PROVISION", env!("CARGO_BIN_EXE_provision"));
        shell.env("INVENTORY", "site").env("APPROVERS", "policy:approvers").output().expect("a shell")
    }

    fn ok(&self, script: &str) -> String {
        self.ends(script, 0)
    }

    /// Runs a script and returns what it printed, after checking its exit code.
    fn ends(&self, script: &str, code: i32) -> String {
        let output = self.sh(script);
        assert_eq!(output.status.code(), Some(code), "{script}\n{}", text(&output));
        text(&output)
    }

    fn commit(&self, who: &str, message: &str) {
        let identity = format!("-c user.name={who} -c user.email={who}@example.net");
        self.ok(&format!("git add -A && git {identity} commit -qm '{message}'"));
    }

    fn edit(&self, from: &str, to: &str) {
        let file = self.story.inventory.join("inventory.yaml");
        let before = std::fs::read_to_string(&file).expect("read");
        assert!(before.contains(from), "{from}");
        std::fs::write(file, before.replacen(from, to, 1)).expect("written");
    }
}

#[test]
fn a_change_is_reviewed_planned_approved_applied_and_drift_is_found() {
    let Some(team) = Team::new() else { return };
    // A pull request, without hosts or secrets.
    team.ok("git checkout -qb change");
    team.edit(
        "metadata: {name: lab}",
        "metadata: {name: lab}\nos: {sysctls: {fs.inotify.max_user_instances: \"16384\"}}",
    );
    team.commit("bob", "more watchers");
    let said = team.ok("sh $CI_SCRIPT review main && cat ci-out/review.md");
    let field = ".inotify.max\\_user\\_instances: unset → 16384";
    assert!(said.contains(field) && said.contains("### Simulated run: converged"), "{said}");
    assert!(said.contains("LAB echo"), "the end of the run is in the comment: {said}");

    // The protected branch.
    team.ok("git checkout -q main && git merge -q change");
    team.story.up();
    let planned = team.ends("GITHUB_OUTPUT=ci-out/outputs sh $CI_SCRIPT plan && exit 1 || exit $?", 2);
    assert!(planned.contains("16384"), "{planned}");
    assert_eq!(team.ok("cat ci-out/outputs"), "pending=yes\n");
    let approve =
        |who: &str| team.ok(&format!("$PROVISION approve ci-out/plan.json --key keys/{who} --yes -q"));
    let refused = |why: &str| {
        let said = team.ends("REQUIRE_APPROVALS=1 sh $CI_SCRIPT apply", 3);
        assert!(said.contains("error[E-APPROVAL]") && said.contains(why), "{why}: {said}");
    };
    refused("has 0 approvals of 1");
    approve("bob");
    refused("bob@example.net wrote the commit that the plan was made from");
    approve("eve");
    refused("its key is not in the approvers file");
    // A key that comes with the change and not to the protected branch, committed, or in a file that looks like that revision.
    team.ok("echo \"eve@example.net $(cut -d' ' -f1,2 keys/eve.pub)\" >>approvers");
    refused("its key is not in the approvers file");
    team.ok("cp approvers policy:approvers");
    team.commit("eve", "me too");
    refused("its key is not in the approvers file");
    approve("ada");
    approve("ada");
    let twice = team.ends("REQUIRE_APPROVALS=2 sh $CI_SCRIPT apply", 3);
    assert!(
        twice.contains("has 1 approval of 2 required (by ada@example.net)"),
        "people count, not signatures: {twice}"
    );
    // A plan that is edited is another plan.
    team.ok("cp ci-out/plan.json ci-out/kept && sed -i 's/\"deadline_s\": 300/\"deadline_s\": 301/' ci-out/plan.json");
    refused("ada@example.net approved another plan");
    team.ok("mv ci-out/kept ci-out/plan.json");
    let shown = team.ok("$PROVISION show ci-out/plan.json");
    assert!(shown.contains("when it was saved") && shown.contains("Inventory of commit "), "{shown}");
    // Nobody is known to have written what is not committed.
    team.ok("echo >>site/inventory.yaml");
    team.ends("OUT=ci-out/unsaved sh $CI_SCRIPT plan", 2);
    team.ok("git checkout -q site; $PROVISION approve ci-out/unsaved/plan.json --key keys/ada --yes -q");
    let unsaved = team.ends("OUT=ci-out/unsaved REQUIRE_APPROVALS=1 sh $CI_SCRIPT apply", 3);
    assert!(unsaved.contains("no approval counts: the plan was made from uncommitted changes"), "{unsaved}");
    // The apply job has the plan alone; approvals come by the branch, and what else is in it counts nothing.
    team.ok("git init -q --bare keys/origin && git remote add origin \"$PWD/keys/origin\" && rm -r ci-out/plan.json.approvals");
    refused("has 0 approvals of 1");
    let said = team.ends("APPROVALS_BRANCH=approvals REQUIRE_APPROVALS=1 sh $CI_SCRIPT apply", 3);
    assert!(said.contains("has 0 approvals of 1"), "no such branch yet: {said}");
    let status = team.ok("git status --porcelain; git rev-parse HEAD");
    let push = |who: &str| {
        team.ok(&format!(
            "export GIT_AUTHOR_NAME={who} GIT_AUTHOR_EMAIL={who}@example.net GIT_COMMITTER_NAME={who} \
                 GIT_COMMITTER_EMAIL={who}@example.net APPROVALS_BRANCH=approvals
             sh $CI_SCRIPT approve --key keys/{who} --yes -q"
        ));
    };
    push("eve");
    let said = team.ends("APPROVALS_BRANCH=approvals REQUIRE_APPROVALS=1 sh $CI_SCRIPT apply", 3);
    assert!(said.contains("its key is not in the approvers file"), "{said}");
    team.ok("rm -r ci-out/plan.json.approvals");
    push("ada");
    // Results come from a job: what else lies beside the plan is not published, and neither is anything by who says no.
    team.ok(
        "mkdir -p ci-out/plan.json.approvals && ln -s \"$PWD/keys/ada\" ci-out/plan.json.approvals/x.json",
    );
    let said = team.ends("APPROVALS_BRANCH=approvals sh $CI_SCRIPT approve --key keys/ada -q </dev/null", 1);
    assert!(said.contains("then add --yes"), "{said}");
    push("ada");
    let pushed = team
        .ok("git --git-dir keys/origin ls-tree -r --name-only approvals; rm -r ci-out/plan.json.approvals");
    assert!(pushed.lines().count() == 3 && !pushed.contains("x.json"), "{pushed}");
    assert_eq!(
        status,
        team.ok("git status --porcelain; git rev-parse HEAD"),
        "the working tree is as it was"
    );
    assert_eq!(team.ok("git --git-dir keys/origin log --format=%an approvals"), "ada\nada\neve\n");
    let applied = team.ok("APPROVALS_BRANCH=approvals REQUIRE_APPROVALS=1 sh $CI_SCRIPT apply");
    assert!(applied.contains("Approved by ada@example.net") && applied.contains("\"exit\":0"), "{applied}");

    // Nothing is left to do, until somebody works by hand.
    team.ok("sh $CI_SCRIPT drift");
    let hosts = team.story.file("w-1", "/etc/modules-load.d");
    for entry in std::fs::read_dir(hosts).expect("files of ours").flatten() {
        std::fs::write(entry.path(), "# edited by hand\n").expect("edited");
    }
    let drift = team.ends("sh $CI_SCRIPT drift", 2);
    assert!(drift.contains("changed since the last apply") && drift.contains("kernel-module"), "{drift}");
    // The applied plan is out of date by now.
    let stale = team.ends("REQUIRE_APPROVALS=1 sh $CI_SCRIPT apply", 3);
    assert!(stale.contains("E-STALE"), "{stale}");
}

#[test]
fn a_change_that_is_no_inventory_is_told_in_the_comment() {
    let Some(team) = Team::new() else { return };
    team.edit("role: controller", "role: controler");
    let said = team.ends("sh $CI_SCRIPT review main; code=$?; cat ci-out/review.md; exit $code", 1);
    assert!(said.contains("### The inventory is not valid") && said.contains("    error["), "{said}");
    let usage = team.ends("sh $CI_SCRIPT rewiev", 1);
    assert!(usage.contains("provision-ci review BASE"), "{usage}");
}

/// GitHub's runner obeys commands in the output of the script, of which a change under review may contain some.
#[test]
fn nothing_in_a_change_is_a_command_of_the_runner() {
    let Some(team) = Team::new() else { return };
    let hostile = "role: \"::set-output name=pending::yes ##[add-mask]e\"";
    team.edit("role: controller", hostile);
    for (step, code) in [("review main", 1), ("plan", 1), ("drift", 1)] {
        let output = team.sh(&format!("GITHUB_ACTIONS=true sh $CI_SCRIPT {step}"));
        assert_eq!(output.status.code(), Some(code), "{step}: {}", text(&output));
        assert!(output.stderr.is_empty(), "read in no order: {}", text(&output));
        let said = String::from_utf8(output.stdout).expect("text");
        // In an annotation it is only text.
        assert!(said.lines().all(|line| line.starts_with("::error ") || !line.contains("##[")), "{said}");
        assert!(said.contains("# #[add-mask]"), "{said}");
        let (mut stopped, mut obeyed) = (None, Vec::new());
        for line in said.lines() {
            match (&stopped, line.strip_prefix("::stop-commands::")) {
                (None, Some(word)) => stopped = Some(format!("::{word}::")),
                (Some(word), _) if line == word => stopped = None,
                (None, None) => obeyed.push(line),
                (Some(_), _) => {}
            }
        }
        assert!(stopped.is_none(), "{said}");
        assert!(obeyed.iter().all(|line| line.starts_with("::error file=")), "{step}: {obeyed:?}");
        assert_eq!(obeyed.is_empty(), step != "review main", "{step}: {obeyed:?}");
    }
}

/// Results are written where a change under review may have put a link.
#[test]
fn a_change_cannot_lead_the_results_of_its_review_elsewhere() {
    let Some(team) = Team::new() else { return };
    team.ok("mkdir keys/elsewhere && echo whole >keys/victim");
    for links in [
        "ln -s keys/elsewhere ci-out",
        "mkdir ci-out && ln -s ../keys/victim ci-out/validate.txt",
        "mkdir ci-out && mkfifo ci-out/review.md",
        "mkdir -p ci-out && ln -s \"$PWD/keys/elsewhere\" ci-out/validate.xml",
    ] {
        let said = team.ends(&format!("rm -rf ci-out; {links}; REVIEW_LAB=no sh $CI_SCRIPT review main"), 1);
        assert!(said.contains("which a change may have brought"), "{links}: {said}");
    }
    let said = team.ends("ln -s keys/elsewhere out; OUT=out/ci REVIEW_LAB=no sh $CI_SCRIPT review main", 1);
    assert!(said.contains("out is a link"), "{said}");
    assert_eq!(team.ok("ls keys/elsewhere; cat keys/victim"), "whole\n");
    team.ok(
        "rm -rf ci-out; REVIEW_LAB=no sh $CI_SCRIPT review main && REVIEW_LAB=no sh $CI_SCRIPT review main",
    );
}

/// The workflows are YAML, call no command that the script lacks, and give a pull request neither secrets nor rights.
#[test]
fn workflows_call_what_there_is_and_keep_strangers_apart() {
    let ci = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/ci");
    let read = |name: &str| std::fs::read_to_string(ci.join(name)).expect("a workflow");
    let mut found = 0;
    for name in
        ["github/review.yml", "github/comment.yml", "github/deploy.yml", "github/drift.yml", "gitlab-ci.yml"]
    {
        let text = read(name);
        let parsed: serde_json::Value = serde_saphyr::from_str(&text).expect("YAML");
        assert!(parsed.is_object(), "{name}");
        for called in text.split("provision-ci").skip(1).filter_map(|rest| rest.strip_prefix(['"', ' '])) {
            let word = called.trim_start().split([' ', '\n', ']']).next().unwrap_or_default();
            if word.starts_with(|c: char| c.is_ascii_lowercase()) {
                assert!(["review", "plan", "apply", "drift"].contains(&word), "{name}: {word}");
                found += 1;
            }
        }
    }
    assert!(found >= 6, "{found}");
    let review = read("github/review.yml");
    assert!(!review.contains("secrets.") && !review.contains("pull_request_target"), "{review}");
    let review: serde_json::Value = serde_saphyr::from_str(&review).expect("YAML");
    assert_eq!(review["permissions"], serde_json::json!({"contents": "read"}));
    assert!(!read("github/comment.yml").contains("checkout"), "nothing of the change is there to be run");
}

/// Rules of the protected branch refuse, warn and ask for approvals, whatever the change under review brings along.
#[test]
fn a_change_is_judged_by_the_policies_of_the_protected_branch() {
    let Some(team) = Team::new() else { return };
    let rule = |name: &str, when: &str, effect: &str| {
        format!(
            "  {name}:\n    when: {when}\n    effect: {effect}\n    message: {name} says so\n    hint: Ask {name}\n"
        )
    };
    let write = |path: &str, rules: &str| {
        let text =
            format!("apiVersion: provision/v1\nkind: Policy\nmetadata: {{name: team}}\nrules:\n{rules}");
        let file = team.story.inventory.parent().expect("the repository").join(path);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        std::fs::write(file, text).expect("written");
    };
    let deny = rule("no-joins", "plan.pools.filter(p, p.joining > 0).map(p, p.name)", "deny");
    write("policies/team.yaml", &deny);
    team.commit("ada", "rules");
    // The change brings rules of its own that allow everything.
    write("site/policies/own.yaml", &rule("own", "'plan.steps > 0'", "warn"));
    team.commit("bob", "rules of my own");
    team.story.up();
    let own = team.ends("mkdir -p ci-out; $PROVISION plan -i site", 2);
    assert!(
        own.contains("warning[W-POLICY]: team/own: own says so") && own.contains("own.yaml:5:3"),
        "{own}"
    );
    let refused = team.ends("$PROVISION plan -i site --policies main~1:policies", 3);
    assert!(refused.contains("error[E-POLICY]: team/no-joins: no-joins says so: "), "{refused}");
    assert!(refused.contains("policies/team.yaml:5:3") && refused.contains("Ask no-joins"), "{refused}");
    let refused = team.ends("PROVISION_POLICIES=main~1:policies $PROVISION apply -i site --yes", 3);
    assert!(refused.contains("refused by policy; nothing was changed"), "{refused}");
    let json = team.ends("$PROVISION plan -i site --policies main~1:policies --output json 2>/dev/null | tee ci-out/out.json >/dev/null; $PROVISION plan -q -i site --policies main~1:policies >/dev/null 2>&1", 3);
    assert!(json.is_empty(), "{json}");
    let plan: serde_json::Value = serde_json::from_str(&team.ok("cat ci-out/out.json")).expect("JSON");
    assert_eq!(plan["policy"]["results"][0]["rule"], "team/no-joins");
    assert!(plan["policy"]["results"][0]["place"].as_str().is_some_and(|p| p.ends_with("team.yaml:5")));

    // Two people, on top of what the command line asks for.
    let ask = rule("review", "'!commit.signed && plan.steps > 0 && size(approvals) < 99'", "requireApproval");
    write("policies/team.yaml", &ask.replace("    message", "    approvals: 2\n    message"));
    team.commit("eve", "rules that ask");
    let planned = team.ends("$PROVISION plan -i site -o ci-out/plan.json --policies main:policies", 2);
    assert!(planned.contains("warning[W-POLICY-APPROVAL]: team/review: needs 2 approvals"), "{planned}");
    let direct = team.ends("$PROVISION apply -i site --yes --policies main:policies", 3);
    assert!(direct.contains("error[E-POLICY-APPROVAL]") && direct.contains("provision approve"), "{direct}");
    team.ok("$PROVISION approve ci-out/plan.json --key keys/ada --yes -q");
    let apply =
        "$PROVISION apply ci-out/plan.json --yes --policies main:policies --approvers policy:approvers";
    let one = team.ends(apply, 3);
    assert!(one.contains("Approved by ada@example.net") && one.contains("E-POLICY-APPROVAL"), "{one}");
    // Bob wrote the inventory's last commit, but another person may approve.
    team.ok("git checkout -q policy && echo \"eve@example.net $(cut -d' ' -f1,2 keys/eve.pub)\" >>approvers");
    team.commit("ada", "eve may approve");
    team.ok("git checkout -q main && $PROVISION approve ci-out/plan.json --key keys/eve --yes -q");
    let applied = team.ok(apply);
    assert!(applied.contains("Approved by ada@example.net, eve@example.net"), "{applied}");
    // A reset is judged too.
    let reset = rule("keep", "command == 'reset'", "deny");
    write("policies/team.yaml", &reset);
    let refused = team.ends("$PROVISION reset w-1 -i site --dry-run --policies ./policies", 3);
    assert!(refused.contains("team/keep: keep says so"), "{refused}");
}

/// A commit counts as signed only with a key that is allowed.
#[test]
fn commits_are_signed_by_whom_the_protected_branch_names() {
    let Some(team) = Team::new() else { return };
    team.ok("mkdir -p policies && cat >policies/p.yaml <<'EOF'
apiVersion: provision/v1
kind: Policy
metadata: {name: commits}
rules:
  signed: {when: '!commit.signed', effect: deny, message: not signed}
  by-ada: {when: \"commit.signer != 'ada@example.net'\", effect: warn, message: not by ada}
EOF");
    team.story.up();
    let plan = "$PROVISION plan -q -i site --policies ./policies --commit-signers policy:approvers";
    assert!(team.ends(plan, 3).contains("commits/signed: not signed"));
    let sign = |who: &str| {
        team.ok(&format!(
            "echo \"# {who}\" >>site/inventory.yaml && git -c user.name=x -c user.email=x@example.net -c gpg.format=ssh \\
             -c user.signingkey=$PWD/keys/{who}.pub commit -qa -S -m signed"
        ));
    };
    sign("eve");
    assert!(team.ends(plan, 3).contains("commits/signed: not signed"), "a key that is not allowed");
    sign("ada");
    let said = team.ends(plan, 2);
    assert!(!said.contains("not by ada"), "{said}");
    let said = team.ends("$PROVISION plan -q -i site --policies ./policies", 3);
    assert!(said.contains("commits/signed"), "nobody is allowed: {said}");
    // What the repository is configured with has no say.
    sign("bob");
    team.ok(
        "git config gpg.ssh.program /bin/false && git config gpg.ssh.allowedSignersFile $PWD/keys/eve.pub",
    );
    assert!(team.ends(plan, 2).contains("commits/by-ada: not by ada"));
}
