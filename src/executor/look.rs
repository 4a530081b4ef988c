//! Diagnostics of a host besides its resources: tools run in parallel, each with a budget, and commands of an operator.
//! They are never recorded as managed and are not part of the desired state.

use super::HostTarget;
use super::bounded::Bounded;
use super::frame::Sections;
use super::sudo::{self, Sudo};
use super::target::prelude;
use crate::ssh::{Chunk, Transport};
use crate::state::{Failure, FailureKind};
use crate::template::quote;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;

/// What the shell around the tools may take beyond the longest budget.
const AROUND: Duration = Duration::from_secs(30);
/// What a command may print before the rest is dropped, in bytes.
const MOST_OUTPUT: usize = 16 << 20;

/// One tool to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Look {
    /// Names its answer; letters, digits and hyphens.
    pub name: String,
    /// What is run, by `/bin/sh -c`, without input.
    pub command: String,
    /// When it is given up, in seconds.
    pub seconds: u32,
    /// How much of the end of its output is kept, in KiB.
    pub most_kib: u32,
}

/// How a tool ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LookEnd {
    /// With this status.
    Exit(i32),
    /// It was given up.
    TimedOut,
}

/// The output of a tool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Looked {
    /// Standard output and error, as they came.
    pub text: String,
    /// How it ended.
    pub end: LookEnd,
}

/// What a command did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ran {
    /// Its status; `None` if the connection ended first.
    pub exit: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Returns the program that runs tools side by side. A tool that hangs in the kernel cannot be killed, so nothing waits
/// for one: each prints into a file, and is given up when its time is over.
fn program(looks: &[Look]) -> String {
    let mut text = prelude();
    text += "main() {\n\
             d=$(mktemp -d /dev/shm/provision.XXXXXX 2>/dev/null || mktemp -d) || exit 1\n\
             trap 'rm -rf \"$d\"' EXIT\n\
             s=; command -v setsid >/dev/null 2>&1 && s=setsid\n\
             look() {\n\
             $s /bin/sh -c '{ /bin/sh -c \"$1\"; echo $? >\"$2.new\"; } </dev/null 2>&1 | tail -c \"$3\" >\"$2.out\"; mv \"$2.new\" \"$2.rc\"' \
             look \"$3\" \"$d/$1\" \"$2\" </dev/null >/dev/null 2>&1 &\n\
             echo $! >\"$d/$1.pid\"\n\
             }\n\
             tenths=0\n\
             tell() {\n\
             while [ ! -e \"$d/$1.rc\" ] && [ \"$tenths\" -lt \"$2\" ]; do\n\
             if sleep 0.1 2>/dev/null; then tenths=$((tenths + 1)); else sleep 1; tenths=$((tenths + 10)); fi\n\
             done\n\
             printf '\\036rc-%s\\n' \"$1\"\n\
             if [ -e \"$d/$1.rc\" ]; then cat \"$d/$1.rc\"; else echo given-up; p=$(cat \"$d/$1.pid\"); kill -KILL -- \"-$p\" \"$p\" 2>/dev/null; fi\n\
             printf '\\036out-%s\\n' \"$1\"\n\
             [ -e \"$d/$1.out\" ] && tr -d '\\000\\036' <\"$d/$1.out\"\n\
             echo\n\
             }\n";
    for look in looks {
        let bytes = look.most_kib * 1024;
        text += &format!("look {} {bytes} {}\n", look.name, quote(&look.command));
    }
    for look in looks {
        text += &format!("tell {} {}\n", look.name, look.seconds * 10);
    }
    text + "printf '\\036end 0\\n'\n}; main </dev/null\n"
}

pub(super) fn read(looks: &[Look], answer: &str) -> Option<BTreeMap<String, Looked>> {
    let sections = Sections::parse(answer)?;
    let one = |look: &Look| {
        let end = match sections.first(&format!("rc-{}", look.name)).parse() {
            Ok(rc) => LookEnd::Exit(rc),
            Err(_) => LookEnd::TimedOut,
        };
        let mut text = sections.lines(&format!("out-{}", look.name)).join("\n");
        text.truncate(text.trim_end().len());
        (look.name.clone(), Looked { text, end })
    };
    Some(looks.iter().map(one).collect())
}

