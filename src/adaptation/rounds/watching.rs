//! Looks after the versions that rounds promoted, and rolls one back that is proven to be worse.

use std::{
    collections::HashMap,
    sync::PoisonError,
    time::{Duration, Instant},
};

use chrono::{TimeDelta, Utc};
use serde_json::json;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{Failure, Inner, Rounds};
use crate::{
    adaptation::{
        recipe::Recipe,
        watch::{self, Rule, Verdict},
    },
    adapters::{format::FormatError, probe::ProbeError, registry::RegistryError},
    engine::handle::Version,
    store::{Given, LIVE, Round, Span, StoreError, Watch, WatchState},
};

/// Why what would be promoted by itself waits for a person.
pub(super) const AFTER_A_ROLL_BACK: &str =
    "it keeps to all rules, but the watch has rolled the last version back: the next one is a person's to promote";

/// How long a watch is left alone that could not be looked after, for another reason than a database that is away.
const PAUSE: Duration = Duration::from_secs(60);

/// Until when the watch over the version of a round is left alone.
pub(super) type Paused = HashMap<Uuid, Instant>;

impl Rounds {
    /// Looks at what the versions that rounds promoted show on live traffic, where enough of it has come since the last
    /// look. Rolls one back that is proven to be worse than the version before it.
    ///
    /// # Errors
    /// If the database is away, or what it has of the watches is not understood.
    pub async fn watch(&self) -> Result<(), StoreError> {
        let inner = &self.0;
        let mut watched = 0;
        for round in inner.store.watched_rounds(&inner.registry.model().fingerprint).await? {
            if inner.is_paused(round.id) {
                watched += 1;
                continue;
            }
            match inner.watch(&round).await {
                Ok(goes_on) => watched += i64::from(goes_on),
                Err(failure) if failure.may_pass() => return Err(StoreError::Unavailable(failure.to_string())),
                Err(failure) => {
                    watched += 1;
                    inner.pause(round.id);
                    error!(
                        round = %round.id, %failure,
                        "the version of a round cannot be watched now; it is tried again in a minute"
                    );
                }
            }
        }
        inner.metrics.watch_in_progress.set(watched);
        Ok(())
    }
}

