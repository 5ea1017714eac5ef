//! What waits on the local disk while the database is away.
//!
//! An answer is sent only when it is durable. If the database does not take it, the spool does, and
//! [`Spooled::replay`] hands it on later. Records carry their ids and the store ignores what it has already, so a
//! replay that is cut off at any instant and begun again stores every record once.

use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    AdapterRecord, AdapterStore, AdapterUse, Answer, Attempt, Candidate, EvaluationSet, EvaluationStore,
    EvaluationSummary, Feedback, FeedbackStore, Given, GivenBack, Promoter, Question, Round, RoundQuestion, RoundStep,
    RoundUpdate, SeenAnswer, SharedStore, Span, Store, StoreError, Unfinished, Watch, WatchStore,
    driver::micros,
    spool_file::{Record, SpoolFile},
};
use crate::engine::handle::Version;

/// How long the spool may grow: an answer takes two to ten kilobytes, so this holds tens of thousands, hours of
/// traffic for one machine, and is read back in seconds. Over it, answers fail as they would without a spool.
pub const MAX_SPOOL_BYTES: u64 = 256 << 20;

/// A spool with less room than this counts as full. A question and its answer are hardly ever longer: a request is at most
/// as long, unless the operator allows more.
const ROOM_FOR_ANOTHER: u64 = 1 << 20;

/// How much of the spool is in memory at once during a replay.
const REPLAY_BYTES: u64 = 1 << 20;

/// What a replay did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Records that are in the database now.
    pub records: u64,
    /// Lines that could not be read or that the database will never take; they were moved to the file
    /// `<spool>.damaged`, and the log says why.
    pub damaged: u64,
}

/// A store that keeps answers on the local disk while the store behind it is away.
pub struct Spooled {
    inner: SharedStore,
    max_bytes: u64,
    file: Arc<Mutex<SpoolFile>>,
    /// The store behind did not answer lately: the next answers go to the spool without waiting for it again. Only a
    /// replay tries it.
    away: AtomicBool,
    bytes: Arc<AtomicU64>,
    records: Arc<AtomicU64>,
    /// One replay at a time.
    replaying: tokio::sync::Mutex<()>,
}

impl Spooled {
    /// Puts the spool at `path` (made if it is missing), at most `max_bytes` long, before `inner`. What an earlier run
    /// left in it is handed on by the next replay.
    ///
    /// # Errors
    /// [`StoreError::Address`] if the file cannot be opened or another process uses it.
    pub async fn open(inner: SharedStore, path: &Path, max_bytes: u64) -> Result<Self, StoreError> {
        let shown = path.display().to_string();
        let path = path.to_path_buf();
        let opened = tokio::task::spawn_blocking(move || SpoolFile::open(&path, max_bytes)).await;
        let file = opened.map_err(io::Error::from).flatten().map_err(|e| {
            StoreError::Address(format!("the spool {shown} cannot be opened ({e}); choose another data directory"))
        })?;
        let (bytes, records) = (file.bytes().into(), file.records().into());
        Ok(Self {
            inner,
            max_bytes,
            file: Arc::new(Mutex::new(file)),
            away: AtomicBool::new(false),
            bytes: Arc::new(bytes),
            records: Arc::new(records),
            replaying: tokio::sync::Mutex::new(()),
        })
    }

    /// How many bytes wait in the spool.
    pub fn spooled_bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the spool can take more answers while the database is away.
    pub fn has_room(&self) -> bool {
        self.spooled_bytes() + ROOM_FOR_ANOTHER <= self.max_bytes
    }

    /// How many answers wait in the spool.
    pub fn spooled_records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// Hands what is in the spool to the store behind it and removes it from the spool. Call it at intervals. Answers
    /// that come meanwhile are kept.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the store is still away; what it took until then is removed from the spool.
    pub async fn replay(&self) -> Result<Replayed, StoreError> {
        let _only = self.replaying.lock().await;
        if self.spooled_bytes() == 0 {
            if self.away.load(Ordering::Relaxed) {
                self.inner.ping().await?;
                self.away.store(false, Ordering::Relaxed);
            }
            return Ok(Replayed::default());
        }
        let mut place = self.with_file(|file| Ok(file.start())).await.map_err(unusable)?;
        let mut done = Replayed::default();
        let result = self.hand_on(&mut place, &mut done).await;
        self.with_file(move |file| file.remove_before(place)).await.map_err(unusable)?;
        result.map(|()| done)
    }

