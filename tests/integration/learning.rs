//! The whole loop on the default model, in short: `ttrl learn` without a server, and rounds on a live server.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{fixture, model::default_model, ttrl};

#[test]
fn three_steps_without_a_label_make_answers_better_on_questions_that_were_never_seen() {
    let output = tempfile::tempdir().unwrap();
    let run = ttrl()
        .args(["learn", "--labels", "--json", "--steps", "3", "--seed", "1", "--prompt-template", "additions-8shot"])
        .arg("--model")
        .arg(default_model())
        .args(["--questions".as_ref(), fixture("additions-train.jsonl").as_os_str()])
        .args(["--heldout".as_ref(), fixture("additions-heldout.jsonl").as_os_str()])
        .args(["--output".as_ref(), output.path().as_os_str()])
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let rows: Vec<Value> =
        String::from_utf8(run.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.iter().map(|row| row["step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3]);
    let pass = |row: &Value, set: &str| row[set]["pass_at_1"].as_f64().unwrap();
    let (first, last) = (&rows[0], &rows[3]);
    assert!((pass(first, "train") - 0.40).abs() < 0.05, "the base model's pass@1 is known: {first}");
    assert!((pass(first, "heldout") - 0.46).abs() < 0.05, "{first}");
    assert!(pass(last, "train") > pass(first, "train") + 0.1, "{first}\n{last}");
    assert!(pass(last, "heldout") > pass(first, "heldout") + 0.1, "{first}\n{last}");
    for row in &rows[1..] {
        let update = &row["update"];
        assert!(update["kl"].as_f64().unwrap() >= 0.0 && update["gradient_norm"].as_f64().unwrap() > 0.0, "{row}");
        let (rows, tokens) = (update["trained_rows"].as_u64().unwrap(), row["train"]["tokens"].as_u64().unwrap());
        assert!(rows * 3 < tokens, "prefixes are shared: {rows} rows for {tokens} generated tokens");
    }
    let folders: Vec<_> = std::fs::read_dir(output.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(folders.len(), 1);
    assert!(folders[0].join("adapter_config.json").is_file() && folders[0].join("adapter_model.safetensors").is_file());
}

/// The rows of one step on the sums, with settings of the environment.
fn one_step(flags: &[&str], variables: &[(&str, &str)]) -> Vec<Value> {
    let run = ttrl()
        .args(["learn", "--labels", "--json", "--steps", "1", "--votes", "16", "--prompt-template", "additions-8shot"])
        .args(["--model".as_ref(), default_model().as_os_str()])
        .args(["--questions".as_ref(), fixture("additions-train.jsonl").as_os_str()])
        .args(flags)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn controls_reward_right_answers_or_chance_and_the_starts_votes_stay_the_labels() {
    let figure = |row: &Value, name: &str| row["train"][name].as_f64().unwrap();
    for row in one_step(&["--control", "labels"], &[]) {
        assert_eq!(figure(&row, "reward"), figure(&row, "pass_at_1"), "{row}");
    }
    let by_chance = one_step(&["--control", "random"], &[]);
    assert_eq!((figure(&by_chance[0], "reward"), figure(&by_chance[0], "abstained")), (0.5, 0.0));

    let own = one_step(&[], &[]);
    let of_start = one_step(&[], &[("TTRL_LEARNING__TEACHER", "start")]);
    assert_eq!(own[0]["train"], of_start[0]["train"], "the first step's votes are the labels of both");
    assert_eq!(figure(&own[1], "pass_at_1"), figure(&of_start[1], "pass_at_1"), "so their first update is the same");
    assert_ne!(figure(&own[1], "reward"), figure(&of_start[1], "reward"), "and then the labels are those of the start");

    let sure = one_step(&[], &[("TTRL_LEARNING__STOP_CONFIDENCE", "0.95")]);
    assert!(figure(&sure[0], "tokens") < 0.9 * figure(&own[0], "tokens"), "{}\n{}", sure[0], own[0]);
    let gap = figure(&sure[0], "maj_at_n") - figure(&own[0], "maj_at_n");
    assert!(gap.abs() < 0.11, "majorities that are sure are hardly others: {gap}");
}

#[test]
fn what_could_never_work_is_told_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("questions.jsonl");
    let long = "1 + ".repeat(20_000);
    std::fs::write(&file, format!("{{\"question\": \"1 + 1 =\"}}\n{{\"question\": \"{long}1 =\"}}\n")).unwrap();
    let refusal = |command: &mut Command| {
        let run = command.arg("--model").arg(default_model()).output().unwrap();
        assert!(!run.status.success() && run.stdout.is_empty(), "{run:?}");
        String::from_utf8(run.stderr).unwrap()
    };
    let text = refusal(ttrl().args(["learn", "--prompt-template", "additions-8shot", "--questions"]).arg(&file));
    assert!(text.contains("question 2 of") && text.contains("the model's context has 8192"), "{text}");
    let serve = ["serve", "--bind", "127.0.0.1:0", "--data-dir"];
    let text = refusal(ttrl().args(serve).arg(folder.path()).env("TTRL_ANSWER__VOTES", "64"));
    assert!(text.contains("settings under `answer`") && text.contains("raise engine.cache_tokens"), "{text}");
}

/// A server process of its own; killed when dropped.
struct Server {
    process: Child,
    url: String,
    key: String,
}

impl Server {
    fn start(data_dir: &Path) -> Self {
        let mut process = ttrl()
            .args(["serve", "--bind", "127.0.0.1:0", "--prompt-template", "additions-8shot"])
            .args(["--data-dir".as_ref(), data_dir.as_os_str()])
            .args(["--model".as_ref(), default_model().as_os_str()])
            .env("TTRL_LEARNING__STEPS", "2")
            .env("TTRL_LEARNING__GATE__HELD_BACK", "0.2")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let url = lines.find_map(|line| line.strip_prefix("listening on").map(|url| url.trim().to_owned())).unwrap();
        let key = std::fs::read_to_string(data_dir.join("operator.key")).unwrap().trim().to_owned();
        Self { process, url, key }
    }

    async fn get(&self, client: &reqwest::Client, path: &str) -> Value {
        let request = client.get(format!("{}{path}", self.url)).bearer_auth(&self.key);
        let response = request.send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.status());
        response.json().await.unwrap()
    }

    async fn post(&self, client: &reqwest::Client, path: &str, body: Value) -> Value {
        let request = client.post(format!("{}{path}", self.url)).bearer_auth(&self.key);
        let response = request.body(body.to_string()).send().await.unwrap();
        let status = response.status();
        let answer: Value = response.json().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    /// Runs a round and returns it as it ended.
    async fn round(&self, client: &reqwest::Client) -> Value {
        let round = self.post(client, "/v1/rounds", json!({})).await;
        let path = format!("/v1/rounds/{}", round["id"].as_str().unwrap());
        let deadline = Instant::now() + Duration::from_secs(280);
        while Instant::now() < deadline {
            let shown = self.get(client, &path).await;
            let state = shown["round"]["state"].as_str().unwrap();
            if ["promoted", "rejected", "failed", "cancelled"].contains(&state) {
                return shown;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        panic!("the round did not end");
    }

    fn stop(mut self) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        assert!(self.process.wait().unwrap().success(), "a server that is asked to stop ends well");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Asks every training question and returns the share of right samples, and the versions that answered.
async fn pass_at_1(server: &Server, client: &reqwest::Client, learn: bool) -> (f64, Vec<String>) {
    let text = std::fs::read_to_string(fixture("additions-train.jsonl")).unwrap();
    let (mut right, mut versions) = (0.0, Vec::new());
    for (index, line) in text.lines().enumerate() {
        let line: Value = serde_json::from_str(line).unwrap();
        let ask = json!({ "question": line["question"], "votes": 8, "seed": index, "learn": learn });
        let answer = server.post(client, "/v1/answer", ask).await;
        let votes = answer["votes"].as_array().unwrap().iter().filter(|vote| vote["answer"] == line["answer"]);
        right += votes.map(|vote| vote["share"].as_f64().unwrap()).sum::<f64>();
        versions.push(version(&answer));
    }
    versions.dedup();
    (right / text.lines().count() as f64, versions)
}

fn version(answer: &Value) -> String {
    answer["adapter_version"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_learns_from_its_questions_while_a_client_that_never_stops_sees_no_failure() {
    let data_dir = tempfile::tempdir().unwrap();
    let server = Server::start(data_dir.path());
    let client = ttrl::web::client_builder().unwrap().no_proxy().build().unwrap();
    let (before, versions) = pass_at_1(&server, &client, true).await;
    assert_eq!(versions, ["base"]);

    let stop = Arc::new(AtomicBool::new(false));
    let background = tokio::spawn({
        let (stop, url, client) = (stop.clone(), server.url.clone(), client.clone());
        async move {
            let mut versions = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let body = json!({ "question": "25 + 8 =", "votes": 2, "learn": false }).to_string();
                let response = client.post(format!("{url}/v1/answer")).body(body).send().await.unwrap();
                assert_eq!(response.status(), 200);
                versions.push(version(&response.json().await.unwrap()));
            }
            versions
        }
    });
    let shown = server.round(&client).await;
    let round = &shown["round"];
    assert_eq!(round["state"], "promoted", "{shown}");
    assert_eq!(
        (round["questions"].as_u64(), round["held_back"].as_u64(), round["step"].as_u64()),
        (Some(40), Some(8), Some(2))
    );
    let promoted = round["candidate_version"].as_str().unwrap().to_owned();
    let answer = server.post(&client, "/v1/answer", json!({ "question": "31 + 4 =" })).await;
    assert_eq!(version(&answer), promoted, "the next answer is the new version's");
    let (after, asked_of) = pass_at_1(&server, &client, false).await;
    assert_eq!(asked_of, [promoted.as_str()]);
    assert!(after > before + 0.03, "answers are better: {before} before and {after} after two steps");
    stop.store(true, Ordering::Relaxed);
    let mut versions = background.await.unwrap();
    assert!(versions.len() > 10, "the client was kept waiting: {} answers in the whole round", versions.len());
    versions.dedup();
    assert_eq!(versions, ["base", &promoted], "one swap, and no way back and forth");

    // What was learnt can be read: agreement rises from step to step, and each question has its votes before and after.
    let ratios: Vec<f64> = shown["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["metrics"]["votes"]["majority_ratio"].as_f64().unwrap())
        .collect();
    assert!(ratios.len() == 2 && ratios[1] > ratios[0], "{ratios:?}");
    let asked = shown["questions"].as_array().unwrap();
    let held_back: Vec<&Value> = asked.iter().filter(|row| row["held_back"] == true).collect();
    assert_eq!((asked.len(), held_back.len()), (40, 8));
    assert!(held_back.iter().all(|row| row["before_ratio"].is_number() && row["after_ratio"].is_number()));

    // A restart comes back with the live adapter, and an old answer can still be read.
    server.stop();
    let server = Server::start(data_dir.path());
    let again = server.get(&client, &format!("/v1/answers/{}", answer["id"].as_str().unwrap())).await;
    assert_eq!((&again["answer"], version(&again)), (&answer["answer"], promoted.clone()));
    let ask = json!({ "question": "31 + 4 =", "seed": answer["parameters"]["seed"] });
    let repeated = server.post(&client, "/v1/answer", ask.clone()).await;
    assert_eq!(
        (version(&repeated), &repeated["votes"]),
        (promoted.clone(), &answer["votes"]),
        "a seed repeats after a restart"
    );

    // Back to the base and forward again.
    server.post(&client, "/v1/adapters/base/activate", json!({})).await;
    assert_eq!(version(&server.post(&client, "/v1/answer", ask.clone()).await), "base");
    server.post(&client, &format!("/v1/adapters/{promoted}/activate"), json!({})).await;
    assert_eq!(version(&server.post(&client, "/v1/answer", ask).await), promoted);
    server.stop();
}
