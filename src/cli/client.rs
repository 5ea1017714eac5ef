//! Talking to a running server.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use reqwest::{Method, RequestBuilder, Response};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::{given, path_text};
use crate::{
    config::{Flag, Settings},
    web,
};

/// Where the server is.
#[derive(Args, Debug)]
pub struct ServerFlags {
    /// The server's address [default: http:// and `server.bind` of the settings]
    #[arg(long, global = true, value_name = "URL")]
    server: Option<String>,
    /// Print the server's JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// How to prove to be the operator.
#[derive(Args, Debug)]
pub struct OperatorFlags {
    #[command(flatten)]
    pub server: ServerFlags,
    /// The operator's key; others on this machine can see it, so a file is better
    #[arg(long, global = true, conflicts_with = "key_file")]
    key: Option<String>,
    /// A file with the operator's key [default: operator.key in the data directory]
    #[arg(long, global = true, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The server's data directory [default: ttrl-data]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl OperatorFlags {
    pub fn flags(&self) -> Vec<Flag> {
        given([("--data-dir", "data_dir", path_text(self.data_dir.as_ref()))])
    }
}

/// A client of one server.
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<SecretString>,
}

impl Client {
    pub fn new(flags: &ServerFlags, settings: &Settings) -> anyhow::Result<Self> {
        let base = match &flags.server {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => local_address(settings),
        };
        if !base.starts_with("http://") && !base.starts_with("https://") {
            bail!("--server {base}: write an address such as http://127.0.0.1:8080 or https://ttrl.example.org");
        }
        // No time limit: an answer takes as long as the server lets it. No proxy: the server is near.
        let http = web::client_builder()?.no_proxy().connect_timeout(Duration::from_secs(10)).build()?;
        Ok(Self { http, base, key: None })
    }

    /// A client with the operator's key.
    pub fn operator(flags: &OperatorFlags, settings: &Settings) -> anyhow::Result<Self> {
        let mut client = Self::new(&flags.server, settings)?;
        client.key = Some(match (&flags.key, &flags.key_file, &settings.operator_key) {
            (Some(key), _, _) => key.clone().into(),
            (None, None, Some(key)) => key.clone(),
            (None, file, _) => {
                let path = file.clone().unwrap_or_else(|| settings.operator_key_path());
                let key = std::fs::read_to_string(&path).with_context(|| {
                    format!("cannot read the operator's key from {}; give --key-file or --data-dir", path.display())
                })?;
                key.trim().into()
            }
        });
        Ok(client)
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.send(self.http.request(Method::GET, format!("{}{path}", self.base))).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.send(self.http.request(Method::POST, format!("{}{path}", self.base)).json(body)).await
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.send(self.http.request(Method::DELETE, format!("{}{path}", self.base))).await
    }

    /// What is there as text.
    pub async fn get_text(&self, path: &str) -> anyhow::Result<String> {
        let response = self.respond(self.http.request(Method::GET, format!("{}{path}", self.base))).await?;
        Ok(response.error_for_status()?.text().await?)
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Value> {
        let response = self.respond(request).await?;
        let status = response.status();
        let base = &self.base;
        let value: Value =
            response.json().await.with_context(|| format!("what answers at {base} is not a ttrl server"))?;
        if !status.is_success() {
            let message = value.pointer("/error/message").and_then(Value::as_str);
            bail!("{} ({status})", message.unwrap_or("the server refused"));
        }
        Ok(value)
    }

    async fn respond(&self, mut request: RequestBuilder) -> anyhow::Result<Response> {
        if let Some(key) = &self.key {
            request = request.bearer_auth(key.expose_secret());
        }
        let base = &self.base;
        match request.send().await {
            Err(error) if error.is_connect() => {
                bail!("no server answers at {base}; start one with `ttrl serve`, or name another with `--server URL`")
            }
            other => other.with_context(|| format!("the server at {base} did not answer")),
        }
    }
}

/// Where a server with these settings can be reached from this machine.
fn local_address(settings: &Settings) -> String {
    let mut address = settings.server.bind;
    if address.ip().is_unspecified() {
        let local: std::net::IpAddr =
            if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(local);
    }
    format!("http://{address}")
}

/// A field's text: the text itself, or the value as JSON; nothing for null.
pub fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(server: &str) -> anyhow::Result<Client> {
        Client::new(&ServerFlags { server: Some(server.into()), json: false }, &Settings::default())
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_told_with_what_to_do() {
        // The port is free: it was just given and taken back.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = client(&format!("http://{free}/")).unwrap().get("/healthz").await.unwrap_err().to_string();
        assert!(error.contains("no server answers at") && error.contains("`ttrl serve`"), "{error}");
        assert!(client("localhost:80").is_err_and(|error| error.to_string().contains("http://127.0.0.1:8080")));
    }

    #[test]
    fn a_server_on_every_address_is_reached_on_this_machine() {
        let mut settings = Settings::default();
        for (bind, address) in [("0.0.0.0:80", "http://127.0.0.1:80"), ("[::]:1", "http://[::1]:1")] {
            settings.server.bind = bind.parse().unwrap();
            assert_eq!(local_address(&settings), address);
        }
    }
}
