//! `k0s kubeconfig create` of the k0s stand-in (k0s cmd/kubeconfig/create.go, pkg/certificate/manager.go).

use super::common::{Ended, ask, fail, here};
use crate::lab::api::{Pair, kubeconfig};
use crate::lab::request::Request;

/// Prints a kubeconfig with a signed certificate. Key and certificate are written into k0s's own folder under the user's name,
/// whatever has that name there, and stay.
pub(super) fn create(user: &str, arguments: &[&str]) -> Ended {
    let (mut group, mut seconds) = (String::new(), 8760 * 3600);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let value = words.next().copied().unwrap_or_default();
        match *word {
            "--groups" => group = value.to_owned(),
            "--certificate-expires-after" => match value.strip_suffix('s').and_then(|s| s.parse().ok()) {
                Some(parsed) => seconds = parsed,
                None => return fail(1, format!("Error: LAB: the duration {value} is not simulated")),
            },
            other => return fail(1, format!("Error: unknown flag: {other}")),
        }
    }
    let failed = |why: String| {
        let note = "check if the control plane is initialized on this node";
        format!("Error: failed generate user certificate: {why}, {note}")
    };
    let made = ask(&Request::ClientCertificate { user: user.to_owned(), group, seconds }).map_err(failed)?;
    let made: serde_json::Value = serde_json::from_str(&made).unwrap_or_default();
    let part = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
    let pair = Pair { certificate: part("certificate"), key: part("key") };
    let folder = here().join("var/lib/k0s/pki");
    for (ending, text) in [("key", &pair.key), ("crt", &pair.certificate)] {
        let written = std::fs::write(folder.join(format!("{user}.{ending}")), text);
        written.map_err(|error| failed(error.to_string()))?;
    }
    print!("{}", kubeconfig(&part("ca"), "https://localhost:6443", "k0s", "k0s", user, &pair));
    Ok(())
}
