//! What every host needs before anything else is asked of it, and several failures as one.

use crate::state::{Facts, Failure, FailureKind};

/// Combines several failures into the first one, with the others in its tail.
pub fn combine(mut failures: Vec<Failure>) -> Failure {
    if failures.is_empty() {
        return Failure::new(FailureKind::Preflight, "E-PREFLIGHT", "preflight failed without a reason");
    }
    let mut first = failures.remove(0);
    let also = |f: &Failure| {
        let next = f.hint.as_ref().map(|h| format!("; next: {h}")).unwrap_or_default();
        format!("also: [{}] {}{next}", f.code, f.message)
    };
    first.tail.extend(failures.iter().map(also));
    first
}

/// Returns all missing basic requirements of a host.
pub fn lacking(facts: &Facts) -> Vec<Failure> {
    /// Less free space than this on / stops a host, in KiB: packages alone need more.
    const LEAST_FREE_KIB: u64 = 512 << 10;
    let mut lacking = Vec::new();
    let mut stop = |code: &str, message: String, hint: &str| {
        lacking.push(Failure::new(FailureKind::Preflight, code, message).hint(hint));
    };
    if facts.kernel_name != "Linux" {
        stop(
            "E-NOT-LINUX",
            format!("the host runs {}, not Linux", facts.kernel_name),
            "Check with: uname -s",
        );
        return lacking; // nothing else that it says means what it means on Linux
    }
    if facts.uid != 0 {
        stop("E-NOT-ROOT", format!("the program runs as uid {}", facts.uid), "Check with: sudo -n id -u");
    }
    if !facts.systemd {
        let hint = "Check with: ls -d /run/systemd/system";
        stop("E-NO-SYSTEMD", "the host was not booted with systemd".to_owned(), hint);
    }
    let full = ["/", "/var/lib"].into_iter().find_map(|path| {
        let free = facts.free_kib.get(path).filter(|free| **free < LEAST_FREE_KIB)?;
        Some(format!("only {} MiB free on {path}", free / 1024))
    });
    if let Some(message) = full {
        stop("E-NO-SPACE", message, "Free up space (df -h / /var/lib)");
    }
    lacking
}
