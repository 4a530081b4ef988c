//! What a run is about, and who runs it: login, machine, and the job of a CI service. Read from the environment, which anybody who runs it can set:
//! good for a record, no proof.

use crate::plan::{CiJob, User};
use crate::state::plain_line;

/// The longest value of the environment that is taken, in characters.
const MOST: usize = 300;

/// Who acts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Actor {
    /// The login and the machine.
    pub user: User,
    /// The CI job.
    pub ci: Option<CiJob>,
}

/// What a run is about, as far as a plan does not tell.
#[derive(Clone, Debug, Default)]
pub struct RunAbout {
    /// The command; `apply` unless given.
    pub command: String,
    /// sha256 of the saved plan that is carried out.
    pub saved: Option<String>,
    /// Who has approved it.
    pub approvals: Vec<String>,
    /// Who may sign commits: a file of allowed signers, or `REV:PATH`.
    pub signers: Option<String>,
}

/// Returns the login name of this process.
pub(super) fn login() -> String {
    let named = ["USER", "LOGNAME"].into_iter().find_map(value);
    named.unwrap_or_else(|| "someone".to_owned())
}

/// Returns the name of this machine.
pub(super) fn machine() -> String {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    if host.is_empty() { "here".to_owned() } else { host.into_owned() }
}

fn value(name: &str) -> Option<String> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
    let value: String = value.chars().take(MOST).collect();
    Some(plain_line(&value).into_owned())
}

/// Returns who acts.
pub(super) fn actor() -> Actor {
    Actor { user: User { name: login(), host: machine() }, ci: job(&value) }
}

/// Returns the CI job that an environment tells of. A URL is taken without what could be a secret in it: user, password and query.
fn job(value: &dyn Fn(&str) -> Option<String>) -> Option<CiJob> {
    let or_none = |name: &str| value(name).unwrap_or_default();
    let page = |url: String| match reqwest::Url::parse(&url) {
        Ok(mut url) if matches!(url.scheme(), "http" | "https") => {
            let _ = (url.set_username(""), url.set_password(None));
            url.set_query(None);
            url.set_fragment(None);
            url.to_string()
        }
        _ => String::new(),
    };
    if or_none("GITHUB_ACTIONS") == "true" {
        let (server, repository, run) =
            (or_none("GITHUB_SERVER_URL"), or_none("GITHUB_REPOSITORY"), or_none("GITHUB_RUN_ID"));
        return Some(CiJob {
            service: "github".to_owned(),
            job: format!("{} / {}", or_none("GITHUB_WORKFLOW"), or_none("GITHUB_JOB")),
            url: page(format!("{server}/{repository}/actions/runs/{run}")),
            user: or_none("GITHUB_ACTOR"),
            branch: or_none("GITHUB_REF_NAME"),
        });
    }
    if or_none("GITLAB_CI") == "true" {
        return Some(CiJob {
            service: "gitlab".to_owned(),
            job: format!("{} {}", or_none("CI_JOB_NAME"), or_none("CI_JOB_ID")).trim().to_owned(),
            url: page(or_none("CI_JOB_URL")),
            user: or_none("GITLAB_USER_LOGIN"),
            branch: or_none("CI_COMMIT_REF_NAME"),
        });
    }
    // Jenkins, Buildkite and others name what they have in their own ways.
    value("CI").filter(|ci| ci != "false" && ci != "0")?;
    let first = |names: &[&str]| names.iter().find_map(|name| value(name)).unwrap_or_default();
    Some(CiJob {
        service: "ci".to_owned(),
        job: first(&["JOB_NAME", "BUILDKITE_LABEL", "BUILD_TAG"]),
        url: page(first(&["BUILD_URL", "BUILDKITE_BUILD_URL", "CIRCLE_BUILD_URL"])),
        user: first(&["BUILD_USER_ID", "BUILDKITE_BUILD_CREATOR", "CIRCLE_USERNAME"]),
        branch: first(&["BRANCH_NAME", "BUILDKITE_BRANCH", "CIRCLE_BRANCH"]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_told_by_its_environment_without_secrets_in_its_url() {
        let of = |pairs: &'static [(&str, &str)]| {
            job(&move |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("CI", "false")]), None);
        let gitlab = of(&[
            ("GITLAB_CI", "true"),
            ("CI_JOB_NAME", "apply"),
            ("CI_JOB_ID", "7"),
            ("CI_JOB_URL", "https://u:hunter2@ci.example.net/jobs/7?token=hunter2#x"),
        ])
        .expect("a job");
        assert_eq!((gitlab.job.as_str(), gitlab.url.as_str()), ("apply 7", "https://ci.example.net/jobs/7"));
        let github = of(&[
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_SERVER_URL", "https://github.example.net"),
            ("GITHUB_REPOSITORY", "infra/fleet"),
            ("GITHUB_RUN_ID", "12"),
            ("GITHUB_WORKFLOW", "deploy"),
            ("GITHUB_JOB", "apply"),
        ])
        .expect("a job");
        assert_eq!(github.url, "https://github.example.net/infra/fleet/actions/runs/12");
        assert_eq!(github.job, "deploy / apply");
    }
}