    /// Stores records from `place` on, which moves behind the last one that needs no more care.
    async fn hand_on(&self, place: &mut u64, done: &mut Replayed) -> Result<(), StoreError> {
        loop {
            let from = *place;
            let (lines, next) = self.with_file(move |file| file.lines(from, REPLAY_BYTES)).await.map_err(unusable)?;
            if lines.is_empty() {
                return Ok(());
            }
            for line in lines.split_inclusive(|&byte| byte == b'\n') {
                match self.store(line).await {
                    Ok(()) => {
                        done.records += 1;
                        // From here on new answers go to the store itself.
                        self.away.store(false, Ordering::Relaxed);
                    }
                    Err(StoreError::Unavailable(why)) => {
                        self.away.store(true, Ordering::Relaxed);
                        return Err(StoreError::Unavailable(why));
                    }
                    Err(error) => {
                        self.set_aside(line, &error).await.map_err(unusable)?;
                        done.damaged += 1;
                    }
                }
                *place += line.len() as u64;
            }
            debug_assert_eq!(*place, next);
        }
    }

    async fn store(&self, line: &[u8]) -> Result<(), StoreError> {
        let record: Record = serde_json::from_slice(line).map_err(|e| StoreError::Corrupt(e.to_string()))?;
        self.inner.record_answer(&record.question, &record.answer).await
    }

    async fn set_aside(&self, line: &[u8], error: &StoreError) -> io::Result<()> {
        let line = line.to_vec();
        let path = self
            .with_file(move |file| {
                file.set_aside(&line)?;
                Ok(file.set_aside_path())
            })
            .await?;
        tracing::error!(%error, path = %path.display(), "moved a record that cannot be stored out of the spool");
        Ok(())
    }

    async fn spool(&self, question: &Question, answer: &Answer) -> Result<(), StoreError> {
        let (mut question, mut answer) = (question.clone(), answer.clone());
        // As the database will return it.
        question.created_at = micros(question.created_at);
        answer.created_at = micros(answer.created_at);
        self.with_file(move |file| file.append(&Record { question, answer })).await.map_err(unusable)
    }

    /// The record of an answer that waits in the spool.
    async fn spooled(&self, answer: Uuid) -> Result<Option<Record>, StoreError> {
        match self.spooled_records() {
            0 => Ok(None),
            _ => self.with_file(move |file| file.find(answer)).await.map_err(unusable),
        }
    }

    /// Works on the file outside the asynchronous threads, since it waits for the disk.
    async fn with_file<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut SpoolFile) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (file, bytes, records) = (self.file.clone(), self.bytes.clone(), self.records.clone());
        tokio::task::spawn_blocking(move || {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let result = work(&mut file);
            bytes.store(file.bytes(), Ordering::Relaxed);
            records.store(file.records(), Ordering::Relaxed);
            result
        })
        .await?
    }
}

fn unusable(error: io::Error) -> StoreError {
    StoreError::Unavailable(format!("the spool on the local disk cannot be used ({error})"))
}

#[async_trait]
impl AdapterStore for Spooled {
    async fn record_adapter(&self, adapter: &AdapterRecord) -> Result<(), StoreError> {
        self.inner.record_adapter(adapter).await
    }

    async fn record_candidate(&self, attempt: &Attempt, adapter: &AdapterRecord) -> Result<(), StoreError> {
        self.inner.record_candidate(attempt, adapter).await
    }

    async fn promote(
        &self,
        by: Promoter,
        model: &str,
        expected: Option<&Version>,
        candidate: &Version,
    ) -> Result<bool, StoreError> {
        self.inner.promote(by, model, expected, candidate).await
    }

    async fn roll_back(&self, model: &str, round: &Round, watch: &Watch) -> Result<bool, StoreError> {
        self.inner.roll_back(model, round, watch).await
    }

    async fn adapter(&self, version: &Version) -> Result<Option<AdapterRecord>, StoreError> {
        self.inner.adapter(version).await
    }

    async fn adapters(&self, limit: u32, before: Option<&Version>) -> Result<Vec<AdapterRecord>, StoreError> {
        self.inner.adapters(limit, before).await
    }

    async fn adapter_use(&self, version: &Version) -> Result<Option<(AdapterRecord, AdapterUse)>, StoreError> {
        self.inner.adapter_use(version).await
    }

    async fn alias(&self, model: &str, name: &str) -> Result<Option<Version>, StoreError> {
        self.inner.alias(model, name).await
    }

    async fn swap_alias(
        &self,
        model: &str,
        name: &str,
        expected: Option<&Version>,
        new: &Version,
    ) -> Result<bool, StoreError> {
        self.inner.swap_alias(model, name, expected, new).await
    }
}

#[async_trait]
impl EvaluationStore for Spooled {
    async fn put_evaluation_set(&self, set: &EvaluationSet) -> Result<(), StoreError> {
        self.inner.put_evaluation_set(set).await
    }

    async fn evaluation_set(&self, name: &str) -> Result<Option<EvaluationSet>, StoreError> {
        self.inner.evaluation_set(name).await
    }

    async fn evaluation_sets(&self) -> Result<Vec<EvaluationSummary>, StoreError> {
        self.inner.evaluation_sets().await
    }

    async fn remove_evaluation_set(&self, name: &str) -> Result<bool, StoreError> {
        self.inner.remove_evaluation_set(name).await
    }
}

