//! Downloads that are delivered to a host over SSH where it cannot fetch them: into a folder, by sha256, from which the step that
//! would fetch takes them. A delivery that was cut off is gone on with.

use super::HostTarget;
use super::frame::Sections;
use super::kind::DELIVERED;
use super::target::prelude;
use crate::state::{Failure, FailureKind};
use crate::template::quote;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::time::Duration;

/// Hashing what is there already takes less.
const ASK_DEADLINE: Duration = Duration::from_secs(300);
/// A piece is taken within this time.
const PIECE_DEADLINE: Duration = Duration::from_secs(120);
/// Bytes of one piece.
const PIECE: usize = 256 << 10;

/// What a host has of a file that is to be delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivered {
    /// All of it, with the right content.
    Whole,
    /// So many bytes of it.
    Part(u64),
}

/// Returns the file of a sum, quoted.
fn file(sha256: &str) -> String {
    quote(&format!("{DELIVERED}/{sha256}"))
}

impl HostTarget {
    /// Returns the sha256 of every file that the host would fetch, as of its last observation.
    pub fn to_fetch(&self) -> BTreeSet<String> {
        self.undelivered()
    }

    fn delivery_failure(&self, why: impl std::fmt::Display) -> Failure {
        Failure::new(FailureKind::Step, "E-DELIVERY", format!("{}: {why}", self.host()))
            .hint("Check free space in /var/cache on the host, then apply again")
    }

    /// Asks what the host has of these files; a whole one whose content is another is removed.
    pub async fn delivered(&self, sums: &BTreeSet<String>) -> Result<BTreeMap<String, Delivered>, Failure> {
        let each: String = sums
            .iter()
            .map(|sum| {
                format!(
                    "p={p}; if [ -f \"$p\" ]; then s=$(sha256sum <\"$p\"); [ \"${{s%% *}}\" = {sum} ] && echo {sum} whole || rm -f -- \"$p\"; fi\n\
                     [ ! -f \"$p.part\" ] || echo {sum} $(stat -c %s -- \"$p.part\")\n",
                    p = file(sum)
                )
            })
            .collect();
        let said = self.output_retried(&each, ASK_DEADLINE).await?;
        let mut found = BTreeMap::new();
        for (sum, what) in said.lines().filter_map(|line| line.trim().split_once(' ')) {
            let what = match what.parse() {
                _ if what == "whole" => Delivered::Whole,
                Ok(size) => Delivered::Part(size),
                Err(_) => continue,
            };
            if sums.contains(sum) && found.get(sum) != Some(&Delivered::Whole) {
                found.insert(sum.to_owned(), what);
            }
        }
        Ok(found)
    }

    /// Delivers the rest of a file, from `offset` on: `from` gives exactly `left` bytes. The host compares the whole with its
    /// sum before it has its name. Calls `sent` with the number of bytes after each piece.
    pub async fn deliver(
        &self,
        sha256: &str,
        offset: u64,
        left: u64,
        from: &mut (dyn Read + Send),
        sent: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), Failure> {
        // `main` is read as a whole, and ends the shell: no byte of the file is ever read as a program, whatever fails.
        let program = format!(
            "{prelude}main() {{\n\
             say() {{ printf '\\036rc\\n%s\\n\\036end 0\\n' \"$1\"; }}\n\
             umask 022; p={p}; mkdir -p -- \"${{p%/*}}\" && exec 9>>\"$p.part\" || {{ say disk; exit 0; }}\n\
             flock -n 9 || {{ say busy; exit 0; }}\n\
             [ {offset} != 0 ] || : >\"$p.part\"\n\
             [ \"$(stat -c %s -- \"$p.part\")\" = {offset} ] || {{ rm -f -- \"$p.part\"; say moved; exit 0; }}\n\
             say ready\n\
             head -c {left} >&9 || {{ say disk; exit 0; }}\n\
             s=$(sha256sum <\"$p.part\"); n=$(stat -c %s -- \"$p.part\")\n\
             if [ \"${{s%% *}}\" = {sha256} ]; then {{ sync \"$p.part\" 2>/dev/null || sync; }}; mv -f -- \"$p.part\" \"$p\" && say 0 || say disk\n\
             elif [ \"$n\" -lt {whole} ]; then say cut; else rm -f -- \"$p.part\"; say content; fi\n\
             exit 0; }}; main\n",
            prelude = prelude(),
            p = file(sha256),
            whole = offset + left,
        );
        let result = |answer: &str| Sections::parse(answer).unwrap_or_default().first("rc").to_owned();
        let refusal = |rc: &str| {
            self.delivery_failure(match rc {
                "busy" => "another run is delivering the same file",
                "moved" | "cut" => "the delivery was interrupted",
                "content" => "the file arrived with another sha256",
                _ => "the file cannot be written; is the disk full?",
            })
        };
        let (mut shell, answer) = self.first(&program, PIECE_DEADLINE, "answer").await?;
        match result(&answer).as_str() {
            "ready" => {}
            rc => return Err(refusal(rc)),
        }
        let (mut piece, mut total) = (vec![0; PIECE], 0u64);
        while total < left {
            let most = usize::try_from(left - total).unwrap_or(PIECE).min(PIECE);
            let n = match from.read(&mut piece[..most]) {
                Ok(0) => return Err(self.delivery_failure("the file ends early")),
                Ok(n) => n,
                Err(error) => return Err(self.delivery_failure(format!("the file cannot be read: {error}"))),
            };
            if !shell.feed(&piece[..n], PIECE_DEADLINE).await {
                // What the host said last tells why it takes no more.
                break;
            }
            total += n as u64;
            sent(total);
        }
        match shell.answer(ASK_DEADLINE).await {
            Ok(answer) => match result(&answer).as_str() {
                "0" => {
                    shell.end().await;
                    Ok(())
                }
                rc => Err(refusal(rc)),
            },
            Err(error) => Err(self.shell_failure(error, &shell, "receipt")),
        }
    }
}
