//! Rounds whose database goes away at the worst moment: a whole server with a tiny model, and a wire that breaks.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use ttrl::config::Settings;

use crate::{
    rounds::{Place, Running, candidate},
    support::{
        postgres,
        wire::{Break, Wire},
    },
    watch::{converse, only_clients_count},
};

/// A server's settings with a database at the other end of a wire.
async fn wired(place: &Place) -> (Settings, Wire) {
    let wire = Wire::to(&postgres::Server::shared().await.database().await).await;
    let settings = Settings { database_url: Some(wire.address().to_owned().into()), ..place.settings("tiny") };
    (settings, wire)
}

/// Waits until the metrics have this line.
async fn counted(server: &Running, line: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let metrics = server.metrics().await;
        if metrics.lines().any(|found| found == line) {
            return;
        }
        assert!(Instant::now() < deadline, "{line}: {metrics}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_whose_reply_is_lost_is_told_as_one() {
    let place = Place::new();
    let (settings, wire) = wired(&place).await;
    let server = Running::start(settings).await;
    server.ask_all().await;
    wire.break_at(Break::ReplyToCommitOf("SET state = 'promoted'"));
    let shown = server.round().await;
    assert_eq!(shown["round"]["state"], "promoted", "{shown}");
    counted(&server, "ttrl_rounds_total{outcome=\"promoted\"} 1").await;
    assert!(wire.has_broken());
    assert_eq!(server.live().await, candidate(&shown));
    // Its place is free, and so is its checkpoint's.
    assert_eq!(server.round().await["round"]["state"], "promoted");
    assert!(!server.metrics().await.contains("outcome=\"rejected\""));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_back_whose_reply_is_lost_is_told_as_one() {
    let place = Place::new();
    let (settings, wire) = wired(&place).await;
    let server = Running::start(only_clients_count(settings)).await;
    converse(&server, 0..32, true).await;
    let shown = server.round().await;
    assert_eq!(shown["round"]["state"], "promoted", "{shown}");
    wire.break_at(Break::ReplyToCommitOf("SET rolled_back = TRUE"));
    converse(&server, 0..64, false).await;
    counted(&server, "ttrl_rollbacks_total{rule=\"feedback\"} 1").await;
    assert!(wire.has_broken());
    assert_eq!(server.live().await, "base");
    let path = format!("/v1/rounds/{}", shown["round"]["id"].as_str().unwrap());
    assert_eq!(server.get(&path).await["round"]["watch"]["state"], "rolled_back");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_whose_reply_is_lost_is_counted() {
    let place = Place::new();
    let (mut settings, wire) = wired(&place).await;
    settings.learning.gate.max_kl = 0.0;
    let server = Running::start(settings).await;
    server.ask_all().await;
    wire.break_at(Break::ReplyToCommitOf("rejected"));
    let shown = server.round().await;
    assert_eq!(shown["round"]["state"], "rejected", "{shown}");
    counted(&server, "ttrl_rounds_total{outcome=\"rejected\"} 1").await;
    assert!(wire.has_broken());
    assert_eq!(server.live().await, json!("base"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_whose_cancellation_could_not_be_stored_is_not_told_as_cancelled() {
    let place = Place::new();
    place.make_twin();
    let (settings, wire) = wired(&place).await;
    let database_url = settings.database_url.clone();
    let server = Running::start(Settings { database_url: database_url.clone(), ..place.long_settings() }).await;
    server.ask_all().await;
    let path = server.begin().await;
    server.middle(&path).await;
    server.stop().await;
    // A server of another model leaves the round alone.
    let mut settings = Settings { database_url, ..place.settings("twin") };
    settings.rounds.lease_seconds = 3;
    let server = Running::start(settings).await;
    wire.break_at(Break::Before("UPDATE rounds SET state = $2"));
    let (status, refused) = server.call(Method::POST, &format!("{path}/cancel"), json!({})).await;
    assert_eq!((status, &refused["error"]["code"]), (503, &json!("database_unavailable")), "{refused}");
    server.stop().await;
}
