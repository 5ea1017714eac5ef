//! The HTTP interface, on a real port, with an engine that says what it is told.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::Utc;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use ttrl::{
    adaptation::rounds::RoundError,
    adapters::registry::Registry,
    answering::Answering,
    completing::Completing,
    config::{AnswerSettings, ClientKey, OperatorKey, ServerSettings},
    engine::{
        handle::{
            Engine, EngineError, EngineStats, FinishReason, GenerateRequest, Group, Lease, Line, ModelInfo, Piece,
            Rollout, Timings, Version,
        },
        model::{chat_template::ChatTemplate, lora::Adapter, tokenizer::Tokenizer},
    },
    evaluation::{Evaluations, Evaluator},
    http::{AppState, RoundControl, Scope, scopes, serve},
    prompt::PromptTemplate,
    prompter::Prompter,
    store::{
        AdapterRecord, AdapterStore, Attempt, ModelId, Promoter, Round, RoundState, RoundStep, RoundTrigger,
        RoundUpdate, SharedStore, Store, connect,
        spool::{MAX_SPOOL_BYTES, Spooled},
    },
    telemetry::Metrics,
};
use uuid::Uuid;

use crate::support::postgres::Server as Postgres;

pub(crate) const KEY: &str = "ttrl_0123456789abcdef";

/// What the engine does next, until told otherwise.
#[derive(Clone)]
pub(crate) enum Script {
    /// Sample `i` says text `i`; a text that ends in `...` was cut off.
    Say(Vec<&'static str>),
    Fail(fn() -> EngineError),
    Panic,
    /// Says 47 once the token is cancelled.
    Wait(CancellationToken),
    /// Lets a listener hear so many pieces of such a text, and then does what it says.
    Tell(usize, String, Box<Script>),
}

pub(crate) struct Scripted {
    info: ModelInfo,
    tokenizer: Arc<Tokenizer>,
    script: Mutex<Script>,
    running: Arc<AtomicUsize>,
    line: Line,
}

/// Calls that the scripted engine lets wait.
pub(crate) const PLACES: usize = 4;

/// Counts a generation for as long as its future lives.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Scripted {
    /// An engine in which every word is a token and the context has 20 of them.
    fn new(dir: &TempDir) -> Self {
        let path = dir.path().join("tokenizer.json");
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"},
        });
        std::fs::write(&path, tokenizer.to_string()).unwrap();
        let info = ModelInfo {
            name: "scripted".into(),
            fingerprint: "5c41b7ed".into(),
            context_tokens: 20,
            vocab_size: 1,
            parameters: 0,
        };
        let script = Mutex::new(Script::Say(vec!["47", "46", "47", "47 and..."]));
        Self {
            info,
            tokenizer: Arc::new(Tokenizer::from_file(&path).unwrap()),
            script,
            running: Arc::default(),
            line: Line::new(PLACES),
        }
    }

    pub(crate) fn script(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    pub(crate) async fn wait_until_running(&self, count: usize) {
        for _ in 0..500 {
            if self.running.load(Ordering::SeqCst) == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} are running, not {count}", self.running.load(Ordering::SeqCst));
    }
}

#[async_trait]
impl Engine for Scripted {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    fn stats(&self) -> EngineStats {
        EngineStats { generated_tokens_total: 7, ..EngineStats::default() }
    }

    fn line(&self) -> &Line {
        &self.line
    }

    fn check(&self, _: &GenerateRequest) -> Result<(), EngineError> {
        Ok(())
    }

    fn base(&self) -> Lease {
        Lease::new(Version::base(), ())
    }

    async fn generate(&self, requests: Vec<GenerateRequest>) -> Result<Vec<Group>, EngineError> {
        self.running.fetch_add(1, Ordering::SeqCst);
        let _place = Place(self.running.clone());
        let mut script = self.script.lock().unwrap().clone();
        if let Script::Tell(pieces, text, next) = script {
            let piece = Piece { choice: 0, token: 0, score: None, text, finish: None };
            let listener = requests[0].report.listener.iter();
            listener.for_each(|listener| (0..pieces).for_each(|_| listener.tell(piece.clone())));
            script = *next;
        }
        let texts = match script {
            Script::Tell(..) => unreachable!("a script tells once"),
            Script::Say(texts) => texts,
            Script::Fail(error) => return Err(error()),
            Script::Panic => panic!("the secret of the engine"),
            Script::Wait(token) => {
                token.cancelled().await;
                vec!["47"]
            }
        };
        let rollout = |index: usize| {
            let said = texts[index % texts.len()];
            let (text, finish) = match said.strip_suffix("...") {
                Some(text) => (text, FinishReason::Length),
                None => (said, FinishReason::Stop),
            };
            Rollout { tokens: vec![0, 0], log_probs: vec![-1.0; 2], scores: vec![], text: text.into(), finish }
        };
        let group = |request: GenerateRequest| Group {
            version: request.lease.version().clone(),
            prompt: request.prompt,
            prompt_scores: vec![],
            rollouts: (0..request.samples).map(rollout).collect(),
            timings: Timings { decode: Duration::from_millis(1500), ..Timings::default() },
        };
        Ok(requests.into_iter().map(group).collect())
    }

