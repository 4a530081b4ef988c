//! Results of checks as JUnit XML, which CI services show case by case.

use crate::state::plain;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

/// What was checked, and what came of it.
pub struct Check {
    /// What was checked: a host, a file, a case.
    pub name: String,
    /// The code and the text of what is wrong; `None` if it passed.
    pub failure: Option<(String, String)>,
}

impl Check {
    /// Returns a check with these failures, each a code and a text: passed if there is none.
    pub fn of(name: impl Into<String>, failures: Vec<(String, String)>) -> Self {
        let code = failures.first().map(|(code, _)| code.clone());
        let text: Vec<String> = failures.into_iter().map(|(_, text)| text).collect();
        Self { name: name.into(), failure: code.map(|code| (code, text.join("\n"))) }
    }
}

/// Returns a text as XML can have it: XML 1.0 has neither control characters nor these two.
fn plain_xml(text: &str) -> String {
    plain(text).replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}")
}

/// Returns the report of one command. Texts may be of hosts: what XML cannot have is replaced.
pub fn junit(command: &str, checks: &[Check]) -> Result<String, quick_junit::SerializeError> {
    let mut suite = TestSuite::new(command);
    for check in checks {
        let status = match &check.failure {
            None => TestCaseStatus::success(),
            Some((code, text)) => {
                let text = plain_xml(text);
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status.set_type(plain_xml(code)).set_message(text.lines().next().unwrap_or_default());
                status.set_description(text.as_str());
                status
            }
        };
        let mut case = TestCase::new(plain_xml(&check.name), status);
        case.set_classname(format!("provision.{command}"));
        suite.add_test_case(case);
    }
    let mut report = Report::new("provision");
    report.add_test_suite(suite);
    report.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hosts_say_stays_text() {
        let text = "]]></failure><testcase name=\"x\"/>\u{1b}[31m\u{0}\u{fffe}\u{ffff}&amp;";
        let hostile = ("E-X\u{ffff}".to_owned(), text.to_owned());
        let checks = [Check::of("h-1\u{fffe}", vec![hostile]), Check::of("h-2", Vec::new())];
        let xml = junit("preflight", &checks).expect("XML");
        assert!(xml.contains("tests=\"2\"") && xml.contains("failures=\"1\""), "{xml}");
        assert_eq!(xml.matches("<testcase").count(), 2, "{xml}");
        assert!(!xml.contains(['\u{1b}', '\u{0}', '\u{fffe}', '\u{ffff}']), "{xml}");
    }
}
