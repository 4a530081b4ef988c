//! Units with a real systemd: what does not stay up ends the run early, with its own words.

use crate::kit::{Setup, Site, fleet};

/// A service that ends as soon as its configuration is bad, and that systemd starts again and again.
const FLAPS: &str = r#"- file: {path: /etc/flaps.conf, content: "CONTENT\n"}
  restarts: [flaps.service]
- file:
    path: /etc/systemd/system/flaps.service
    content: |
      [Service]
      ExecStart=/bin/sh -c 'echo reading; grep -q good /etc/flaps.conf && exec sleep infinity; echo "Error: flaps.conf has no good in it" >&2; echo bye; exit 1'
      Restart=always
      RestartSec=200ms
      StartLimitIntervalSec=0
- unit: {name: flaps.service, active: true}
"#;

#[test]
fn a_unit_that_systemd_starts_again_and_again_ends_the_step_with_its_own_words() {
    let hosts = fleet().boot([Setup::new("h-1")]);
    let site = Site::only(&hosts, &FLAPS.replace("CONTENT", "bad"));
    // What only its time limit ended would have another code than E-UNIT, and no cause.
    let fails = |at: &str, cause: &str| {
        let text = site.expect(1, &["apply", "--yes"]);
        assert!(text.contains(at) && text.contains("[E-UNIT]"), "{text}");
        assert!(text.contains(&format!("= cause: {cause}")), "{text}");
    };
    let cause = "flaps.service is not up: Error: flaps.conf has no good in it";
    fails("failed at unit/flaps.service", cause);
    site.role("base", &FLAPS.replace("CONTENT", "good"));
    site.converge();
    // Its next restart fails as well, with the words of that start.
    site.role("base", &FLAPS.replace("CONTENT", "worse"));
    fails("h-1 failed", cause);
    // A role's command that waits for a unit ends with its third start.
    let waits = r#"- command:
    name: waits
    wanted: up
    guard: "[ -e /run/up ]"
    apply: |
      systemd-run -q --unit=waits -p Restart=always -p RestartSec=200ms sh -c 'sleep 0.2; echo "Error: not today" >&2; exit 1'
      eval "$UNITS"; most=$(($(restarts waits.service) + 2))
      while sleep 0.2; do upright waits.service "$most" || exit 1; done
"#;
    site.role("base", waits);
    fails("failed at command/waits", "waits.service is not up: Error: not today");
}
