//! The state of the control plane on a controller: k0s, its API server, its etcd, and when its certificates expire.

use super::paths::CERTIFICATES;
use x509_parser::pem::Pem;

/// k0s and its API server answer within this time, or count as not answering, in seconds.
pub const QUESTION_SECONDS: u32 = 15;

/// A controller's control plane.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ControlPlane {
    /// The running version; `None` if none runs or it is unknown.
    pub version: Option<String>,
    /// Its API server is ready.
    pub ready: bool,
    /// Its API server reaches its etcd.
    pub etcd: bool,
    /// Its certificates: file, and the end of validity in seconds since 1970.
    pub certificates: Vec<(String, i64)>,
    /// What is wrong.
    pub problem: Option<String>,
}

/// A question to a controller.
#[derive(Clone, Debug)]
pub struct Question {
    /// Names it and its answer.
    pub name: &'static str,
    /// What is run, as root.
    pub command: String,
    /// How much of the end of its output is kept, in KiB.
    pub most_kib: u32,
}

/// Returns the queries of a controller's control plane.
pub fn questions() -> Vec<Question> {
    let question = |name, command: &str, most_kib| Question { name, command: command.to_owned(), most_kib };
    let files = CERTIFICATES.join(" ");
    vec![
        question("status", "k0s status -o json", 256),
        question("ready", "k0s kubectl get --raw=/readyz", 64),
        question("etcd", "k0s kubectl get --raw=/readyz/etcd", 64),
        question(
            "certificates",
            &format!(
                "for f in {files}; do if [ -f \"$f\" ]; then echo \"file $f\"; cat \"$f\"; echo; fi; done"
            ),
            1024,
        ),
    ]
}

/// Prints the status of the k0s that runs on a controller; nothing where none does.
pub const STATUS: &str = "timeout 15 /usr/local/bin/k0s status -o json 2>/dev/null || :";

/// Returns the version in the output of [`STATUS`].
pub fn running_version(status: &str) -> Option<String> {
    object(status)?["Version"].as_str().map(str::to_owned)
}

/// What came of one question.
#[derive(Clone, Debug)]
pub struct QuestionAnswer {
    /// Standard output and error.
    pub text: String,
    /// Exit status; `None` if it was given up.
    pub exit: Option<i32>,
}

/// Reads what the questions were answered, by name.
pub fn control_plane(answer: impl Fn(&str) -> Option<QuestionAnswer>) -> ControlPlane {
    let ok =
        |name: &str| answer(name).is_some_and(|a| a.exit == Some(0) && a.text.trim_end().ends_with("ok"));
    let status = answer("status").filter(|a| a.exit == Some(0));
    let version = status.and_then(|answer| running_version(&answer.text));
    let (ready, etcd) = (ok("ready"), ok("etcd"));
    let last = |name: &str| {
        let answer = answer(name)?;
        match answer.exit {
            None => Some(format!("no response within {QUESTION_SECONDS} s")),
            Some(_) => answer.text.lines().rfind(|l| !l.trim().is_empty()).map(str::to_owned),
        }
    };
    let problem = match (&version, ready, etcd) {
        (None, ..) => Some(format!("k0s is not running: {}", last("status").unwrap_or_default())),
        (_, false, _) => Some(format!("its API server is not ready: {}", last("ready").unwrap_or_default())),
        (_, _, false) => Some(format!("its etcd is not healthy: {}", last("etcd").unwrap_or_default())),
        _ => None,
    };
    let certificates = answer("certificates").map(|a| certificates(&a.text)).unwrap_or_default();
    ControlPlane { version, ready, etcd, certificates, problem }
}

/// Returns the first JSON object that begins a line: k0s logs to standard error, which is kept in the same text.
fn object(text: &str) -> Option<serde_json::Value> {
    let starts = text.match_indices('{').map(|(at, _)| at);
    let mut starts = starts.filter(|at| *at == 0 || text[..*at].ends_with('\n'));
    serde_json::Deserializer::from_str(&text[starts.next()?..]).into_iter().next()?.ok()
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

/// Returns the name in a certificate in PEM, if it has one, and the end of its validity in seconds since 1970.
pub fn subject_and_end(pem: &[u8]) -> Option<(Option<String>, i64)> {
    let pem = Pem::iter_from_buffer(pem).flatten().next()?;
    let certificate = pem.parse_x509().ok()?;
    let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    Some((name.map(str::to_owned), certificate.validity().not_after.timestamp()))
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
    fn a_silent_control_plane_is_reported() {
        let answer = |text: &str, exit| QuestionAnswer { text: text.to_owned(), exit };
        let mut answers = std::collections::BTreeMap::from([
            ("status", answer("{\"Version\": \"v1.35.7+k0s.0\"}", Some(0))),
            ("ready", answer("ok", Some(0))),
            ("etcd", answer("", None)),
        ]);
        let plane = control_plane(|name| answers.get(name).cloned());
        assert!(plane.ready && !plane.etcd);
        assert!(plane.problem.is_some_and(|p| p.contains("its etcd is not healthy: no response")));
        answers.insert("status", answer("Error: can't get \"status\"", Some(1)));
        let plane = control_plane(|name| answers.get(name).cloned());
        assert!(plane.problem.is_some_and(|p| p.contains("k0s is not running: Error: can't")));
    }
}
