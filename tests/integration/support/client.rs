//! A client of a server, with the operator's key.

use reqwest::Method;
use serde_json::{Value, json};

/// Of the operator of all servers here.
pub const KEY: &str = "ttrl_0123456789abcdef";

pub struct Client {
    pub url: String,
    pub http: reqwest::Client,
}

impl Client {
    /// A client of the server at this address.
    pub fn of(url: String) -> Self {
        Self { url, http: ttrl::web::client_builder().unwrap().no_proxy().build().unwrap() }
    }

    /// The status and the body of a reply.
    pub async fn call(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let request = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(KEY);
        let response = request.body(body.to_string()).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, value) = self.call(Method::GET, path, json!({})).await;
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    pub async fn ask(&self, question: &str) -> Value {
        let (status, answer) = self.call(Method::POST, "/v1/answer", json!({ "question": question })).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Asks eight questions.
    pub async fn ask_all(&self) {
        for number in 0..8 {
            self.ask(&format!("{number} + {number}")).await;
        }
    }

    pub async fn metrics(&self) -> String {
        self.http.get(format!("{}/metrics", self.url)).send().await.unwrap().text().await.unwrap()
    }
}
