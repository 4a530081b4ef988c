//! What all test programs have around them.

/// How every program begins: `bad` and `okay` collect what is found, `tool` runs what may hang.
pub(super) const FRAME: &str = r#"set +e; B=; U=; O=
bad() { case $2 in unknown:*) U="$U$1: $2
";; *) B="$B$1: $2
";; esac; }
okay() { O="${O}ok: $1
"; }
# What hangs in the kernel cannot be killed, but the shell around it can.
tool() { s=$1; shift; timeout -k 1 "$s" /bin/sh -c '"$@"; exit $?' tool "$@" </dev/null; }
T=$(mktemp) || exit 125
trap 'rm -f -- "$T" "$T.x"' EXIT
"#;

/// How every program ends: what was found, and what it means as an exit status.
pub(super) const END: &str = r#"printf '%s' "$B$U$O"
[ -z "$B" ] || exit 1
[ -z "$U" ] || exit 125
exit 0
"#;
