//! How the output of the standard level's tools is judged: by shell on the host, once for every purpose. `judge` only reads
//! the lines that it prints.

use super::frame::{END, FRAME};
use super::quick::QuickInput;
use crate::catalog::Vendor;

/// Who asks for the standard level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// A step of an apply: a tool that is not installed does not stop the host, and numbers are not listed.
    Gate,
    /// `provision verify`: a tool that is not installed leaves the host unknown.
    Verify,
    /// What the last gate found, read again; its quick part is out of date and left out.
    Kept,
}

impl Purpose {
    /// Returns the shell functions in which the purposes differ.
    fn functions(self) -> String {
        let missing = match self {
            Purpose::Verify => r#"bad "$2" "unknown: $1 is not installed""#,
            Purpose::Gate | Purpose::Kept => r#"okay "$1 is not installed, so it was not run""#,
        };
        let measured = match self {
            Purpose::Gate => ":",
            Purpose::Verify | Purpose::Kept => "O=\"${O}measured $*\n\"",
        };
        format!("missing() {{ {missing}; }}\nmeasured() {{ {measured}; }}\n")
    }
}

/// Helpers of the judging part: a tool's lines, its status, the first number behind a phrase.
const READ: &str = r#"part() { sed -n "/^@@ $1\$/,/^@@rc $1 /p" "$K" | sed -e "/^@@ /d" -e "/^@@rc /d"; }
status() { sed -n "s/^@@rc $1 //p" "$K" | head -n 1; }
number() { part "$1" | sed -n "s/.*$2[^:]*: *\([0-9][0-9.]*\).*/\1/p" | tail -n 1; }
busy=$(sed -n 's/^@@busy //p' "$K" | head -n 1)
# Whether a tool came to an end that can be read; what it did not come to is said.
ended() { s=$(status "$1")
case $s in
missing) missing "$1" "$2";;
124|137) bad "$2" "unknown: $1 timed out";;
'') case $busy in
'') bad "$2" "unknown: $1 was interrupted";;
unknown) bad "$2" "unknown: skipped: cannot tell whether processes use the accelerators: neuron-ls does not list them";;
*) bad "$2" "unknown: skipped: $busy processes use the accelerators; drain the host first";; esac;;
*) return 0;; esac; return 1; }
failed() { bad "$2" "$1 failed (exit $s): $(part "$1" | grep '[^ ]' | tail -n 1)"; }
# Floors are whole numbers, so that the whole part of a number decides.
least() { v=$(number "$1" 'Avg bus bandwidth')
if [ -z "$v" ]; then bad "$2" "unknown: $1 printed no bandwidth (exit $s)"; return; fi
# Ranks that did not find each other each measure nothing (nccl-tests#71, #294).
case $v in *[1-9]*) ;; *) bad "$2" "unknown: $1 measured $v GB/s: its ranks did not form one group"; return;; esac
measured "$1" "$v" GB/s
if [ "${v%%.*}" -lt "$3" ]; then bad E-HEALTH-FLOOR "$1 $v GB/s is below the floor of $3"; else okay "$1 $v GB/s"; fi; }
"#;

/// Takes the findings of the quick test over.
const QUICK: &str = r#"case $(status quick) in
'') bad E-HEALTH "unknown: the quick test was interrupted";;
*) part quick >"$T"; [ -s "$T" ] || bad E-HEALTH "unknown: the quick test printed nothing"
while IFS= read -r l; do case $l in E-*': '*) bad "${l%%: *}" "${l#*: }";; 'ok: '*) okay "${l#ok: }";; esac; done <"$T";;
esac
"#;

/// `dcgmi diag -j` of DCGM 3 and 4, which differ in the first key and in a summary per test (facebookresearch/gcm#38,
/// NVIDIA/DCGM's own tests of nvvs). Judged by its test results, not by its exit status: 205 was seen with all passing
/// (facebookresearch/gcm). Keys are sorted, so that a test's name comes before its results.
const DCGMI: &str = r#"if ended dcgmi E-HEALTH-DCGMI; then
part dcgmi >"$T"; p=0; f=; o=; n='a test without a name'
if [ "$(tr -cd '{' <"$T" | wc -c)" -ne "$(tr -cd '}' <"$T" | wc -c)" ]; then bad E-HEALTH-DCGMI "unknown: the JSON of dcgmi is cut off (exit $s)"
elif grep -q '"runtime_error"' "$T"; then
bad E-HEALTH-DCGMI "unknown: dcgmi: $(sed -nE 's/.*"runtime_error" *: *"(([^"\\]|\\.)*)".*/\1/p' "$T" | head -n 1)"
elif grep -q '"DCGM \(GPU \)\{0,1\}Diagnostic"' "$T" && grep -q '"test_categories"' "$T"; then
grep -o '"name" *: *"[^"]*"\|"status" *: *"[^"]*"' "$T" >"$T.x"
while IFS= read -r l; do
w=${l%\"}; w=${w##*\"}
case $l in '"name"'*) n=$w;; *) case $w in Pass|PASS) p=$((p + 1));; Skip|SKIP) ;; Fail|FAIL) f="$f, $n";; *) o="$o, $n: $w";; esac;; esac
done <"$T.x"
if [ -n "$f" ]; then bad E-HEALTH-DCGMI "dcgmi: ${f#, } failed"
elif [ -n "$o" ]; then bad E-HEALTH-DCGMI "unknown: dcgmi: ${o#, }"
elif [ $p -eq 0 ]; then bad E-HEALTH-DCGMI "unknown: dcgmi ran no test (exit $s)"
else okay "dcgmi: $p tests passed"; fi
else bad E-HEALTH-DCGMI "unknown: the JSON of dcgmi is not in the format of DCGM 3 or 4 (exit $s)"; fi
fi
"#;

/// Returns shell that reads one collective: nothing wrong in its results, and its bandwidth.
fn collective(test: &str, floor: u64) -> String {
    let code = format!("E-HEALTH-{}", test.to_uppercase());
    let results = match test {
        "all-reduce" => format!(
            "w=$(part {test} | grep 'Out of bounds values' | sed 's/^[# ]*//;s/ *$//' | head -n 1)\n\
             case $w in *OK) least {test} {code} {floor};; '') bad {code} \"unknown: its result check is missing (exit $s)\";; \
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
pub fn judging(input: &QuickInput<'_>, purpose: Purpose) -> String {
    let floor = |test: &str| {
        input.catalog.floor(test, &input.product.slug, input.count).map_or(0, |f| f.floor.ceil() as u64)
    };
    let mut text = purpose.functions() + READ;
    if purpose != Purpose::Kept {
        text += QUICK;
    }
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
