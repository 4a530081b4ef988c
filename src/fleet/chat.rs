//! Chat checks of every model through the gateway of each of its tenants.

use super::open::Fleet;
use crate::reconciler::chat_completion;
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
