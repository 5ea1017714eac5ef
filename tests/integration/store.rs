//! What every store must do. Each story is run against both databases; a real PostgreSQL server is stopped and
//! started where it is about one that goes away.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::{
    AssertSqlSafe, SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};
use ttrl::{
    engine::handle::Version,
    store::{
        AdapterRecord, AdapterUse, Answer, Attempt, Candidate, EvaluationItem, EvaluationSet, EvaluationSummary,
        Feedback, Given, GivenBack, LIVE, ModelId, Promoter, Question, Round, RoundQuestion, RoundState, RoundStep,
        RoundTrigger, RoundUpdate, SeenAnswer, SetAside, SharedStore, Span, Store, StoreError, UNKNOWN_MODEL, Vote,
        Watch, WatchState, connect,
        spool::{MAX_SPOOL_BYTES, Replayed, Spooled},
    },
};
use uuid::Uuid;

use crate::support::postgres::{PASSWORD, Server};

/// The fingerprint of some model.
const MODEL: &str = "5c41b7ed";

/// An empty database of one kind.
struct Place {
    address: String,
    folder: tempfile::TempDir,
}

impl Place {
    fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { address: format!("sqlite:{}", folder.path().join("ttrl.db").display()), folder }
    }

    async fn postgres() -> Self {
        Self { address: Server::shared().await.database().await, folder: tempfile::tempdir().unwrap() }
    }

    async fn open(&self) -> SharedStore {
        connect(&self.address).await.unwrap()
    }

    fn spool_path(&self) -> PathBuf {
        self.folder.path().join("spool.jsonl")
    }

    async fn spool(&self, inner: SharedStore) -> Spooled {
        Spooled::open(inner, &self.spool_path(), MAX_SPOOL_BYTES).await.unwrap()
    }
}

/// Runs each story as two tests.
macro_rules! on_both {
    ($($story:ident)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $story() {
                super::$story(super::Place::sqlite()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $story() {
                super::$story(super::Place::postgres().await).await;
            })*
        }
    };
}

on_both! {
    an_answer_comes_back_as_it_was_given
    any_text_and_any_json_comes_back_as_it_was_given
    a_repeated_answer_changes_nothing
    of_an_answer_the_newest_feedback_is_kept_and_nothing_is_learned_from_it
    a_text_is_learned_once_as_it_was_first_asked_those_not_seen_first_and_the_last_asked_of_them
    the_past_of_a_text_comes_newest_first_and_those_not_seen_for_longest_come_first
    clients_take_turns_and_a_text_is_its_first_askers
    an_evaluation_set_comes_back_as_it_was_given_and_may_be_replaced_and_removed
    a_question_of_an_evaluation_set_is_never_learned_from
    questions_are_counted_since_the_last_round
    a_round_walks_through_its_states
    a_server_that_lost_its_round_changes_nothing_more
    rows_of_another_round_are_refused
    a_promotion_swaps_the_alias_and_ends_the_round_or_does_neither
    a_promotion_begins_a_watch_and_what_it_may_go_back_to_is_needed
    a_roll_back_swaps_the_alias_and_ends_the_watch_or_does_neither
    what_a_version_has_shown_is_read_on_either_side_of_a_moment
    of_two_servers_one_gets_the_round
    a_held_round_waits_for_a_decision_while_others_run
    a_person_decides_about_a_held_round_as_the_store_finds_it
    the_last_word_about_a_round_may_be_said_again
    what_a_rejected_round_made_is_kept_once_another_round_holds_it
    a_round_comes_with_its_questions_or_not_at_all
    an_unfinished_round_is_taken_over_when_its_lease_has_run_out
    a_round_that_is_given_back_is_free_at_once
    a_round_stalls_while_it_is_taken_over_without_a_new_step
    a_round_that_begins_anew_is_further_only_beyond_the_step_that_it_had
    rounds_are_listed_newest_first_page_by_page
    steps_are_kept_in_order_and_replaced
    the_questions_of_a_round_are_replaced_by_key
    adapters_are_listed_newest_first
    of_many_swaps_of_an_alias_one_wins
    an_alias_of_one_model_is_none_of_anothers
    an_adapter_is_needed_or_spare_or_dismissed
    what_the_first_version_stored_is_kept
    texts_of_the_first_version_are_compared_without_their_white_space
    a_restart_finds_everything
    a_database_of_a_newer_version_is_refused
    two_first_starts_at_once_both_succeed
}

fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

fn hash(digit: char) -> Version {
    digit.to_string().repeat(64).parse().unwrap()
}

fn question(text: &str, created_at: DateTime<Utc>) -> Question {
    Question { id: Uuid::now_v7(), text: text.into(), learn: true, client: None, metadata: None, created_at }
}

fn answer_to(question: &Question) -> Answer {
    Answer {
        id: Uuid::now_v7(),
        question_id: question.id,
        adapter_version: hash('a'),
        answer: Some("7/2".into()),
        text: "The sum is \\boxed{7/2}.".into(),
        votes: vec![Vote { answer: "7/2".into(), count: 5 }, Vote { answer: "3".into(), count: 2 }],
        samples: 16,
        majority_ratio: 0.3125,
        prompt_tokens: 41,
        completion_tokens: 1_234,
        timings: json!({"queue_seconds": 0.25, "total_seconds": 1.5}),
        parameters: json!({"temperature": 0.5, "seed": 18_446_744_073_709_551_615_u64}),
        created_at: question.created_at + TimeDelta::microseconds(1),
    }
}

async fn ask(store: &dyn Store, text: &str, created_at: DateTime<Utc>) -> Question {
    let question = question(text, created_at);
    store.record_answer(&question, &answer_to(&question)).await.unwrap();
    question
}

fn round() -> Round {
    Round {
        id: Uuid::now_v7(),
        state: RoundState::Queued,
        trigger: RoundTrigger::Schedule,
        model: Some(ModelId { name: "a model".into(), fingerprint: MODEL.into() }),
        recipe: json!({"steps": 10, "learning_rate": 1e-4}),
        seed: u64::MAX,
        attempts: 1,
        questions: 0,
        held_back: 0,
        step: 0,
        steps: 10,
        parent_version: Version::base(),
        candidate_version: None,
        verdict: None,
        reason: None,
        watch: None,
        created_at: now(),
        started_at: None,
        finished_at: None,
    }
}

fn to(state: RoundState) -> RoundUpdate {
    RoundUpdate { state: Some(state), ..RoundUpdate::default() }
}

fn round_question(round: &Round, text: &str) -> RoundQuestion {
    RoundQuestion {
        round_id: round.id,
        question_id: Uuid::now_v7(),
        text: text.into(),
        held_back: false,
        before_answer: Some("4".into()),
        before_ratio: Some(0.5),
        after_answer: None,
        after_ratio: None,
        set_aside: None,
    }
}

fn texts(candidates: &[Candidate]) -> Vec<&str> {
    candidates.iter().map(|candidate| candidate.question.text.as_str()).collect()
}

#[track_caller]
fn assert_conflict<T>(result: Result<T, StoreError>) {
    match result {
        Err(StoreError::Conflict(_)) => {}
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("accepted"),
    }
}

async fn an_answer_comes_back_as_it_was_given(place: Place) {
    let store = place.open().await;
    store.ping().await.unwrap();
    assert_eq!(store.answer(Uuid::now_v7()).await.unwrap(), None);
    let mut question = question("What is 2 + 3/2?", now());
    question.metadata = Some(json!({"user": "u1", "tags": [1, 2.5, null, true]}));
    let answer = answer_to(&question);
    store.record_answer(&question, &answer).await.unwrap();
    assert_eq!(store.answer(answer.id).await.unwrap(), Some((question.clone(), answer)));

    let undecided = Answer { answer: None, votes: vec![], majority_ratio: 0.0, ..answer_to(&question) };
    store.record_answer(&question, &undecided).await.unwrap();
    assert_eq!(store.answer(undecided.id).await.unwrap(), Some((question, undecided)));

    // What is finer than a microsecond is cut off.
    let fine = ask(&*store, "now?", now() + TimeDelta::nanoseconds(999)).await;
    let kept = store.learnable(1).await.unwrap().remove(0).question;
    assert_eq!(kept.created_at, fine.created_at.trunc_subsecs(6));
}

