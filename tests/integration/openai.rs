//! The routes in the shape of OpenAI's API: a tiny model behind real HTTP, beside its engine and its training pass.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use ttrl::{
    adapters::format,
    config::ServerSettings,
    engine::{
        handle::{Engine, EngineError, Sampling, Version},
        model::{chat_template::ChatTemplate, lora::Lora},
        report::MAX_UNREAD_PIECES,
        thread::{EngineOptions, LocalEngine},
    },
    store::{AdapterRecord, AdapterStore, ModelId, Store, spool::MAX_SPOOL_BYTES},
};

use crate::{
    engine::{Tiny, adapter_of, one, request, tiny_with},
    http::{PLACES, Script, Server, failure, value},
    reports::trained_log_probs,
};

/// The turns of a conversation in the tiny model's letters.
const CHAT: &str = "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}<|im_start|>";

const PROMPT: &str = "the 10 + 7 = a thin";

struct Tested {
    tiny: Tiny,
    server: Server<LocalEngine>,
}

async fn start() -> Tested {
    let tiny = tiny_with(EngineOptions { cache_tokens: 4096, max_waiting: 64 });
    let chat = ChatTemplate::parse(CHAT, None, None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", dir.path().join("t.sqlite").display());
    let database = (database.as_str(), MAX_SPOOL_BYTES);
    let server = Server::start_engine(tiny.engine.clone(), Some(chat), dir, database, ServerSettings::default()).await;
    Tested { tiny, server }
}

impl Tested {
    async fn complete(&self, body: Value) -> Value {
        let response = self.server.post("/v1/completions", body.to_string()).await;
        assert_eq!(response.status(), 200);
        value(response).await
    }

    async fn chat(&self, body: Value) -> Value {
        let response = self.server.post("/v1/chat/completions", body.to_string()).await;
        assert_eq!(response.status(), 200);
        value(response).await
    }

    /// The events of a streamed reply, without the last, which says that it is done.
    async fn stream(&self, path: &str, mut body: Value) -> Vec<Value> {
        body["stream"] = true.into();
        let response = self.server.post(path, body.to_string()).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &"text/event-stream".parse().unwrap())
        );
        events(&response.text().await.unwrap())
    }

    fn ids(&self, text: &str) -> Vec<u32> {
        self.tiny.engine.tokenizer().encode(text, true).unwrap()
    }

    /// An adapter that was saved and can be loaded.
    async fn add_adapter(&self) -> Version {
        let adapter = adapter_of('a');
        let files = format::encode(&adapter.config, &adapter.tensors, "tiny").unwrap();
        self.server.registry.add(files, Version::base(), None).await.unwrap()
    }
}

fn events(body: &str) -> Vec<Value> {
    let mut texts: Vec<&str> =
        body.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
    assert_eq!(texts.pop(), Some("[DONE]"));
    texts.into_iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-4, "{found} against {expected}");
    }
}

/// What the choices of events say together, by index: text and reason of the end.
fn joined(events: &[Value], text: impl Fn(&Value) -> &str) -> Vec<(String, String)> {
    let mut choices: Vec<(String, String)> = Vec::new();
    for choice in events.iter().flat_map(|event| event["choices"].as_array().unwrap()) {
        let index = choice["index"].as_u64().unwrap() as usize;
        choices.resize(choices.len().max(index + 1), Default::default());
        assert_eq!(choices[index].1, "", "nothing comes after the end");
        choices[index].0.push_str(text(choice));
        choices[index].1 = choice["finish_reason"].as_str().unwrap_or_default().to_owned();
    }
    choices
}

#[tokio::test]
async fn a_completion_is_what_the_engine_draws() {
    let tested = start().await;
    let reply =
        tested.complete(json!({"prompt": PROMPT, "seed": 5, "n": 3, "temperature": 0.9, "max_tokens": 12})).await;
    let expected = one(&*tested.tiny.engine, request(tested.tiny.engine.base(), &tested.ids(PROMPT), 3, 12, 5)).await;
    for (index, rollout) in expected.rollouts.iter().enumerate() {
        let choice = json!({"index": index, "text": rollout.text, "logprobs": null, "finish_reason": rollout.finish});
        assert_eq!(reply["choices"][index], choice);
    }
    let drawn: usize = expected.rollouts.iter().map(|rollout| rollout.tokens.len()).sum();
    let prompt = expected.prompt.len();
    let usage = json!({"prompt_tokens": prompt, "completion_tokens": drawn, "total_tokens": prompt + drawn});
    assert_eq!(reply["usage"], usage);
    assert_eq!((&reply["object"], &reply["model"]), (&json!("text_completion"), &json!("tiny")));
    assert_eq!((&reply["adapter_version"], &reply["system_fingerprint"]), (&json!("base"), &json!("base")));
    assert!(reply["id"].as_str().unwrap().starts_with("cmpl-") && reply["created"].as_i64().unwrap() > 1_700_000_000);
}

