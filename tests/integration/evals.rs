//! Labelled evaluation sets over HTTP, with an engine that says what it is told.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::http::{KEY, Script, Server, failure, value};

fn set(name: &str, items: &[(&str, &str)]) -> String {
    let item = |(question, answer): &(&str, &str)| json!({ "question": question, "answer": answer });
    json!({ "name": name, "items": items.iter().map(item).collect::<Vec<_>>() }).to_string()
}

async fn run(server: &Server, body: Value) -> Value {
    let response = server.post("/v1/evals/sums/runs", body.to_string()).await;
    assert_eq!(response.status(), 202);
    let place = response.headers()["location"].to_str().unwrap().to_owned();
    assert_eq!(value(response).await["state"], "running");
    for _ in 0..100 {
        let run = value(server.get(&place).await).await;
        if run["state"] != "running" {
            return run;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the run did not end");
}

#[tokio::test]
async fn a_set_is_kept_listed_run_and_removed() {
    let server = Server::start().await;
    assert_eq!(value(server.get("/v1/evals").await).await, json!({"sets": []}));
    let items = [("38 + 9 =", "47"), ("38 + 8 =", "46"), ("40 + 7 =", "47.0"), ("41 + 6 =", "\\frac{94}{2}")];
    let response = server.post("/v1/evals", set("sums", &items)).await;
    assert_eq!(response.status(), 200);
    let kept = value(response).await;
    assert_eq!((&kept["name"], &kept["items"]), (&json!("sums"), &json!(4)));
    assert_eq!(value(server.get("/v1/evals").await).await, json!({ "sets": [kept] }));
    let shown = value(server.get("/v1/evals/sums").await).await;
    assert_eq!(shown["items"][1], json!({"question": "38 + 8 =", "answer": "46"}));

    // Two samples of four say 47, one 46, and one is cut off.
    let run = run(&server, json!({})).await;
    assert_eq!((&run["state"], &run["version"], &run["set"]), (&json!("done"), &json!("base"), &json!("sums")));
    let score = &run["score"];
    assert_eq!((&score["items"], &score["right"], &score["skipped"]), (&json!(4), &json!(3), &json!(0)));
    assert_eq!((&score["maj_at_n"], &score["pass_at_1"]), (&json!(0.75), &json!(0.4375)));
    let (low, high) = (score["interval"]["low"].as_f64().unwrap(), score["interval"]["high"].as_f64().unwrap());
    assert!(0.2 < low && low < 0.75 && 0.75 < high && high < 1.0, "{score}");
    assert_eq!(value(server.get("/v1/evals/sums/runs").await).await, json!({ "runs": [run] }));

    let response = server.request(Method::DELETE, "/v1/evals/sums").bearer_auth(KEY).send().await.unwrap();
    assert_eq!(response.status(), 200);
    for path in ["/v1/evals/sums", "/v1/evals/other"] {
        assert_eq!(failure(server.get(path).await, 404).await.0, "not_found");
    }
    assert_eq!(failure(server.post("/v1/evals/sums/runs", "").await, 404).await.0, "not_found");
}

#[tokio::test]
async fn a_set_that_cannot_be_used_is_refused_whole_with_the_item() {
    let server = Server::start().await;
    for (body, expected) in [
        (set("No!", &[("1 + 1 =", "2")]), "is no name for a set"),
        (set("sums", &[]), "from 1 to 2000 items"),
        (set("sums", &[("1 + 1 =", "2"), ("1 + 2 =", "\\foo{3}")]), "item 2: the answer"),
        (set("sums", &[("1 + 1 =", "2"), ("1 +  1 =", "2")]), "item 2: it has the question of item 1"),
    ] {
        let (code, message) = failure(server.post("/v1/evals", body).await, 422).await;
        assert!(code == "invalid_set" && message.contains(expected), "{code}: {message}");
    }
    let (code, _) = failure(server.post("/v1/evals", "{\"name\": \"a\", \"items\": [{}]}").await, 422).await;
    assert_eq!(code, "invalid_body");
    assert_eq!(value(server.get("/v1/evals").await).await, json!({"sets": []}));
}

#[tokio::test]
async fn one_set_is_run_at_a_time_and_a_version_that_is_not_there_is_refused() {
    let server = Server::start().await;
    server.post("/v1/evals", set("sums", &[("38 + 9 =", "47")])).await;
    let (code, _) = failure(server.post("/v1/evals/sums/runs", json!({"version": "x"}).to_string()).await, 404).await;
    assert_eq!(code, "model_not_found");
    let token = CancellationToken::new();
    server.engine.script(Script::Wait(token.clone()));
    assert_eq!(server.post("/v1/evals/sums/runs", "").await.status(), 202);
    let (code, message) = failure(server.post("/v1/evals/sums/runs", "").await, 409).await;
    assert!(code == "conflict" && message.contains("the set sums is being run"), "{message}");
    token.cancel();
    server.engine.script(Script::Say(vec!["46"]));
    for _ in 0..100 {
        if value(server.get("/v1/evals/sums/runs").await).await["runs"][0]["state"] == "done" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(run(&server, json!({"version": "base"})).await["score"]["right"], 0);
}
