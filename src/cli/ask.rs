//! `ask`: a question to a model, through its tenant's gateway.

use super::args::{Global, Output, Where};
use super::errors::usage;
use super::exit;
use super::session::Session;
use crate::fleet::chat_of;
use clap::Args;
use std::io::{IsTerminal, Read};
use std::time::Instant;

/// Longest question from standard input, in bytes.
const MOST_QUESTION: u64 = 1 << 20;

/// Ask a model, through its tenant's gateway
///
/// The request goes over SSH to the tenant's node port on a worker, so this machine needs no route to it. The answer is printed
/// as it arrives. `-` reads the question from standard input.
#[derive(Args)]
#[command(after_help = "Examples:
  provision ask -i site.yaml search/qwen \"Who are you?\"
  provision ask -i site.yaml search \"Who are you?\"        the tenant has one model
  git diff | provision ask -i site.yaml search/qwen - --max-tokens 500")]
pub(super) struct Ask {
    /// The model (TENANT/MODEL, or TENANT if it has only one; optional if the inventory has a single route), followed by the question,
    /// or by `-` for standard input
    #[arg(num_args = 1.., required = true, value_name = "TENANT/MODEL> <QUESTION")]
    words: Vec<String>,
    #[command(flatten)]
    place: Where,
    /// Stop after this many tokens
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
}

impl Ask {
    /// Asks.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let session = Session::look(&self.place, global).await?;
        let inventory = &session.fleet.inventory;
        let missing = || usage("the question is missing", "provision ask TENANT/MODEL QUESTION");
        let (first, rest) = self.words.split_first().ok_or_else(missing)?;
        // The first word names the model wherever it can; a single route needs no name.
        let (chat, question) = match (chat_of(inventory, Some(first)), chat_of(inventory, None)) {
            (Ok(chat), _) => (chat, rest.join(" ")),
            (Err(_), Ok(chat)) => (chat, self.words.join(" ")),
            (Err(wrong), Err(several)) => return Err(if rest.is_empty() { several } else { wrong }.into()),
        };
        let question = if question == "-" { from_input()? } else { question };
        if question.trim().is_empty() {
            return Err(missing());
        }
        let began = Instant::now();
        let json = global.output == Output::Json;
        let (mut answer, mut first) = (String::new(), None);
        let mut hear = |text: &str| {
            first.get_or_insert_with(|| began.elapsed());
            if json {
                answer.push_str(text);
            } else {
                print!("{text}");
            }
        };
        let asked = session.fleet.ask(&chat, &question, self.max_tokens, &mut hear).await;
        if !json && first.is_some() {
            println!();
        }
        asked?;
        let (first, took) = (first.unwrap_or_default().as_secs_f64(), began.elapsed().as_secs_f64());
        if json {
            let result = serde_json::json!({"tenant": chat.tenant, "model": chat.model, "answer": answer,
                "firstTextSeconds": first, "seconds": took});
            println!("{result}");
        } else if !global.quiet && std::io::stderr().is_terminal() {
            eprintln!("{}/{}: first text after {first:.1} s, all in {took:.1} s", chat.tenant, chat.model);
        }
        session.end().await?;
        Ok(exit::DONE)
    }
}

fn from_input() -> anyhow::Result<String> {
    let mut text = Vec::new();
    std::io::stdin().take(MOST_QUESTION + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MOST_QUESTION {
        return Err(usage("the question is longer than 1 MiB", "Shorten it"));
    }
    String::from_utf8(text).map_err(|_| usage("the question is not UTF-8 text", "Convert it with iconv"))
}