#[tokio::test]
async fn prompts_may_be_texts_or_token_ids_one_or_many() {
    let tested = start().await;
    let (first, second) = (tested.ids("the 10"), tested.ids("in a"));
    let complete = |prompt: Value| tested.complete(json!({"prompt": prompt, "seed": 1, "n": 2}));
    let choices = |reply: Value| reply["choices"].clone();
    assert_eq!(choices(complete(json!("the 10")).await), choices(complete(json!(first)).await));
    let texts = choices(complete(json!(["the 10", "in a"])).await);
    assert_eq!(texts, choices(complete(json!([first, second])).await));
    let indices: Vec<&Value> = texts.as_array().unwrap().iter().map(|choice| &choice["index"]).collect();
    assert_eq!(indices, [&json!(0), &json!(1), &json!(2), &json!(3)]);
    assert_eq!(texts[2]["text"], complete(json!("in a")).await["choices"][0]["text"]);
}

#[tokio::test]
async fn without_a_seed_equal_prompts_go_on_differently() {
    let tested = start().await;
    let reply = tested.complete(json!({"prompt": [PROMPT, PROMPT], "max_tokens": 30})).await;
    assert_ne!(reply["choices"][0]["text"], reply["choices"][1]["text"]);
}

#[tokio::test]
async fn an_echo_without_new_tokens_scores_the_prompt_as_the_training_pass_does() {
    let tested = start().await;
    let version = tested.add_adapter().await;
    let adapter = adapter_of('a');
    let shape = |projection| tested.tiny.decoder.projection_shape(projection);
    let lora = Lora::new(&adapter.config, &adapter.tensors, tested.tiny.decoder.config().layers.len(), shape).unwrap();
    let ids = tested.ids(PROMPT);
    for (model, lora) in [("live", None), ("base", None), (version.as_str(), Some(&lora))] {
        let body = json!({"model": model, "prompt": PROMPT, "max_tokens": 0, "echo": true, "logprobs": 2});
        let reply = tested.complete(body).await;
        assert_eq!((&reply["model"], &reply["choices"][0]["text"]), (&json!(model), &json!(PROMPT)));
        assert_eq!(reply["adapter_version"], if lora.is_some() { version.as_str() } else { "base" });
        assert_eq!(reply["usage"]["completion_tokens"], 0);
        let mut told = reply["choices"][0]["logprobs"].clone();
        let expected = trained_log_probs(&tested.tiny.decoder, lora, &ids);
        assert_eq!(told["token_logprobs"].as_array_mut().unwrap().remove(0), Value::Null);
        assert_close(&floats(&told["token_logprobs"]), &expected);
        let tokens: Vec<&str> =
            told["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap()).collect();
        assert_eq!(tokens.concat(), PROMPT);
        for (index, offset) in told["text_offset"].as_array().unwrap().iter().enumerate() {
            assert_eq!(offset.as_u64().unwrap() as usize, tokens[..index].concat().len());
        }
        assert_eq!(told["top_logprobs"][0], Value::Null);
        for (index, token) in tokens.iter().enumerate().skip(1) {
            let top = told["top_logprobs"][index].as_object().unwrap();
            assert!((2..=3).contains(&top.len()) && top.contains_key(*token), "{top:?}");
        }
    }
}

#[tokio::test]
async fn an_echo_is_followed_by_what_was_drawn() {
    let tested = start().await;
    let plain = tested.complete(json!({"prompt": PROMPT, "seed": 3, "logprobs": 1})).await;
    let echoed = tested.complete(json!({"prompt": PROMPT, "seed": 3, "logprobs": 1, "echo": true})).await;
    let text = |reply: &Value| reply["choices"][0]["text"].as_str().unwrap().to_owned();
    assert_eq!(text(&echoed), format!("{PROMPT}{}", text(&plain)));
    let prompt = tested.ids(PROMPT).len();
    for name in ["tokens", "token_logprobs"] {
        let list = |reply: &Value| reply["choices"][0]["logprobs"][name].as_array().unwrap().clone();
        let (plain, echoed) = (list(&plain), list(&echoed));
        assert_eq!(echoed.len(), prompt + plain.len());
        if name == "tokens" {
            assert_eq!(echoed[prompt..], plain);
        }
    }
    let silent = tested.complete(json!({"prompt": PROMPT, "max_tokens": 0, "echo": true})).await;
    assert_eq!((text(&silent).as_str(), &silent["choices"][0]["logprobs"]), (PROMPT, &Value::Null));
}

#[tokio::test]
async fn log_probabilities_of_drawn_tokens_are_the_models_own() {
    let tested = start().await;
    let body = json!({"prompt": PROMPT, "seed": 3, "logprobs": 0, "temperature": 1.5, "repetition_penalty": 1.5});
    let reply = tested.complete(body).await;
    let told = &reply["choices"][0]["logprobs"];
    let texts = told["tokens"].as_array().unwrap().iter().map(|text| text.as_str().unwrap());
    let ids = texts.flat_map(|text| tested.ids(text));
    let text: Vec<u32> = tested.ids(PROMPT).into_iter().chain(ids).collect();
    let expected = trained_log_probs(&tested.tiny.decoder, None, &text);
    assert_close(&floats(&told["token_logprobs"]), &expected[tested.ids(PROMPT).len() - 1..]);
}

#[tokio::test]
async fn streamed_completions_are_the_same_as_whole_ones() {
    let tested = start().await;
    let body = json!({"prompt": [PROMPT, "in a"], "n": 2, "seed": 7, "max_tokens": 20, "logprobs": 2, "stop": ["e"]});
    let whole = tested.complete(body.clone()).await;
    let mut with_usage = body;
    with_usage["stream_options"] = json!({"include_usage": true});
    let mut events = tested.stream("/v1/completions", with_usage).await;
    let last = events.pop().unwrap();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &whole["usage"]));
    assert!(events.iter().all(|event| event["usage"].is_null() && event["id"] == events[0]["id"]));
    let choices = joined(&events, |choice| choice["text"].as_str().unwrap());
    assert_eq!(choices.len(), 4);
    for (index, (text, finish)) in choices.iter().enumerate() {
        let expected = &whole["choices"][index];
        assert_eq!((&json!(text), &json!(finish)), (&expected["text"], &expected["finish_reason"]));
        for name in ["tokens", "text_offset", "token_logprobs", "top_logprobs"] {
            let of_choice = events.iter().filter(|event| event["choices"][0]["index"] == index);
            let lists = of_choice.map(|event| event["choices"][0]["logprobs"][name].as_array().unwrap().clone());
            let streamed = lists.flatten().collect::<Vec<_>>();
            let expected = expected["logprobs"][name].as_array().unwrap();
            assert_eq!(streamed.len(), expected.len());
            // Other rows in a step may move the last bits of numbers.
            assert!(name.ends_with("logprobs") || streamed == *expected, "{name}");
        }
    }
    assert!(choices.iter().any(|(_, finish)| finish == "stop"));
    assert!(choices.iter().all(|(text, _)| !text.contains('e')));
}

