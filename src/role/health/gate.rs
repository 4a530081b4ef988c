//! The gate before a node takes work: the standard level on the host itself, judged in the same shell program, because a
//! step is done or not by what its host says. It reads as `judge` does (one test holds the two together), but for a tool
//! that is not installed: that one was not asked for, so it stops nobody. What was found stays on the host for `kept`.

use super::levels::{Level, program};
use super::quick::{END, FRAME, QuickInput};
use crate::catalog::Vendor;
use crate::template::quote;
use std::fmt::Write;

/// Where a host keeps what its last standard look found, and what it has passed with.
const FOLDER: &str = "/var/lib/provision/health";

/// Helpers of the judging part: a tool's lines, its status, the first number behind a phrase.
const READ: &str = r#"part() { sed -n "/^@@ $1\$/,/^@@rc $1 /p" "$K" | sed -e "/^@@ /d" -e "/^@@rc /d"; }
status() { sed -n "s/^@@rc $1 //p" "$K" | head -n 1; }
number() { part "$1" | sed -n "s/.*$2[^:]*: *\([0-9][0-9]*\).*/\1/p" | tail -n 1; }
busy=$(sed -n 's/^@@busy //p' "$K" | head -n 1)
# Whether a tool came to an end that can be read; what it did not come to is said.
ended() { s=$(status "$1")
case $s in
missing) okay "$1 is not installed, so it was not run";;
124|137) bad "$2" "unknown: $1 did not end in time";;
'') if [ -n "$busy" ]; then bad "$2" "unknown: left out: $busy processes use the accelerators; drain the host first"
else bad "$2" "unknown: $1 was cut off"; fi;;
*) return 0;; esac; return 1; }
failed() { bad "$2" "$1 failed (exit $s): $(part "$1" | grep '[^ ]' | tail -n 1)"; }
least() { v=$(number "$1" 'Avg bus bandwidth')
if [ -z "$v" ]; then bad "$2" "unknown: $1 gives no bandwidth (exit $s)"
elif [ "$v" -lt "$3" ]; then bad E-HEALTH-FLOOR "$1 $v GB/s is below the floor of $3"
else okay "$1 $v GB/s"; fi; }
case $(status quick) in
'') bad E-HEALTH "unknown: the quick look was cut off";;
*) part quick >"$T"; [ -s "$T" ] || bad E-HEALTH "unknown: the quick look said nothing"
while IFS= read -r l; do case $l in E-*': '*) bad "${l%%: *}" "${l#*: }";; esac; done <"$T";;
esac
"#;

/// Judged by what its tests say, not by its exit status: 205 was seen with all passing (facebookresearch/gcm).
const DCGMI: &str = r#"if ended dcgmi E-HEALTH-DCGMI; then
part dcgmi >"$T"; p=0; f=; o=; n='a test without a name'
if grep -q '"DCGM \(GPU \)\{0,1\}Diagnostic"' "$T" && grep -q '"test_categories"' "$T"; then
grep -o '"name" *: *"[^"]*"\|"status" *: *"[^"]*"' "$T" >"$T.x"
while IFS= read -r l; do
w=${l%\"}; w=${w##*\"}
case $l in '"name"'*) n=$w;; *) case $w in Pass|PASS) p=$((p + 1));; Skip|SKIP) ;; Fail|FAIL) f="$f, $n";; *) o="$o, $n: $w";; esac;; esac
done <"$T.x"
if [ -n "$f" ]; then bad E-HEALTH-DCGMI "dcgmi: ${f#, } failed"
elif [ -n "$o" ]; then bad E-HEALTH-DCGMI "unknown: dcgmi: ${o#, }"
elif [ $p -eq 0 ]; then bad E-HEALTH-DCGMI "unknown: dcgmi ran no test (exit $s)"
else okay "dcgmi: $p tests passed"; fi
else bad E-HEALTH-DCGMI "unknown: dcgmi's JSON has another shape than those of DCGM 3 and 4 (exit $s)"; fi
fi
"#;

/// Returns shell that reads one collective: nothing wrong in its results, and its bandwidth.
fn collective(test: &str, floor: u64) -> String {
    let code = format!("E-HEALTH-{}", test.to_uppercase());
    let results = match test {
        "all-reduce" => format!(
            "w=$(part {test} | grep 'Out of bounds values' | sed 's/^[# ]*//;s/ *$//' | head -n 1)\n\
             case $w in *OK) least {test} {code} {floor};; '') bad {code} \"unknown: its check of results is missing (exit $s)\";; \
             *) bad {code} \"wrong results: $w\";; esac"
        ),
        _ => format!(
            "w=$(part {test} | grep 'Failure running' | sed 's/^ *//' | head -n 1)\n\
             if [ -n \"$w\" ]; then bad {code} \"$w\"; else least {test} {code} {floor}; fi"
        ),
    };
    format!(
        "if ended {test} {code}; then\nif [ \"$s\" != 0 ]; then failed {test} {code}; else\n{results}\nfi\nfi\n"
    )
}

/// Returns shell that judges the look that is in file `$K`: findings worst first, exit status as the quick look's.
pub fn judging(input: &QuickInput<'_>) -> String {
    let floor = |test: &str| {
        input.catalog.floor(test, &input.product.slug, input.count).map_or(0, |f| f.floor.ceil() as u64)
    };
    let mut text = READ.to_owned();
    match input.product.vendor {
        Vendor::Nvidia => {
            text += DCGMI;
            if input.several() {
                text += &collective("all-reduce", floor("all-reduce"));
            }
        }
        Vendor::Neuron => text += &collective("nccom-test", floor("nccom-test")),
    }
    format!("{FRAME}{text}{END}")
}

/// Returns the program of the gate; once it is passed, the host says `key` to `passed`.
pub fn gate(input: QuickInput<'_>, key: &str) -> String {
    // The disk is not part of this level.
    let look = program(Level::Standard, input, "/");
    let judging = judging(&input);
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
    let mut text = program(Level::Quick, input, "/");
    // The quick part of that look is of then.
    let _ = writeln!(text, "sed -e '/^@@ quick$/,/^@@rc quick /d' {FOLDER}/standard 2>/dev/null; true");
    text
}