    async fn load_adapter(&self, _adapter: Arc<Adapter>) -> Result<Lease, EngineError> {
        Err(EngineError::AdapterMismatch("the scripted engine takes none".into()))
    }
}

/// Keeps rounds in the store and runs none.
struct Ledger {
    store: SharedStore,
    last: Mutex<Option<Attempt>>,
}

impl Ledger {
    /// The attempt at the newest round.
    fn attempt(&self) -> Option<Attempt> {
        *self.last.lock().unwrap()
    }
}

#[async_trait]
impl RoundControl for Ledger {
    async fn start(&self, seed: Option<u64>) -> Result<Round, RoundError> {
        let round = Round {
            id: Uuid::now_v7(),
            state: RoundState::Queued,
            trigger: RoundTrigger::Operator,
            model: None,
            recipe: json!({}),
            seed: seed.unwrap_or(7),
            attempts: 1,
            questions: 0,
            held_back: 0,
            step: 0,
            steps: 2,
            parent_version: Version::base(),
            candidate_version: None,
            verdict: None,
            reason: None,
            watch: None,
            created_at: Utc::now(),
            started_at: None,
            finished_at: None,
        };
        let created = self.store.create_round(&round, &[], 60).await;
        *self.last.lock().unwrap() = Some(created.map_err(|_| RoundError::Conflict("a round is running".into()))?);
        Ok(round)
    }

    async fn cancel(&self, id: Uuid) -> Result<(), RoundError> {
        let update = RoundUpdate { state: Some(RoundState::Cancelled), ..RoundUpdate::default() };
        let attempt = self.attempt().filter(|attempt| attempt.round() == id).ok_or(RoundError::Missing(id))?;
        Ok(self.store.update_round(&attempt, update).await?)
    }

    async fn promote(&self, id: Uuid) -> Result<(), RoundError> {
        Ok(self.store.promote(Promoter::Person(id), "", None, &Version::base()).await.map(drop)?)
    }

    async fn reject(&self, id: Uuid) -> Result<(), RoundError> {
        Ok(self.store.reject_held(id, "no").await?)
    }
}

pub(crate) struct Server<E = Scripted> {
    address: SocketAddr,
    pub(crate) engine: Arc<E>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) store: Arc<Spooled>,
    ledger: Arc<Ledger>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    http: reqwest::Client,
    dir: TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(ServerSettings { max_body_bytes: 4096, ..ServerSettings::default() }).await
    }

    pub(crate) async fn start_with(settings: ServerSettings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = format!("sqlite:{}", dir.path().join("t.sqlite").display());
        Self::start_on(dir, &address, MAX_SPOOL_BYTES, settings).await
    }

    /// A server with another database, or less room in its spool.
    async fn start_on(dir: TempDir, database: &str, spool_bytes: u64, settings: ServerSettings) -> Self {
        let engine = Arc::new(Scripted::new(&dir));
        Self::start_engine(engine, None, dir, (database, spool_bytes), settings).await
    }
}

impl<E: Engine + 'static> Server<E> {
    /// A server with another engine, perhaps with a chat template.
    pub(crate) async fn start_engine(
        engine: Arc<E>,
        chat: Option<ChatTemplate>,
        dir: TempDir,
        (database, spool_bytes): (&str, u64),
        settings: ServerSettings,
    ) -> Self {
        let dynamic: Arc<dyn Engine> = engine.clone();
        let database = connect(database).await.unwrap();
        let store = Arc::new(Spooled::open(database, &dir.path().join("spool"), spool_bytes).await.unwrap());
        let registry = Registry::open(dynamic.clone(), store.clone(), dir.path().join("adapters"), 20).await.unwrap();
        let registry = Arc::new(registry);
        let template = "{#- ttrl\nmax_tokens = 6\nanswer = \"first-number\"\n-#}\n{{ question }}";
        let template = PromptTemplate::raw("numbers", template).unwrap();
        let prompter = Arc::new(Prompter::new(dynamic.clone(), template, chat).unwrap());
        let metrics = Arc::new(Metrics::new().unwrap());
        let defaults = AnswerSettings { votes: 4, max_question_chars: 60, ..AnswerSettings::default() };
        let evaluator = Evaluator {
            engine: dynamic.clone(),
            prompter: prompter.clone(),
            samples: 4,
            temperature: 0.8,
            max_tokens: None,
        };
        let evaluations = Evaluations::new(Arc::new(evaluator), registry.clone(), store.clone());
        let answering = Answering::new(
            dynamic.clone(),
            registry.clone(),
            store.clone(),
            prompter.clone(),
            defaults,
            metrics.clone(),
        );
        let completing = Completing::new(dynamic.clone(), registry.clone(), prompter, metrics.clone());
        let deadline = Duration::from_secs(settings.shutdown_deadline_seconds);
        let ledger = Arc::new(Ledger { store: store.clone(), last: Mutex::default() });
        let state = AppState {
            answering: Arc::new(answering),
            completing: Arc::new(completing),
            engine: dynamic,
            registry: registry.clone(),
            rounds: ledger.clone(),
            evaluations: Arc::new(evaluations),
            store: store.clone(),
            metrics,
            operator_key: OperatorKey::new(KEY),
            client_key: ClientKey::new("of clients"),
            settings: Arc::new(settings),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(listener, state, shutdown.clone(), deadline));
        let http = ttrl::web::client_builder().unwrap().no_proxy().build().unwrap();
        Self { address, engine, registry, store, ledger, shutdown, task, http, dir }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.address))
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).bearer_auth(KEY).send().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Response {
        self.request(Method::POST, path).bearer_auth(KEY).body(body).send().await.unwrap()
    }

    async fn ask(&self, body: Value) -> Response {
        self.post("/v1/answer", body.to_string()).await
    }
}