async fn any_text_and_any_json_comes_back_as_it_was_given(place: Place) {
    let store = place.open().await;
    let metadata: [Value; 5] = [
        Value::Null,
        json!("a NUL \0 within"),
        json!({"\0": 1e16, "n": [9_007_199_254_740_993_u64, 1e-7, -0.5]}),
        json!({"nested": {"ünïcode": "✓ 漢字 👩‍🔬"}}),
        json!([]),
    ];
    let texts = [
        "",
        " \t\n",
        "naïve 漢字 👩‍🔬 \u{202e}",
        "NUL \0 and \u{1a} and \u{1a}0 \u{1a}1\0",
        "'); DROP TABLE questions; --",
    ];
    for (text, metadata) in texts.into_iter().zip(metadata) {
        let question = Question { metadata: Some(metadata), ..question(text, now()) };
        let votes = vec![Vote { answer: text.into(), count: 1 }];
        let answer = Answer { text: text.into(), answer: Some(text.into()), votes, ..answer_to(&question) };
        store.record_answer(&question, &answer).await.unwrap();
        assert_eq!(store.answer(answer.id).await.unwrap(), Some((question, answer)), "{text:?}");
    }
}

async fn a_repeated_answer_changes_nothing(place: Place) {
    let store = place.open().await;
    let question = question("once", now());
    let answer = answer_to(&question);
    store.record_answer(&question, &answer).await.unwrap();
    let other = Answer { text: "another".into(), ..answer.clone() };
    store.record_answer(&Question { text: "another".into(), ..question.clone() }, &other).await.unwrap();
    assert_eq!(store.answer(answer.id).await.unwrap(), Some((question, answer)));
    assert_eq!(store.questions_since_last_round().await.unwrap(), 1);
}

async fn of_an_answer_the_newest_feedback_is_kept_and_nothing_is_learned_from_it(place: Place) {
    let store = place.open().await;
    let question = question("how good?", now());
    let answer = answer_to(&question);
    store.record_answer(&question, &answer).await.unwrap();
    let learnable = store.learnable(10).await.unwrap();
    assert_eq!(store.feedback(answer.id).await.unwrap(), None);
    for (good, comment) in [(false, Some("NUL \0 and \u{1a}")), (true, None)] {
        let feedback = Feedback { good, comment: comment.map(str::to_owned), created_at: now() };
        store.put_feedback(answer.id, &feedback).await.unwrap();
        assert_eq!(store.feedback(answer.id).await.unwrap(), Some(feedback));
    }
    assert_eq!(store.answer(answer.id).await.unwrap(), Some((question, answer)));
    assert_eq!(store.learnable(10).await.unwrap(), learnable);
    let feedback = Feedback { good: true, comment: None, created_at: now() };
    let missing = store.put_feedback(Uuid::now_v7(), &feedback).await;
    assert!(matches!(missing, Err(StoreError::Missing { what: "answer", .. })), "{missing:?}");
}

async fn a_text_is_learned_once_as_it_was_first_asked_those_not_seen_first_and_the_last_asked_of_them(place: Place) {
    let store = place.open().await;
    let at = |second: i64| now() - TimeDelta::seconds(1_000 - second);
    let first_one = ask(&*store, " one\n", at(1)).await;
    ask(&*store, "t w  o", at(2)).await;
    ask(&*store, "one", at(3)).await;
    ask(&*store, "three", at(4)).await;
    let private = Question { learn: false, ..question("private", at(5)) };
    store.record_answer(&private, &answer_to(&private)).await.unwrap();
    // The same text, asked in private later, is still learned from where it was asked openly.
    let private_two = Question { learn: false, ..question("t w o", at(6)) };
    store.record_answer(&private_two, &answer_to(&private_two)).await.unwrap();

    let all = store.learnable(10).await.unwrap();
    assert_eq!(texts(&all), ["three", " one\n", "t w  o"]);
    assert_eq!(all[1].question, first_one);
    assert_eq!(texts(&store.learnable(2).await.unwrap()), ["three", " one\n"]);

    // What counts is the text, under whichever id it was in a round.
    let round = round();
    let rows = [round_question(&round, "three"), round_question(&round, "one")];
    store.create_round(&round, &rows, 60).await.unwrap();
    let all = store.learnable(10).await.unwrap();
    assert_eq!(texts(&all), ["t w  o", "three", " one\n"]);
    let seen = |candidate: &Candidate| candidate.seen.iter().map(|row| row.before_ratio).collect::<Vec<_>>();
    assert_eq!(all.iter().map(seen).collect::<Vec<_>>(), [vec![], vec![Some(0.5)], vec![Some(0.5)]]);
}

async fn the_past_of_a_text_comes_newest_first_and_those_not_seen_for_longest_come_first(place: Place) {
    let store = place.open().await;
    let asked = now() - TimeDelta::seconds(1_000);
    for text in ["one", "two"] {
        ask(&*store, text, asked).await;
    }
    for (number, text) in ["one", "two", "two", "one", "two"].into_iter().enumerate() {
        let round = Round { created_at: now() - TimeDelta::seconds(100 - number as i64), ..round() };
        let row = RoundQuestion { before_ratio: Some(number as f64), ..round_question(&round, text) };
        let attempt = store.create_round(&round, &[row], 60).await.unwrap();
        store.update_round(&attempt, to(RoundState::Failed)).await.unwrap();
    }
    let all = store.learnable(10).await.unwrap();
    assert_eq!(texts(&all), ["one", "two"]);
    let seen: Vec<_> = all[1].seen.iter().map(|row| (row.text.as_str(), row.before_ratio)).collect();
    assert_eq!(seen, [("two", Some(4.0)), ("two", Some(2.0)), ("two", Some(1.0))]);
}

async fn clients_take_turns_and_a_text_is_its_first_askers(place: Place) {
    let store = place.open().await;
    let ask = async |text: &str, client: Option<&str>, second: i64| {
        let asked = now() - TimeDelta::seconds(1_000 - second);
        let question = Question { client: client.map(str::to_owned), ..question(text, asked) };
        store.record_answer(&question, &answer_to(&question)).await.unwrap();
    };
    ask("a1", Some("a"), 1).await;
    ask("a2", Some("a"), 2).await;
    for number in 0..5 {
        ask(&format!("b{number}"), Some("b"), 10 + number).await;
    }
    ask("a1\n", Some("b"), 20).await;
    ask("c", None, 3).await;
    let all = store.learnable(5).await.unwrap();
    assert_eq!(texts(&all), ["a1", "b4", "c", "b3", "a2"]);
    let clients: Vec<_> = all.iter().map(|candidate| candidate.question.client.as_deref()).collect();
    assert_eq!(clients, [Some("a"), Some("b"), None, Some("b"), Some("a")]);
}

fn evaluation_set(name: &str, questions: &[&str]) -> EvaluationSet {
    let item = |question: &&str| EvaluationItem { question: (*question).into(), answer: "7".into() };
    EvaluationSet { name: name.into(), created_at: now(), items: questions.iter().map(item).collect() }
}

async fn an_evaluation_set_comes_back_as_it_was_given_and_may_be_replaced_and_removed(place: Place) {
    let store = place.open().await;
    assert_eq!(store.evaluation_set("sums").await.unwrap(), None);
    let many: Vec<String> = (0..2100).map(|number| format!("{number} + \0 =")).collect();
    let many = evaluation_set("sums", &many.iter().map(String::as_str).collect::<Vec<_>>());
    let other = evaluation_set("other", &["3 + 4 ="]);
    for set in [&many, &other] {
        store.put_evaluation_set(set).await.unwrap();
    }
    assert_eq!(store.evaluation_set("sums").await.unwrap().as_ref(), Some(&many));
    let summary =
        |set: &EvaluationSet, items| EvaluationSummary { name: set.name.clone(), created_at: set.created_at, items };
    assert_eq!(store.evaluation_sets().await.unwrap(), [summary(&other, 1), summary(&many, 2100)]);

    let replaced = evaluation_set("sums", &["5 + 2 =", "1 + 6 ="]);
    store.put_evaluation_set(&replaced).await.unwrap();
    assert_eq!(store.evaluation_set("sums").await.unwrap(), Some(replaced));
    assert!(store.remove_evaluation_set("sums").await.unwrap());
    assert!(!store.remove_evaluation_set("sums").await.unwrap());
    assert_eq!(store.evaluation_sets().await.unwrap(), [summary(&other, 1)]);
}

async fn a_question_of_an_evaluation_set_is_never_learned_from(place: Place) {
    let store = place.open().await;
    for text in ["3 + 4 =", "  3 +\n4  =", "3+4 ="] {
        ask(&*store, text, now()).await;
    }
    store.put_evaluation_set(&evaluation_set("sums", &["3  + 4 =\t"])).await.unwrap();
    assert_eq!(texts(&store.learnable(10).await.unwrap()), ["3+4 ="]);
    store.remove_evaluation_set("sums").await.unwrap();
    assert_eq!(store.learnable(10).await.unwrap().len(), 2);
}