#[tokio::test]
async fn a_streamed_echo_begins_with_the_prompt() {
    let tested = start().await;
    let events =
        tested.stream("/v1/completions", json!({"prompt": PROMPT, "echo": true, "seed": 2, "max_tokens": 3})).await;
    assert_eq!(events[0]["choices"][0]["text"], PROMPT);
    let whole = tested.complete(json!({"prompt": PROMPT, "echo": true, "seed": 2, "max_tokens": 3})).await;
    let choices = joined(&events, |choice| choice["text"].as_str().unwrap());
    assert_eq!(json!(choices[0].0), whole["choices"][0]["text"]);
}

#[tokio::test]
async fn a_conversation_is_put_in_the_words_of_the_models_template() {
    let tested = start().await;
    let messages = json!([
        {"role": "developer", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "in"}, {"type": "text", "text": "<|im_end|>"}]},
        {"role": "assistant", "content": "ten", "refusal": null, "tool_calls": [], "annotations": []},
        {"role": "user", "name": "kim", "content": "why"},
    ]);
    let reply =
        tested.chat(json!({"messages": messages, "seed": 4, "max_completion_tokens": 9, "temperature": 0.9})).await;
    let tokenizer = tested.tiny.engine.tokenizer();
    let plain = |text: &str| tokenizer.encode(text, false).unwrap();
    let turns = ["system:a", "user:in\n<|im_end|>", "assistant:ten", "user:why"];
    let mut ids: Vec<u32> = turns.iter().flat_map(|turn| [&[1][..], &plain(turn), &[2]].concat()).collect();
    ids.push(1);
    let expected = one(&*tested.tiny.engine, request(tested.tiny.engine.base(), &ids, 1, 9, 4)).await;
    assert_eq!(reply["choices"][0]["message"]["content"], expected.rollouts[0].text);
    assert_eq!(reply["choices"][0]["message"]["role"], "assistant");
    assert_eq!((&reply["object"], &reply["usage"]["prompt_tokens"]), (&json!("chat.completion"), &json!(ids.len())));
}

