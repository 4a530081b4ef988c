//! A chat completion through a tenant's gateway: the check that serving works, and what the router's errors mean.

use super::Access;
use crate::state::{BoxStream, Chat, Failure, FailureKind};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinSet;

/// Longest part of a response that an error shows, in characters.
const SHOWN: usize = 300;
/// A completion of a few tokens is far smaller, in bytes.
const MOST_RESPONSE: usize = 4 << 20;

/// Longest event of a stream, in bytes: one carries a few tokens.
const MOST_EVENT: usize = 1 << 20;
/// Longest answer that is streamed, in bytes.
const MOST_STREAM: usize = 64 << 20;
/// A stream that says nothing for so long is given up: a long prompt is read before the first word comes.
const SILENCE: Duration = Duration::from_secs(180);

type Broken = Box<dyn std::error::Error + Send + Sync>;

fn failed(chat: &Chat, why: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Step, "E-CHAT", format!("tenant {}, model {}: {why}", chat.tenant, chat.model))
}

fn closed(chat: &Chat, error: impl std::fmt::Display) -> Failure {
    failed(chat, format!("the gateway closed the connection: {error}"))
}

/// Sends a request through a tenant's gateway on a worker. The connection ends with the second value.
async fn send(
    access: &dyn Access,
    chat: &Chat,
    body: &Value,
) -> Result<(Response<Incoming>, JoinSet<()>), Failure> {
    let stream = access.worker(chat.node_port).await.map_err(|e| {
        // A worker that cannot be reached has a hint of its own.
        let hint = e.hint.filter(|_| e.code.starts_with("E-SSH-UNREACHABLE"));
        let hint = hint.unwrap_or_else(|| "Run `provision plan`: the router may not be deployed".to_owned());
        failed(chat, format!("node port {} is not open on any worker: {}", chat.node_port, e.message))
            .hint(hint)
    })?;
    let stream: BoxStream = match access.gateway_certificate(&chat.tenant) {
        Some(certificate) => {
            Box::new(super::gateway_tls::connect(stream, &certificate).await.map_err(|e| {
                let hint =
                    "Run `provision apply`: the gateway may have another certificate than the inventory";
                failed(chat, format!("the gateway's HTTPS failed: {e}")).hint(hint)
            })?)
        }
        None => stream,
    };
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|e| closed(chat, e))?;
    let mut driving = JoinSet::new();
    driving.spawn(async move { drop(connection.await) });
    let request = http::Request::post("/v1/chat/completions")
        .header("host", "gateway")
        .header("content-type", "application/json");
    let request = match access.gateway_key(&chat.tenant) {
        Some(key) => request.header("authorization", format!("Bearer {}", key.expose())),
        None => request,
    };
    let request =
        request.body(Full::new(bytes::Bytes::from(body.to_string()))).map_err(|e| failed(chat, e))?;
    let response = sender.send_request(request).await.map_err(|e| closed(chat, e))?;
    Ok((response, driving))
}

/// Reads a response to its end.
async fn whole(chat: &Chat, response: Response<Incoming>) -> Result<(StatusCode, bytes::Bytes), Failure> {
    let status = response.status();
    let body = Limited::new(response.into_body(), MOST_RESPONSE).collect().await;
    Ok((status, body.map_err(|e: Broken| closed(chat, e))?.to_bytes()))
}

/// Returns the failure that a response means.
fn refused(chat: &Chat, status: StatusCode, body: &[u8]) -> Failure {
    let text = String::from_utf8_lossy(body);
    let (why, hint) = explain(status, &serde_json::from_str(&text).unwrap_or_default(), &text);
    let failure = failed(chat, why);
    hint.map_or(failure.clone(), |hint| failure.hint(hint))
}

/// Requests a completion through a tenant's gateway on a worker. Sets no deadline of its own.
pub async fn chat_completion(
    access: &dyn Access,
    chat: &Chat,
    question: &str,
    most_tokens: u32,
) -> Result<String, Failure> {
    let body = json!({"model": chat.model, "max_tokens": most_tokens, "messages": [{"role": "user", "content": question}]});
    let (response, _driving) = send(access, chat, &body).await?;
    let (status, body) = whole(chat, response).await?;
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    match said(&value).filter(|_| status.is_success()) {
        Some(said) => Ok(said.to_owned()),
        None => Err(refused(chat, status, &body)),
    }
}

