//! Inference servers that echo: the HTTP of vLLM and SGLang on the address of a pod. Words in the last message tell one what to
//! do: `refuse-400`, `refuse-500`, `abort` in the middle of the answer, `hold` after the first piece until it is released,
//! `many` pieces, `paced` events. It keeps what it was asked.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long a `paced` answer takes until its first event, and from one to the next.
const FIRST_TOKEN: Duration = Duration::from_millis(300);
const NEXT_TOKEN: Duration = Duration::from_millis(70);

/// Which one it plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Vllm,
    Sglang,
}

/// A request that it was sent.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Value,
}

/// What the connections of an engine share.
struct Shared {
    kind: Kind,
    pod: String,
    model: String,
    asked: Mutex<Vec<Asked>>,
    waiting: Mutex<u64>,
    running: Arc<()>,
    held: watch::Sender<bool>,
}

impl Shared {
    /// Returns how many requests run: each has one of the references.
    fn requests(&self) -> u64 {
        Arc::strong_count(&self.running) as u64 - 1
    }
}

/// A running engine.
pub struct Engine {
    shared: Arc<Shared>,
    address: SocketAddr,
    serving: JoinSet<()>,
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

impl Engine {
    /// Starts one that knows a model by this name.
    pub async fn start(kind: Kind, address: SocketAddr, pod: &str, model: &str) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            kind,
            pod: pod.to_owned(),
            model: model.to_owned(),
            asked: Mutex::default(),
            waiting: Mutex::default(),
            running: Arc::default(),
            held: watch::Sender::new(true),
        });
        let mut engine = Self { shared, address, serving: JoinSet::new() };
        engine.resume().await?;
        Ok(engine)
    }

    /// Listens, again if it was stopped.
    pub async fn resume(&mut self) -> std::io::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        let shared = self.shared.clone();
        self.serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let shared = shared.clone();
                connections.spawn(async move {
                    let answer = hyper::service::service_fn(move |request| {
                        let shared = shared.clone();
                        async move { Ok::<_, std::convert::Infallible>(answer(&shared, request).await) }
                    });
                    let stream = hyper_util::rt::TokioIo::new(stream);
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(stream, answer).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(())
    }

    /// Stops it as when its machine dies: no listener, all connections reset.
    pub async fn stop(&mut self) {
        self.serving.shutdown().await;
    }

    /// Returns the model's name.
    pub fn model(&self) -> &str {
        &self.shared.model
    }

    /// Returns how many requests it answers now.
    pub fn requests(&self) -> u64 {
        self.shared.requests()
    }

    /// Returns what it was asked for since the last call, health and metrics aside.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.shared.asked.lock().expect("no panic"))
    }

    /// Lets held answers go on, and those to come not wait; or holds from now on.
    pub fn hold(&self, held: bool) {
        self.shared.held.send_replace(held);
    }

    /// Reports so many waiting requests.
    pub fn report_waiting(&self, count: u64) {
        *self.shared.waiting.lock().expect("no panic") = count;
    }
}

fn full(code: u16, content_type: &str, text: String) -> Response<Body> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    let answer = Response::builder().status(code).header("content-type", content_type).body(body);
    answer.expect("an answer")
}

fn as_json(code: u16, value: &Value) -> Response<Body> {
    full(code, "application/json", value.to_string())
}

/// An error object as the engine writes it.
fn refused(kind: Kind, code: u16, what: &str, message: &str) -> Response<Body> {
    let error = json!({"message": message, "type": what, "param": null, "code": code});
    match kind {
        Kind::Vllm => as_json(code, &json!({"error": error})),
        Kind::Sglang => {
            let mut error = error;
            error["object"] = json!("error");
            as_json(code, &error)
        }
    }
}

async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::GET, "/health" | "/health_generate") => full(200, "text/plain", String::new()),
        (&Method::GET, "/metrics") => full(200, "text/plain; version=0.0.4", metrics(shared)),
        (&Method::GET, "/v1/models") => as_json(
            200,
            &json!({"object": "list", "data": [{"id": shared.model, "object": "model", "created": 1, "owned_by": "engine"}]}),
        ),
        (&Method::POST, "/v1/chat/completions" | "/v1/completions") => complete(shared, &path, request).await,
        _ => as_json(404, &json!({"detail": "Not Found"})),
    }
}

fn metrics(shared: &Shared) -> String {
    let waiting = *shared.waiting.lock().expect("no panic");
    let requests = shared.requests();
    let model = &shared.model;
    let (prefix, usage, queue, running) = match shared.kind {
        Kind::Vllm => ("vllm", "kv_cache_usage_perc", "num_requests_waiting", "num_requests_running"),
        Kind::Sglang => ("sglang", "token_usage", "num_queue_reqs", "num_running_reqs"),
    };
    let mut text = String::new();
    for (name, value) in [(usage, 0), (queue, waiting), (running, requests)] {
        text +=
            &format!("# TYPE {prefix}:{name} gauge\n{prefix}:{name}{{model_name=\"{model}\"}} {value}.0\n");
    }
    for name in ["inter_token_latency_seconds", "time_to_first_token_seconds"] {
        text += &format!("# TYPE {prefix}:{name} histogram\n");
        for (part, label) in
            [("bucket", ",le=\"0.5\""), ("bucket", ",le=\"+Inf\""), ("sum", ""), ("count", "")]
        {
            text += &format!("{prefix}:{name}_{part}{{model_name=\"{model}\"{label}}} 1.0\n");
        }
    }
    text
}