pub(crate) async fn value(response: Response) -> Value {
    response.json().await.unwrap()
}

/// Checks that a response is a failure of the one shape, and returns its code and message.
pub(crate) async fn failure(response: Response, status: u16) -> (String, String) {
    let given = response.status().as_u16();
    let header = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let body = value(response).await;
    assert_eq!(given, status, "{body}");
    let fields: Vec<&String> = body["error"].as_object().unwrap().keys().collect();
    assert_eq!(fields, ["code", "message", "request_id"]);
    assert_eq!(body["error"]["request_id"], header);
    let text = |name: &str| body["error"][name].as_str().unwrap().to_owned();
    (text("code"), text("message"))
}

#[tokio::test]
async fn every_route_is_open_to_whom_it_says() {
    use Scope::{Anyone, Operator};
    let table = scopes();
    let lines: Vec<(String, Scope)> = table.iter().map(|(m, path, scope)| (format!("{m} {path}"), *scope)).collect();
    let expected = [
        ("POST /v1/answer", Anyone),
        ("GET /v1/answers/{id}", Anyone),
        ("POST /v1/answers/{id}/feedback", Anyone),
        ("POST /v1/completions", Anyone),
        ("POST /v1/chat/completions", Anyone),
        ("GET /v1/models", Anyone),
        ("GET /v1/models/{id}", Anyone),
        ("POST /v1/rounds", Operator),
        ("GET /v1/rounds", Operator),
        ("GET /v1/rounds/{id}", Operator),
        ("POST /v1/rounds/{id}/cancel", Operator),
        ("POST /v1/rounds/{id}/promote", Operator),
        ("POST /v1/rounds/{id}/reject", Operator),
        ("POST /v1/evals", Operator),
        ("GET /v1/evals", Operator),
        ("GET /v1/evals/{name}", Operator),
        ("DELETE /v1/evals/{name}", Operator),
        ("POST /v1/evals/{name}/runs", Operator),
        ("GET /v1/evals/{name}/runs", Operator),
        ("GET /v1/evals/{name}/runs/{id}", Operator),
        ("GET /v1/adapters", Operator),
        ("GET /v1/adapters/{version}", Operator),
        ("POST /v1/adapters/{version}/activate", Operator),
        ("GET /healthz", Anyone),
        ("GET /readyz", Anyone),
        ("GET /metrics", Anyone),
        ("GET /", Anyone),
        ("GET /app.js", Anyone),
        ("GET /style.css", Anyone),
    ];
    assert_eq!(lines, expected.map(|(line, scope)| (line.to_owned(), scope)));

    let server = Server::start().await;
    for (method, path, scope) in table {
        let path =
            path.replace("{id}", &Uuid::now_v7().to_string()).replace("{version}", "base").replace("{name}", "x");
        let keys = [None, Some("wrong"), Some("ttrl_0123456789abcdee"), Some(KEY)];
        for key in keys {
            let request = server.request(method.clone(), &path);
            let request = if let Some(key) = key { request.bearer_auth(key) } else { request };
            let response = request.send().await.unwrap();
            let closed = scope == Operator && key != Some(KEY);
            if !closed {
                assert_ne!(response.status(), StatusCode::UNAUTHORIZED, "{method} {path} {key:?}");
                continue;
            }
            assert_eq!(response.headers()["www-authenticate"], "Bearer realm=\"ttrl\"");
            let (code, message) = failure(response, 401).await;
            assert!(code == "unauthorized" && message.contains("Authorization: Bearer KEY"), "{message}");
        }
    }
}

#[tokio::test]
async fn a_question_is_answered_by_a_vote_and_can_be_read_again() {
    let server = Server::start().await;
    // As `curl -d` sends it.
    let response = server
        .request(Method::POST, "/v1/answer")
        .header("content-type", "application/x-www-form-urlencoded")
        .body("{\"question\": \" 38 + 9 =\", \"metadata\": {\"from\": [1]}}")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let answer = value(response).await;
    assert_eq!((&answer["answer"], &answer["text"]), (&json!("47"), &json!("47")));
    // The sample that was cut off votes for nothing, and counts among all.
    let votes = json!([{"answer": "47", "count": 2, "share": 0.5}, {"answer": "46", "count": 1, "share": 0.25}]);
    assert_eq!(answer["votes"], votes);
    assert_eq!((&answer["samples"], &answer["majority_ratio"]), (&json!(4), &json!(0.5)));
    assert_eq!((&answer["adapter_version"], &answer["learn"]), (&json!("base"), &json!(true)));
    assert_eq!(answer["usage"], json!({"prompt_tokens": 4, "completion_tokens": 8}));
    assert_eq!(answer["timings"]["decode_seconds"], 1.5);
    assert_eq!((&answer["question"], &answer["metadata"]), (&json!(" 38 + 9 ="), &json!({"from": [1]})));
    let mut parameters = answer["parameters"].clone();
    assert!(parameters["seed"].take().as_u64().unwrap() < 1 << 53);
    let expected = json!({"votes": 4, "max_tokens": 6, "temperature": 0.8, "top_p": 1.0, "top_k": 0, "min_p": 0.0,
                          "seed": null, "prompt_template": "numbers", "model": "scripted"});
    assert_eq!(parameters, expected);

    let mut again = value(server.get(&format!("/v1/answers/{}", answer["id"].as_str().unwrap())).await).await;
    // The store keeps microseconds.
    assert!(again["created_at"].take().as_str().unwrap()[..20] == answer["created_at"].as_str().unwrap()[..20]);
    assert_eq!(again.as_object_mut().unwrap().remove("feedback"), Some(Value::Null));
    let mut answer = answer;
    answer["created_at"].take();
    assert_eq!(again, answer);
}