/// The same as a stream: `hear` is given each part of the text as it comes. An engine that does not stream is heard at once.
pub async fn chat_stream(
    access: &dyn Access,
    chat: &Chat,
    question: &str,
    most_tokens: Option<u32>,
    hear: &mut (dyn FnMut(&str) + Send),
) -> Result<(), Failure> {
    let mut body =
        json!({"model": chat.model, "stream": true, "messages": [{"role": "user", "content": question}]});
    if let Some(most) = most_tokens {
        body["max_tokens"] = json!(most);
    }
    let silent = |_| failed(chat, format!("nothing came for {} s", SILENCE.as_secs()));
    let (response, _driving) =
        tokio::time::timeout(SILENCE, send(access, chat, &body)).await.map_err(silent)??;
    let streams = response.headers().get("content-type").and_then(|t| t.to_str().ok());
    if !response.status().is_success() || !streams.is_some_and(|t| t.starts_with("text/event-stream")) {
        let (status, body) = tokio::time::timeout(SILENCE, whole(chat, response)).await.map_err(silent)??;
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        return match said(&value).filter(|_| status.is_success()) {
            Some(text) => {
                hear(text);
                Ok(())
            }
            None => Err(refused(chat, status, &body)),
        };
    }
    let mut body = Limited::new(response.into_body(), MOST_STREAM);
    let (mut line, mut heard) = (Vec::new(), false);
    loop {
        let frame = tokio::time::timeout(SILENCE, body.frame()).await.map_err(silent)?;
        let Some(frame) = frame else {
            // The router's own words, appended to what the engine had sent before it went (1.0.0).
            let cut = String::from_utf8_lossy(&line).contains("request processing failed");
            let why = if cut {
                "the engine stopped in the middle of the answer"
            } else {
                "before the end of the answer"
            };
            return Err(if cut { failed(chat, why) } else { closed(chat, why) });
        };
        let Ok(data) = frame.map_err(|e| closed(chat, e))?.into_data() else { continue };
        for byte in data {
            if byte != b'\n' {
                line.push(byte);
                if line.len() > MOST_EVENT {
                    return Err(failed(chat, format!("an event of over {MOST_EVENT} bytes")));
                }
                continue;
            }
            match event(&line) {
                Event::Text(text) => {
                    heard = true;
                    hear(&text);
                }
                Event::Error(why) => return Err(failed(chat, format!("the engine gave up: {why}"))),
                Event::End if heard => return Ok(()),
                Event::End => return Err(failed(chat, "an answer without content")),
                Event::Nothing => {}
            }
            line.clear();
        }
    }
}

/// What a line of an event stream says.
#[derive(PartialEq, Debug)]
enum Event {
    Text(String),
    Error(String),
    End,
    Nothing,
}

/// Reads a line of a stream of completion chunks, as vLLM and SGLang send them (OpenAI's `chat.completion.chunk`).
fn event(line: &[u8]) -> Event {
    let line = String::from_utf8_lossy(line);
    let Some(data) = line.trim_end().strip_prefix("data:").map(str::trim_start) else {
        return Event::Nothing;
    };
    if data == "[DONE]" {
        return Event::End;
    }
    let chunk: Value = serde_json::from_str(data).unwrap_or_default();
    if !chunk["error"].is_null() {
        let why = chunk.pointer("/error/message").or(chunk.get("error"));
        let why = why.map(|why| why.as_str().map_or_else(|| why.to_string(), str::to_owned));
        return Event::Error(why.unwrap_or_default().chars().take(SHOWN).collect());
    }
    let delta = &chunk["choices"][0]["delta"];
    let texts = ["content", "reasoning_content", "reasoning"].iter().filter_map(|key| delta[*key].as_str());
    match texts.collect::<String>() {
        text if text.is_empty() => Event::Nothing,
        text => Event::Text(text),
    }
}

/// Returns the text of a completion. A reasoning model may spend all tokens before its answer; its reasoning counts.
fn said(completion: &Value) -> Option<&str> {
    let message = completion.pointer("/choices/0/message")?;
    ["content", "reasoning_content", "reasoning"]
        .iter()
        .find_map(|key| message[key].as_str().filter(|text| !text.trim().is_empty()))
}