async fn questions_are_counted_since_the_last_round(place: Place) {
    let store = place.open().await;
    assert_eq!(store.questions_since_last_round().await.unwrap(), 0);
    assert_eq!(store.last_round_at().await.unwrap(), None);
    ask(&*store, "before", now() - TimeDelta::seconds(5)).await;
    assert_eq!(store.questions_since_last_round().await.unwrap(), 1);
    let round = round();
    store.create_round(&round, &[], 60).await.unwrap();
    assert_eq!(store.last_round_at().await.unwrap(), Some(round.created_at));
    assert_eq!(store.questions_since_last_round().await.unwrap(), 0);
    let later = round.created_at + TimeDelta::seconds(5);
    ask(&*store, "after", later).await;
    let private = Question { learn: false, ..question("private", later) };
    store.record_answer(&private, &answer_to(&private)).await.unwrap();
    assert_eq!(store.questions_since_last_round().await.unwrap(), 1);
}

async fn a_round_walks_through_its_states(place: Place) {
    use RoundState::*;
    let store = place.open().await;
    let given = round();
    assert_eq!(store.round(given.id).await.unwrap(), None);
    let attempt = store.create_round(&given, &[], 60).await.unwrap();
    assert_eq!(store.round(given.id).await.unwrap(), Some(given.clone()));

    assert_conflict(store.update_round(&attempt, to(Promoted)).await);
    let selected = RoundUpdate { questions: Some(40), held_back: Some(8), ..to(Sampling) };
    store.update_round(&attempt, selected).await.unwrap();
    let sampling = store.round(given.id).await.unwrap().unwrap();
    assert!(sampling.started_at.is_some() && sampling.finished_at.is_none());
    assert_eq!((sampling.questions, sampling.held_back, sampling.step), (40, 8, 0));

    store.update_round(&attempt, to(Training)).await.unwrap();
    store.update_round(&attempt, RoundUpdate { step: Some(1), ..RoundUpdate::default() }).await.unwrap();
    store.update_round(&attempt, to(Sampling)).await.unwrap();
    let saved = RoundUpdate { candidate_version: Some(hash('c')), ..to(Evaluating) };
    store.update_round(&attempt, saved).await.unwrap();
    let verdict = json!({"agreement": 0.75});
    let end = RoundUpdate { verdict: Some(verdict.clone()), reason: Some("no \0 gain".into()), ..to(Rejected) };
    store.update_round(&attempt, end).await.unwrap();

    let ended = store.round(given.id).await.unwrap().unwrap();
    assert!(ended.finished_at >= ended.started_at && ended.started_at == sampling.started_at);
    let expected = Round {
        state: Rejected,
        questions: 40,
        held_back: 8,
        step: 1,
        candidate_version: Some(hash('c')),
        verdict: Some(verdict),
        reason: Some("no \0 gain".into()),
        started_at: ended.started_at,
        finished_at: ended.finished_at,
        ..given.clone()
    };
    assert_eq!(ended, expected);
    assert_conflict(store.update_round(&attempt, to(Failed)).await);
    assert_conflict(store.update_round(&attempt, RoundUpdate { step: Some(2), ..RoundUpdate::default() }).await);
    assert_conflict(store.heartbeat(&attempt, 60).await);
    assert_eq!(store.round(given.id).await.unwrap(), Some(expected));
    store.create_round(&round(), &[], 60).await.unwrap();
}

/// What a server does about a round that it believes to be its own.
async fn writes(store: &dyn Store, attempt: &Attempt) -> Vec<Result<(), StoreError>> {
    let round_id = attempt.round();
    let row = round_question(&Round { id: round_id, ..round() }, "a straggler's");
    let step = RoundStep { round_id, step: 1, metrics: json!({}) };
    let promoted = store.promote(Promoter::Gate(*attempt), MODEL, None, &hash('9')).await;
    vec![
        store.heartbeat(attempt, 60).await,
        store.update_round(attempt, RoundUpdate { step: Some(7), ..RoundUpdate::default() }).await,
        store.record_step(attempt, &step).await,
        store.record_round_questions(attempt, &[row]).await,
        store.record_candidate(attempt, &candidate(round_id, '9')).await,
        promoted.map(drop),
        store.update_round(attempt, to(RoundState::Failed)).await,
    ]
}

fn candidate(round_id: Uuid, digit: char) -> AdapterRecord {
    AdapterRecord {
        version: hash(digit),
        model: Some(ModelId { name: "a model".into(), fingerprint: MODEL.into() }),
        parent_version: Version::base(),
        round_id: Some(round_id),
        bytes: 1,
        created_at: now(),
    }
}

/// A round that has made a candidate, with the attempt that holds it.
async fn evaluating(store: &dyn Store, digit: char) -> (Round, Attempt) {
    let round = round();
    let attempt = store.create_round(&round, &[], 60).await.unwrap();
    store.update_round(&attempt, to(RoundState::Sampling)).await.unwrap();
    store.record_candidate(&attempt, &candidate(round.id, digit)).await.unwrap();
    (round, attempt)
}

async fn a_server_that_lost_its_round_changes_nothing_more(place: Place) {
    let store = place.open().await;
    let (round, attempt) = evaluating(&*store, '8').await;
    let before = store.round(round.id).await.unwrap();
    for result in writes(&*store, &Attempt::new(round.id)).await {
        assert_conflict(result);
    }
    assert_eq!(store.round(round.id).await.unwrap(), before);
    assert_eq!(store.steps(round.id).await.unwrap(), []);
    assert_eq!(store.round_questions(round.id).await.unwrap(), []);
    assert_eq!(store.adapter(&hash('9')).await.unwrap(), None);
    assert_eq!(store.alias(MODEL, LIVE).await.unwrap(), None);
    store.heartbeat(&attempt, 60).await.unwrap();

    // The same for a round that has ended meanwhile, even though its last attempt it was.
    store.update_round(&attempt, to(RoundState::Cancelled)).await.unwrap();
    for result in writes(&*store, &attempt).await {
        assert_conflict(result);
    }
    assert_eq!(store.alias(MODEL, LIVE).await.unwrap(), None);

    for result in writes(&*store, &Attempt::new(Uuid::now_v7())).await {
        assert!(matches!(result, Err(StoreError::Missing { what: "round", .. })), "{result:?}");
    }
}

async fn rows_of_another_round_are_refused(place: Place) {
    let store = place.open().await;
    let (ended, first) = evaluating(&*store, '1').await;
    store.update_round(&first, to(RoundState::Rejected)).await.unwrap();
    let (_, attempt) = evaluating(&*store, '2').await;
    let step = RoundStep { round_id: ended.id, step: 1, metrics: json!({}) };
    assert_conflict(store.record_step(&attempt, &step).await);
    assert_conflict(store.record_round_questions(&attempt, &[round_question(&ended, "x")]).await);
}

async fn a_promotion_swaps_the_alias_and_ends_the_round_or_does_neither(place: Place) {
    let store = place.open().await;
    let (round, attempt) = evaluating(&*store, '1').await;
    let promote = async |expected: Option<Version>, digit| {
        store.promote(Promoter::Gate(attempt), MODEL, expected.as_ref(), &hash(digit)).await.unwrap()
    };
    assert!(!promote(Some(hash('0')), '1').await);
    assert_eq!(store.round(round.id).await.unwrap().unwrap().state, RoundState::Evaluating);
    assert_eq!(store.alias(MODEL, LIVE).await.unwrap(), None);
    // The second time, the reply to the first one was lost.
    for _ in 0..2 {
        assert!(promote(None, '1').await);
        let ended = store.round(round.id).await.unwrap().unwrap();
        assert_eq!((ended.state, ended.candidate_version), (RoundState::Promoted, Some(hash('1'))));
        assert!(ended.finished_at.is_some());
        assert_eq!(store.alias(MODEL, LIVE).await.unwrap(), Some(hash('1')));
    }
    // A round that is not at its gate promotes nothing.
    let round = self::round();
    let attempt = store.create_round(&round, &[], 60).await.unwrap();
    store.update_round(&attempt, to(RoundState::Sampling)).await.unwrap();
    assert_conflict(store.promote(Promoter::Gate(attempt), MODEL, Some(&hash('1')), &hash('2')).await);
    assert_eq!(store.alias(MODEL, LIVE).await.unwrap(), Some(hash('1')));
}

