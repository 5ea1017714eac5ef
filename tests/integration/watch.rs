//! Versions that are watched after their promotion, on a whole server with a tiny model. What clients say of its noise
//! decides.

use std::{fs, ops::Range, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use ttrl::config::Settings;

use crate::rounds::{Place, Running, candidate};

/// Only what clients say can speak against a version: what a tiny model says is chance.
pub fn only_clients_count(mut settings: Settings) -> Settings {
    settings.learning.questions = 8;
    let watch = &mut settings.learning.watch;
    (watch.answers, watch.hours, watch.max_agreement_drop, watch.max_answer_rate_drop) = (64, 0, 1.0, 1.0);
    settings
}

fn settings(place: &Place) -> Settings {
    only_clients_count(place.settings("tiny"))
}

/// Asks some of the questions that there are, and says of each answer whether it was good.
pub async fn converse(server: &Running, numbers: Range<usize>, good: bool) {
    for number in numbers {
        let answer = ask(server, number).await;
        say(server, &answer, good).await;
    }
}

/// Asks a question; returns the id of the answer.
async fn ask(server: &Running, number: usize) -> String {
    let answer = server.ask(&format!("{} + {}", number % 8, number / 8)).await;
    answer["id"].as_str().unwrap().to_owned()
}

async fn say(server: &Running, answer: &str, good: bool) {
    let (status, said) =
        server.call(Method::POST, &format!("/v1/answers/{answer}/feedback"), json!({ "good": good })).await;
    assert_eq!(status, 200, "{said}");
}

/// A round that has promoted its candidate: its path, and the candidate.
async fn promotion(server: &Running) -> (String, String) {
    let shown = server.round().await;
    assert_eq!(shown["round"]["state"], "promoted", "{shown}");
    (format!("/v1/rounds/{}", shown["round"]["id"].as_str().unwrap()), candidate(&shown))
}

async fn end_of_watch(server: &Running, path: &str) -> Value {
    server.wait(path, |shown| !shown["round"]["watch"]["ended_at"].is_null()).await["round"]["watch"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_clients_find_worse_is_rolled_back_across_a_restart_and_the_next_waits_for_a_person() {
    let place = Place::new();
    let server = Running::start(settings(&place)).await;
    converse(&server, 0..40, true).await;
    let (path, version) = promotion(&server).await;
    let watch = server.get(&path).await["round"]["watch"].clone();
    assert_eq!((&watch["state"], &watch["looks"], &watch["ended_at"]), (&json!("watching"), &json!(0), &Value::Null));
    converse(&server, 0..20, false).await;
    server.stop().await;

    let server = Running::start(settings(&place)).await;
    converse(&server, 20..31, false).await;
    // Longer than until the next look, if it were taken already.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(server.get(&path).await["round"]["watch"]["looks"], 0);
    assert_eq!(server.live().await, version);
    assert!(server.metrics().await.contains("\nttrl_watch_in_progress 1\n"));
    // A look may be taken between an answer and what is said of it.
    converse(&server, 31..64, false).await;
    let watch = end_of_watch(&server, &path).await;
    assert_eq!(watch["state"], "rolled_back", "{watch}");
    let reason = watch["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("the share of answers that clients found good fell from 1.000 (40 answers)"),
        "{reason}"
    );
    assert_eq!(server.live().await, "base");
    assert_eq!(server.ask("1 + 2").await["adapter_version"], "base");
    assert_eq!(server.get(&path).await["round"]["state"], "promoted", "it was, once");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let metrics = server.metrics().await;
    for line in ["ttrl_rollbacks_total{rule=\"feedback\"} 1", "ttrl_watch_in_progress 0"] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in\n{metrics}");
    }

    // The same would be made again.
    let (path, shown) = server.held_round().await;
    assert_eq!(shown["round"]["verdict"]["decision"], "promote", "{shown}");
    let reason = shown["round"]["reason"].as_str().unwrap();
    assert!(reason.contains("the watch has rolled the last version back"), "{reason}");
    let (status, promoted) = server.call(Method::POST, &format!("{path}/promote"), json!({})).await;
    assert_eq!((status, &promoted["watch"]["state"]), (200, &json!("watching")), "{promoted}");
    assert_eq!(server.live().await, candidate(&shown));
    // A person has promoted one: the next goes live by itself again.
    promotion(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_say_hours_later_of_answers_that_were_seen_brings_the_version_before_back() {
    let place = Place::new();
    let mut settings = settings(&place);
    settings.learning.watch.hours = 24;
    let server = Running::start(settings).await;
    converse(&server, 0..32, true).await;
    let (path, version) = promotion(&server).await;
    let mut answers = Vec::new();
    for number in 0..80 {
        answers.push(ask(&server, number).await);
    }
    let shown = server.wait(&path, |shown| shown["round"]["watch"]["judged"][0] == 64).await;
    assert_eq!((&shown["round"]["watch"]["state"], server.live().await), (&json!("watching"), json!(version)));
    for answer in &answers {
        say(&server, answer, false).await;
    }
    assert_eq!(end_of_watch(&server, &path).await["state"], "rolled_back");
    assert_eq!(server.live().await, "base");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_clients_find_as_good_passes_its_watch() {
    let place = Place::new();
    let server = Running::start(settings(&place)).await;
    converse(&server, 0..32, true).await;
    let (path, version) = promotion(&server).await;
    converse(&server, 0..64, true).await;
    let watch = end_of_watch(&server, &path).await;
    assert_eq!((&watch["state"], &watch["answers"], &watch["reason"]), (&json!("passed"), &json!(64), &Value::Null));
    let rules: Vec<&Value> = watch["compared"].as_array().unwrap().iter().map(|compared| &compared["rule"]).collect();
    assert_eq!(rules, ["agreement", "answer-rate", "feedback"]);
    assert_eq!(
        (&watch["compared"][0]["after"]["answers"], &watch["compared"][2]["before"]["answers"]),
        (&json!(64), &json!(32))
    );
    assert_eq!(server.live().await, version);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_when_an_operator_makes_another_version_live_or_there_is_nothing_to_compare() {
    let place = Place::new();
    let server = Running::start(settings(&place)).await;
    converse(&server, 0..8, true).await;
    let (path, version) = promotion(&server).await;
    assert_eq!(server.activate("base").await.0, 200);
    let watch = end_of_watch(&server, &path).await;
    assert_eq!((&watch["state"], &watch["reason"]), (&json!("ended"), &json!("version base is live now")));

    let (path, _) = promotion(&server).await;
    converse(&server, 0..64, false).await;
    let watch = end_of_watch(&server, &path).await;
    let reason = watch["reason"].as_str().unwrap();
    assert!(watch["state"] == "ended" && reason.contains("too few were alike"), "{watch}");
    assert_ne!(server.live().await, json!(version));
    assert_ne!(server.live().await, "base");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_worse_stays_if_the_files_of_the_one_before_are_gone_and_ends_its_watch_if_they_are_damaged()
{
    let place = Place::new();
    let server = Running::start(settings(&place)).await;
    converse(&server, 0..8, true).await;
    let (_, parent) = promotion(&server).await;
    converse(&server, 0..32, true).await;
    let (path, version) = promotion(&server).await;
    let (folder, elsewhere) = (place.adapter(&parent), place.adapter("elsewhere"));
    fs::rename(&folder, &elsewhere).unwrap();
    converse(&server, 0..64, false).await;
    // Longer than until the next look.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let watch = server.get(&path).await["round"]["watch"].clone();
    assert_eq!((&watch["state"], server.live().await), (&json!("watching"), json!(version)));
    assert!(server.metrics().await.contains("\nttrl_watch_in_progress 1\n"));
    server.stop().await;

    fs::rename(&elsewhere, &folder).unwrap();
    let tensors = folder.join("adapter_model.safetensors");
    let whole = fs::read(&tensors).unwrap();
    fs::write(&tensors, &whole[..whole.len() - 1]).unwrap();
    // The next start does not wait a minute.
    let server = Running::start(settings(&place)).await;
    let watch = end_of_watch(&server, &path).await;
    let reason = watch["reason"].as_str().unwrap();
    assert!(reason.contains("clients found good fell") && reason.contains("no way back: adapter"), "{reason}");
    assert_eq!((&watch["state"], server.live().await), (&json!("ended"), json!(version)));
    assert!(watch["looks"] != 0 && watch["compared"][2]["after"]["mean"] == 0.0, "{watch}");
    server.stop().await;
}