async fn complete(shared: &Arc<Shared>, path: &str, request: Request<Incoming>) -> Response<Body> {
    let headers = request
        .headers()
        .iter()
        .map(|(k, v)| (k.as_str().to_owned(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
        .collect();
    let Ok(body) = request.into_body().collect().await else {
        return refused(shared.kind, 400, "BadRequestError", "the body was cut off");
    };
    let Ok(body) = serde_json::from_slice::<Value>(&body.to_bytes()) else {
        return refused(shared.kind, 400, "BadRequestError", "JSON decode error");
    };
    shared.asked.lock().expect("no panic").push(Asked { path: path.to_owned(), headers, body: body.clone() });
    let chat = path == "/v1/chat/completions";
    if body["model"] != shared.model.as_str() {
        let message = format!("The model `{}` does not exist.", body["model"].as_str().unwrap_or_default());
        return refused(shared.kind, 404, "NotFoundError", &message);
    }
    let prompt = if chat {
        let last = body["messages"].as_array().and_then(|m| m.last()).unwrap_or(&Value::Null);
        last["content"].as_str().unwrap_or_default().to_owned()
    } else {
        body["prompt"].as_str().unwrap_or_default().to_owned()
    };
    let running = shared.running.clone();
    if prompt.contains("paced") {
        tokio::time::sleep(FIRST_TOKEN).await;
    }
    if prompt.contains("refuse-400") {
        return refused(shared.kind, 400, "BadRequestError", "this prompt is too long");
    }
    if prompt.contains("refuse-500") {
        return refused(shared.kind, 500, "InternalServerError", "the engine is out of memory");
    }
    let pieces: Vec<String> = if prompt.contains("many") {
        (0..200).map(|n| format!("{n} ")).collect()
    } else {
        format!("echo from {}: {prompt}", shared.pod).split_inclusive(' ').map(str::to_owned).collect()
    };
    if body["stream"] == true {
        return streamed(shared, running, chat, &body, &prompt, &pieces);
    }
    if prompt.contains("hold") {
        let _ = shared.held.subscribe().wait_for(|held| !held).await;
    }
    let (object, mut choice) = if chat {
        ("chat.completion", json!({"message": {"role": "assistant", "content": pieces.concat()}}))
    } else {
        ("text_completion", json!({"text": pieces.concat()}))
    };
    choice["index"] = json!(0);
    choice["finish_reason"] = json!("stop");
    let whole = json!({"id": "cmpl-1", "object": object, "created": 1, "model": shared.model,
        "choices": [choice], "usage": usage(&prompt, &pieces)});
    if prompt.contains("abort") {
        // Half of the length that it announces.
        let half = whole.to_string().split_at(20).0.to_owned();
        let pieces = vec![Ok(Frame::data(Bytes::from(half))), Err(std::io::Error::other("lost"))];
        let body = StreamBody::new(stream::iter(pieces)).boxed_unsync();
        return Response::builder().header("content-type", "application/json").body(body).expect("an answer");
    }
    as_json(200, &whole)
}

fn usage(prompt: &str, pieces: &[String]) -> Value {
    let (asked, answered) = (prompt.split_whitespace().count(), pieces.len());
    json!({"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered})
}

/// Answers with server-sent events, an event a write.
fn streamed(
    shared: &Arc<Shared>,
    running: Arc<()>,
    chat: bool,
    body: &Value,
    prompt: &str,
    pieces: &[String],
) -> Response<Body> {
    let event = |choices: Value, usage: Value| {
        let object = if chat { "chat.completion.chunk" } else { "text_completion" };
        let mut event = json!({"id": "cmpl-1", "object": object, "created": 1, "model": shared.model, "choices": choices});
        if !usage.is_null() {
            event["usage"] = usage;
        }
        format!("data: {event}\n\n")
    };
    let mut events = Vec::new();
    for (n, piece) in pieces.iter().enumerate() {
        let end = if n + 1 == pieces.len() { json!("stop") } else { Value::Null };
        let mut choice = if chat {
            json!({"delta": {"role": "assistant", "content": piece}})
        } else {
            json!({"text": piece})
        };
        choice["index"] = json!(0);
        choice["finish_reason"] = end;
        events.push(event(json!([choice]), Value::Null));
    }
    if body["stream_options"]["include_usage"] == true {
        events.push(event(json!([]), usage(prompt, pieces)));
    }
    events.push("data: [DONE]\n\n".to_owned());
    let (holds, aborts, paced) =
        (prompt.contains("hold"), prompt.contains("abort"), prompt.contains("paced"));
    let shared = shared.clone();
    let frames: BoxStream<'static, std::io::Result<Frame<Bytes>>> =
        stream::iter(events.into_iter().enumerate())
            .then(move |(n, event)| {
                let (shared, running) = (shared.clone(), running.clone());
                async move {
                    let _running = running;
                    if paced && n > 0 {
                        tokio::time::sleep(NEXT_TOKEN).await;
                    }
                    if holds && n > 0 {
                        let _ = shared.held.subscribe().wait_for(|held| !held).await;
                    }
                    // What is ready at once goes out in one write: other tasks first.
                    tokio::task::yield_now().await;
                    if aborts && n == 2 {
                        return Err(std::io::Error::other("lost"));
                    }
                    Ok(Frame::data(Bytes::from(event)))
                }
            })
            .boxed();
    let body = BodyExt::boxed_unsync(StreamBody::new(frames));
    let answer = Response::builder()
        .status(StatusCode::OK)
        .header("content-type", "text/event-stream; charset=utf-8")
        .body(body);
    answer.expect("an answer")
}
