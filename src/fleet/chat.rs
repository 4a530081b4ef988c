//! Chat checks of every model through the gateway of each of its tenants.

use super::error::{self, coded, one_of};
use super::open::Fleet;
use crate::inventory::Inventory;
use crate::reconciler::{chat_completion, chat_stream};
use crate::serving::chats;
use crate::state::{Chat, Failure, FailureKind, Spec};
use std::time::Duration;

/// Tokens that an answer may have: a proof, no conversation.
const MOST_TOKENS: u32 = 32;

/// What came back through one gateway.
pub struct ChatResult {
    /// Tenant, model and gateway.
    pub chat: Chat,
    /// The answer, or why there is none.
    pub answer: Result<String, Failure>,
}

impl Fleet {
    /// Sends the prompts one after the other, each with a timeout of `deadline`.
    pub async fn ask_models(&self, question: &str, deadline: Duration) -> Vec<ChatResult> {
        let mut results = Vec::new();
        for resource in chats(&self.inventory) {
            let Spec::Chat(chat) = resource.spec else { continue };
            let asked = chat_completion(self.access.as_ref(), &chat, question, MOST_TOKENS);
            let answer = tokio::time::timeout(deadline, asked).await.unwrap_or_else(|_| {
                let message = format!("no response within {} s", deadline.as_secs());
                Err(Failure::new(FailureKind::Step, "E-CHAT", message))
            });
            results.push(ChatResult { chat, answer });
        }
        results
    }
}

/// Returns what a question goes to: `TENANT/MODEL`, or as much of it as names only one.
pub fn chat_of(inventory: &Inventory, to: Option<&str>) -> error::Result<Chat> {
    let of = |resource: crate::state::Resource| match resource.spec {
        Spec::Chat(chat) => Some(chat),
        _ => None,
    };
    let all: Vec<Chat> = chats(inventory).into_iter().filter_map(of).collect();
    let name = |chat: &Chat| format!("{}/{}", chat.tenant, chat.model);
    let fits = |chat: &&Chat| to.is_none_or(|to| name(chat) == to || chat.tenant == to);
    let found: Vec<&Chat> = all.iter().filter(fits).collect();
    if let [one] = found[..] {
        return Ok(one.clone());
    }
    let message = match (to, found.len()) {
        _ if all.is_empty() => "the inventory has no tenant with a route".to_owned(),
        (Some(to), 0) => format!("no route `{to}`"),
        (Some(to), _) => format!("tenant {to} has several models"),
        (None, _) => "the inventory has several tenants or models".to_owned(),
    };
    let names: Vec<String> = all.iter().map(name).collect();
    let hint = match names.is_empty() {
        true => "Add a tenant with routes to the inventory".to_owned(),
        false => one_of(&names),
    };
    Err(coded("E-USAGE", message, hint))
}

impl Fleet {
    /// Asks a model through its tenant's gateway on a worker; `hear` is given each part of the answer as it comes.
    pub async fn ask(
        &self,
        chat: &Chat,
        question: &str,
        most_tokens: Option<u32>,
        hear: &mut (dyn FnMut(&str) + Send),
    ) -> error::Result<()> {
        Ok(chat_stream(self.access.as_ref(), chat, question, most_tokens, hear).await?)
    }
}
