//! A chat completion through a tenant's gateway: the check that serving works, and what the router's errors mean.

use super::Access;
use crate::state::{Chat, Failure, FailureKind};
use http::StatusCode;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

/// Longest part of a response that an error shows, in characters.
const SHOWN: usize = 300;
/// A completion of a few tokens is far smaller, in bytes.
const MOST_RESPONSE: usize = 4 << 20;

/// Requests a completion through a tenant's gateway on a worker. Sets no deadline of its own.
pub async fn chat_completion(
    access: &dyn Access,
    chat: &Chat,
    question: &str,
    most_tokens: u32,
) -> Result<String, Failure> {
    let failed = |why: String| {
        Failure::new(
            FailureKind::Step,
            "E-CHAT",
            format!("tenant {}, model {}: {why}", chat.tenant, chat.model),
        )
    };
    let stream = access.worker(chat.node_port).await.map_err(|e| {
        failed(format!("no worker opens node port {}: {}", chat.node_port, e.message))
            .hint("Check the router's pod and the Service kthena-gateways")
    })?;
    let broken = |e: Box<dyn std::error::Error + Send + Sync>| {
        failed(format!("the gateway closed the connection: {e}"))
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(e.into()))?;
    let body = json!({"model": chat.model, "max_tokens": most_tokens, "messages": [{"role": "user", "content": question}]});
    let request = http::Request::post("/v1/chat/completions")
        .header("host", "gateway")
        .header("content-type", "application/json")
        .body(Full::new(bytes::Bytes::from(body.to_string())))
        .map_err(|e| failed(e.to_string()))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MOST_RESPONSE).collect().await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status, body.to_bytes()))
    };
    tokio::pin!(exchange);
    let (status, body) = tokio::select! {
        result = &mut exchange => result.map_err(broken)?,
        // A response that closes the connection ends it with its last byte; what arrived still has to be read.
        _ = connection => exchange.await.map_err(broken)?,
    };
    let text = String::from_utf8_lossy(&body);
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    if status.is_success()
        && let Some(said) = said(&value)
    {
        return Ok(said.to_owned());
    }
    let (why, hint) = explain(status, &value, &text);
    let failure = failed(why);
    Err(match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    })
}

/// Returns the text of a completion. A reasoning model may spend all tokens before its answer; its reasoning counts.
fn said(completion: &Value) -> Option<&str> {
    let message = completion.pointer("/choices/0/message")?;
    ["content", "reasoning_content", "reasoning"]
        .iter()
        .find_map(|key| message[key].as_str().filter(|text| !text.trim().is_empty()))
}

/// Explains an error response, with a hint. The router's errors are bare JSON strings, those of engines OpenAI objects;
/// phrases decide, as 1.0.0 answers 404 to nearly everything.
fn explain(status: StatusCode, value: &Value, text: &str) -> (String, Option<&'static str>) {
    let objects = ["/error/message", "/message", "/error"];
    let words = value
        .as_str()
        .or_else(|| objects.iter().find_map(|p| value.pointer(p).and_then(Value::as_str)))
        .unwrap_or(text)
        .trim();
    let shown: String = words.chars().take(SHOWN).collect();
    let (meaning, hint) = match words {
        w if w.contains("route not found") => (
            "this gateway has no route of that name",
            Some(
                "Check modelName and parentRefs of the ModelRoute; the router may not have picked it up yet",
            ),
        ),
        w if w.contains("can't find model server") => (
            "the route's model has no ready pod, or no ModelServer",
            Some("Run `k0s kubectl -n models get pods,modelservers` on a controller"),
        ),
        w if w.contains("no available pods") => {
            ("the model has no ready pod", Some("Run `k0s kubectl -n models get pods` on a controller"))
        }
        w if w.contains("all pods failed") => (
            "the engine rejected the request or closed the connection",
            Some("Run `k0s kubectl -n models logs deploy/MODEL` on a controller"),
        ),
        w if w.contains("No matching listener") => (
            "the router has no listener for this gateway",
            Some("Run `k0s kubectl -n models get gateways` on a controller"),
        ),
        w if w.contains("rate limit") => ("rate limit of the route exceeded", None),
        _ if status.is_success() => ("a response without content", None),
        _ => ("refused", None),
    };
    let shown = if shown.is_empty() { status.to_string() } else { format!("{status}: {shown}") };
    (format!("{meaning} ({shown})"), hint)
}

/// Returns whether a failure means that serving is not deployed at all, rather than deployed and not working.
pub(super) fn is_absent(failure: &Failure) -> bool {
    ["no worker opens", "has no route", "no listener"].iter().any(|p| failure.message.contains(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_routers_bare_strings_are_explained() {
        let (why, hint) = explain(StatusCode::NOT_FOUND, &json!("route not found"), "\"route not found\"");
        assert_eq!(why, "this gateway has no route of that name (404 Not Found: route not found)");
        assert!(hint.is_some());
        let (why, _) = explain(StatusCode::NOT_FOUND, &json!("can't find model server: models/x"), "");
        assert!(why.starts_with("the route's model has no ready pod"), "{why}");
    }

    #[test]
    fn an_engines_error_object_and_plain_text_are_shown() {
        let object = json!({"error": {"message": "max_tokens is too large", "type": "BadRequestError"}});
        assert_eq!(
            explain(StatusCode::BAD_REQUEST, &object, "").0,
            "refused (400 Bad Request: max_tokens is too large)"
        );
        assert_eq!(
            explain(StatusCode::BAD_GATEWAY, &Value::Null, "upstream\n").0,
            "refused (502 Bad Gateway: upstream)"
        );
    }

    #[test]
    fn reasoning_counts_as_text_and_an_empty_message_does_not() {
        let completion = |message: Value| json!({"choices": [{"message": message}]});
        assert_eq!(said(&completion(json!({"content": "Hi"}))), Some("Hi"));
        assert_eq!(said(&completion(json!({"content": null, "reasoning": "Let me"}))), Some("Let me"));
        assert_eq!(said(&completion(json!({"content": " "}))), None);
    }
}
