//! Rounds whose servers are killed or paused: real processes with a tiny model, real signals.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    ops::Deref,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    rounds::chat_model,
    support::{
        client::{Client, KEY},
        device, postgres, ttrl,
    },
};

/// How long anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Twelve steps on what was asked, half of it kept for a gate that lets everything through, and the shortest lease.
const SETTINGS: [(&str, &str); 18] = [
    ("TTRL_OPERATOR_KEY", KEY),
    ("TTRL_SERVER__BIND", "127.0.0.1:0"),
    ("TTRL_ENGINE__CACHE_TOKENS", "256"),
    ("TTRL_ANSWER__MAX_TOKENS", "8"),
    ("TTRL_ANSWER__VOTES", "4"),
    ("TTRL_ROUNDS__LEASE_SECONDS", "3"),
    ("TTRL_LEARNING__STEPS", "12"),
    ("TTRL_LEARNING__VOTES", "8"),
    ("TTRL_LEARNING__MAX_TOKENS", "8"),
    ("TTRL_LEARNING__LEARNING_RATE", "0.01"),
    ("TTRL_LEARNING__MIN_MAJORITY_RATIO", "0"),
    ("TTRL_LEARNING__GUARD__ENABLED", "false"),
    ("TTRL_LEARNING__GATE__HELD_BACK", "0.5"),
    ("TTRL_LEARNING__GATE__MAX_KL", "1000"),
    ("TTRL_LEARNING__GATE__MAX_AGREEMENT_DROP", "1"),
    ("TTRL_LEARNING__GATE__MAX_ANSWER_RATE_DROP", "1"),
    ("TTRL_LEARNING__GATE__MAX_LENGTH_RATIO", "1000"),
    ("TTRL_LOG__FILTER", "info"),
];

/// A server process; killed when dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    client: Client,
}

impl Deref for Process {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Process {
    pub(crate) fn start(model: &Path, data: &Path, more: &[(&str, &str)]) -> Self {
        fs::create_dir_all(data).unwrap();
        let log = data.join("log");
        let errors = File::options().create(true).append(true).open(&log).unwrap();
        let mut child = ttrl()
            .args(["serve".as_ref(), "--data-dir".as_ref(), data.as_os_str()])
            .args(["--model".as_ref(), model.as_os_str()])
            .env("TTRL_DEVICE", device())
            .envs(SETTINGS)
            .envs(more.iter().copied())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let url = lines.find_map(|line| line.strip_prefix("listening on").map(|url| url.trim().to_owned()));
        let url = url.unwrap_or_else(|| panic!("{}", fs::read_to_string(&log).unwrap()));
        Self { child, log, client: Client::of(url) }
    }