/// A round that has promoted what it made of another version.
async fn promoted(store: &dyn Store, parent: &Version, digit: char) -> Round {
    let round = Round { parent_version: parent.clone(), ..round() };
    let attempt = store.create_round(&round, &[], 60).await.unwrap();
    store.update_round(&attempt, to(RoundState::Sampling)).await.unwrap();
    store.record_candidate(&attempt, &candidate(round.id, digit)).await.unwrap();
    let live = store.alias(MODEL, LIVE).await.unwrap();
    assert!(store.promote(Promoter::Gate(attempt), MODEL, live.as_ref(), &hash(digit)).await.unwrap());
    store.round(round.id).await.unwrap().unwrap()
}

async fn a_promotion_begins_a_watch_and_what_it_may_go_back_to_is_needed(place: Place) {
    let store = place.open().await;
    store.record_adapter(&candidate(Uuid::now_v7(), '1')).await.unwrap();
    store.swap_alias(MODEL, LIVE, None, &hash('1')).await.unwrap();
    let round = promoted(&*store, &hash('1'), '2').await;
    assert_eq!(round.watch, Some(Watch::default()));
    let watched = async |model| store.watched_rounds(model).await.unwrap();
    assert_eq!((watched(MODEL).await, watched("another").await), (vec![round.clone()], vec![]));
    let parent = async || store.adapter_use(&hash('1')).await.unwrap().unwrap().1;
    assert_eq!(parent().await, AdapterUse::Needed);

    let compared = json!([{"rule": "agreement", "difference": 0.1}]);
    let seen = Given { answers: 32, rated: 0 };
    let looked = Watch { looks: 1, seen, judged: [32, 32, 0], compared, looked_at: Some(now()), ..Watch::default() };
    assert!(store.record_watch(&round, &looked).await.unwrap());
    assert!(store.record_watch(&round, &looked).await.unwrap(), "the reply was lost");
    let slower = Watch { looked_at: looked.looked_at.map(|at| at + TimeDelta::milliseconds(1)), ..looked.clone() };
    assert!(!store.record_watch(&round, &slower).await.unwrap(), "another server was faster");
    let round = store.round(round.id).await.unwrap().unwrap();
    assert_eq!((&round.watch, parent().await), (&Some(looked.clone()), AdapterUse::Needed));

    let passed = Watch { state: WatchState::Passed, looks: 2, ended_at: Some(now()), ..looked.clone() };
    assert!(store.record_watch(&round, &passed).await.unwrap());
    assert_eq!((watched(MODEL).await, parent().await), (vec![], AdapterUse::Spare));
    let ended = store.round(round.id).await.unwrap().unwrap();
    assert!(!store.record_watch(&ended, &looked).await.unwrap());
    assert!(!store.roll_back(MODEL, &ended, &looked).await.unwrap());
    assert_eq!(store.round(round.id).await.unwrap(), Some(ended));
    assert_eq!(store.alias(MODEL, LIVE).await.unwrap(), Some(hash('2')));
}

async fn a_roll_back_swaps_the_alias_and_ends_the_watch_or_does_neither(place: Place) {
    let store = place.open().await;
    let round = promoted(&*store, &Version::base(), '1').await;
    let worse = Watch { state: WatchState::RolledBack, looks: 1, reason: Some("worse".into()), ..Watch::default() };
    let swap = async |from: Version, to: Version| store.swap_alias(MODEL, LIVE, Some(&from), &to).await.unwrap();
    // Somebody has made another version live.
    assert!(swap(hash('1'), hash('2')).await);
    assert!(!store.roll_back(MODEL, &round, &worse).await.unwrap());
    assert_eq!(store.round(round.id).await.unwrap(), Some(round.clone()));
    assert_eq!(store.alias(MODEL, LIVE).await.unwrap(), Some(hash('2')));
    assert!(swap(hash('2'), hash('1')).await);
    assert!(!store.was_rolled_back(MODEL).await.unwrap());

    let others = Watch { ended_at: Some(now()), ..worse.clone() };
    let (one, other) = tokio::join!(store.roll_back(MODEL, &round, &worse), store.roll_back(MODEL, &round, &others));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(one ^ other);
    assert_eq!(store.alias(MODEL, LIVE).await.unwrap(), Some(Version::base()));
    let (done, not_done) = if one { (worse, others) } else { (others, worse) };
    assert_eq!(store.round(round.id).await.unwrap().unwrap().watch.as_ref(), Some(&done));
    // Once more each, as if the reply had been lost.
    assert!(store.roll_back(MODEL, &round, &done).await.unwrap());
    assert!(!store.roll_back(MODEL, &round, &not_done).await.unwrap());
    assert!(store.was_rolled_back(MODEL).await.unwrap());
    assert!(!store.was_rolled_back("another model").await.unwrap());
    // A person has looked at it, and leaves it as it is.
    assert!(swap(Version::base(), Version::base()).await);
    assert!(!store.was_rolled_back(MODEL).await.unwrap());
}

async fn what_a_version_has_shown_is_read_on_either_side_of_a_moment(place: Place) {
    let store = place.open().await;
    let moment = now();
    let mut last = Uuid::nil();
    for second in 0..7_u32 {
        for version in [hash('1'), hash('2')] {
            let question = Question { client: Some("c".into()), ..question("?", moment) };
            let created_at = moment + TimeDelta::seconds(i64::from(second) - 3);
            let answer = Answer { adapter_version: version, samples: second, created_at, ..answer_to(&question) };
            store.record_answer(&question, &Answer { answer: None, ..answer.clone() }).await.unwrap();
            last = answer.id;
        }
    }
    let feedback = Feedback { good: false, comment: None, created_at: moment };
    store.put_feedback(last, &feedback).await.unwrap();
    let seconds = async |version: Version, span, limit| {
        let seen = store.seen_answers(&version, span, limit).await.unwrap();
        seen.iter().map(|answer| answer.samples).collect::<Vec<_>>()
    };
    assert_eq!(seconds(hash('1'), Span::Until(moment), 9).await, [3, 2, 1, 0]);
    assert_eq!(seconds(hash('1'), Span::Until(moment), 2).await, [3, 2]);
    assert_eq!(seconds(hash('1'), Span::Since(moment), 9).await, [4, 5, 6]);
    assert_eq!(seconds(hash('1'), Span::Since(moment), 2).await, [4, 5]);
    assert!(seconds(hash('3'), Span::Since(moment), 9).await.is_empty());
    for (limit, answers, rated) in [(9, 3, 1), (2, 2, 0)] {
        assert_eq!(store.given(&hash('2'), moment, limit).await.unwrap(), Given { answers, rated });
    }
    let seen = store.seen_answers(&hash('2'), Span::Since(moment), 9).await.unwrap().remove(2);
    let manner = json!({"temperature": 0.5}).to_string();
    let (text_hash, client) = (Sha256::digest("?").to_vec(), Some("c".into()));
    let (samples, majority_ratio, answered, good) = (6, 0.3125, false, Some(false));
    assert_eq!(seen, SeenAnswer { text_hash, client, manner, samples, majority_ratio, answered, good });
}

async fn of_two_servers_one_gets_the_round(place: Place) {
    let mut won = 0;
    let servers: Vec<SharedStore> = vec![place.open().await, place.open().await];
    for _ in 0..5 {
        let contenders: Vec<_> = (0..8)
            .map(|i| {
                let (store, round) = (servers[i % 2].clone(), round());
                tokio::spawn(async move { store.create_round(&round, &[], 60).await })
            })
            .collect();
        let mut winners = vec![];
        for contender in contenders {
            match contender.await.unwrap() {
                Ok(attempt) => winners.push(attempt),
                result => assert_conflict(result),
            }
        }
        assert_eq!(winners.len(), 1);
        servers[0].update_round(&winners[0], to(RoundState::Cancelled)).await.unwrap();
        won += 1;
        assert_eq!(servers[1].rounds(100, None).await.unwrap().len(), won);
    }
}

async fn a_round_comes_with_its_questions_or_not_at_all(place: Place) {
    let store = place.open().await;
    let round = round();
    let mut questions = vec![round_question(&round, "one"), round_question(&round, "two")];
    questions.sort_by_key(|row| row.question_id);
    let foreign = round_question(&self::round(), "of another round");
    assert_conflict(store.create_round(&round, &[questions[0].clone(), foreign], 60).await);
    assert_eq!(store.round(round.id).await.unwrap(), None);
    store.create_round(&round, &questions, 60).await.unwrap();
    assert_eq!(store.round_questions(round.id).await.unwrap(), questions);
}

