//! Kubeconfigs for people and tools: the admin's, or a named user's, which k0s signs for a limited time. Of what a controller
//! prints only certificates and key are kept.

use super::connect::certificates_of;
use super::{Access, connect};
use crate::k0s::{ADMIN_KUBECONFIG, BINARY, NO_CONTROL_PLANE, PKI_DIR};
use crate::state::{Failure, FailureKind, SecretText};
use crate::template::quote;
use std::time::Duration;

/// The shortest life of a certificate: a shorter one ends before a slow clock has it begin.
const SHORTEST: Duration = Duration::from_secs(10 * 60);
/// The longest: that of the authority which signs it.
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);
/// Longest name of a user or a group, as in a certificate's subject (RFC 5280, ub-common-name).
const MOST_NAME: usize = 64;

/// Someone who gets a client certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientUser {
    name: String,
    group: Option<String>,
    ttl: Duration,
}

impl ClientUser {
    /// Returns the user, or what is wrong with it.
    pub fn new(name: &str, group: Option<&str>, ttl: Duration) -> Result<Self, Failure> {
        let wrong = |message: String, hint: &str| {
            Err(Failure::new(FailureKind::Preflight, "E-USAGE", message).hint(hint))
        };
        let is_name = |name: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@' | ':');
            name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && name.len() <= MOST_NAME
                && name.chars().all(known)
        };
        let rule = "Use up to 64 letters, digits and `.` `_` `-` `@` `:`, beginning with a letter or digit";
        if !is_name(name) {
            return wrong(format!("{name:?} is not a valid user name"), rule);
        }
        if let Some(group) = group.filter(|group| !is_name(group)) {
            return wrong(format!("{group:?} is not a valid group name"), rule);
        }
        if !(SHORTEST..=LONGEST).contains(&ttl) {
            let message = "--ttl is out of range".to_owned();
            return wrong(message, "Use 10m to 3650d, such as `--ttl 8h` or `--ttl 30d`");
        }
        Ok(Self { name: name.to_owned(), group: group.map(str::to_owned), ttl })
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the program that has a controller sign a certificate. k0s writes key and certificate into its own folder under
    /// the user's name, over whatever has that name, and leaves them there (k0s cmd/kubeconfig/create.go,
    /// pkg/certificate/manager.go): a name that is taken is refused, and the files are removed at once. Whoever has them could
    /// act as the user.
    fn program(&self) -> String {
        let files = format!("{PKI_DIR}/{}", self.name);
        let group = self.group.iter().map(|group| format!(" --groups {}", quote(group))).collect::<String>();
        format!(
            "[ -e {ADMIN_KUBECONFIG} ] || {{ echo {NO_CONTROL_PLANE}; exit 0; }}\n\
             k={key}; c={certificate}\n\
             if [ -e \"$k\" ] || [ -e \"$c\" ]; then echo taken; else\n\
             umask 077; e=/run/provision-kubeconfig.$$\n\
             t=$(timeout 60 {BINARY} kubeconfig create {name}{group} --certificate-expires-after {seconds}s 2>\"$e\"); r=$?\n\
             rm -f -- \"$k\" \"$c\"\n\
             if [ $r -eq 0 ]; then printf 'kubeconfig\\n%s\\n' \"$t\"; else printf 'failed %s ' $r; tail -n 1 \"$e\"; fi\n\
             rm -f -- \"$e\"; fi\n",
            key = quote(&format!("{files}.key")),
            certificate = quote(&format!("{files}.crt")),
            name = quote(&self.name),
            seconds = self.ttl.as_secs(),
        )
    }