    /// Starts a round as soon as there is a place for it, and returns its id.
    pub(crate) async fn begin(&self, seed: u64) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, round) = self.call(Method::POST, "/v1/rounds", json!({ "seed": seed })).await;
            if status == 202 {
                return round["id"].as_str().unwrap().to_owned();
            }
            assert!(status == 409 && Instant::now() < deadline, "{status} {round}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What is shown of a round as soon as it is `so`, or has ended.
    pub(crate) async fn wait(&self, id: &str, so: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let shown = self.get(&format!("/v1/rounds/{id}")).await;
            if so(&shown["round"]) || !shown["round"]["finished_at"].is_null() {
                return shown;
            }
            assert!(Instant::now() < deadline, "{shown}\n{}", fs::read_to_string(&self.log).unwrap());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) async fn end(&self, id: &str) -> Value {
        self.wait(id, |_| false).await
    }

    /// Waits until it has ended, and returns its exit code and what it logged.
    #[cfg(feature = "cuda")]
    pub(crate) fn ended(&mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = || fs::read_to_string(&self.log).unwrap();
            match self.child.try_wait().unwrap() {
                Some(status) => return (status.code(), log()),
                None => assert!(Instant::now() < deadline, "{}", log()),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    /// SIGKILL: nothing is put away.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn stop(mut self) {
        self.signal("-TERM");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a file in a folder of the data directory has a name like this.
fn has_file(data: &Path, folder: &str, like: impl Fn(&str) -> bool) -> bool {
    let entries = fs::read_dir(data.join(folder)).into_iter().flatten().map_while(Result::ok);
    entries.into_iter().any(|entry| like(&entry.file_name().to_string_lossy()))
}

/// Looks all the time until something is there on disk, but not for long.
fn wait_on_disk(there: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !there() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// What the steps of a round showed, but for how long they took.
fn steps(shown: &Value) -> Value {
    let mut steps = shown["steps"].clone();
    for step in steps.as_array_mut().unwrap() {
        step["metrics"].as_object_mut().unwrap().remove("seconds").unwrap();
    }
    steps
}

fn candidate(shown: &Value) -> &str {
    shown["round"]["candidate_version"].as_str().unwrap()
}

/// A checkpoint of a round is there or, if it was there before, is another one.
fn checkpoint_time(data: &Path, id: &str) -> Option<std::time::SystemTime> {
    fs::metadata(data.join(format!("rounds/{id}.safetensors"))).ok()?.modified().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_that_is_killed_again_and_again_ends_as_if_it_had_never_been() {
    let folder = tempfile::tempdir().unwrap();
    let (model, data, other) = (folder.path().join("tiny"), folder.path().join("data"), folder.path().join("other"));
    chat_model(&model);
    // The same questions in another database: nothing but their texts, the seed and the recipe may matter.
    let server = Process::start(&model, &other, &[]);
    server.ask_all().await;
    let whole = server.end(&server.begin(7).await).await;
    assert_eq!((&whole["round"]["state"], &whole["round"]["attempts"]), (&json!("promoted"), &json!(1)), "{whole}");
    server.stop();

    let mut server = Process::start(&model, &data, &[]);
    server.ask_all().await;
    let id = server.begin(7).await;
    let (mut kills, mut step) = (0, 0);
    // Twice before its first step is done; after that each time a step further, or the round would be given up.
    for moment in ["begun", "sampling", "row written", "checkpoint begun", "checkpoint made", "training", "candidate"] {
        if !["begun", "sampling", "candidate"].contains(&moment) {
            server.wait(&id, |round| round["step"].as_u64() > Some(step)).await;
        }
        match moment {
            "begun" | "row written" => {}
            "checkpoint begun" => wait_on_disk(|| has_file(&data, "rounds", |name| name.starts_with(".writing-"))),
            "checkpoint made" => {
                let before = checkpoint_time(&data, &id);
                wait_on_disk(|| checkpoint_time(&data, &id) != before);
            }
            "candidate" => wait_on_disk(|| has_file(&data, "adapters", |name| !name.starts_with('.'))),
            state => drop(server.wait(&id, |round| round["state"] == state).await),
        }
        server.kill();
        server = Process::start(&model, &data, &[]);
        let shown = server.wait(&id, |round| round["attempts"] == kills + 2).await;
        step = shown["round"]["step"].as_u64().unwrap();
        println!("killed at {moment}, step {step}: {}", shown["round"]["state"]);
        if shown["round"]["attempts"] == kills + 1 {
            // It had ended before.
            break;
        }
        kills += 1;
    }
    assert!(kills >= 5, "{kills}");
    let shown = server.end(&id).await;
    assert_eq!(shown["round"]["state"], "promoted", "{shown}\n{}", fs::read_to_string(&server.log).unwrap());
    assert_eq!(shown["round"]["attempts"], kills + 1);
    assert_eq!((candidate(&shown), steps(&shown)), (candidate(&whole), steps(&whole)));
    assert_eq!(shown["round"]["verdict"], whole["round"]["verdict"]);
    let adapters = server.get("/v1/adapters").await;
    assert_eq!((&adapters["live"], adapters["adapters"].as_array().unwrap().len()), (&json!(candidate(&shown)), 1));
    wait_on_disk(|| !has_file(&data, "rounds", |_| true));
    assert!(!has_file(&data, "rounds", |_| true), "what is left of an ended round is removed");
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_paused_for_longer_than_its_lease_loses_its_round_and_promotes_nothing() {
    let database = postgres::Server::shared().await.database().await;
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("tiny");
    chat_model(&model);
    // Servers on one database share the folders of adapters and of checkpoints.
    let data = ["one", "other"].map(|name| folder.path().join(name));
    for shared in ["adapters", "rounds"] {
        fs::create_dir(folder.path().join(shared)).unwrap();
        for data in &data {
            fs::create_dir_all(data).unwrap();
            symlink(folder.path().join(shared), data.join(shared)).unwrap();
        }
    }
    let database = [("TTRL_DATABASE_URL", database.as_str())];
    let servers = data.each_ref().map(|data| Process::start(&model, data, &database));
    servers[0].ask_all().await;
    let id = servers[0].begin(7).await;
    servers[0].wait(&id, |round| round["step"].as_u64() >= Some(2)).await;
    servers[0].signal("-STOP");
    let shown = servers[1].end(&id).await;
    assert_eq!((&shown["round"]["state"], &shown["round"]["attempts"]), (&json!("promoted"), &json!(2)), "{shown}");
    servers[0].signal("-CONT");

    let refused = || fs::read_to_string(&servers[0].log).unwrap().contains("no longer this server's");
    wait_on_disk(refused);
    assert!(refused(), "{}", fs::read_to_string(&servers[0].log).unwrap());
    assert_eq!(servers[1].get(&format!("/v1/rounds/{id}")).await, shown, "what the first one still wrote is refused");
    // The first one follows, and may run the next round.
    while servers[0].get("/v1/adapters").await["live"] != candidate(&shown) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let next = servers[0].end(&servers[0].begin(8).await).await;
    assert_eq!(next["round"]["parent_version"], candidate(&shown), "{next}");
    let adapters = servers[1].get("/v1/adapters").await;
    let of_round = |record: &&Value| record["round_id"] == json!(id);
    assert_eq!(adapters["adapters"].as_array().unwrap().iter().filter(of_round).count(), 1, "{adapters}");
    for server in servers {
        server.stop();
    }
}
