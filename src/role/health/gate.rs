//! The gate before a node takes workloads: the standard level on the host itself, because a step succeeds or fails on its
//! host, with no client there. Results stay on the host for `kept`.

use super::levels::{Level, judged, look};
use super::quick::{QuickInput, framed};
use super::standard::{Purpose, judging};
use crate::template::quote;

/// Where a host keeps what its last standard look found, and what it has passed with.
const FOLDER: &str = "/var/lib/provision/health";

/// Returns the program of the gate; once it is passed, the host says `key` to `passed`.
pub fn gate(input: QuickInput<'_>, key: &str) -> String {
    let (look, judging) = (look(Level::Standard, &input), judging(&input, Purpose::Gate));
    let key = quote(key);
    format!(
        "D={FOLDER}; K=$D/standard; mkdir -p \"$D\"; rm -f \"$D/passed\"\n\
         ( printf '@@standard %s\\n' \"$(date +%s)\"; {look} ) >\"$K.new\" 2>&1 || true\nmv -f \"$K.new\" \"$K\"\n\
         ( {judging} ) || exit $?\nprintf '%s\\n' {key} >\"$D/passed\"\n"
    )
}

/// Returns a guard that holds when the gate was passed with `key`.
pub fn passed(key: &str) -> String {
    let key = quote(key);
    format!(
        "read -r s 2>/dev/null <{FOLDER}/passed || {{ echo 'not tested yet'; exit 1; }}\n\
         [ \"$s\" = {key} ] || {{ echo 'tested with another driver, kernel or number of devices'; exit 1; }}\n"
    )
}

/// Returns shell that takes back what the gate left on a host.
pub fn forget() -> String {
    format!("rm -rf {FOLDER}")
}

/// Returns a program that looks now, and adds what the last standard look on the host found.
pub fn kept(input: QuickInput<'_>) -> String {
    format!(
        "{}K={FOLDER}/standard; if [ -r \"$K\" ]; then sed -n '/^@@standard /p' \"$K\"\n{}fi\n",
        framed(input),
        judged(&input, Purpose::Kept)
    )
}