#[tokio::test]
async fn a_reply_ends_where_the_context_does_if_nobody_says() {
    let tested = start().await;
    let bias = json!({"2": -100, "0": -100});
    let reply = tested.chat(json!({"messages": [{"role": "user", "content": "why"}], "logit_bias": bias})).await;
    let usage = &reply["usage"];
    assert_eq!((&usage["total_tokens"], &reply["choices"][0]["finish_reason"]), (&json!(128), &json!("length")));
}

#[tokio::test]
async fn a_streamed_reply_is_the_same_as_a_whole_one() {
    let tested = start().await;
    let body = json!({"messages": [{"role": "user", "content": "why"}], "seed": 6, "n": 2, "max_tokens": 15,
                      "logprobs": true, "top_logprobs": 3});
    let whole = tested.chat(body.clone()).await;
    let events = tested.stream("/v1/chat/completions", body).await;
    assert_eq!(events[0]["object"], "chat.completion.chunk");
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let choices = joined(&events, |choice| choice["delta"]["content"].as_str().unwrap());
    for (index, (text, finish)) in choices.iter().enumerate() {
        let expected = &whole["choices"][index];
        assert_eq!((&json!(text), &json!(finish)), (&expected["message"]["content"], &expected["finish_reason"]));
        let content = expected["logprobs"]["content"].as_array().unwrap();
        let told = |event: &&Value| event["choices"][0]["index"] == index && !event["choices"][0]["logprobs"].is_null();
        assert_eq!(events.iter().filter(told).count(), content.len());
        for token in content {
            let top = token["top_logprobs"].as_array().unwrap();
            assert_eq!(top.len(), 3);
            assert!(top[0]["logprob"].as_f64() >= token["logprob"].as_f64());
            assert_eq!(token["bytes"], json!(token["token"].as_str().unwrap().as_bytes()));
        }
    }
    assert_eq!(choices.len(), 2);
}

