//! Rounds on a whole server with a tiny model. What it says is noise, but every part is the real one, and a round takes
//! a second.

use std::{
    fs,
    ops::Deref,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::Connection;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use ttrl::{
    adapters::gate::Decision,
    app::{AppError, Server},
    config::{Device, Settings},
};

use crate::support::{
    client::{Client, KEY},
    device, fixture,
};

/// The tiny model as a chat model. A token of every four says that the answer is 1, one that it is 2, and the other two
/// end the response, so that votes differ and majorities are there.
pub(crate) fn chat_model(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture("tiny-llama").join(name), folder.join(name)).unwrap();
    }
    let special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    let mut words: Vec<String> = special.iter().map(|word| word.to_string()).collect();
    words.extend("? 0 1 2 3 4 5 6 7 8 9 + =".split(' ').map(str::to_owned));
    let mut ends = vec![2];
    for id in words.len()..96 {
        // The same number in another way each time.
        let zeros = "0".repeat(id);
        words.push(match id % 4 {
            0 => format!("\\boxed{{1.{zeros}}}"),
            1 => format!("\\boxed{{2.{zeros}}}"),
            _ => {
                ends.push(id);
                format!("end{id}")
            }
        });
    }
    let vocab: serde_json::Map<String, Value> =
        words.iter().enumerate().map(|(id, word)| (word.clone(), json!(id))).collect();
    let added = special.iter().enumerate().map(|(id, content)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "?"},
    });
    let turns = "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}\
                 <|im_start|>assistant";
    let settings = json!({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "add_bos_token": false,
                          "chat_template": turns});
    for (name, value) in [
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", settings),
        ("generation_config.json", json!({ "eos_token_id": ends })),
    ] {
        fs::write(folder.join(name), value.to_string()).unwrap();
    }
}

/// A folder for a model and for a server's data.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        chat_model(&place.model("tiny"));
        place
    }

    fn model(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A model like the other one: one weight is another one, by a hair.
    pub(crate) fn make_twin(&self) {
        chat_model(&self.model("twin"));
        let weights = self.model("twin").join("model.safetensors");
        let mut bytes = fs::read(&weights).unwrap();
        let last = bytes.len() - 4;
        bytes[last] ^= 1;
        fs::write(&weights, bytes).unwrap();
    }

    pub(crate) fn adapter(&self, version: &str) -> PathBuf {
        self.0.path().join("data/adapters").join(version)
    }

    /// A round of so many steps that no test sees its end.
    pub(crate) fn long_settings(&self) -> Settings {
        let mut settings = self.settings("tiny");
        (settings.learning.steps, settings.learning.learning_rate) = (500, 1e-6);
        settings
    }

    /// The version of a round on a server that has stopped since. It is live.
    async fn learn(&self) -> String {
        let server = Running::start(self.settings("tiny")).await;
        server.ask_all().await;
        let shown = server.round().await;
        assert_eq!(shown["round"]["state"], "promoted", "{shown}");
        server.stop().await;
        candidate(&shown)
    }

    /// Two steps on what was asked, half of it kept for a gate that lets everything through.
    pub(crate) fn settings(&self, model: &str) -> Settings {
        let mut settings = Settings {
            data_dir: self.0.path().join("data"),
            model: self.model(model).display().to_string(),
            device: device().parse().unwrap(),
            operator_key: Some(KEY.to_owned().into()),
            ..Settings::default()
        };
        settings.server.bind = "127.0.0.1:0".parse().unwrap();
        // Of which rollouts have half.
        settings.engine.cache_tokens = Some(256);
        settings.answer.max_tokens = Some(8);
        settings.answer.votes = 4;
        let learning = &mut settings.learning;
        (learning.steps, learning.votes, learning.max_tokens) = (2, 8, Some(8));
        (learning.learning_rate, learning.min_majority_ratio) = (0.01, 0.0);
        learning.guard.enabled = false;
        let gate = &mut learning.gate;
        (gate.held_back, gate.max_kl, gate.max_agreement_drop, gate.max_answer_rate_drop) = (0.5, 1000.0, 1.0, 1.0);
        gate.max_length_ratio = 1000.0;
        settings
    }
}

/// A server in this process.
pub(crate) struct Running {
    client: Client,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), AppError>>,
}

impl Deref for Running {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Running {
    pub(crate) async fn start(settings: Settings) -> Self {
        let server = Server::start(settings, |_, _, _| ()).await.unwrap();
        let url = format!("http://{}", server.address().unwrap());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(server.run(shutdown.clone()));
        Self { client: Client::of(url), shutdown, task }
    }