    /// Has a controller sign a certificate, and returns the kubeconfig that it prints.
    pub async fn sign(&self, access: &dyn Access) -> Result<SecretText, Failure> {
        let said = SecretText::new(access.on_controller(&self.program()).await?);
        let said = said.expose().trim();
        let name = &self.name;
        let failed = |message: String, hint: &str| {
            Err(Failure::new(FailureKind::Step, "E-KUBECONFIG", message).hint(hint))
        };
        if let Some(text) = said.strip_prefix("kubeconfig\n") {
            return Ok(SecretText::new(text));
        }
        if said == NO_CONTROL_PLANE {
            return Err(no_cluster());
        }
        if said == "taken" {
            let message =
                format!("user name {name} is in use: a file of that name is in {PKI_DIR} on the controller");
            return failed(message, "Choose another --user; k0s would overwrite the file");
        }
        let why = said.strip_prefix("failed ").unwrap_or("the controller printed no kubeconfig");
        let message = format!("k0s did not sign a certificate for {name}: exit {why}");
        failed(message, "On a controller, run `k0s kubeconfig create --help`")
    }
}

fn no_cluster() -> Failure {
    Failure::new(FailureKind::Preflight, "E-NO-CLUSTER", "no cluster on any controller yet")
        .hint("Create the cluster with `provision apply`")
}

/// Returns the admin kubeconfig behind an access, or why there is none.
pub async fn admin_kubeconfig(access: &dyn Access) -> Result<Vec<u8>, Failure> {
    access.kubeconfig().await?.ok_or_else(no_cluster)
}

/// Returns a kubeconfig with the certificates of one that a controller has, for a server as this machine reaches it. Cluster,
/// user and context have one name. On a loopback address the certificate is checked for a name that every API has in it.
pub fn kubeconfig_for(
    text: &[u8],
    entry: &str,
    server: &str,
    loopback: bool,
) -> Result<kube::config::Kubeconfig, Failure> {
    let text = String::from_utf8_lossy(text);
    let (mut config, _) = certificates_of(&text).map_err(|why| {
        Failure::new(
            FailureKind::Unobserved,
            "E-K8S-CONFIG",
            format!("invalid kubeconfig of a controller: {why}"),
        )
        .hint("On a controller, run `k0s kubeconfig admin`")
    })?;
    for named in &mut config.clusters {
        named.name = entry.to_owned();
        if let Some(cluster) = &mut named.cluster {
            cluster.server = Some(server.to_owned());
            cluster.tls_server_name = loopback.then(|| connect::SERVER_NAME.to_owned());
        }
    }
    for named in &mut config.auth_infos {
        named.name = entry.to_owned();
    }
    for named in &mut config.contexts {
        named.name = entry.to_owned();
        if let Some(context) = &mut named.context {
            context.cluster = entry.to_owned();
            context.user = Some(entry.to_owned());
        }
    }
    config.current_context = Some(entry.to_owned());
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn names_that_could_leave_their_folder_or_their_argument_are_refused() {
        for name in ["", "../ca", "a/b", "-h", "a b", "a'b", "a\nb", "$(id)", &"a".repeat(65)] {
            let refused = ClientUser::new(name, None, HOUR).expect_err(name);
            assert_eq!(refused.code, "E-USAGE");
            assert!(ClientUser::new("alice", Some(name), HOUR).is_err(), "{name}");
        }
        assert!(ClientUser::new("alice@example.com", Some("system:masters"), HOUR).is_ok());
        for ttl in [Duration::ZERO, SHORTEST / 2, LONGEST + HOUR] {
            assert!(ClientUser::new("alice", None, ttl).is_err(), "{ttl:?}");
        }
    }

    #[test]
    fn a_kubeconfig_for_a_tool_has_one_name_and_nothing_else_of_the_host() {
        let text = "clusters: [{name: c, cluster: {server: 'https://evil.example', certificate-authority-data: QQ==}}]\n\
            users: [{name: u, user: {exec: {command: touch}, client-certificate-data: QQ==, client-key-data: Qg==}}]\n";
        let config =
            kubeconfig_for(text.as_bytes(), "ams", "https://127.0.0.1:7000", true).expect("certificates");
        let shown = serde_json::to_string(&config).expect("JSON");
        assert!(!shown.contains("evil") && !shown.contains("touch"), "{shown}");
        assert_eq!(shown.matches("\"ams\"").count(), 6, "{shown}");
        assert!(shown.contains("\"tls-server-name\":\"kubernetes\""), "{shown}");
    }
}
