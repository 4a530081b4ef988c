//! A client of a real API, as its administrator.

use crate::lab::api::{Pair, Store};
use serde_json::{Value, json};

/// A client of the API.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    server: String,
    authority: String,
}

impl Client {
    /// Returns a client with a certificate.
    pub fn new(port: u16, authority: &str, pair: &Pair) -> reqwest::Result<Self> {
        let server = format!("https://127.0.0.1:{port}");
        let text = authority.to_owned();
        let identity = reqwest::Identity::from_pem(format!("{}{}", pair.certificate, pair.key).as_bytes())?;
        let authority = reqwest::Certificate::from_pem(authority.as_bytes())?;
        let http = reqwest::Client::builder().no_proxy().identity(identity).tls_certs_only([authority]);
        Ok(Self { http: http.build()?, server, authority: text })
    }

    /// Says whether the API is ready.
    pub async fn is_ready(&self) -> bool {
        let answer = self.http.get(format!("{}/readyz", self.server)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// Returns a token of a service account for the life of a lab, and the certificate of the API's authority.
    pub(super) async fn token(&self, namespace: &str, account: &str) -> reqwest::Result<(String, String)> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let wanted = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": 30 * 86_400}});
        let request = self.http.post(format!("{}{path}", self.server)).json(&wanted);
        let answer: Value = request.send().await?.error_for_status()?.json().await?;
        let token = answer.pointer("/status/token").and_then(Value::as_str).unwrap_or_default();
        Ok((token.to_owned(), self.authority.clone()))
    }

    /// Returns the objects of a kind.
    pub(super) async fn list(&self, store: &Store, id: &str) -> reqwest::Result<Vec<Value>> {
        // One that no definition has brought yet has no objects.
        let Some(path) = store.path(id, "", "") else { return Ok(Vec::new()) };
        let answer = self.http.get(format!("{}{path}", self.server)).send().await?.error_for_status()?;
        let list: Value = answer.json().await?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Sends an object; what is refused is printed.
    pub(super) async fn send(&self, method: reqwest::Method, path: &str, content_type: &str, body: &Value) {
        let request = self.http.request(method, format!("{}{path}?fieldManager=lab", self.server));
        // What is refused is seen by the next look, and tried again by whoever wants it.
        match request.header("content-type", content_type).body(body.to_string()).send().await {
            Ok(answer) if !answer.status().is_success() => {
                eprintln!("lab: {path}: {}", answer.text().await.unwrap_or_default());
            }
            Ok(_) => {}
            Err(error) => eprintln!("lab: {path}: {error}"),
        }
    }
}