impl HostTarget {
    /// Runs tools in parallel as root, each with a budget, in one exec. Returns the output of each, by name.
    pub async fn look(&self, looks: &[Look]) -> Result<BTreeMap<String, Looked>, Failure> {
        let longest = looks.iter().map(|l| l.seconds).max().unwrap_or(0);
        let deadline = Duration::from_secs(u64::from(longest)) + AROUND;
        let (shell, answer) = self.first(&program(looks), deadline, "answers").await?;
        shell.end().await;
        read(looks, &answer).ok_or_else(|| {
            Failure::new(FailureKind::Unobserved, "E-CUT", "the output is truncated")
                .hint("Run the same command again")
        })
    }

    /// Runs an operator's command, as the login or as root, and returns what it did.
    pub async fn run(&self, command: &str, as_root: bool, deadline: Duration) -> Result<Ran, Failure> {
        let late = || {
            Failure::new(
                FailureKind::Step,
                "E-DEADLINE",
                format!("the command timed out after {} s", deadline.as_secs()),
            )
            .hint("Increase --deadline; the command may still be running on the host")
        };
        let run = self.run_now(command, as_root);
        tokio::time::timeout(deadline, run).await.unwrap_or_else(|_| Err(late()))
    }

    async fn run_now(&self, command: &str, as_root: bool) -> Result<Ran, Failure> {
        let quoted = quote(command);
        let mut session = if as_root {
            // Finds out whether a password is needed, and whether sudo lets us at all.
            let (shell, _) = self.first("printf '\\036end 0\\n'\n", AROUND, "root shell").await?;
            shell.end().await;
            let transport = self.dial().await?;
            let shell = self.root_command(transport.as_ref()).await.map_err(Failure::from)?;
            let mut session = transport.open(&shell).await.map_err(Failure::from)?;
            let program = format!("{}exec /bin/sh -c {quoted} </dev/null\n", prelude());
            session.send(Bytes::from(program)).await.map_err(Failure::from)?;
            session
        } else {
            let transport = self.dial().await?;
            transport.open(&format!("exec /bin/sh -c {quoted}")).await.map_err(Failure::from)?
        };
        session.finish_input().await.map_err(Failure::from)?;
        let mut ran = Ran::default();
        let (mut stdout, mut stderr) = (Bounded::new(MOST_OUTPUT), Bounded::new(MOST_OUTPUT));
        while let Some(chunk) = session.next().await {
            let (into, bytes) = match chunk {
                Chunk::Stdout(bytes) => (&mut stdout, bytes),
                Chunk::Stderr(bytes) => (&mut stderr, bytes),
                Chunk::Exit(rc) => {
                    ran.exit = Some(rc);
                    continue;
                }
            };
            into.push(&bytes);
            if into.is_flood() {
                let message = "the command was stopped: it printed too much";
                return Err(Failure::new(FailureKind::Step, "E-FLOOD", message)
                    .hint("Redirect its output to a file on the host; it may still be running there"));
            }
        }
        ran.stdout = stdout.text();
        ran.stderr = stderr.text();
        match ran.exit {
            Some(_) => Ok(ran),
            None => Err(Failure::new(
                FailureKind::Unobserved,
                "E-SSH-LOST",
                "connection lost before the command ended",
            )
            .hint("Check on the host whether it completed")),
        }
    }

    /// Returns the command line of a root shell that reads its program from standard input.
    async fn root_command(&self, transport: &dyn Transport) -> Result<String, crate::ssh::SshError> {
        match self.sudo() {
            Sudo::Required(Some(password)) if self.needs_password() => {
                sudo::shell_with_password(transport, password).await
            }
            other => Ok(sudo::shell(other).to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(name: &str, command: &str, seconds: u32, most_kib: u32) -> Look {
        Look { name: name.into(), command: command.into(), seconds, most_kib }
    }

    #[test]
    fn tools_end_by_themselves_or_are_given_up_and_the_rest_still_arrives() {
        let looks = [
            look("hangs", "echo begun; sleep 300", 1, 1),
            look("fails", "echo 'it'\\''s so'; echo no >&2; exit 3", 5, 1),
            look("long", "i=0; while [ $i -lt 600 ]; do echo line-$i; i=$((i + 1)); done", 5, 1),
        ];
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", &program(&looks)])
            .stdin(std::process::Stdio::null())
            .output()
            .expect("a shell");
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        let looked = read(&looks, &answer).expect("whole");
        assert_eq!(looked["hangs"].end, LookEnd::TimedOut);
        assert_eq!((looked["fails"].text.as_str(), looked["fails"].end), ("it's so\nno", LookEnd::Exit(3)));
        assert!(looked["long"].text.ends_with("line-599") && looked["long"].text.len() <= 1024);
        assert!(read(&looks, &answer[..answer.len() / 2]).is_none(), "a cut answer is none");
    }
}