    /// Starts a round and returns its path. What a tiny model learns of noise is luck, so the rounds of a test have the seeds 1, 2
    /// and so on.
    pub(crate) async fn begin(&self) -> String {
        static BEGUN: AtomicU64 = AtomicU64::new(0);
        let seed = BEGUN.fetch_add(1, Ordering::Relaxed) + 1;
        let (status, round) = self.call(Method::POST, "/v1/rounds", json!({ "seed": seed })).await;
        assert_eq!(status, 202, "{round}");
        format!("/v1/rounds/{}", round["id"].as_str().unwrap())
    }

    /// What is shown of the round at `path` as soon as it is `so`.
    pub(crate) async fn wait(&self, path: &str, so: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..600 {
            let shown = self.get(path).await;
            if so(&shown) {
                return shown;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the round at {path} did not come so far");
    }

    /// Keeps eight labelled questions that no version gets right; one of them has been asked.
    async fn label(&self) {
        let items: Vec<Value> =
            (0..8).map(|number| json!({"question": format!("{number}  + 3"), "answer": "9"})).collect();
        let (status, set) = self.call(Method::POST, "/v1/evals", json!({"name": "sums", "items": items})).await;
        assert_eq!(status, 200, "{set}");
    }

    /// Runs a round and returns its path and how it is shown while it waits for a person.
    pub(crate) async fn held_round(&self) -> (String, Value) {
        let path = self.begin().await;
        let shown = self.wait(&path, |shown| ended(shown) || shown["round"]["state"] == "held").await;
        assert_eq!(shown["round"]["state"], "held", "{shown}");
        (path, shown)
    }

    pub(crate) async fn end(&self, path: &str) -> Value {
        self.wait(path, ended).await
    }

    /// Waits until the round at `path` has learnt something and goes on.
    pub(crate) async fn middle(&self, path: &str) {
        let learnt = |step: &Value| !step["metrics"]["update"].is_null();
        let shown =
            self.wait(path, |shown| ended(shown) || shown["steps"].as_array().unwrap().iter().any(learnt)).await;
        assert!(!ended(&shown), "{shown}");
    }

    /// Runs a round and returns it as it ended.
    pub(crate) async fn round(&self) -> Value {
        let path = self.begin().await;
        self.end(&path).await
    }

    pub(crate) async fn live(&self) -> Value {
        self.get("/v1/adapters").await["live"].clone()
    }

    pub(crate) async fn activate(&self, version: &str) -> (u16, Value) {
        self.call(Method::POST, &format!("/v1/adapters/{version}/activate"), json!({})).await
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn ended(shown: &Value) -> bool {
    !shown["round"]["finished_at"].is_null()
}

pub(crate) fn candidate(shown: &Value) -> String {
    shown["round"]["candidate_version"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_with_the_default_template_learns_from_boxed_answers() {
    let place = Place::new();
    let server = Running::start(place.settings("tiny")).await;
    server.ask_all().await;
    let long = "7 + ".repeat(35) + "7";
    let answer = server.ask(&long).await;
    assert_eq!(answer["parameters"]["prompt_template"], "boxed");

    let shown = server.round().await;
    let round = &shown["round"];
    assert_eq!(round["state"], "promoted", "{shown}");
    assert_eq!((&round["step"], &round["questions"], &round["held_back"]), (&json!(2), &json!(8), &json!(4)));
    let rows = shown["questions"].as_array().unwrap();
    let unseen: Vec<&Value> = rows.iter().filter(|row| row["before_ratio"].is_null()).collect();
    assert_eq!((rows.len(), unseen.len(), &unseen[0]["text"]), (9, 1, &json!(long)), "it was too long to be sampled");
    let answers: Vec<&Value> = rows.iter().map(|row| &row["before_answer"]).filter(|value| !value.is_null()).collect();
    assert!(!answers.is_empty(), "somebody found the boxes: {shown}");
    assert!(shown["steps"][0]["metrics"]["votes"]["answer_rate"].as_f64().unwrap() > 0.0, "{shown}");
    assert_eq!(server.ask("1 + 2").await["adapter_version"], candidate(&shown));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_that_are_settled_are_passed_over_and_a_round_of_nothing_else_says_so() {
    let place = Place::new();
    let mut settings = place.settings("tiny");
    // One round's majority is enough, however weak.
    let selection = &mut settings.learning.selection;
    (selection.settled_rounds, selection.settled_ratio, selection.rest) = (1, 0.0, 1);
    let server = Running::start(settings).await;
    server.ask_all().await;
    assert_eq!(server.round().await["round"]["state"], "promoted");
    let aside = |shown: &Value| {
        let rows = shown["questions"].as_array().unwrap();
        rows.iter().filter(|row| row["set_aside"] == "settled").count()
    };
    let shown = server.round().await;
    let reason = shown["round"]["reason"].as_str().unwrap();
    assert_eq!((&shown["round"]["state"], aside(&shown)), (&json!("rejected"), 8), "{shown}");
    assert!(reason.starts_with("nothing is left to learn from now: 8 settled"), "{reason}");

    // Once is enough here: now they are sampled again, besides what is new.
    server.ask("9 + 9").await;
    let shown = server.round().await;
    assert_eq!((&shown["round"]["questions"], aside(&shown)), (&json!(9), 0), "{shown}");
    let shown = server.round().await;
    assert_eq!((&shown["round"]["state"], aside(&shown)), (&json!("rejected"), 9), "{shown}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_with_many_questions_takes_no_more_than_its_share_of_a_round() {
    let place = Place::new();
    let mut settings = place.settings("tiny");
    settings.server.client_header = Some("x-client".into());
    settings.learning.questions = 8;
    let server = Running::start(settings).await;
    let ask = async |client: &str, question: String| {
        let request = server.http.post(format!("{}/v1/answer", server.url)).header("x-client", client);
        let response = request.body(json!({ "question": question }).to_string()).send().await.unwrap();
        assert_eq!(response.status(), 200);
    };
    for number in 0..3 {
        ask("few", format!("{number} + 1")).await;
    }
    for number in 0..30 {
        ask("many", format!("7 + {number}")).await;
        ask("many", "7  +\t7".into()).await;
    }
    let shown = server.round().await;
    let rows = shown["questions"].as_array().unwrap();
    let of_many = rows.iter().filter(|row| row["text"].as_str().unwrap().starts_with('7')).count();
    assert_eq!((rows.len(), of_many), (7, 4), "{shown}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_files_of_a_rejected_candidate_are_removed_and_its_record_stays() {
    let place = Place::new();
    let mut settings = place.settings("tiny");
    settings.learning.gate.max_kl = 0.0;
    let server = Running::start(settings).await;
    server.ask_all().await;
    let shown = server.round().await;
    assert_eq!(shown["round"]["state"], "rejected", "{shown}");
    let version = candidate(&shown);
    // A moment after the end is stored.
    for _ in 0..100 {
        if !place.adapter(&version).exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let record = server.get(&format!("/v1/adapters/{version}")).await;
    assert_eq!((&record["on_disk"], &record["round_id"]), (&json!(false), &shown["round"]["id"]));
    let (status, refused) = server.activate(&version).await;
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("files_removed")));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_that_breaks_a_rule_of_the_guard_is_rejected_with_the_reason_and_counted() {
    let place = Place::new();
    let mut settings = place.settings("tiny");
    (settings.learning.guard.enabled, settings.learning.guard.max_gradient_norm) = (true, 1e-6);
    let server = Running::start(settings).await;
    server.ask_all().await;
    let shown = server.round().await;
    let (round, step) = (&shown["round"], &shown["steps"][0]);
    assert_eq!((&round["state"], &round["step"]), (&json!("rejected"), &json!(1)), "{shown}");
    let reason = round["reason"].as_str().unwrap();
    assert!(reason.starts_with("given up after step 1: the gradient's norm is "), "{reason}");
    assert_eq!(round["candidate_version"], Value::Null);
    assert_eq!(step["metrics"]["held_back"]["questions"], 4, "{step}");
    assert_eq!(server.live().await, "base");
    let metrics = server.metrics().await;
    assert!(metrics.contains("ttrl_rounds_given_up_total{rule=\"gradient-norm\"} 1"), "{metrics}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_trains_in_passes_that_fit_into_memory_and_is_refused_with_the_numbers_where_none_do() {
    let place = Place::new();
    let mut settings = place.settings("tiny");
    // Some gigabytes of rows, if there were as many.
    settings.learning.micro_batch_tokens = Some(1_000_000);
    // A device takes 1.5 GiB more for logits.
    settings.learning.memory_mib = Some(if settings.device == Device::Cpu { 64 } else { 1600 });
    let server = Running::start(settings.clone()).await;
    server.ask_all().await;
    let shown = server.round().await;
    assert_eq!(shown["round"]["state"], "promoted", "{shown}");
    let rows = shown["settings"]["micro_batch_tokens"].as_u64().unwrap();
    assert!((100..1_000_000).contains(&rows), "{shown}");
    server.stop().await;

    (settings.learning.memory_mib, settings.learning.lora_rank) = (Some(1), 512);
    let server = Running::start(settings).await;
    let (status, refusal) = server.call(Method::POST, "/v1/rounds", json!({})).await;
    assert_eq!((status, &refusal["error"]["code"]), (503, &json!("insufficient_memory")), "{refusal}");
    let message = refusal["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("training would take about ") && message.contains("1 MiB are free"), "{message}");
    assert_eq!(server.get("/v1/rounds").await["rounds"].as_array().unwrap().len(), 1, "no round was made of it");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_of_which_labels_prove_nothing_waits_for_a_person_and_one_that_is_overtaken_is_stale() {
    let place = Place::new();
    let server = Running::start(place.settings("tiny")).await;
    server.ask_all().await;
    server.label().await;
    let (first, shown) = server.held_round().await;
    let round = &shown["round"];
    assert_eq!((&round["questions"], &round["stale"], &round["finished_at"]), (&json!(7), &json!(false), &Value::Null));
    let reason = round["reason"].as_str().unwrap();
    assert!(reason.starts_with("the set sums does not prove that accuracy fell by at most 0.05"), "{reason}");
    let tested = &round["verdict"]["evaluations"][0];
    let counts = json!({"both": 0, "only_live": 0, "only_candidate": 0, "neither": 8});
    assert_eq!((&tested["set"], &tested["counts"], &tested["outcome"]), (&json!("sums"), &counts, &json!("unsure")));
    assert_eq!(server.live().await, "base");
    let (status, refused) = server.call(Method::POST, &format!("{first}/cancel"), json!({})).await;
    assert!(status == 409 && refused["error"]["message"].as_str().unwrap().contains("waits for a person"), "{refused}");

    // The next one may begin, and its end tidies up.
    let (second, other) = server.held_round().await;
    assert!(place.adapter(&candidate(&shown)).exists() && place.adapter(&candidate(&other)).exists());
    let decide = async |path: &str, verb: &str| server.call(Method::POST, &format!("{path}/{verb}"), json!({})).await;
    let (status, promoted) = decide(&first, "promote").await;
    assert_eq!((status, &promoted["state"]), (200, &json!("promoted")), "{promoted}");
    assert_eq!(server.live().await, candidate(&shown));
    assert_eq!(server.ask("1 + 2").await["adapter_version"], candidate(&shown));

    assert_eq!(server.get(&second).await["round"]["stale"], true);
    let (status, refused) = decide(&second, "promote").await;
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("stale")), "{refused}");
    let (status, rejected) = decide(&second, "reject").await;
    assert_eq!(
        (status, &rejected["state"], &rejected["reason"]),
        (200, &json!("rejected"), &json!("an operator rejected it"))
    );
    assert!(!place.adapter(&candidate(&other)).exists());
    let (status, refused) = decide(&second, "promote").await;
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("conflict")), "{refused}");
    let metrics = server.metrics().await;
    for line in [
        "ttrl_rounds_total{outcome=\"held\"} 2",
        "ttrl_rounds_decided_total{decision=\"promoted\"} 1",
        "ttrl_rounds_decided_total{decision=\"rejected\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_settings_decide_about_what_passes_and_a_held_round_outlives_its_server() {
    let place = Place::new();
    let mut settings = place.settings("tiny");
    settings.learning.gate.max_accuracy_drop = 1.0;
    let server = Running::start(settings.clone()).await;
    server.ask_all().await;
    server.label().await;
    let shown = server.round().await;
    let verdict = &shown["round"]["verdict"];
    assert_eq!((&verdict["decision"], &verdict["outcome"]), (&json!("promote"), &json!("passed")), "{shown}");
    server.stop().await;

    settings.learning.gate.when_passed = Decision::Hold;
    let server = Running::start(settings.clone()).await;
    let (path, shown) = server.held_round().await;
    assert!(shown["round"]["reason"].as_str().unwrap().starts_with("it keeps to all rules"), "{shown}");
    server.stop().await;
    let server = Running::start(settings).await;
    let (status, promoted) = server.call(Method::POST, &format!("{path}/promote"), json!({})).await;
    assert_eq!((status, &promoted["state"]), (200, &json!("promoted")), "{promoted}");
    assert_eq!(server.live().await, candidate(&shown));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_live_for_another_model_makes_no_held_round_stale_and_files_of_held_candidates_stay() {
    let place = Place::new();
    place.make_twin();
    let mut settings = place.settings("tiny");
    settings.learning.gate.when_passed = Decision::Hold;
    // Of those that nobody needs.
    settings.adapters.keep = 1;
    let server = Running::start(settings.clone()).await;
    server.ask_all().await;
    let (first, shown) = server.held_round().await;
    let (_, other) = server.held_round().await;
    server.stop().await;
    settings.model = place.model("twin").display().to_string();
    settings.learning.gate.when_passed = Decision::Promote;
    let server = Running::start(settings).await;
    assert_eq!(server.round().await["round"]["state"], "promoted");
    assert_eq!(server.get(&first).await["round"]["stale"], false);
    let listed = server.get("/v1/rounds").await;
    let stale = |round: &Value| round["stale"] == true;
    assert!(!listed["rounds"].as_array().unwrap().iter().any(stale), "{listed}");
    // As at its end, and by the next look after old files.
    server.stop().await;
    for held in [&shown, &other] {
        assert!(place.adapter(&candidate(held)).exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_round_starts_by_itself_while_one_waits_for_a_person() {
    let place = Place::new();
    let mut settings = place.settings("tiny");
    settings.learning.gate.when_passed = Decision::Hold;
    settings.schedule.every_questions = Some(8);
    let server = Running::start(settings).await;
    server.ask_all().await;
    let shown = server.wait("/v1/rounds", |shown| shown["rounds"][0]["state"] == "held").await;
    server.ask_all().await;
    // Longer than until the next look at the schedule.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(server.get("/v1/rounds").await, shown);
    server.held_round().await;
    assert_eq!(server.get("/v1/rounds").await["rounds"].as_array().unwrap().len(), 2, "one may be started");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_model_on_the_same_data_has_its_own_live_version_and_the_first_comes_back_with_its_own() {
    let place = Place::new();
    place.make_twin();

    let server = Running::start(place.settings("tiny")).await;
    server.ask_all().await;
    let shown = server.round().await;
    assert_eq!(shown["round"]["state"], "promoted", "{shown}");
    let version = candidate(&shown);
    server.stop().await;

    let server = Running::start(place.settings("twin")).await;
    let listed = server.get("/v1/adapters").await;
    assert_eq!((&listed["live"], &listed["adapters"][0]["version"]), (&json!("base"), &json!(version)));
    assert_ne!(listed["model"]["fingerprint"], listed["adapters"][0]["model"]["fingerprint"]);
    let (status, refused) = server.activate(&version).await;
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("other_model")));
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("the model tiny (") && message.contains("serves twin ("), "{message}");
    let shown = server.round().await;
    assert_eq!((&shown["round"]["state"], &shown["round"]["parent_version"]), (&json!("promoted"), &json!("base")));
    server.stop().await;

    let server = Running::start(place.settings("tiny")).await;
    assert_eq!(server.ask("1 + 2").await["adapter_version"], version);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_that_the_operator_cancels_changes_nothing_and_the_next_one_can_start() {
    let place = Place::new();
    let version = place.learn().await;
    let server = Running::start(place.long_settings()).await;
    for _ in 0..2 {
        let path = server.begin().await;
        server.middle(&path).await;
        let (status, round) = server.call(Method::POST, &format!("{path}/cancel"), json!({})).await;
        assert_eq!(status, 202, "{round}");
        let shown = server.end(&path).await;
        let round = &shown["round"];
        assert_eq!((&round["state"], &round["reason"]), (&json!("cancelled"), &json!("the operator cancelled it")));
        assert!((1..500).contains(&round["step"].as_u64().unwrap()), "{round}");
        assert_eq!((&round["parent_version"], &round["candidate_version"]), (&json!(version), &Value::Null));
        assert_eq!(server.live().await, version);
        assert_eq!(server.ask("1 + 2").await["adapter_version"], version);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_leaves_its_round_to_the_next_start_which_goes_on_from_the_last_step() {
    let place = Place::new();
    let version = place.learn().await;
    let server = Running::start(place.long_settings()).await;
    let path = server.begin().await;
    server.middle(&path).await;
    server.stop().await;

    // With other settings: the round keeps its own.
    let server = Running::start(place.settings("tiny")).await;
    let stopped = server.get(&path).await["round"].clone();
    assert_eq!((&stopped["state"], &stopped["attempts"]), (&json!("queued"), &json!(1)), "{stopped}");
    let step = stopped["step"].as_u64().unwrap();
    let further = |shown: &Value| ended(shown) || shown["round"]["step"].as_u64().unwrap() > step;
    let round = server.wait(&path, further).await["round"].clone();
    assert_eq!((&round["attempts"], &round["steps"]), (&json!(2), &json!(500)), "{round}");
    let (_, refused) = server.call(Method::POST, "/v1/rounds", json!({})).await;
    assert_eq!(refused["error"]["code"], "conflict", "{refused}");
    let metrics = server.metrics().await;
    assert!(metrics.contains("ttrl_rounds_resumed_total 1"), "{metrics}");
    assert_eq!(server.ask("1 + 2").await["adapter_version"], version);
    server.call(Method::POST, &format!("{path}/cancel"), json!({})).await;
    assert_eq!(server.end(&path).await["round"]["state"], "cancelled");

    let shown = server.round().await;
    assert_eq!((&shown["round"]["state"], &shown["round"]["parent_version"]), (&json!("promoted"), &json!(version)));
    assert_eq!(server.live().await, candidate(&shown));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_that_is_cancelled_just_before_its_server_stops_is_not_gone_on_with() {
    let place = Place::new();
    let settings = place.long_settings();
    let address = settings.database_address().expose_secret().to_owned();
    let server = Running::start(settings).await;
    server.ask_all().await;
    let path = server.begin().await;
    server.middle(&path).await;
    // Its next write waits, and so it sees both only after that.
    let mut database = sqlx::SqliteConnection::connect(&address).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut database).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (status, cancelled) = server.call(Method::POST, &format!("{path}/cancel"), json!({})).await;
    assert_eq!(status, 202, "{cancelled}");
    server.shutdown.cancel();
    sqlx::raw_sql("ROLLBACK").execute(&mut database).await.unwrap();
    server.stop().await;
    let server = Running::start(place.settings("tiny")).await;
    assert_eq!(server.get(&path).await["round"]["state"], "cancelled");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_of_rounds_that_have_ended_are_removed_and_those_of_rounds_that_may_just_begin_stay() {
    let place = Place::new();
    let server = Running::start(place.settings("tiny")).await;
    server.ask_all().await;
    let ended = server.round().await["round"]["id"].as_str().unwrap().to_owned();
    let file = |id: &str| place.0.path().join(format!("data/rounds/{id}.safetensors"));
    let unknown = uuid::Uuid::now_v7().to_string();
    for id in [&unknown, &ended] {
        fs::write(file(id), "what a server left").unwrap();
    }
    // Servers look every two seconds.
    for _ in 0..600 {
        if !file(&ended).exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((file(&ended).exists(), file(&unknown).exists()), (false, true));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_that_waits_for_a_server_can_be_cancelled_where_nobody_goes_on_with_it() {
    let place = Place::new();
    let server = Running::start(place.long_settings()).await;
    server.ask_all().await;
    let path = server.begin().await;
    server.middle(&path).await;
    server.stop().await;
    // Of another model: this server leaves the round alone.
    place.make_twin();
    let server = Running::start(place.settings("twin")).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(server.get(&path).await["round"]["state"], "queued");
    let (status, cancelled) = server.call(Method::POST, &format!("{path}/cancel"), json!({})).await;
    assert_eq!((status, &cancelled["state"]), (202, &json!("cancelled")), "{cancelled}");
    assert_eq!(fs::read_dir(place.0.path().join("data/rounds")).unwrap().count(), 0);
    assert_eq!(server.round().await["round"]["state"], "promoted");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_starts_by_itself_after_as_many_questions_as_the_schedule_says() {
    let place = Place::new();
    let mut settings = place.settings("tiny");
    settings.schedule.every_questions = Some(8);
    let server = Running::start(settings).await;
    server.ask_all().await;
    let mut rounds = Vec::new();
    for _ in 0..600 {
        rounds = server.get("/v1/rounds").await["rounds"].as_array().unwrap().clone();
        if !rounds.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(rounds.len(), 1, "{rounds:?}");
    // With the eighth one, hence not before it.
    assert_eq!((&rounds[0]["trigger"], &rounds[0]["questions"]), (&json!("schedule"), &json!(8)));
    let shown = server.end(&format!("/v1/rounds/{}", rounds[0]["id"].as_str().unwrap())).await;
    assert_eq!(shown["round"]["state"], "promoted", "{shown}");
    assert_eq!(server.live().await, candidate(&shown));
    server.stop().await;
}