async fn an_unfinished_round_is_taken_over_when_its_lease_has_run_out(place: Place) {
    let store = place.open().await;
    assert_eq!(store.unfinished_round().await.unwrap(), None);
    let round = round();
    let lost = store.create_round(&round, &[], 60).await.unwrap();
    store.update_round(&lost, to(RoundState::Sampling)).await.unwrap();
    let held = store.unfinished_round().await.unwrap().unwrap();
    assert_eq!((held.round.id, held.abandoned, held.stalled), (round.id, None, 0));
    assert_conflict(store.take_over(round.id, 60).await);
    assert_conflict(store.take_over(Uuid::now_v7(), 60).await);

    store.heartbeat(&lost, 0).await.unwrap();
    // Nobody has taken its place yet, so it may go on; but no other round begins.
    store.heartbeat(&lost, 0).await.unwrap();
    assert!(store.unfinished_round().await.unwrap().unwrap().abandoned.is_some());
    assert_conflict(store.create_round(&self::round(), &[], 60).await);

    let servers: Vec<SharedStore> = vec![store.clone(), place.open().await];
    let takers: Vec<_> = (0..8)
        .map(|i| {
            let (store, id) = (servers[i % 2].clone(), round.id);
            tokio::spawn(async move { store.take_over(id, 60).await })
        })
        .collect();
    let mut winners = vec![];
    for taker in takers {
        match taker.await.unwrap() {
            Ok(attempt) => winners.push(attempt),
            result => assert_conflict(result),
        }
    }
    assert_eq!(winners.len(), 1);
    let taken = store.unfinished_round().await.unwrap().unwrap();
    assert_eq!((taken.round.state, taken.round.attempts, taken.stalled), (RoundState::Queued, 2, 1));
    assert_eq!((taken.round.seed, taken.abandoned), (round.seed, None));
    for result in writes(&*store, &lost).await {
        assert_conflict(result);
    }
    store.update_round(&winners[0], to(RoundState::Sampling)).await.unwrap();
    store.update_round(&winners[0], to(RoundState::Failed)).await.unwrap();
    assert_conflict(store.take_over(round.id, 60).await);
    store.create_round(&self::round(), &[], 60).await.unwrap();
}

async fn a_round_that_is_given_back_is_free_at_once(place: Place) {
    let store = place.open().await;
    let round = round();
    let given = store.create_round(&round, &[], 60).await.unwrap();
    store.update_round(&given, to(RoundState::Sampling)).await.unwrap();
    store.give_back(&given, GivenBack::Stopping).await.unwrap();
    for result in writes(&*store, &given).await {
        assert_conflict(result);
    }
    store.take_over(round.id, 60).await.unwrap();
    let taken = store.unfinished_round().await.unwrap().unwrap();
    assert_eq!((taken.round.state, taken.round.attempts), (RoundState::Queued, 2));
}

async fn a_round_stalls_while_it_is_taken_over_without_a_new_step(place: Place) {
    let store = place.open().await;
    let round = round();
    let mut attempt = store.create_round(&round, &[], 0).await.unwrap();
    let stalled = async || store.unfinished_round().await.unwrap().unwrap().stalled;
    let step = |step| RoundUpdate { step: Some(step), ..to(RoundState::Sampling) };
    for expected in 1..=2 {
        attempt = store.take_over(round.id, 0).await.unwrap();
        // Once more the step that was done before.
        store.update_round(&attempt, step(0)).await.unwrap();
        assert_eq!(stalled().await, expected);
    }
    store.update_round(&attempt, step(1)).await.unwrap();
    assert_eq!(stalled().await, 0);
    attempt = store.take_over(round.id, 60).await.unwrap();
    assert_eq!(stalled().await, 1);
    // Whatever failed may fail again.
    store.give_back(&attempt, GivenBack::Failed).await.unwrap();
    attempt = store.take_over(round.id, 60).await.unwrap();
    assert_eq!(stalled().await, 2);
    store.give_back(&attempt, GivenBack::Stopping).await.unwrap();
    assert_eq!(stalled().await, 0);
}

async fn a_round_that_begins_anew_is_further_only_beyond_the_step_that_it_had(place: Place) {
    let store = place.open().await;
    let round = round();
    let attempt = store.create_round(&round, &[], 0).await.unwrap();
    let step = |step| RoundUpdate { step: Some(step), ..to(RoundState::Sampling) };
    store.update_round(&attempt, step(3)).await.unwrap();
    let attempt = store.take_over(round.id, 60).await.unwrap();
    for (reached, stalled) in [(0, 1), (1, 1), (3, 1), (4, 0)] {
        store.update_round(&attempt, step(reached)).await.unwrap();
        let unfinished = store.unfinished_round().await.unwrap().unwrap();
        assert_eq!((unfinished.round.step, unfinished.stalled), (reached, stalled));
    }
}

async fn a_held_round_waits_for_a_decision_while_others_run(place: Place) {
    use RoundState::*;
    let store = place.open().await;
    let mut attempts = vec![];
    for digit in ['7', '8'] {
        let round = round();
        let attempt = store.create_round(&round, &[], 60).await.unwrap();
        let adapter = AdapterRecord {
            version: hash(digit),
            model: None,
            parent_version: Version::base(),
            round_id: Some(round.id),
            bytes: 1,
            created_at: now(),
        };
        store.update_round(&attempt, to(Sampling)).await.unwrap();
        store.record_candidate(&attempt, &adapter).await.unwrap();
        let made = RoundUpdate { candidate_version: Some(hash(digit)), ..to(Evaluating) };
        store.update_round(&attempt, made).await.unwrap();
        assert_conflict(store.reject_held(round.id, "no").await);
        let held = RoundUpdate { reason: Some("too few labels".into()), ..to(Held) };
        store.update_round(&attempt, held).await.unwrap();
        attempts.push(attempt);
    }
    // Nobody works on it any more, and nobody goes on with it.
    let ids = [attempts[0].round(), attempts[1].round()];
    assert_conflict(store.heartbeat(&attempts[0], 60).await);
    assert_conflict(store.update_round(&attempts[0], to(Promoted)).await);
    assert_conflict(store.take_over(ids[0], 60).await);
    assert_eq!(store.unfinished_round().await.unwrap(), None);
    let held = store.round(ids[0]).await.unwrap().unwrap();
    assert_eq!((held.state, held.finished_at, held.reason.as_deref()), (Held, None, Some("too few labels")));
    let said = async |digit| store.adapter_use(&hash(digit)).await.unwrap().unwrap().1;
    assert_eq!((said('7').await, said('8').await), (AdapterUse::Needed, AdapterUse::Needed));

    assert!(store.promote(Promoter::Person(ids[0]), MODEL, None, &hash('7')).await.unwrap());
    store.reject_held(ids[1], "no").await.unwrap();
    assert_conflict(store.promote(Promoter::Person(ids[1]), MODEL, Some(&hash('7')), &hash('8')).await);
    for (id, state, reason) in [(ids[0], Promoted, "too few labels"), (ids[1], Rejected, "no")] {
        let decided = store.round(id).await.unwrap().unwrap();
        assert_eq!((decided.state, decided.reason.as_deref()), (state, Some(reason)));
        assert_eq!(decided.watch, (state == Promoted).then(Watch::default));
        assert!(decided.finished_at.is_some());
    }
    assert_eq!((said('7').await, said('8').await), (AdapterUse::Needed, AdapterUse::Dismissed));
}

async fn a_person_decides_about_a_held_round_as_the_store_finds_it(place: Place) {
    let store = place.open().await;
    let (round, attempt) = evaluating(&*store, '7').await;
    let promote = async |expected: Option<Version>| {
        store.promote(Promoter::Person(round.id), MODEL, expected.as_ref(), &hash('7')).await
    };
    assert_conflict(promote(None).await);
    store.update_round(&attempt, to(RoundState::Held)).await.unwrap();
    let held = store.round(round.id).await.unwrap();
    // Another version is live: neither is done.
    store.swap_alias(MODEL, LIVE, None, &hash('8')).await.unwrap();
    assert!(!promote(None).await.unwrap());
    assert!(!promote(Some(hash('6'))).await.unwrap());
    assert_eq!(store.round(round.id).await.unwrap(), held);
    // Its candidate is live already.
    store.swap_alias(MODEL, LIVE, Some(&hash('8')), &hash('7')).await.unwrap();
    assert_conflict(store.reject_held(round.id, "no").await);
    assert_eq!(store.round(round.id).await.unwrap(), held);
    assert!(promote(Some(hash('7'))).await.unwrap());
    assert_eq!(store.round(round.id).await.unwrap().unwrap().state, RoundState::Promoted);
    assert_conflict(promote(Some(hash('7'))).await);
    assert_conflict(store.reject_held(round.id, "no").await);
    assert_eq!(store.alias(MODEL, LIVE).await.unwrap(), Some(hash('7')));
    let unknown = store.reject_held(Uuid::now_v7(), "no").await;
    assert!(matches!(unknown, Err(StoreError::Missing { what: "round", .. })), "{unknown:?}");
}

