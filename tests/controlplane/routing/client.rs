//! A client of OpenAI's HTTP, and raw connections for what a decent client does not send.

use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};
use std::sync::LazyLock;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Until an answer, or the next piece of it, comes.
const DEADLINE: Duration = Duration::from_secs(30);

static HTTP: LazyLock<reqwest::Client> =
    LazyLock::new(|| reqwest::Client::builder().no_proxy().http1_only().build().expect("a client"));

/// An answer; without status if none came.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub code: u16,
    pub headers: Vec<(String, String)>,
    pub text: String,
    /// The body if it is JSON.
    pub json: Value,
}

impl Answer {
    /// Returns a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// Asserts the status; returns the body.
    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{self:#?}");
        self.json
    }

    /// Returns what the model said.
    #[track_caller]
    pub fn said(&self) -> &str {
        assert_eq!(self.code, 200, "{self:#?}");
        self.json["choices"][0]["message"]["content"].as_str().unwrap_or_else(|| panic!("{self:#?}"))
    }
}

/// Returns a message of a user.
pub fn user(prompt: &str) -> Value {
    json!({"role": "user", "content": prompt})
}

/// Asks for a chat completion.
pub async fn chat(port: u16, model: &str, prompt: &str) -> Answer {
    post(port, "/v1/chat/completions", &[], &super::cluster::body(model, prompt)).await
}

/// POSTs JSON with headers.
pub async fn post(port: u16, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let mut request = HTTP.post(format!("http://127.0.0.1:{port}{path}")).timeout(DEADLINE).json(body);
    for (key, value) in headers {
        request = request.header(*key, *value);
    }
    finish(request).await
}

/// GETs a URL.
pub async fn get(url: &str) -> Answer {
    get_with(url, &[]).await
}

/// GETs a URL with headers.
pub async fn get_with(url: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = HTTP.get(url).timeout(DEADLINE);
    for (key, value) in headers {
        request = request.header(*key, *value);
    }
    finish(request).await
}

/// GETs a path from an address of this machine, on a connection of its own.
pub async fn get_from(address: &str, port: u16, path: &str) -> Answer {
    let address: std::net::IpAddr = address.parse().expect("an address");
    let client = reqwest::Client::builder().no_proxy().local_address(address).build().expect("a client");
    finish(client.get(format!("http://127.0.0.1:{port}{path}")).timeout(DEADLINE)).await
}

/// GETs the list of models over TLS from a name, of which only one certificate is trusted.
pub async fn get_over_tls(port: u16, name: &str, certificate: &str) -> Answer {
    let trusted = reqwest::Certificate::from_pem(certificate.as_bytes()).expect("a certificate");
    let builder = reqwest::Client::builder().no_proxy().tls_certs_only([trusted]);
    let client = builder.resolve(name, ([127, 0, 0, 1], port).into()).build().expect("a client");
    finish(client.get(format!("https://{name}:{port}/v1/models")).timeout(DEADLINE)).await
}

async fn finish(request: reqwest::RequestBuilder) -> Answer {
    let answer = match request.send().await {
        Ok(answer) => answer,
        Err(e) => return Answer { text: format!("{e:?}"), ..Answer::default() },
    };
    let code = answer.status().as_u16();
    let headers = answer
        .headers()
        .iter()
        .map(|(k, v)| (k.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
        .collect();
    match answer.text().await {
        Ok(text) => Answer { code, headers, json: serde_json::from_str(&text).unwrap_or_default(), text },
        Err(e) => Answer { headers, text: format!("{code}, then {e:?}"), ..Answer::default() },
    }
}

/// A stream of server-sent events as it comes.
pub struct Events {
    pub code: u16,
    pub content_type: String,
    stream: std::pin::Pin<Box<dyn futures::Stream<Item = reqwest::Result<Bytes>> + Send>>,
    buffered: String,
}

/// Asks for a stream.
pub async fn stream(port: u16, path: &str, headers: &[(&str, &str)], body: &Value) -> Events {
    let mut body = body.clone();
    body["stream"] = json!(true);
    let mut request = HTTP.post(format!("http://127.0.0.1:{port}{path}")).json(&body);
    for (key, value) in headers {
        request = request.header(*key, *value);
    }
    let answer = tokio::time::timeout(DEADLINE, request.send()).await.expect("in time").expect("an answer");
    let content_type = answer.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    Events {
        code: answer.status().as_u16(),
        content_type: content_type.to_owned(),
        stream: Box::pin(answer.bytes_stream()),
        buffered: String::new(),
    }
}

impl Events {
    /// Returns the text of the next event; `None` at the end, an error where the connection broke.
    pub async fn next(&mut self) -> Result<Option<String>, String> {
        loop {
            // The router writes more empty lines than it has to.
            self.buffered.drain(..self.buffered.len() - self.buffered.trim_start_matches('\n').len());
            if let Some((event, rest)) = self.buffered.split_once("\n\n") {
                let event = event.strip_prefix("data: ").unwrap_or(event).to_owned();
                self.buffered = rest.to_owned();
                return Ok(Some(event));
            }
            let piece = tokio::time::timeout(DEADLINE, self.stream.next()).await;
            match piece.map_err(|_| "nothing came".to_owned())? {
                Some(Ok(piece)) => self.buffered.push_str(&String::from_utf8_lossy(&piece)),
                Some(Err(e)) => return Err(format!("{e:?}")),
                None if self.buffered.is_empty() => return Ok(None),
                None => return Ok(Some(std::mem::take(&mut self.buffered))),
            }
        }
    }

    /// Returns all events to come; JSON where it is some.
    pub async fn rest(&mut self) -> Result<Vec<Value>, String> {
        let mut all = Vec::new();
        while let Some(event) = self.next().await? {
            all.push(serde_json::from_str(&event).unwrap_or(Value::String(event)));
        }
        Ok(all)
    }
}

/// Sends bytes on a connection of their own; returns what comes until the other side closes, or until all of one answer with a
/// content length is there.
pub async fn raw(port: u16, bytes: &[u8]) -> String {
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(bytes).await?;
        let mut got = Vec::new();
        loop {
            let mut piece = [0; 4096];
            let n = stream.read(&mut piece).await?;
            got.extend_from_slice(&piece[..n]);
            let text = String::from_utf8_lossy(&got);
            let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
                let length = head
                    .lines()
                    .find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                length.is_some_and(|length: usize| body.len() >= length)
            });
            if n == 0 || whole {
                return Ok::<_, std::io::Error>(text.into_owned());
            }
        }
    };
    match tokio::time::timeout(DEADLINE, exchange).await {
        Ok(Ok(text)) => text,
        Ok(Err(e)) => format!("{e:?}"),
        Err(_) => "nothing came".to_owned(),
    }
}