impl Inner {
    fn paused(&self) -> std::sync::MutexGuard<'_, Paused> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_paused(&self, round: Uuid) -> bool {
        let mut paused = self.paused();
        paused.retain(|_, until| *until > Instant::now());
        paused.contains_key(&round)
    }

    fn pause(&self, round: Uuid) {
        self.paused().insert(round, Instant::now() + PAUSE);
    }

    /// Takes a look at the version of a round, if it is time; returns whether the watch goes on.
    async fn watch(&self, round: &Round) -> Result<bool, Failure> {
        let (Some(candidate), Some(promoted_at), Some(watch)) =
            (&round.candidate_version, round.finished_at, &round.watch)
        else {
            return Ok(false);
        };
        let live = self.store.alias(&self.registry.model().fingerprint, LIVE).await?.unwrap_or_else(Version::base);
        if live != *candidate {
            return self.end_watch(round, format!("version {live} is live now")).await;
        }
        let recipe: Recipe = match serde_json::from_value(round.recipe.clone()).map_err(Failure::Recipe) {
            Ok(recipe) => recipe,
            Err(failure) => return self.end_watch(round, failure.to_string()).await,
        };
        let rules = &recipe.watch;
        if !rules.enabled {
            return self.end_watch(round, "`learning.watch.enabled` was false when the round was created".into()).await;
        }
        let (now, most) = (Utc::now(), rules.most_read());
        let is_late = |at| at >= promoted_at + TimeDelta::hours(rules.hours.into());
        let given = self.store.given(candidate, promoted_at, most).await?;
        if !watch::is_due(rules, watch.seen, given, (watch.looked_at.is_some_and(is_late), is_late(now))) {
            return Ok(true);
        }
        let (before, after) = tokio::try_join!(
            self.store.seen_answers(&round.parent_version, Span::Until(promoted_at), most),
            self.store.seen_answers(candidate, Span::Since(promoted_at), most)
        )?;
        let rated = after.iter().filter(|answer| answer.good.is_some()).count() as u32;
        let seen = Given { answers: after.len() as u32, rated };
        let look = watch::look(rules, watch.judged, (&before, &after), is_late(now));
        let (looks, compared) = (watch.looks + 1, json!(look.compared));
        let looked = Watch { looks, seen, judged: look.judged, compared, looked_at: Some(now), ..watch.clone() };
        self.follow(round, looked, look.verdict).await
    }

    /// Does what a look came to; returns whether the watch goes on.
    async fn follow(&self, round: &Round, looked: Watch, verdict: Verdict) -> Result<bool, Failure> {
        let id = round.id;
        let ended = |state, reason| Watch { state, reason, ended_at: looked.looked_at, ..looked.clone() };
        match verdict {
            Verdict::GoesOn => {
                self.store.record_watch(round, &looked).await?;
                Ok(true)
            }
            Verdict::Passed => {
                if self.store.record_watch(round, &ended(WatchState::Passed, None)).await? {
                    info!(round = %id, answers = looked.seen.answers, "the version of a round has passed its watch");
                }
                Ok(false)
            }
            Verdict::Unknown => {
                let reason = format!(
                    "of {} answers, too few were alike to be compared with those of version {} before it",
                    looked.seen.answers, round.parent_version
                );
                self.store.record_watch(round, &ended(WatchState::Ended, Some(reason))).await?;
                Ok(false)
            }
            Verdict::RollBack { rule, reason } => {
                self.roll_back(round, ended(WatchState::RolledBack, Some(reason)), rule).await
            }
        }
    }

    async fn roll_back(&self, round: &Round, watch: Watch, rule: Rule) -> Result<bool, Failure> {
        match self.patiently(|| self.registry.roll_back(round, &watch)).await {
            Ok(true) => {
                self.metrics.rollbacks_total.with_label_values(&[rule.name()]).inc();
                let (live, reason) = (&round.parent_version, watch.reason.as_deref());
                warn!(round = %round.id, %live, reason, "the version of a round is rolled back");
                Ok(false)
            }
            // Somebody else was faster: the next look finds out who.
            Ok(false) => Ok(true),
            Err(Failure::Registry(error)) if is_for_ever(&error) => {
                let worse = watch.reason.as_deref().unwrap_or_default();
                error!(round = %round.id, %error, worse, "the version of a round is worse, and there is no way back");
                let reason = Some(format!("{worse}; but there is no way back: {error}"));
                self.store.record_watch(round, &Watch { state: WatchState::Ended, reason, ..watch }).await?;
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }

    async fn end_watch(&self, round: &Round, reason: String) -> Result<bool, Failure> {
        let Some(watch) = &round.watch else { return Ok(false) };
        info!(round = %round.id, reason, "the watch over the version of a round ends");
        let state = WatchState::Ended;
        let ended = Watch { state, reason: Some(reason), ended_at: Some(Utc::now()), ..watch.clone() };
        self.store.record_watch(round, &ended).await?;
        Ok(false)
    }
}

/// Whether trying it again would end in the same way.
fn is_for_ever(error: &RegistryError) -> bool {
    match error {
        RegistryError::Unknown(_) | RegistryError::OtherModel { .. } => true,
        // Those that are missing, or cannot be read, may be on a disk that comes back.
        RegistryError::Files { source, .. } => !matches!(source, FormatError::Io { .. } | FormatError::Tensor(_)),
        RegistryError::Probe { source, .. } => {
            matches!(source, ProbeError::OtherWeights { .. } | ProbeError::Mismatch(_))
        }
        _ => false,
    }
}