async fn the_last_word_about_a_round_may_be_said_again(place: Place) {
    use RoundState::*;
    let store = place.open().await;
    for (digit, state, other) in [('1', Rejected, Failed), ('2', Held, Rejected), ('3', Promoted, Rejected)] {
        let (round, attempt) = evaluating(&*store, digit).await;
        store.update_round(&attempt, to(state)).await.unwrap();
        let before = store.round(round.id).await.unwrap();
        store.update_round(&attempt, to(state)).await.unwrap();
        assert_conflict(store.update_round(&attempt, to(other)).await);
        assert_conflict(store.update_round(&Attempt::new(round.id), to(state)).await);
        assert_eq!(store.round(round.id).await.unwrap(), before);
    }
}

async fn what_a_rejected_round_made_is_kept_once_another_round_holds_it(place: Place) {
    use RoundState::*;
    let store = place.open().await;
    let mut last = Uuid::nil();
    for (end, wanted) in [(Rejected, AdapterUse::Dismissed), (Held, AdapterUse::Needed)] {
        let round = round();
        let attempt = store.create_round(&round, &[], 60).await.unwrap();
        store.update_round(&attempt, to(Sampling)).await.unwrap();
        let adapter = AdapterRecord {
            version: hash('7'),
            model: None,
            parent_version: Version::base(),
            round_id: Some(round.id),
            bytes: 1,
            created_at: now(),
        };
        store.record_candidate(&attempt, &adapter).await.unwrap();
        let made = RoundUpdate { candidate_version: Some(hash('7')), ..to(Evaluating) };
        store.update_round(&attempt, made).await.unwrap();
        store.update_round(&attempt, to(end)).await.unwrap();
        assert_eq!(store.adapter_use(&hash('7')).await.unwrap().unwrap().1, wanted);
        last = round.id;
    }
    store.reject_held(last, "no").await.unwrap();
    assert_eq!(store.adapter_use(&hash('7')).await.unwrap().unwrap().1, AdapterUse::Dismissed);
}

async fn rounds_are_listed_newest_first_page_by_page(place: Place) {
    let store = place.open().await;
    let mut ids = vec![];
    let created_at = now();
    // The last two were made in the same microsecond.
    for offset in [0, 1, 2, 3, 3] {
        let round = Round { created_at: created_at + TimeDelta::microseconds(offset), ..round() };
        let attempt = store.create_round(&round, &[], 60).await.unwrap();
        store.update_round(&attempt, to(RoundState::Cancelled)).await.unwrap();
        ids.insert(0, round.id);
    }
    let mut pages = vec![];
    let mut before = None;
    loop {
        let page: Vec<_> = store.rounds(2, before).await.unwrap().into_iter().map(|round| round.id).collect();
        before = page.last().copied();
        if page.is_empty() {
            break;
        }
        pages.push(page);
    }
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    assert_eq!(pages.concat(), ids);
}

async fn steps_are_kept_in_order_and_replaced(place: Place) {
    let store = place.open().await;
    let round = round();
    let attempt = store.create_round(&round, &[], 60).await.unwrap();
    let step = |step, reward: f64| RoundStep { round_id: round.id, step, metrics: json!({"reward": reward}) };
    for given in [step(10, 0.5), step(2, 0.25), step(1, 0.0), step(2, 0.75)] {
        store.record_step(&attempt, &given).await.unwrap();
    }
    assert_eq!(store.steps(round.id).await.unwrap(), [step(1, 0.0), step(2, 0.75), step(10, 0.5)]);
    assert_eq!(store.steps(Uuid::now_v7()).await.unwrap(), []);
}

async fn the_questions_of_a_round_are_replaced_by_key(place: Place) {
    let store = place.open().await;
    let round = round();
    let attempt = store.create_round(&round, &[], 60).await.unwrap();
    store.record_round_questions(&attempt, &[]).await.unwrap();
    // More than one statement holds.
    let mut rows: Vec<_> = (0..2_100).map(|i| round_question(&round, &format!("question {i}"))).collect();
    store.record_round_questions(&attempt, &rows).await.unwrap();
    rows[7] = RoundQuestion {
        held_back: true,
        before_answer: None,
        before_ratio: None,
        after_answer: Some("fünf \0".into()),
        after_ratio: Some(0.125),
        set_aside: Some(SetAside::TooLong),
        ..rows[7].clone()
    };
    let first = RoundQuestion { after_ratio: Some(1.0), ..rows[7].clone() };
    store.record_round_questions(&attempt, &[first, rows[7].clone()]).await.unwrap();
    rows.sort_by_key(|row| row.question_id);
    assert_eq!(store.round_questions(round.id).await.unwrap(), rows);
}

async fn adapters_are_listed_newest_first(place: Place) {
    let store = place.open().await;
    let adapter = |digit, seconds, round_id: Option<Uuid>| AdapterRecord {
        version: hash(digit),
        model: round_id.map(|_| ModelId { name: "a model".into(), fingerprint: MODEL.into() }),
        parent_version: Version::base(),
        round_id,
        bytes: 5_000_000_000,
        created_at: now() - TimeDelta::seconds(seconds),
    };
    let old = adapter('1', 20, None);
    let new = adapter('2', 10, Some(Uuid::now_v7()));
    store.record_adapter(&new).await.unwrap();
    store.record_adapter(&old).await.unwrap();
    store.record_adapter(&AdapterRecord { bytes: 1, ..old.clone() }).await.unwrap();
    assert_eq!(store.adapter(&old.version).await.unwrap(), Some(old.clone()));
    assert_eq!(store.adapter(&hash('3')).await.unwrap(), None);
    assert_eq!(store.adapters(10, None).await.unwrap(), [new.clone(), old.clone()]);
    assert!(store.adapters(10, Some(&old.version)).await.unwrap().is_empty());
    assert_eq!(store.adapters(10, Some(&new.version)).await.unwrap(), [old]);
    assert_eq!(store.adapters(1, None).await.unwrap(), [new]);
}

async fn of_many_swaps_of_an_alias_one_wins(place: Place) {
    let servers: Vec<SharedStore> = vec![place.open().await, place.open().await];
    assert_eq!(servers[0].alias(MODEL, LIVE).await.unwrap(), None);
    assert!(!servers[0].swap_alias(MODEL, LIVE, Some(&Version::base()), &hash('f')).await.unwrap());
    let mut live = None;
    for _ in 0..5 {
        let swaps: Vec<_> = "0123456789"
            .chars()
            .enumerate()
            .map(|(i, digit)| {
                let (store, expected, new) = (servers[i % 2].clone(), live.clone(), hash(digit));
                tokio::spawn(async move {
                    store.swap_alias(MODEL, LIVE, expected.as_ref(), &new).await.unwrap().then_some(new)
                })
            })
            .collect();
        let mut winners = vec![];
        for swap in swaps {
            winners.extend(swap.await.unwrap());
        }
        // A swap to the version that is there already lets one more through: its expectation still holds.
        let real: Vec<_> = winners.iter().filter(|new| Some(*new) != live.as_ref()).collect();
        assert_eq!(real.len(), 1, "{winners:?}");
        live = servers[1].alias(MODEL, LIVE).await.unwrap();
        assert_eq!(live.as_ref(), Some(real[0]));
    }
    assert_eq!(servers[0].alias(MODEL, "candidate").await.unwrap(), None);
}

async fn an_alias_of_one_model_is_none_of_anothers(place: Place) {
    let store = place.open().await;
    assert!(store.swap_alias("one", LIVE, None, &hash('1')).await.unwrap());
    assert_eq!(store.alias("other", LIVE).await.unwrap(), None);
    assert!(!store.swap_alias("other", LIVE, Some(&hash('1')), &hash('2')).await.unwrap());
    assert!(store.swap_alias("other", LIVE, None, &hash('2')).await.unwrap());
    assert!(store.swap_alias("one", LIVE, Some(&hash('1')), &hash('3')).await.unwrap());
    assert_eq!(store.alias("one", LIVE).await.unwrap(), Some(hash('3')));
    assert_eq!(store.alias("other", LIVE).await.unwrap(), Some(hash('2')));
}