#[tokio::test]
async fn what_clients_send_along_is_ignored_and_what_would_change_the_reply_is_refused() {
    let tested = start().await;
    let along = json!({"prompt": PROMPT, "seed": 1, "user": "u", "metadata": {"a": "b"}, "store": true, "suffix": null,
                       "best_of": 1, "top_k": -1, "use_beam_search": false});
    let plain = tested.complete(json!({"prompt": PROMPT, "seed": 1})).await;
    assert_eq!(tested.complete(along).await["choices"], plain["choices"]);
    let user = json!([{"role": "user", "content": "a"}]);
    for (path, change, code, expected) in [
        ("", json!({"suffix": "b"}), "invalid_body", "`suffix` is not served"),
        ("", json!({"best_of": 2}), "invalid_body", "`best_of` is not served"),
        ("", json!({"guided_json": {}}), "invalid_body", "unknown field `guided_json`"),
        ("", json!({"prompt": null}), "invalid_body", "`prompt` is missing"),
        ("", json!({"prompt": [1, "a"]}), "invalid_body", "`prompt` must be a text, a list of texts"),
        ("", json!({"prompt": []}), "out_of_range", "`prompt` is empty"),
        ("", json!({"prompt": [[]]}), "unservable", "no tokens"),
        ("", json!({"prompt": [96]}), "unservable", "token 96, the model has 96"),
        ("", json!({"max_tokens": 0}), "out_of_range", "`max_tokens` is 0; it must be at least 1"),
        ("", json!({"max_tokens": 128}), "unservable", "the model's context has 128"),
        ("", json!({"max_tokens": 0, "echo": true, "stream": true}), "out_of_range", "without `stream`"),
        ("", json!({"echo": true, "stream": true, "logprobs": 1}), "invalid_body", "cannot be streamed"),
        ("", json!({"echo": true, "logprobs": 1, "n": 2}), "invalid_body", "told once"),
        ("", json!({"n": 0}), "out_of_range", "`n` is 0"),
        ("", json!({"n": 33, "prompt": ["a", "b"]}), "out_of_range", "`n` is 66; it must be from 1 to 64"),
        ("", json!({"logprobs": 21}), "out_of_range", "`logprobs` is 21; it must be from 0 to 20"),
        ("", json!({"temperature": 3}), "out_of_range", "`temperature` is 3"),
        ("", json!({"presence_penalty": 3}), "out_of_range", "`presence_penalty` is 3"),
        ("", json!({"logit_bias": {"96": 1}}), "unservable", "token 96"),
        ("", json!({"seed": 1u64 << 53}), "out_of_range", "`seed` is 9007199254740992"),
        ("", json!({"stream": true, "max_tokens": 128}), "unservable", "the model's context has 128"),
        ("chat/", json!({"tools": [{"type": "function"}]}), "invalid_body", "`tools` is not served"),
        ("chat/", json!({"response_format": {"type": "json_object"}}), "invalid_body", "`response_format`"),
        ("chat/", json!({"top_logprobs": 2}), "invalid_body", "wants `logprobs`"),
        ("chat/", json!({"logprobs": true, "top_logprobs": 21}), "out_of_range", "from 0 to 20"),
        ("chat/", json!({"messages": []}), "invalid_body", "`messages` is empty"),
        ("chat/", json!({"messages": [{"role": "tool", "content": "a"}]}), "invalid_body", "its role is \"tool\""),
        ("chat/", json!({"messages": [{"role": "user"}]}), "invalid_body", "`messages[0]`: the field `content`"),
        (
            "chat/",
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
            "invalid_body",
            "a part of type \"image_url\"",
        ),
        (
            "chat/",
            json!({"messages": [{"role": "user", "content": "a", "tool_calls": [{}]}]}),
            "invalid_body",
            "`tool_calls` is not served",
        ),
    ] {
        let mut body = if path.is_empty() { json!({"prompt": "a"}) } else { json!({"messages": user}) };
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let response = tested.server.post(&format!("/v1/{path}completions"), body.to_string()).await;
        let (given, message) = failure(response, 422).await;
        assert!(given == code && message.contains(expected), "{body}: {given}: {message}");
    }
}

