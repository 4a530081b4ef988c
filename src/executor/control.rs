//! What a controller says of its own control plane: k0s, its API server, its etcd, and when its certificates expire.

use super::{HostTarget, Look, LookEnd, Looked};
use crate::state::Failure;
use std::collections::BTreeMap;
use x509_parser::pem::Pem;

/// k0s and its API server answer within this time, or count as not answering, in seconds.
const SECONDS: u32 = 15;

/// A controller's control plane.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ControlPlane {
    /// The version that runs; `None` if none does or it cannot be told.
    pub version: Option<String>,
    /// Its API server says that it is ready.
    pub ready: bool,
    /// Its API server reaches its etcd.
    pub etcd: bool,
    /// Its certificates: file, and the end of validity in seconds since 1970.
    pub certificates: Vec<(String, i64)>,
    /// What is wrong.
    pub problem: Option<String>,
}

fn looks() -> Vec<Look> {
    let look = |name: &str, command: &str, most_kib| Look {
        name: name.to_owned(),
        command: command.to_owned(),
        seconds: SECONDS,
        most_kib,
    };
    // Certificates are no secret; keys lie beside them and are not read.
    let certificates = "for f in /var/lib/k0s/pki/*.crt /var/lib/k0s/pki/etcd/*.crt; do \
                        if [ -f \"$f\" ]; then echo \"file $f\"; cat \"$f\"; echo; fi; done";
    vec![
        look("status", "k0s status -o json", 256),
        look("ready", "k0s kubectl get --raw=/readyz", 64),
        look("etcd", "k0s kubectl get --raw=/readyz/etcd", 64),
        look("certificates", certificates, 1024),
    ]
}

/// Reads what `looks` answered.
fn read(looked: &BTreeMap<String, Looked>) -> ControlPlane {
    let answer = |name: &str| looked.get(name);
    let ok = |name: &str| {
        answer(name).is_some_and(|l| l.end == LookEnd::Exit(0) && l.text.trim_end().ends_with("ok"))
    };
    let status = answer("status").filter(|l| l.end == LookEnd::Exit(0));
    let json: serde_json::Value = status.and_then(|l| serde_json::from_str(&l.text).ok()).unwrap_or_default();
    let version = json["Version"].as_str().map(str::to_owned);
    let (ready, etcd) = (ok("ready"), ok("etcd"));
    let last = |name: &str| {
        let look = answer(name)?;
        match look.end {
            LookEnd::TimedOut => Some(format!("no answer within {SECONDS} s")),
            LookEnd::Exit(_) => look.text.lines().rfind(|l| !l.trim().is_empty()).map(str::to_owned),
        }
    };
    let problem = match (&version, ready, etcd) {
        (None, ..) => Some(format!("k0s does not run: {}", last("status").unwrap_or_default())),
        (_, false, _) => Some(format!("its API server is not ready: {}", last("ready").unwrap_or_default())),
        (_, _, false) => Some(format!("its etcd is not healthy: {}", last("etcd").unwrap_or_default())),
        _ => None,
    };
    let certificates = answer("certificates").map(|l| certificates(&l.text)).unwrap_or_default();
    ControlPlane { version, ready, etcd, certificates, problem }
}

/// Returns the certificates of a text of `file PATH` lines, each before a PEM, with the end of their validity. What is no
/// certificate is passed over.
fn certificates(text: &str) -> Vec<(String, i64)> {
    let mut found = Vec::new();
    for part in text.split("file /").skip(1) {
        let Some((path, pem)) = part.split_once('\n') else { continue };
        for pem in Pem::iter_from_buffer(pem.as_bytes()).flatten() {
            if let Ok(certificate) = pem.parse_x509() {
                found.push((format!("/{path}"), certificate.validity().not_after.timestamp()));
            }
        }
    }
    found
}

impl HostTarget {
    /// Returns what a controller says of its control plane. Changes nothing.
    pub async fn control_plane(&self) -> Result<ControlPlane, Failure> {
        Ok(read(&self.look(&looks()).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_read_from_its_pem() {
        let mut params = rcgen::CertificateParams::new(vec!["kubernetes".to_owned()]).expect("names");
        params.not_after = rcgen::date_time_ymd(2027, 1, 2);
        let key = rcgen::KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        let text = format!("file /pki/server.crt\n{pem}\nfile /pki/broken.crt\nno certificate\n");
        assert_eq!(certificates(&text), [("/pki/server.crt".to_owned(), 1_798_848_000)]);
    }

    #[test]
    fn what_does_not_answer_is_said() {
        let said = |text: &str, end| Looked { text: text.to_owned(), end };
        let mut looked = BTreeMap::from([
            ("status".to_owned(), said("{\"Version\": \"v1.35.7+k0s.0\"}", LookEnd::Exit(0))),
            ("ready".to_owned(), said("ok", LookEnd::Exit(0))),
            ("etcd".to_owned(), said("", LookEnd::TimedOut)),
        ]);
        let plane = read(&looked);
        assert!(plane.ready && !plane.etcd);
        assert!(plane.problem.is_some_and(|p| p.contains("its etcd is not healthy: no answer")));
        looked.insert("status".to_owned(), said("Error: can't get \"status\"", LookEnd::Exit(1)));
        assert!(read(&looked).problem.is_some_and(|p| p.contains("k0s does not run: Error: can't")));
    }
}