/// Explains an error response, with a hint. The router's errors are bare JSON strings, sometimes two, those of engines OpenAI
/// objects; phrases decide, as 1.0.0 answers 404 to nearly everything.
fn explain(status: StatusCode, value: &Value, text: &str) -> (String, Option<&'static str>) {
    let objects = ["/error/message", "/message", "/error"];
    let strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let strings = strings.collect::<Result<Vec<_>, _>>().unwrap_or_default().join("; ");
    let words = Some(strings.as_str())
        .filter(|strings| !strings.is_empty())
        .or(value.as_str())
        .or_else(|| objects.iter().find_map(|p| value.pointer(p).and_then(Value::as_str)))
        .unwrap_or(text)
        .trim();
    let shown: String = words.chars().take(SHOWN).collect();
    let (meaning, hint) = match words {
        w if w.contains("route not found") => (
            "this gateway has no route with that name",
            Some("Run `provision plan`: the route may be missing, or not picked up by the router yet"),
        ),
        w if w.contains("can't find model server") => (
            "the route's model has no ready pod, or no ModelServer",
            Some("Run `k0s kubectl -n models get pods,modelservers` on a controller"),
        ),
        w if w.contains("can't schedule to target pod") => (
            "every pod of the model has as many requests waiting as the router allows",
            Some("Add replicas, or raise router.kthena.maxWaitingRequests"),
        ),
        w if w.contains("no available pods") => {
            ("the model has no ready pod", Some("Run `k0s kubectl -n models get pods` on a controller"))
        }
        w if w.contains("all pods failed") => (
            "the engine rejected the request or closed the connection",
            Some(
                "Run `k0s kubectl -n models logs deploy/MODEL` on a controller; the router does not pass on what the engine said",
            ),
        ),
        w if w.contains("prompt not found") => (
            "the request has neither `messages` nor a `prompt` in one text",
            Some("Use /v1/chat/completions or /v1/completions: Kthena v1.0.0 routes nothing else"),
        ),
        w if w.contains("No matching listener") => (
            "the router has no listener for this gateway",
            Some("Run `k0s kubectl -n models get gateways` on a controller"),
        ),
        _ if status == StatusCode::UNAUTHORIZED => (
            "the gateway wants an API key",
            Some(
                "Make the secret of `tenants.TENANT.keys.signing` readable on this machine, then run `provision apply`",
            ),
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
    ["is not open on any worker", "has no route", "no listener"].iter().any(|p| failure.message.contains(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_routers_bare_strings_are_explained() {
        let (why, hint) = explain(StatusCode::NOT_FOUND, &json!("route not found"), "\"route not found\"");
        assert_eq!(why, "this gateway has no route with that name (404 Not Found: route not found)");
        assert!(hint.is_some());
        let (why, _) = explain(StatusCode::NOT_FOUND, &json!("can't find model server: models/x"), "");
        assert!(why.starts_with("the route's model has no ready pod"), "{why}");
        let full = "\"can't schedule to target pod: pods have been all filtered out by least-request\"";
        let (why, hint) = explain(StatusCode::BAD_REQUEST, &Value::Null, full);
        assert!(why.starts_with("every pod of the model has as many requests waiting"), "{why}");
        assert!(hint.is_some_and(|hint| hint.contains("router.kthena.maxWaitingRequests")));
        let two = "\"request to all pods failed\"\"request processing failed\"";
        let (why, _) = explain(StatusCode::NOT_FOUND, &Value::Null, two);
        assert_eq!(
            why,
            "the engine rejected the request or closed the connection (404 Not Found: request to all pods failed; \
             request processing failed)"
        );
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
    fn a_stream_is_read_line_by_line() {
        let chunk = |delta: Value| format!("data: {}", json!({"choices": [{"delta": delta}]}));
        assert_eq!(event(chunk(json!({"role": "assistant", "content": ""})).as_bytes()), Event::Nothing);
        assert_eq!(
            event(chunk(json!({"content": " two\nlines"})).as_bytes()),
            Event::Text(" two\nlines".into())
        );
        assert_eq!(event(chunk(json!({"reasoning_content": "hm"})).as_bytes()), Event::Text("hm".into()));
        assert_eq!(event(b"data: [DONE]\r"), Event::End);
        for nothing in ["", ": a comment", "event: x", "data: {", "data: {\"choices\": [], \"usage\": {}}"] {
            assert_eq!(event(nothing.as_bytes()), Event::Nothing, "{nothing}");
        }
        let error = r#"data: {"error": {"message": "out of memory", "code": 500}}"#;
        assert_eq!(event(error.as_bytes()), Event::Error("out of memory".into()));
        assert_eq!(event(br#"data: {"error": "aborted"}"#), Event::Error("aborted".into()));
    }

    #[test]
    fn reasoning_counts_as_text_and_an_empty_message_does_not() {
        let completion = |message: Value| json!({"choices": [{"message": message}]});
        assert_eq!(said(&completion(json!({"content": "Hi"}))), Some("Hi"));
        assert_eq!(said(&completion(json!({"content": null, "reasoning": "Let me"}))), Some("Let me"));
        assert_eq!(said(&completion(json!({"content": " "}))), None);
    }
}