#[tokio::test]
async fn models_are_listed_by_the_names_that_requests_may_use() {
    let tested = start().await;
    let version = tested.add_adapter().await;
    let listed = value(tested.server.get("/v1/models").await).await;
    let ids: Vec<&str> = listed["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["tiny", "live", "base", version.as_str()]);
    for model in listed["data"].as_array().unwrap() {
        let read = value(tested.server.get(&format!("/v1/models/{}", model["id"].as_str().unwrap())).await).await;
        assert_eq!(read, *model);
        assert_eq!((&model["object"], &model["max_model_len"]), (&json!("model"), &json!(128)));
    }
    assert_eq!((&listed["object"], &listed["data"][3]["adapter_version"]), (&json!("list"), &json!(version)));
    tested.server.registry.activate(None, &version).await.unwrap();
    for (model, expected) in [("tiny", version.as_str()), ("live", version.as_str()), ("base", "base")] {
        let reply = tested.complete(json!({"model": model, "prompt": "a"})).await;
        assert_eq!(reply["adapter_version"], expected);
    }
    for model in ["gpt-4o", &"c".repeat(64), ""] {
        let body = json!({"model": model, "prompt": "a"}).to_string();
        let (code, message) = failure(tested.server.post("/v1/completions", body).await, 404).await;
        assert!(code == "model_not_found" && message.contains("GET /v1/models"), "{message}");
    }
    assert_eq!(failure(tested.server.get("/v1/models/gpt-4o").await, 404).await.0, "model_not_found");
}

#[tokio::test]
async fn an_adapter_that_cannot_be_loaded_is_neither_listed_nor_used() {
    let tested = start().await;
    let other = ModelId { name: "larger".into(), fingerprint: "99ab".repeat(16) };
    for (digit, model, code) in [("a", Some(other), "other_model"), ("b", None, "files_removed")] {
        let version: Version = digit.repeat(64).parse().unwrap();
        let record = AdapterRecord {
            version: version.clone(),
            model,
            parent_version: Version::base(),
            round_id: None,
            bytes: 1,
            created_at: Utc::now(),
        };
        tested.server.store.record_adapter(&record).await.unwrap();
        let body = json!({"model": version, "prompt": "a"}).to_string();
        assert_eq!(failure(tested.server.post("/v1/completions", body).await, 409).await.0, code);
    }
    let listed = value(tested.server.get("/v1/models").await).await;
    assert_eq!(listed["data"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn completions_are_counted_and_not_stored() {
    let tested = start().await;
    tested.complete(json!({"prompt": PROMPT, "n": 2, "logit_bias": {"2": -100, "0": -100}})).await;
    tested.stream("/v1/completions", json!({"prompt": PROMPT, "logit_bias": {"2": 100}})).await;
    assert!(tested.server.store.learnable(10).await.unwrap().is_empty());
    let metrics = tested.server.get("/metrics").await.text().await.unwrap();
    let prompt = tested.ids(PROMPT).len();
    for line in [
        "ttrl_completions_total{finish_reason=\"length\"} 2",
        "ttrl_completions_total{finish_reason=\"stop\"} 1",
        "ttrl_time_to_first_token_seconds_count 2",
        "ttrl_e2e_request_latency_seconds_count 2",
        "ttrl_generation_tokens_total 33",
        &format!("ttrl_prefix_cache_queries_total {}", 2 * prompt),
        &format!("ttrl_prefix_cache_hits_total {prompt}"),
        "ttrl_http_requests_total{method=\"POST\",route=\"/v1/completions\",status=\"200\"} 2",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_model_without_a_chat_template_takes_no_conversations() {
    let server = Server::start().await;
    let body = json!({"messages": [{"role": "user", "content": "a"}]}).to_string();
    let (code, message) = failure(server.post("/v1/chat/completions", body).await, 422).await;
    assert!(code == "no_chat_template" && message.contains("send a text"), "{message}");
}

#[tokio::test]
async fn what_fails_before_the_first_token_is_told_by_its_status() {
    let server = Server::start().await;
    server.engine.script(Script::Fail(|| EngineError::Busy { waiting: 256 }));
    for stream in [false, true] {
        let response = server.post("/v1/completions", json!({"prompt": "a", "stream": stream}).to_string()).await;
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(failure(response, 429).await.0, "busy");
    }
}

#[tokio::test]
async fn what_fails_later_is_told_by_an_event() {
    let settings = ServerSettings { request_timeout_seconds: 1, ..ServerSettings::default() };
    let server = Server::start_with(settings).await;
    for (next, code) in [
        (Script::Fail(|| EngineError::Compute("the secret of the engine".into())), "internal"),
        (Script::Fail(|| EngineError::OutOfMemory("the secret of the engine".into())), "insufficient_memory"),
        (Script::Panic, "internal"),
        (Script::Wait(CancellationToken::new()), "timeout"),
    ] {
        server.engine.script(Script::Tell(1, "4".into(), Box::new(next)));
        let response = server.post("/v1/completions", json!({"prompt": "a", "stream": true}).to_string()).await;
        assert_eq!(response.status(), 200);
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        let events = events(&response.text().await.unwrap());
        assert_eq!(events[0]["choices"][0]["text"], "4");
        let error = &events[1]["error"];
        assert_eq!((&error["code"], &error["request_id"]), (&json!(code), &json!(id)));
        assert!(!error["message"].as_str().unwrap().contains("secret"));
        server.engine.wait_until_running(0).await;
    }
}

#[tokio::test]
async fn a_client_that_goes_away_in_a_stream_gives_up_its_place() {
    let server = Server::start().await;
    server.engine.script(Script::Tell(1, "4".into(), Box::new(Script::Wait(CancellationToken::new()))));
    let mut response = server.post("/v1/completions", json!({"prompt": "a", "stream": true}).to_string()).await;
    assert!(response.chunk().await.unwrap().unwrap().starts_with(b"data: {"));
    server.engine.wait_until_running(1).await;
    drop(response);
    server.engine.wait_until_running(0).await;
}

#[tokio::test]
async fn a_stream_keeps_its_place_until_it_is_sent_or_its_time_is_over() {
    let settings = ServerSettings { request_timeout_seconds: 2, ..ServerSettings::default() };
    let server = Server::start_with(settings).await;
    // More than the sockets in between hold: nobody reads these, so they cannot be sent.
    let piece = "4".repeat(16 << 10);
    server.engine.script(Script::Tell(2000, piece.clone(), Box::new(Script::Say(vec!["47"]))));
    let ask = json!({"prompt": "a", "stream": true}).to_string();
    let mut unread = Vec::new();
    for _ in 0..PLACES {
        unread.push(server.post("/v1/completions", ask.clone()).await);
    }
    server.engine.wait_until_running(0).await;
    server.engine.script(Script::Say(vec!["47"]));
    assert_eq!(failure(server.post("/v1/completions", ask.clone()).await, 429).await.0, "busy");
    let free = async {
        while server.post("/v1/completions", json!({"prompt": "a"}).to_string()).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), free).await.expect("the places are given back");
    for response in unread {
        let events = events(&response.text().await.unwrap());
        let (last, before) = events.split_last().unwrap();
        assert_eq!(last["error"]["code"], "timeout");
        assert!(before.len() < 2000 && before.iter().all(|event| event["choices"][0]["text"] == piece));
    }
}

#[tokio::test]
async fn a_reader_that_falls_too_far_behind_is_cut_off() {
    let server = Server::start().await;
    let wait = Box::new(Script::Wait(CancellationToken::new()));
    server.engine.script(Script::Tell(MAX_UNREAD_PIECES + 1, "4".into(), wait));
    let response = server.post("/v1/completions", json!({"prompt": "a", "stream": true}).to_string()).await;
    let events = events(&response.text().await.unwrap());
    assert_eq!(events.last().unwrap()["error"]["code"], "unread");
    server.engine.wait_until_running(0).await;
}

#[tokio::test]
async fn the_models_own_end_may_be_ignored() {
    let tested = start().await;
    let body = json!({"prompt": PROMPT, "max_tokens": 9, "logit_bias": {"2": 100}, "logprobs": 0});
    for (ignore, drawn, finish) in [(false, 1, "stop"), (true, 9, "length")] {
        let mut body = body.clone();
        body["ignore_eos"] = ignore.into();
        let reply = tested.complete(body).await;
        assert_eq!(reply["choices"][0]["logprobs"]["tokens"], json!(vec!["<|im_end|>"; drawn]));
        assert_eq!((&reply["choices"][0]["text"], &reply["choices"][0]["finish_reason"]), (&json!(""), &json!(finish)));
    }
}

#[tokio::test]
async fn sampling_parameters_reach_the_engine() {
    let tested = start().await;
    let ids = tested.ids(PROMPT);
    let sampling = Sampling {
        temperature: 0.7,
        top_k: 40,
        top_p: 0.9,
        min_p: 0.02,
        repetition_penalty: 1.2,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        logit_bias: [(2, -100.0), (30, 2.0)].into(),
        max_tokens: 25,
        ignore_eos: false,
        stop: vec!["zz".into()],
    };
    let body = json!({"prompt": PROMPT, "seed": 8, "temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.02,
                      "repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.25,
                      "logit_bias": {"2": -100, "30": 2}, "max_tokens": 25, "stop": "zz"});
    let engine: &Arc<LocalEngine> = &tested.tiny.engine;
    let mut ask = request(engine.base(), &ids, 1, 25, 8);
    ask.sampling = sampling;
    let expected = one(&**engine, ask).await.rollouts.remove(0).text;
    assert_eq!(tested.complete(body).await["choices"][0]["text"], expected);
}
