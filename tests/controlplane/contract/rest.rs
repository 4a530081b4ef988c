//! A bare HTTP client of a Kubernetes API: requests as they go over the wire, answers with status, headers and body, so
//! that a case can look at all of an answer. What `provision` itself sends goes through its own client.

use bytes::Bytes;
use futures::StreamExt;
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use std::time::Duration;

/// Until an answer, or the next event of a watch, comes.
const DEADLINE: Duration = Duration::from_secs(30);
/// What controllers do. They look again half a minute to a minute late after an API that was restarted.
const PATIENCE: Duration = Duration::from_secs(150);

/// An API, as one caller.
#[derive(Clone)]
pub struct Rest {
    http: reqwest::Client,
    server: String,
    token: Option<String>,
    /// A namespace of this case alone.
    pub ns: String,
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// The HTTP status.
    pub code: u16,
    /// The body; text that is no JSON as a string.
    pub body: Value,
}

impl Response {
    /// Asserts the status.
    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{:#}", self.body);
        self.body
    }

    /// Asserts a refusal: status, reason, and the message, of which only what is stable is given.
    #[track_caller]
    pub fn refused(self, code: u16, reason: &str, phrase: &str) -> Value {
        let body = self.expect(code);
        assert_eq!((&body["kind"], &body["apiVersion"]), (&json!("Status"), &json!("v1")), "{body:#}");
        assert_eq!(body["status"], "Failure", "{body:#}");
        assert_eq!(body["reason"], reason, "{body:#}");
        assert_eq!(body["code"], code, "{body:#}");
        let message = body["message"].as_str().unwrap_or_default();
        assert!(message.contains(phrase), "{phrase:?} is not in {message:?}");
        body
    }
}

impl Rest {
    /// Reads a kubeconfig with a client certificate.
    pub fn new(kubeconfig: &str, ns: &str) -> Self {
        let config: Value = serde_saphyr::from_str(kubeconfig).expect("a kubeconfig");
        let at = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let decoded = |pointer: &str| {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(at(pointer)).expect("base64")
        };
        let mut identity = decoded("/users/0/user/client-certificate-data");
        identity.extend(decoded("/users/0/user/client-key-data"));
        let authority = decoded("/clusters/0/cluster/certificate-authority-data");
        let authority = reqwest::Certificate::from_pem(&authority).expect("an authority");
        let build = |builder: reqwest::ClientBuilder| {
            builder.no_proxy().http1_only().tls_certs_only([authority]).build().expect("a client")
        };
        let identity = reqwest::Identity::from_pem(&identity).expect("a certificate with its key");
        Self {
            http: build(reqwest::Client::builder().identity(identity)),
            server: at("/clusters/0/cluster/server").to_owned(),
            token: None,
            ns: ns.to_owned(),
        }
    }

    /// Returns the same API as somebody without a certificate.
    pub fn stranger(&self, kubeconfig: &str, token: Option<&str>) -> Self {
        let config: Value = serde_saphyr::from_str(kubeconfig).expect("a kubeconfig");
        let authority = config["clusters"][0]["cluster"]["certificate-authority-data"].as_str().expect("one");
        let authority = {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(authority).expect("base64")
        };
        let authority = reqwest::Certificate::from_pem(&authority).expect("an authority");
        let builder = reqwest::Client::builder().no_proxy().http1_only().tls_certs_only([authority]);
        Self { http: builder.build().expect("a client"), token: token.map(str::to_owned), ..self.clone() }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.server))
            .header(header::USER_AGENT, "contract/1");
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        request
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Response {
        let answer = request.timeout(DEADLINE).send().await.expect("an answer");
        let code = answer.status().as_u16();
        let text = answer.text().await.expect("a body");
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Response { code, body }
    }

    /// GETs a path of a server that may not be there; returns the status.
    pub async fn try_get(&self, path: &str) -> Option<u16> {
        let answer = self.request(Method::GET, path).timeout(DEADLINE).send().await;
        answer.ok().map(|a| a.status().as_u16())
    }

    /// GETs a path.
    pub async fn get(&self, path: &str) -> Response {
        self.send(self.request(Method::GET, path)).await
    }

    /// POSTs an object.
    pub async fn post(&self, path: &str, body: &Value) -> Response {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// PUTs an object.
    pub async fn put(&self, path: &str, body: &Value) -> Response {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    /// DELETEs, with options or without.
    pub async fn delete(&self, path: &str, options: &Value) -> Response {
        let request = self.request(Method::DELETE, path);
        self.send(if options.is_null() { request } else { request.json(options) }).await
    }

    /// PATCHes with a content type.
    pub async fn patch(&self, path: &str, content_type: &str, body: &Value) -> Response {
        let request = self.request(Method::PATCH, path).header(header::CONTENT_TYPE, content_type);
        self.send(request.body(body.to_string())).await
    }

    /// Merges (RFC 7386).
    pub async fn merge(&self, path: &str, body: &Value) -> Response {
        self.patch(path, "application/merge-patch+json", body).await
    }

    /// Applies server-side as a manager; `more` is the rest of the query.
    pub async fn apply(&self, path: &str, manager: &str, more: &str, body: &Value) -> Response {
        let path = format!("{path}?fieldManager={manager}{more}");
        self.patch(&path, "application/apply-patch+yaml", body).await
    }

    /// Starts a watch.
    pub async fn watch(&self, path: &str) -> Watch {
        let answer = self.request(Method::GET, path).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        Watch { stream: Box::pin(answer.bytes_stream()), buffered: Vec::new() }
    }

    /// Returns a path of a namespaced core kind in this case's namespace, `rest` being plural and what follows.
    pub fn core(&self, rest: &str) -> String {
        format!("/api/v1/namespaces/{}/{rest}", self.ns)
    }

    /// Returns a path of a namespaced kind of a group in this case's namespace.
    pub fn of(&self, group_version: &str, rest: &str) -> String {
        format!("/apis/{group_version}/namespaces/{}/{rest}", self.ns)
    }

    /// Looks at a path until what is there satisfies; returns it.
    pub async fn until(&self, path: &str, what: &str, done: impl Fn(&Response) -> bool) -> Response {
        let began = std::time::Instant::now();
        loop {
            let answer = self.get(path).await;
            if done(&answer) {
                return answer;
            }
            assert!(began.elapsed() < PATIENCE, "{what} did not come: {answer:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A running watch.
pub struct Watch {
    stream: std::pin::Pin<Box<dyn futures::Stream<Item = reqwest::Result<Bytes>> + Send>>,
    buffered: Vec<u8>,
}

impl Watch {
    /// Returns the next event; `None` when the connection ends.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffered.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffered.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("an event a line"));
            }
            let chunk = tokio::time::timeout(DEADLINE, self.stream.next()).await.expect("an event in time");
            match chunk {
                Some(Ok(chunk)) => self.buffered.extend_from_slice(&chunk),
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// Returns the next event's type and the name of its object.
    pub async fn event(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        let text =
            |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        (text("/type"), text("/object/metadata/name"))
    }
}

/// Returns the text at a JSON pointer.
#[track_caller]
pub fn text(object: &Value, pointer: &str) -> String {
    let found = object.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_else(|| panic!("no {pointer} in {object:#}")).to_owned()
}