async fn an_adapter_is_needed_or_spare_or_dismissed(place: Place) {
    let store = place.open().await;
    let adapter = |digit, round_id| AdapterRecord {
        version: hash(digit),
        model: Some(ModelId { name: "a model".into(), fingerprint: MODEL.into() }),
        parent_version: Version::base(),
        round_id,
        bytes: 1,
        created_at: now(),
    };
    let said = async |digit| store.adapter_use(&hash(digit)).await.unwrap().map(|(_, how)| how);
    assert_eq!(said('1').await, None);
    let parent = adapter('1', None);
    store.record_adapter(&parent).await.unwrap();
    assert_eq!(store.adapter_use(&hash('1')).await.unwrap(), Some((parent, AdapterUse::Spare)));

    // As long as a round runs, what it starts from and what it has made are needed.
    let promoted = Round { parent_version: hash('1'), ..round() };
    let attempt = store.create_round(&promoted, &[], 60).await.unwrap();
    store.record_adapter(&adapter('2', Some(promoted.id))).await.unwrap();
    assert_eq!((said('1').await, said('2').await), (Some(AdapterUse::Needed), Some(AdapterUse::Needed)));
    for state in [RoundState::Sampling, RoundState::Evaluating, RoundState::Promoted] {
        store.update_round(&attempt, to(state)).await.unwrap();
    }
    assert_eq!((said('1').await, said('2').await), (Some(AdapterUse::Spare), Some(AdapterUse::Spare)));

    for (digit, state) in [('3', RoundState::Rejected), ('4', RoundState::Cancelled), ('5', RoundState::Failed)] {
        let round = round();
        let attempt = store.create_round(&round, &[], 60).await.unwrap();
        store.record_adapter(&adapter(digit, Some(round.id))).await.unwrap();
        store.update_round(&attempt, to(state)).await.unwrap();
        assert_eq!(said(digit).await, Some(AdapterUse::Dismissed), "{state:?}");
    }
    // What an operator has made live all the same is needed, for whichever model it is.
    store.swap_alias("another model", LIVE, None, &hash('3')).await.unwrap();
    assert_eq!(said('3').await, Some(AdapterUse::Needed));
}

/// What SQL stands for in one of the databases.
fn dialect(address: &str) -> [(&'static str, &'static str); 5] {
    let of = |sqlite, postgres| if address.starts_with("sqlite:") { sqlite } else { postgres };
    [
        ("TIME", of("1000000", "to_timestamp(1)")),
        ("UUID", of("randomblob(16)", "gen_random_uuid()")),
        ("NO_HASH", of("zeroblob(32)", "decode(repeat('00', 32), 'hex')")),
        ("FALSE", of("0", "false")),
        ("TRUE", of("1", "true")),
    ]
}

/// Runs statements in a database, with the tables of the first version if it is empty.
async fn run(address: &str, script: &str) {
    let script = dialect(address).iter().fold(script.to_owned(), |script, (word, sql)| script.replace(word, sql));
    let migrator = |sql: &'static str| {
        let initial = Migration::new(1, "initial".into(), MigrationType::Simple, sql.into_sql_str(), false);
        let mut migrator = Migrator::with_migrations(vec![initial]);
        migrator.set_ignore_missing(true);
        migrator
    };
    if address.starts_with("sqlite:") {
        let pool = sqlx::SqlitePool::connect(&format!("{address}?mode=rwc")).await.unwrap();
        migrator(include_str!("../../migrations/sqlite/0001_initial.sql")).run(&pool).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(script)).execute(&pool).await.unwrap();
        pool.close().await;
    } else {
        let pool = sqlx::PgPool::connect(address).await.unwrap();
        migrator(include_str!("../../migrations/postgres/0001_initial.sql")).run(&pool).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(script)).execute(&pool).await.unwrap();
        pool.close().await;
    }
}

async fn what_the_first_version_stored_is_kept(place: Place) {
    let version = hash('1');
    let script = format!(
        "INSERT INTO adapters (version, parent_version, bytes, created_at) VALUES ('{version}', 'base', 7, TIME);
         INSERT INTO aliases (name, version) VALUES ('{LIVE}', '{version}')"
    );
    run(&place.address, &script).await;
    let store = place.open().await;
    let kept = AdapterRecord {
        version: hash('1'),
        model: None,
        parent_version: Version::base(),
        round_id: None,
        bytes: 7,
        created_at: DateTime::from_timestamp(1, 0).unwrap(),
    };
    assert_eq!(store.adapters(10, None).await.unwrap(), [kept]);
    assert_eq!(store.alias(UNKNOWN_MODEL, LIVE).await.unwrap(), Some(hash('1')));
    assert_eq!(store.alias(MODEL, LIVE).await.unwrap(), None);
}

async fn texts_of_the_first_version_are_compared_without_their_white_space(place: Place) {
    // More than are looked at at once. What the hash was does not matter, but that it is another one.
    let script = "
        INSERT INTO questions (id, text, text_hash, learn, created_at)
            WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1200)
            SELECT UUID, n || '  + 1', NO_HASH, TRUE, TIME FROM numbers;
        INSERT INTO rounds (id, state, started_by, recipe, questions, held_back, step, steps, parent_version, created_at,
            finished_at, owner, lease_expires_at)
            VALUES (UUID, 'promoted', 'operator', '{}', 1, 0, 1, 1, 'base', TIME, TIME, '', TIME);
        INSERT INTO round_questions (round_id, question_id, text, text_hash, held_back)
            SELECT id, UUID, '7\n+ 1', NO_HASH, FALSE FROM rounds";
    run(&place.address, script).await;
    let store = place.open().await;
    ask(&*store, "9 + 1", now()).await;
    let all = store.learnable(2_000).await.unwrap();
    assert_eq!(all.len(), 1_200);
    let seen: Vec<_> = all.iter().filter(|candidate| !candidate.seen.is_empty()).collect();
    assert_eq!((seen.len(), &*seen[0].question.text), (1, "7  + 1"));

    // A start that was killed half-way has not written down that all is done. Once it is, nothing is looked at again.
    let forget = "UPDATE questions SET text_hash = NO_HASH WHERE text LIKE '1%'";
    let texts_of_next_start = async |script: &str| {
        run(&place.address, script).await;
        place.open().await.learnable(2_000).await.unwrap().len()
    };
    assert!(texts_of_next_start(forget).await < 1_200);
    assert_eq!(texts_of_next_start("DELETE FROM upkeep").await, 1_200);
}

async fn a_restart_finds_everything(place: Place) {
    let store = place.open().await;
    let question = question("remember me", now());
    let answer = answer_to(&question);
    let round = round();
    store.record_answer(&question, &answer).await.unwrap();
    let attempt = store.create_round(&round, &[], 60).await.unwrap();
    store.swap_alias(MODEL, LIVE, None, &hash('d')).await.unwrap();
    drop(store);

    let store = place.open().await;
    assert_eq!(store.answer(answer.id).await.unwrap(), Some((question, answer)));
    assert_eq!(store.round(round.id).await.unwrap(), Some(round));
    assert_eq!(store.alias(MODEL, LIVE).await.unwrap(), Some(hash('d')));
    assert_conflict(store.create_round(&self::round(), &[], 60).await);
    store.heartbeat(&attempt, 60).await.unwrap();
}

async fn a_database_of_a_newer_version_is_refused(place: Place) {
    const NEWER: &str = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        VALUES (9999, 'the future', true, '', 0)";
    drop(place.open().await);
    if place.address.starts_with("sqlite:") {
        let pool = sqlx::SqlitePool::connect(&place.address).await.unwrap();
        sqlx::raw_sql(NEWER).execute(&pool).await.unwrap();
    } else {
        let pool = sqlx::PgPool::connect(&place.address).await.unwrap();
        sqlx::raw_sql(NEWER).execute(&pool).await.unwrap();
    }
    let Err(StoreError::Corrupt(message)) = connect(&place.address).await.map(drop) else { panic!("not refused") };
    assert!(message.contains("9999") && message.contains("newer version"), "{message}");
}

async fn two_first_starts_at_once_both_succeed(place: Place) {
    let (one, two) = tokio::join!(connect(&place.address), connect(&place.address));
    one.unwrap().ping().await.unwrap();
    two.unwrap().ping().await.unwrap();
}

/// Longer than any call may take.
const BOUND: Duration = Duration::from_secs(15);

