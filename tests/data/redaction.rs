//! What is redacted in a support archive, and what stays. `redaction/planted.txt` contains secrets of every known kind, in the
//! formats of files, programs and logs; `redaction/ordinary.txt` contains text that must stay readable.

use provision::redact::redacted;
use provision::state::SecretText;

const PLANTED: &str = include_str!("redaction/planted.txt");
const ORDINARY: &str = include_str!("redaction/ordinary.txt");

/// Parts of the planted secrets.
const NEEDLES: [&str; 30] = [
    "hunter",
    "aHVudGVy",
    "wJalr",
    "AKIA",
    "ASIA",
    "b3Blb",
    "PGPLINE",
    "MIIE",
    "MIIh",
    "MHcC",
    "dXNlcjp",
    "hf_",
    "ghp_",
    "eyJ",
    "H4sI",
    "LS0tLS1CRUdJTiB",
    "LS0tS0VZ",
    "nvapi",
    "xoxb",
    "abcdef.0123456789abcdef",
    "two words",
    "p@ss",
    "tok-",
    "pw-",
    "ab,cd",
    "short1",
    "c2ln",
    "FwoG",
    "with:colons",
    "7134990",
];

fn needles(text: &str) -> Vec<&'static str> {
    NEEDLES.into_iter().filter(|needle| text.contains(needle)).collect()
}

#[test]
fn every_planted_secret_is_gone() {
    assert_eq!(needles(PLANTED), NEEDLES, "a needle that is not planted proves nothing");
    let clean = redacted(PLANTED, &[]);
    let left: Vec<&str> = clean.lines().filter(|line| !needles(line).is_empty()).collect();
    assert!(left.is_empty(), "left in the archive:\n{}", left.join("\n"));
}

/// A journal puts its own words before a line, and a line that is cut off has nothing after it to help.
#[test]
fn a_secret_on_a_line_is_gone_wherever_the_line_stands() {
    let blocks = [
        "cut",
        "ENV ",
        "config set",
        "BEGIN",
        "END",
        "|",
        ">-",
        "token:",
        "- --token",
        "DB_PASSWORD",
        "kind:",
        "secret \"",
        "ata:",
        "\"\"\"",
        "MII",
        "MHcC",
        "hunter15",
        "hunter16",
        "hunter17",
        "hunter12",
        "hunter13",
        "hunter58",
        "second hunter",
        "b3Blb",
        "PGPLINE",
        "aHVu",
        "hunter62",
        "hunterputty",
        "hunter20",
        "requirepass",
        "passwd hunter49",
        "password hunter\"",
        "db_password =",
        "huntercont",
        "KEY=\\",
        "huntertag",
        "password: &a",
        "huntervpn",
        "{\"k\"",
        "http.proxyPassword hunter",
    ];
    for line in PLANTED.lines().filter(|l| !needles(l).is_empty() && !blocks.iter().any(|b| l.contains(b))) {
        let clean = redacted(&format!("2026-11-28T15:40:00+0000 h-001 app[12]: {line}"), &[]);
        assert!(needles(&clean).is_empty(), "left in a journal: {clean}");
    }
}

#[test]
fn ordinary_lines_stay() {
    for line in ORDINARY.lines() {
        assert_eq!(redacted(line, &[]), line);
    }
    assert_eq!(redacted(ORDINARY, &[]), ORDINARY, "a line changes because of its neighbours");
}

/// What is around a secret tells what it was.
#[test]
fn what_is_around_a_secret_stays() {
    for (text, clean) in [
        ("proxy=http://user:hunter2@proxy:3128 listens", "proxy=http://user:<secret>@proxy:3128 listens"),
        ("app --token tok-1 -u admin:pw-2 https://x", "app --token <secret> -u admin:<secret> https://x"),
        (
            r#"{"token":"a b","access_token":"c","user":"u"}"#,
            r#"{"token":"<secret>","access_token":"<secret>","user":"u"}"#,
        ),
        (
            "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\n-----END PRIVATE KEY-----\nnext",
            "-----BEGIN PRIVATE KEY-----<secret>-----END PRIVATE KEY-----\nnext",
        ),
        ("password: |\n  one\n  two\nnext: 1", "password: |\n  <secret>\n  <secret>\nnext: 1"),
        ("MYSQL_PWD=x1 PWD=/root", "MYSQL_PWD=<secret>"),
        ("run DB_PASS_EU=x1 LOG=debug", "run DB_PASS_EU=<secret> LOG=debug"),
        ("run DB_PASSWORD=\\\n  x1 LOG=debug", "run DB_PASSWORD=\\\n  <secret> LOG=debug"),
        ("run DB_PASSWORD=x1\\\nx2 LOG=debug", "run DB_PASSWORD=<secret>\n<secret> LOG=debug"),
        ("run password=a\"b c\"d LOG=debug", "run password=<secret> LOG=debug"),
        ("msg=\"login password=abc\" user=u x", "msg=\"login password=<secret> user=u x"),
        ("u/pw1@//h:1521/x", "u/<secret>@//h:1521/x"),
        (r#"{"kty":"oct","kid":"k-1","k":"c2VjcmV0"}"#, r#"{"kty":"oct","kid":"k-1","k":"<secret>"}"#),
        ("kubectl --from-literal=user=x1 -n y", "kubectl --from-literal=user=<secret> -n y"),
    ] {
        assert_eq!(redacted(text, &[]), clean);
    }
}

#[test]
fn secrets_of_the_inventory_are_gone_in_any_form() {
    let secrets = [SecretText::new("correct horse"), SecretText::new("abc")];
    let text = "said correct horse, Y29ycmVjdCBob3JzZQ== and correct%20horse; abc stays, being too short";
    let clean = redacted(text, &secrets);
    assert_eq!(clean, "said <secret>, <secret> and <secret>; abc stays, being too short");
}

/// What a host answers is not to be trusted to be text, nor to be small.
#[test]
fn hostile_texts_end() {
    for piece in [
        "token=\\\"token=\\\\\"",
        "password: |\n",
        "-----BEGIN PRIVATE KEY-----\n",
        "mysql -p ",
        "a://u:",
        "---\nkind: Secret\ndata:\n",
        "key",
        "ä=\u{1b}",
        "password=\"\n \"",
        "name: x_token\nvalue:",
        "secret",
        "token=\\\n",
        "password=a\"b ",
        "TOKEN_A_",
        "token: !a ",
        "p%61ss%3d",
        "{\"kty\":",
    ] {
        let clean = redacted(&piece.repeat(20_000), &[]);
        assert!(clean.len() < 20_000 * (piece.len() + 10), "{piece:?} grew");
    }
}