#[async_trait]
impl FeedbackStore for Spooled {
    /// Of an answer that waits in the spool nothing can be kept yet, and nobody is told that it was.
    async fn put_feedback(&self, answer: Uuid, feedback: &Feedback) -> Result<(), StoreError> {
        if self.spooled(answer).await?.is_some() {
            return Err(StoreError::Unavailable(format!("answer {answer} waits in the spool")));
        }
        self.inner.put_feedback(answer, feedback).await
    }

    async fn feedback(&self, answer: Uuid) -> Result<Option<Feedback>, StoreError> {
        match self.spooled(answer).await? {
            Some(_) => Ok(None),
            None => self.inner.feedback(answer).await,
        }
    }
}

#[async_trait]
impl WatchStore for Spooled {
    async fn watched_rounds(&self, model: &str) -> Result<Vec<Round>, StoreError> {
        self.inner.watched_rounds(model).await
    }

    async fn given(&self, version: &Version, since: DateTime<Utc>, limit: u32) -> Result<Given, StoreError> {
        self.inner.given(version, since, limit).await
    }

    async fn seen_answers(&self, version: &Version, span: Span, limit: u32) -> Result<Vec<SeenAnswer>, StoreError> {
        self.inner.seen_answers(version, span, limit).await
    }

    async fn record_watch(&self, round: &Round, watch: &Watch) -> Result<bool, StoreError> {
        self.inner.record_watch(round, watch).await
    }

    async fn was_rolled_back(&self, model: &str) -> Result<bool, StoreError> {
        self.inner.was_rolled_back(model).await
    }
}

#[async_trait]
impl Store for Spooled {
    async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }

    async fn record_answer(&self, question: &Question, answer: &Answer) -> Result<(), StoreError> {
        if !self.away.load(Ordering::Relaxed) {
            match self.inner.record_answer(question, answer).await {
                Err(StoreError::Unavailable(why)) => {
                    if !self.away.swap(true, Ordering::Relaxed) {
                        tracing::warn!(why, "the database is away: answers go to the spool");
                    }
                }
                other => return other,
            }
        }
        self.spool(question, answer).await
    }

    async fn answer(&self, id: Uuid) -> Result<Option<(Question, Answer)>, StoreError> {
        match self.spooled(id).await? {
            Some(record) => Ok(Some((record.question, record.answer))),
            None => self.inner.answer(id).await,
        }
    }

    async fn learnable(&self, limit: u32) -> Result<Vec<Candidate>, StoreError> {
        self.inner.learnable(limit).await
    }

    async fn questions_since_last_round(&self) -> Result<u64, StoreError> {
        self.inner.questions_since_last_round().await
    }

    async fn last_round_at(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        self.inner.last_round_at().await
    }

    async fn create_round(
        &self,
        round: &Round,
        questions: &[RoundQuestion],
        lease_seconds: u32,
    ) -> Result<Attempt, StoreError> {
        self.inner.create_round(round, questions, lease_seconds).await
    }

    async fn unfinished_round(&self) -> Result<Option<Unfinished>, StoreError> {
        self.inner.unfinished_round().await
    }

    async fn take_over(&self, id: Uuid, lease_seconds: u32) -> Result<Attempt, StoreError> {
        self.inner.take_over(id, lease_seconds).await
    }

    async fn reject_held(&self, id: Uuid, reason: &str) -> Result<(), StoreError> {
        self.inner.reject_held(id, reason).await
    }

    async fn give_back(&self, attempt: &Attempt, why: GivenBack) -> Result<(), StoreError> {
        self.inner.give_back(attempt, why).await
    }

    async fn heartbeat(&self, attempt: &Attempt, lease_seconds: u32) -> Result<(), StoreError> {
        self.inner.heartbeat(attempt, lease_seconds).await
    }

    async fn update_round(&self, attempt: &Attempt, update: RoundUpdate) -> Result<(), StoreError> {
        self.inner.update_round(attempt, update).await
    }

    async fn round(&self, id: Uuid) -> Result<Option<Round>, StoreError> {
        self.inner.round(id).await
    }

    async fn rounds(&self, limit: u32, before: Option<Uuid>) -> Result<Vec<Round>, StoreError> {
        self.inner.rounds(limit, before).await
    }

    async fn record_step(&self, attempt: &Attempt, step: &RoundStep) -> Result<(), StoreError> {
        self.inner.record_step(attempt, step).await
    }

    async fn steps(&self, round: Uuid) -> Result<Vec<RoundStep>, StoreError> {
        self.inner.steps(round).await
    }

    async fn record_round_questions(&self, attempt: &Attempt, rows: &[RoundQuestion]) -> Result<(), StoreError> {
        self.inner.record_round_questions(attempt, rows).await
    }

    async fn round_questions(&self, round: Uuid) -> Result<Vec<RoundQuestion>, StoreError> {
        self.inner.round_questions(round).await
    }
}