#[track_caller]
fn assert_unavailable<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_is_an_error_in_time_and_is_used_again_when_it_is_back() {
    let server = Server::start().await;
    let store = connect(&server.database().await).await.unwrap();
    let before = ask(&*store, "before", now()).await;
    server.stop().await;
    let since = Instant::now();
    let question = question("meanwhile", now());
    assert_unavailable(store.record_answer(&question, &answer_to(&question)).await);
    assert_unavailable(store.ping().await);
    assert_unavailable(store.create_round(&round(), &[], 60).await);
    assert!(since.elapsed() < 3 * BOUND);
    server.start_again().await;
    let after = ask(&*store, "after", now()).await;
    let kept = store.learnable(10).await.unwrap().into_iter().map(|candidate| candidate.question);
    assert_eq!(kept.collect::<Vec<_>>(), [after, before]);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_outlive_an_outage_and_a_restart_in_it_and_are_stored_once() {
    let server = Server::start().await;
    let place = Place { address: server.database().await, folder: tempfile::tempdir().unwrap() };
    let store = place.open().await;
    let spooled = place.spool(store.clone()).await;
    ask(&spooled, "before", now()).await;
    assert_eq!((spooled.spooled_records(), spooled.spooled_bytes()), (0, 0));

    server.stop().await;
    let kept: Vec<_> = (0..20).map(|i| question(&format!("kept {i}\0"), now() + TimeDelta::seconds(i))).collect();
    let answers: Vec<_> = kept.iter().map(answer_to).collect();
    for (question, answer) in kept.iter().zip(&answers) {
        spooled.record_answer(question, answer).await.unwrap();
        // Repeating it changes nothing here either.
        spooled.record_answer(question, answer).await.unwrap();
    }
    assert_eq!(spooled.spooled_records(), 20);
    assert_eq!(spooled.answer(answers[3].id).await.unwrap(), Some((kept[3].clone(), answers[3].clone())));
    assert_unavailable(spooled.answer(Uuid::now_v7()).await);
    assert_unavailable(spooled.replay().await);
    drop(spooled);

    let spooled = place.spool(store.clone()).await;
    assert_eq!(spooled.spooled_records(), 20);
    assert_eq!(spooled.answer(answers[19].id).await.unwrap(), Some((kept[19].clone(), answers[19].clone())));
    server.start_again().await;
    let bytes = fs::read(place.spool_path()).unwrap();
    assert_eq!(spooled.replay().await.unwrap(), Replayed { records: 20, damaged: 0 });
    assert_eq!((spooled.spooled_records(), spooled.spooled_bytes()), (0, 0));
    assert_eq!(fs::metadata(place.spool_path()).unwrap().len(), 0);
    assert_eq!(store.questions_since_last_round().await.unwrap(), 21);

    // As if the program had been killed before it emptied the file.
    drop(spooled);
    fs::write(place.spool_path(), bytes).unwrap();
    let spooled = place.spool(store.clone()).await;
    assert_eq!(spooled.replay().await.unwrap().records, 20);
    assert_eq!(store.questions_since_last_round().await.unwrap(), 21);
    for (question, answer) in kept.into_iter().zip(answers) {
        assert_eq!(store.answer(answer.id).await.unwrap(), Some((question, answer)));
    }
}

#[tokio::test]
async fn a_refused_connection_says_what_to_do_and_not_the_password() {
    let server = Server::shared().await;
    let refusal = async |address: String| {
        let error = connect(&address).await.map(drop).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(!text.contains(PASSWORD) && !text.contains("wrong-password"), "{text}");
        text
    };
    let text = refusal(server.address("nowhere")).await;
    assert!(text.contains("no database \"nowhere\"") && text.contains("createdb nowhere"), "{text}");
    let text = refusal(server.address("postgres").replace(PASSWORD, "wrong-password")).await;
    assert!(text.contains("does not let user \"ttrl\" in"), "{text}");
    let text = refusal(format!("postgres://ttrl:{PASSWORD}@127.0.0.1:1/ttrl")).await;
    assert!(text.contains("127.0.0.1:1 cannot be reached") && text.contains("start it"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_file_is_an_error_in_time_and_is_used_again_when_it_is_free() {
    let place = Place::sqlite();
    let store = place.open().await;
    let mut other = sqlx::SqlitePool::connect(&place.address).await.unwrap().acquire().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *other).await.unwrap();
    let since = Instant::now();
    let question = question("meanwhile", now());
    let answer = answer_to(&question);
    assert_unavailable(store.record_answer(&question, &answer).await);
    assert!(since.elapsed() < BOUND);
    assert_eq!(store.answer(answer.id).await.unwrap(), None);
    sqlx::raw_sql("ROLLBACK").execute(&mut *other).await.unwrap();
    store.record_answer(&question, &answer).await.unwrap();
}

#[tokio::test]
async fn a_torn_last_line_is_skipped_and_a_damaged_one_is_set_aside() {
    let place = Place::sqlite();
    let question = question("whole", now());
    let answer = answer_to(&question);
    let line = json!({"question": question, "answer": answer}).to_string();
    fs::write(place.spool_path(), format!("{{not a record}}\n{line}\n{}", &line[..line.len() / 2])).unwrap();
    let store = place.open().await;
    let spooled = place.spool(store.clone()).await;
    assert_eq!(spooled.spooled_records(), 1);
    assert_eq!(spooled.replay().await.unwrap(), Replayed { records: 1, damaged: 1 });
    assert_eq!(store.answer(answer.id).await.unwrap(), Some((question, answer)));
    let damaged = place.spool_path().with_added_extension("damaged");
    assert_eq!(fs::read_to_string(damaged).unwrap(), "{not a record}\n");
    assert_eq!(spooled.spooled_bytes(), 0);
}

#[tokio::test]
async fn a_spool_has_one_user() {
    let place = Place::sqlite();
    let store = place.open().await;
    let first = place.spool(store.clone()).await;
    let second = Spooled::open(store.clone(), &place.spool_path(), MAX_SPOOL_BYTES).await;
    assert!(
        matches!(second.map(drop), Err(StoreError::Address(message)) if message.contains("another process uses it"))
    );
    drop(first);
    place.spool(store).await;
}

/// A SQLite file whose writes fail for as long as somebody else holds its lock.
struct Away {
    other: sqlx::pool::PoolConnection<sqlx::Sqlite>,
}

impl Away {
    async fn from(place: &Place) -> Self {
        let mut other = sqlx::SqlitePool::connect(&place.address).await.unwrap().acquire().await.unwrap();
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *other).await.unwrap();
        Self { other }
    }

    async fn back(mut self) {
        sqlx::raw_sql("ROLLBACK").execute(&mut *self.other).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_refuses_and_loses_nothing() {
    let place = Place::sqlite();
    let store = place.open().await;
    let spooled = Spooled::open(store.clone(), &place.spool_path(), 2_000).await.unwrap();
    let away = Away::from(&place).await;
    let mut taken = vec![];
    loop {
        let question = question("fills the spool", now());
        let answer = answer_to(&question);
        match spooled.record_answer(&question, &answer).await {
            Ok(()) => taken.push((question, answer)),
            Err(StoreError::Unavailable(_)) => break,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(spooled.spooled_records(), taken.len() as u64);
    assert!(!taken.is_empty() && spooled.spooled_bytes() <= 2_000);
    away.back().await;
    assert_eq!(spooled.replay().await.unwrap().records, taken.len() as u64);
    for (question, answer) in taken {
        assert_eq!(store.answer(answer.id).await.unwrap(), Some((question, answer)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_come_during_a_replay_are_kept() {
    let place = Place::sqlite();
    let store = place.open().await;
    let spooled = Arc::new(place.spool(store.clone()).await);
    let away = Away::from(&place).await;
    for i in 0..100 {
        ask(&*spooled, &format!("first {i}"), now()).await;
    }
    let replayer = {
        let spooled = spooled.clone();
        tokio::spawn(async move {
            let mut replayed = 0;
            while replayed < 100 {
                replayed += spooled.replay().await.map_or(0, |done| done.records);
            }
        })
    };
    let writer = {
        let spooled = spooled.clone();
        tokio::spawn(async move {
            for i in 0..100 {
                ask(&*spooled, &format!("second {i}"), now()).await;
            }
        })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    away.back().await;
    writer.await.unwrap();
    replayer.await.unwrap();
    spooled.replay().await.unwrap();
    assert_eq!(spooled.spooled_records(), 0);
    assert_eq!(store.questions_since_last_round().await.unwrap(), 200);
}