#[tokio::test]
async fn the_newest_feedback_of_an_answer_is_shown_with_it_and_each_is_counted() {
    let server = Server::start().await;
    let answer = value(server.ask(json!({"question": "q"})).await).await;
    let path = format!("/v1/answers/{}", answer["id"].as_str().unwrap());
    let say = async |body: Value| server.post(&format!("{path}/feedback"), body.to_string()).await;
    let said = value(say(json!({"good": false, "comment": "it is 48"})).await).await;
    assert_eq!((&said["good"], &said["comment"]), (&json!(false), &json!("it is 48")));
    assert_eq!(value(server.get(&path).await).await["feedback"]["comment"], "it is 48");
    for _ in 0..2 {
        assert_eq!(say(json!({"good": true})).await.status(), StatusCode::OK);
    }
    let shown = value(server.get(&path).await).await;
    assert_eq!((&shown["feedback"]["good"], &shown["feedback"]["comment"]), (&json!(true), &Value::Null));

    for (body, status, code) in [
        (json!({}), 422, "invalid_body"),
        (json!({"good": "yes"}), 422, "invalid_body"),
        (json!({"good": true, "why": "?"}), 422, "invalid_body"),
        (json!({"good": true, "comment": "é".repeat(2001)}), 413, "comment_too_long"),
    ] {
        assert_eq!(failure(say(body).await, status).await.0, code);
    }
    for id in [Uuid::now_v7().to_string(), "7".into()] {
        let missing = server.post(&format!("/v1/answers/{id}/feedback"), "{\"good\": true}").await;
        assert_eq!(failure(missing, 404).await.0, "not_found");
    }
    let metrics = server.get("/metrics").await.text().await.unwrap();
    for line in ["ttrl_feedback_total{good=\"true\"} 2", "ttrl_feedback_total{good=\"false\"} 1"] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_client_may_choose_its_parameters() {
    let server = Server::start().await;
    let ask = json!({"question": "q", "votes": 2, "max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "top_k": 5,
                     "min_p": 0.1, "seed": 11, "learn": false});
    let answer = value(server.ask(ask).await).await;
    let expected = json!({"votes": 2, "max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "top_k": 5,
                          "min_p": 0.1, "seed": 11, "prompt_template": "numbers", "model": "scripted"});
    assert_eq!((&answer["parameters"], &answer["learn"]), (&expected, &json!(false)));
    assert!(server.store.learnable(10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_single_vote_is_the_likeliest_answer() {
    let server = Server::start().await;
    let answer = value(server.ask(json!({"question": "q", "votes": 1})).await).await;
    assert_eq!(answer["parameters"]["temperature"], 0.0);
    let answer = value(server.ask(json!({"question": "q", "votes": 1, "temperature": 1})).await).await;
    assert_eq!(answer["parameters"]["temperature"], 1.0);
}

#[tokio::test]
async fn a_tie_and_silence_have_no_answer() {
    let server = Server::start().await;
    for (texts, votes) in [(vec!["1", "2"], 2), (vec!["none", "..."], 0)] {
        server.engine.script(Script::Say(texts));
        let answer = value(server.ask(json!({"question": "q"})).await).await;
        assert_eq!((&answer["answer"], &answer["majority_ratio"]), (&Value::Null, &json!(0.0)));
        assert_eq!(answer["votes"].as_array().unwrap().len(), votes);
    }
    let metrics = server.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("ttrl_answers_total{outcome=\"no_majority\"} 2\n"), "{metrics}");
}

#[tokio::test]
async fn bad_input_gets_one_clear_error() {
    let server = Server::start().await;
    let long = "a".repeat(61);
    let many = "a ".repeat(21);
    for (body, status, code, expected) in [
        ("{", 400, "malformed_json", "not valid JSON"),
        ("question=1", 400, "malformed_json", "not valid JSON"),
        ("{}", 422, "invalid_body", "missing field `question`"),
        (r#"{"question": 1}"#, 422, "invalid_body", "expected a string"),
        (r#"{"question": "q", "vote": 1}"#, 422, "invalid_body", "unknown field `vote`"),
        (r#"{"question": " "}"#, 422, "invalid_question", "empty"),
        (r#"{"question": "a\u0000"}"#, 422, "invalid_question", "control character"),
        (&format!(r#"{{"question": "{long}"}}"#), 413, "question_too_long", "61 characters; 60 is the limit"),
        (&format!(r#"{{"question": "{many}"}}"#), 413, "question_too_long", "21 tokens"),
        (&format!(r#"{{"question": "{}"}}"#, "a ".repeat(19)), 422, "out_of_range", "at most 1,"),
        (r#"{"question": "q", "votes": 0}"#, 422, "out_of_range", "`votes` is 0; it must be from 1 to 64"),
        (r#"{"question": "q", "votes": 65}"#, 422, "out_of_range", "from 1 to 64"),
        (r#"{"question": "q", "votes": 1.5}"#, 422, "invalid_body", "u32"),
        (r#"{"question": "q", "max_tokens": 0}"#, 422, "out_of_range", "from 1 to 20"),
        (r#"{"question": "q", "max_tokens": 20}"#, 422, "out_of_range", "at most 19"),
        (r#"{"question": "q", "temperature": -0.1}"#, 422, "out_of_range", "0, or from 0.01 to 2"),
        (r#"{"question": "q", "temperature": 1e39}"#, 422, "out_of_range", "0, or from 0.01 to 2"),
        (r#"{"question": "q", "temperature": 1e-40}"#, 422, "out_of_range", "0, or from 0.01 to 2"),
        (r#"{"question": "q", "top_p": 0}"#, 422, "out_of_range", "above 0 and at most 1"),
        (r#"{"question": "q", "min_p": 1.5}"#, 422, "out_of_range", "`min_p` is 1.5; it must be from 0 to 1"),
        (r#"{"question": "q", "seed": 9007199254740992}"#, 422, "out_of_range", "from 0 to 9007199254740991"),
    ] {
        let (given, message) = failure(server.post("/v1/answer", body.to_owned()).await, status).await;
        assert!(given == code && message.contains(expected), "{body}: {given}: {message}");
    }
    let (code, _) = failure(server.post("/v1/answer", " ".repeat(4097)).await, 413).await;
    assert_eq!(code, "body_too_large");
    let metrics = server.get("/metrics").await.text().await.unwrap();
    assert!(!metrics.contains("ttrl_answers_total{"), "nothing of it reached the engine");
}

#[tokio::test]
async fn what_is_not_there_is_told_in_the_same_shape() {
    let server = Server::start().await;
    for (method, path, status, code) in [
        (Method::GET, "/v1/answer/1".to_owned(), 404, "no_such_route"),
        (Method::GET, format!("/v1/answers/{}", Uuid::now_v7()), 404, "not_found"),
        (Method::GET, "/v1/answers/7".into(), 404, "not_found"),
        (Method::GET, format!("/v1/rounds/{}", Uuid::now_v7()), 404, "not_found"),
        (Method::POST, format!("/v1/rounds/{}/cancel", Uuid::now_v7()), 404, "not_found"),
        (Method::GET, format!("/v1/adapters/{}", "a".repeat(64)), 404, "not_found"),
        (Method::POST, format!("/v1/adapters/{}/activate", "a".repeat(64)), 404, "not_found"),
        (Method::POST, "/v1/adapters/v7/activate".into(), 404, "not_found"),
        (Method::GET, "/v1/rounds?limit=0".into(), 422, "out_of_range"),
        (Method::GET, "/v1/rounds?before=7".into(), 422, "invalid_query"),
        (Method::GET, "/v1/rounds?limits=7".into(), 422, "invalid_query"),
        (Method::GET, "/v1/adapters?limit=201".into(), 422, "out_of_range"),
        (Method::GET, "/v1/adapters?before=7".into(), 422, "invalid_query"),
        (Method::GET, "/v1/answers/%FF".into(), 400, "bad_request"),
    ] {
        let response = server.request(method.clone(), &path).bearer_auth(KEY).send().await.unwrap();
        assert_eq!(failure(response, status).await.0, code, "{method} {path}");
    }
    let response = server.get("/v1/answer").await;
    assert_eq!(response.headers()["allow"], "POST");
    assert_eq!(failure(response, 405).await.0, "method_not_allowed");
}

#[tokio::test]
async fn a_full_engine_says_when_to_come_back() {
    let server = Server::start().await;
    server.engine.script(Script::Fail(|| EngineError::Busy { waiting: 256 }));
    let response = server.ask(json!({"question": "q"})).await;
    assert_eq!(response.headers()["retry-after"], "2");
    assert_eq!(failure(response, 429).await.0, "busy");
}

#[tokio::test]
async fn a_fault_tells_nothing_of_its_cause() {
    let server = Server::start().await;
    for (script, status, code) in [
        (Script::Fail(|| EngineError::Compute("the secret of the engine".into())), 500, "internal"),
        (Script::Panic, 500, "internal"),
        (Script::Fail(|| EngineError::Stopped), 503, "engine_stopped"),
        (Script::Fail(|| EngineError::OutOfMemory("the secret of the engine".into())), 503, "insufficient_memory"),
    ] {
        server.engine.script(script);
        let (given, message) = failure(server.ask(json!({"question": "q"})).await, status).await;
        assert!(given == code && !message.contains("secret"), "{given}: {message}");
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_stored_is_not_sent() {
    let server = Server::start().await;
    let url = format!("sqlite:{}", server.dir.path().join("t.sqlite").display());
    let mut connection = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    sqlx::query("DROP TABLE answers").execute(&mut connection).await.unwrap();
    let (code, message) = failure(server.ask(json!({"question": "q"})).await, 500).await;
    assert!(code == "internal" && !message.contains("table"), "{code}: {message}");
    assert!(server.store.learnable(10).await.unwrap().is_empty(), "the question was not stored by itself");
}

#[tokio::test]
async fn a_request_keeps_its_id() {
    let server = Server::start().await;
    let with = |id: &'static str| server.request(Method::GET, "/healthz").header("x-request-id", id).send();
    assert_eq!(with("trace-7").await.unwrap().headers()["x-request-id"], "trace-7");
    assert_ne!(with("no spaces").await.unwrap().headers()["x-request-id"], "no spaces");
    let request = server.request(Method::GET, "/nowhere").header("x-request-id", "trace-8").send().await.unwrap();
    assert_eq!(value(request).await["error"]["request_id"], "trace-8");
}

#[tokio::test]
async fn pages_of_other_sites_cannot_ask() {
    let server = Server::start().await;
    for (site, status) in [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)] {
        let request = server.request(Method::POST, "/v1/answer").header("sec-fetch-site", site);
        let response = request.body("{\"question\": \"q\"}").send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{site}");
    }
    // To a plain address of the network, browsers send only this.
    let own = format!("http://{}", server.address);
    for (origin, status) in [(own.as_str(), 200), ("http://example.org", 403), ("null", 403)] {
        let request = server.request(Method::POST, "/v1/answer").header("origin", origin);
        let response = request.body("{\"question\": \"q\"}").send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{origin}");
    }
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_given_up() {
    let server = Server::start_with(ServerSettings { request_timeout_seconds: 1, ..ServerSettings::default() }).await;
    server.engine.script(Script::Wait(CancellationToken::new()));
    let (code, message) = failure(server.ask(json!({"question": "q"})).await, 504).await;
    assert!(code == "timeout" && message.contains("longer than 1 s"), "{message}");
    server.engine.wait_until_running(0).await;
}

#[tokio::test]
async fn whoever_finds_no_place_is_refused_before_anything_is_read() {
    let server = Server::start().await;
    let go = CancellationToken::new();
    server.engine.script(Script::Wait(go.clone()));
    let asked = futures::future::join_all((0..PLACES).map(|_| server.ask(json!({"question": "q"}))));
    let refused = async {
        server.engine.wait_until_running(PLACES).await;
        // The last one could not be put to this model, which nobody finds out.
        let conversation = json!({"messages": [{"role": "user", "content": "a"}]});
        for (path, body) in [
            ("/v1/answer", json!({"question": "q"})),
            ("/v1/completions", json!({"prompt": "a", "stream": true})),
            ("/v1/chat/completions", conversation),
        ] {
            assert_eq!(failure(server.post(path, body.to_string()).await, 429).await.0, "busy");
        }
        go.cancel();
    };
    let (answers, ()) = tokio::join!(asked, refused);
    assert!(answers.iter().all(|answer| answer.status() == 200));
    assert_eq!(server.ask(json!({"question": "q"})).await.status(), 200, "places are free again");
}

#[tokio::test]
async fn a_client_that_goes_away_gives_up_its_place() {
    let server = Server::start().await;
    server.engine.script(Script::Wait(CancellationToken::new()));
    let request = server.request(Method::POST, "/v1/answer").body("{\"question\": \"q\"}").send();
    let client = tokio::spawn(request);
    server.engine.wait_until_running(1).await;
    client.abort();
    server.engine.wait_until_running(0).await;
}

/// Whether a connection that has sent this is closed without an answer, within seconds.
async fn is_closed(address: SocketAddr, sent: &'static str) -> bool {
    let talk = move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(sent.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        ended.is_ok() && !answer.starts_with(b"HTTP/1.1 200")
    };
    tokio::task::spawn_blocking(talk).await.unwrap()
}

#[tokio::test]
async fn a_connection_that_sends_no_whole_request_is_closed() {
    let server = Server::start_with(ServerSettings { idle_timeout_seconds: 1, ..ServerSettings::default() }).await;
    for sent in ["", "GET /healthz HT", "GET /healthz HTTP/1.1\r\nhost: here\r\n"] {
        assert!(is_closed(server.address, sent).await, "{sent:?}");
    }
    assert!(!is_closed(server.address, "GET /healthz HTTP/1.1\r\nhost: here\r\n\r\n").await);
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_until_one_is_closed() {
    let server = Server::start_with(ServerSettings { max_connections: 2, ..ServerSettings::default() }).await;
    let connect = || tokio::net::TcpStream::connect(server.address);
    let held = (connect().await.unwrap(), connect().await.unwrap());
    let mut third = std::pin::pin!(server.get("/healthz"));
    tokio::time::timeout(Duration::from_millis(300), third.as_mut()).await.expect_err("there is no place for it");
    drop(held);
    let response = tokio::time::timeout(Duration::from_secs(10), third).await.expect("its turn comes");
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = Server::start().await;
    let request = server.request(Method::GET, "/healthz").header("x-long", "a".repeat(100_000));
    let status = request.send().await.map(|response| response.status().as_u16());
    assert!(status.as_ref().map_or(true, |status| *status == 431), "{status:?}");
    assert_eq!(server.get("/healthz").await.status(), 200);
}

#[tokio::test]
async fn a_stop_finishes_what_is_being_answered() {
    let server = Server::start().await;
    let go = CancellationToken::new();
    server.engine.script(Script::Wait(go.clone()));
    let request = server.request(Method::POST, "/v1/answer").body("{\"question\": \"q\"}").send();
    let client = tokio::spawn(request);
    server.engine.wait_until_running(1).await;
    server.shutdown.cancel();
    let refused = async {
        while tokio::net::TcpStream::connect(server.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), refused).await.expect("no new connection is taken");
    assert!(!server.task.is_finished());
    go.cancel();
    let answer = value(client.await.unwrap().unwrap()).await;
    assert_eq!(answer["answer"], "47");
    server.task.await.unwrap();
    let id = answer["id"].as_str().unwrap().parse().unwrap();
    assert!(server.store.answer(id).await.unwrap().is_some());
}

#[tokio::test]
async fn a_stop_does_not_wait_beyond_its_deadline() {
    let settings = ServerSettings { shutdown_deadline_seconds: 1, ..ServerSettings::default() };
    let server = Server::start_with(settings).await;
    server.engine.script(Script::Wait(CancellationToken::new()));
    let client = tokio::spawn(server.request(Method::POST, "/v1/answer").body("{\"question\": \"q\"}").send());
    server.engine.wait_until_running(1).await;
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), server.task).await.expect("it stops").unwrap();
    client.abort();
}

#[tokio::test]
async fn rounds_are_started_listed_read_and_cancelled() {
    let server = Server::start().await;
    let started = server.post("/v1/rounds", "").await;
    assert_eq!(started.status(), StatusCode::ACCEPTED);
    let location = started.headers()["location"].to_str().unwrap().to_owned();
    let round = value(started).await;
    let id = round["id"].as_str().unwrap();
    assert_eq!(location, format!("/v1/rounds/{id}"));
    assert_eq!(failure(server.post("/v1/rounds", "{}").await, 409).await.0, "conflict");
    assert_eq!(failure(server.post("/v1/rounds", "{\"steps\": 3}").await, 422).await.0, "invalid_body");

    let step = RoundStep { round_id: id.parse().unwrap(), step: 1, metrics: json!({"reward": 0.5}) };
    server.store.record_step(&server.ledger.attempt().unwrap(), &step).await.unwrap();
    let detail = value(server.get(&location).await).await;
    assert_eq!(detail["round"]["state"], "queued");
    assert_eq!(detail["steps"], json!([{"step": 1, "metrics": {"reward": 0.5}}]));
    assert_eq!(detail["questions"], json!([]));

    let cancelled = server.post(&format!("{location}/cancel"), "").await;
    assert_eq!(cancelled.status(), StatusCode::ACCEPTED);
    assert_eq!(value(cancelled).await["state"], "cancelled");
    let second = value(server.post("/v1/rounds", "{\"seed\": 18446744073709551615}").await).await;
    assert_eq!(second["seed"], u64::MAX);
    let second = second["id"].as_str().unwrap();
    let listed = value(server.get("/v1/rounds?limit=1").await).await;
    assert_eq!((listed["rounds"].as_array().unwrap().len(), &listed["rounds"][0]["id"]), (1, &json!(second)));
    let older = value(server.get(&format!("/v1/rounds?before={second}")).await).await;
    assert_eq!(older["rounds"][0]["id"], id);
}

#[tokio::test]
async fn adapters_are_listed_and_activated() {
    let server = Server::start().await;
    let model = json!({"name": "scripted", "fingerprint": "5c41b7ed"});
    let empty = json!({"model": model, "live": "base", "adapters": []});
    assert_eq!(value(server.get("/v1/adapters").await).await, empty);
    assert_eq!(value(server.get("/v1/adapters/base").await).await, json!({"version": "base", "live": true}));
    let swapped = server.post("/v1/adapters/base/activate", "{\"expected\": \"base\"}").await;
    assert_eq!(value(swapped).await, json!({"live": "base", "previous": "base"}));
    let expected = json!({"expected": "a".repeat(64)}).to_string();
    let (code, message) = failure(server.post("/v1/adapters/base/activate", expected).await, 409).await;
    assert!(code == "conflict" && message.contains("somebody else"), "{message}");
    let odd = server.post("/v1/adapters/base/activate", "{\"expected\": \"v7\"}").await;
    assert!(failure(odd, 422).await.1.contains("64 lower-case hexadecimal digits"));
}

#[tokio::test]
async fn an_adapter_of_another_model_is_listed_with_it_and_refused() {
    let server = Server::start().await;
    let made_for = ModelId { name: "larger".into(), fingerprint: "99ab".repeat(16) };
    let record = AdapterRecord {
        version: "a".repeat(64).parse().unwrap(),
        model: Some(made_for),
        parent_version: Version::base(),
        round_id: None,
        bytes: 1,
        created_at: Utc::now(),
    };
    server.store.record_adapter(&record).await.unwrap();
    let listed = value(server.get("/v1/adapters").await).await;
    assert_eq!(listed["adapters"][0]["on_disk"], false);
    assert_eq!(listed["adapters"][0]["model"], json!({"name": "larger", "fingerprint": "99ab".repeat(16)}));
    let refused = server.post(&format!("/v1/adapters/{}/activate", record.version), "").await;
    let (code, message) = failure(refused, 409).await;
    assert_eq!(code, "other_model");
    assert!(message.contains("larger (99ab99ab99ab)") && message.contains("scripted (5c41b7ed)"), "{message}");
}

#[tokio::test]
async fn an_adapter_without_its_files_is_listed_so_and_refused() {
    let server = Server::start().await;
    let record = AdapterRecord {
        version: "b".repeat(64).parse().unwrap(),
        model: None,
        parent_version: Version::base(),
        round_id: None,
        bytes: 1,
        created_at: Utc::now(),
    };
    server.store.record_adapter(&record).await.unwrap();
    let path = format!("/v1/adapters/{}", record.version);
    assert_eq!(value(server.get(&path).await).await["on_disk"], false);
    let (code, message) = failure(server.post(&format!("{path}/activate"), "").await, 409).await;
    assert!(code == "files_removed" && message.contains("`adapters.keep`"), "{code}: {message}");
    std::fs::create_dir_all(server.dir.path().join("adapters").join(record.version.as_str())).unwrap();
    assert_eq!(value(server.get(&path).await).await["on_disk"], true);
}

#[tokio::test]
async fn health_readiness_and_metrics_tell_how_the_server_is() {
    let server = Server::start().await;
    assert_eq!(value(server.get("/healthz").await).await, json!({"status": "ok"}));
    let ready = json!({"status": "ready", "database": "ok", "model": "scripted"});
    assert_eq!(value(server.get("/readyz").await).await, ready);
    server.ask(json!({"question": "q"})).await;
    server.get("/v1/answers/7").await;
    let response = server.get("/metrics").await;
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4");
    let text = response.text().await.unwrap();
    for line in [
        "ttrl_http_requests_total{method=\"POST\",route=\"/v1/answer\",status=\"200\"} 1",
        "ttrl_http_requests_total{method=\"GET\",route=\"/v1/answers/{id}\",status=\"404\"} 1",
        "ttrl_answers_total{outcome=\"answered\"} 1",
        "ttrl_majority_ratio_sum 0.5",
        "ttrl_request_decode_time_seconds_sum 1.5",
        "ttrl_time_to_first_token_seconds_sum 0",
        "ttrl_generation_tokens_total 7",
        "ttrl_adapter_info{alias=\"live\",version=\"base\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    server.engine.script(Script::Fail(|| EngineError::Stopped));
    let (code, message) = failure(server.get("/readyz").await, 503).await;
    assert_eq!((code.as_str(), message.as_str()), ("not_ready", "not ready: engine_stopped"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_its_database_is_ready_for_as_long_as_its_spool_takes_more() {
    let postgres = Postgres::start().await;
    let start = async |spool_bytes| {
        let dir = tempfile::tempdir().unwrap();
        Server::start_on(dir, &postgres.database().await, spool_bytes, ServerSettings::default()).await
    };
    let (server, full) = (start(MAX_SPOOL_BYTES).await, start(1000).await);
    for server in [&server, &full] {
        assert_eq!(value(server.get("/readyz").await).await["status"], "ready");
    }
    postgres.stop().await;
    let degraded = json!({"status": "degraded", "database": "away", "model": "scripted"});
    let response = server.get("/readyz").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(value(response).await, degraded);
    let answer = value(server.ask(json!({"question": "q"})).await).await;
    let path = format!("/v1/answers/{}", answer["id"].as_str().unwrap());
    let again = value(server.get(&path).await).await;
    assert_eq!((&again["answer"], &again["feedback"]), (&json!("47"), &Value::Null));
    let feedback = async || server.post(&format!("{path}/feedback"), "{\"good\": false}").await;
    assert_eq!(failure(feedback().await, 503).await.0, "database_unavailable");
    let (code, message) = failure(full.get("/readyz").await, 503).await;
    assert_eq!((code.as_str(), message.as_str()), ("not_ready", "not ready: database_away_and_spool_full"));
    postgres.start_again().await;
    for server in [&server, &full] {
        assert_eq!(value(server.get("/readyz").await).await["database"], "ok");
    }
    // The database is back before the answer is in it.
    assert_eq!(failure(feedback().await, 503).await.0, "database_unavailable");
    server.store.replay().await.unwrap();
    assert_eq!(server.store.learnable(10).await.unwrap().len(), 1);
    assert_eq!(feedback().await.status(), StatusCode::OK);
    assert_eq!(value(server.get(&path).await).await["feedback"]["good"], false);
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let server = Server::start().await;
    let response = server.get("/").await;
    let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    assert!(!response.headers().contains_key("access-control-allow-origin"));
    let page = response.text().await.unwrap();
    for path in ["app.js", "style.css"] {
        assert!(page.contains(&format!("\"{path}\"")));
        let response = server.get(&format!("/{path}")).await;
        assert_eq!(response.status(), StatusCode::OK);
        let text = response.text().await.unwrap();
        assert!(!text.contains("://") && !text.contains("innerHTML"), "{path}");
    }
    assert!(!page.contains("://") && !page.contains(" style="), "{page}");
}
