//! Metrics for Prometheus. Each is a field; its doc comment is the help text.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus::{
    Encoder, Error, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder, core::Collector,
};

use crate::engine::handle::{EngineStats, Timings, Version};

/// The media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// vLLM's buckets for whole requests, so that dashboards can be shared.
const REQUEST_SECONDS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];

/// vLLM's buckets for first tokens.
const FIRST_TOKEN_SECONDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];

/// From a metrics scrape to the longest request that is let through.
const HTTP_SECONDS: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

const TENTHS: &[f64] = &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];

/// A kind of metric that is made from its name, help, labels and buckets.
trait Metric: Collector + Clone + Sized + 'static {
    fn make(opts: Opts, labels: &[&str], buckets: &[f64]) -> prometheus::Result<Self>;
}

macro_rules! kinds {
    ($($kind:ty => |$opts:ident, $labels:ident, $buckets:ident| $make:expr;)*) => {
        $(impl Metric for $kind {
            fn make($opts: Opts, $labels: &[&str], $buckets: &[f64]) -> prometheus::Result<Self> {
                $make
            }
        })*
    };
}

kinds! {
    IntCounter => |opts, _labels, _buckets| Self::with_opts(opts);
    IntGauge => |opts, _labels, _buckets| Self::with_opts(opts);
    Gauge => |opts, _labels, _buckets| Self::with_opts(opts);
    IntCounterVec => |opts, labels, _buckets| Self::new(opts, labels);
    IntGaugeVec => |opts, labels, _buckets| Self::new(opts, labels);
    Histogram => |opts, _labels, buckets| Self::with_opts(HistogramOpts::from(opts).buckets(buckets.to_vec()));
    HistogramVec => |opts, labels, buckets| Self::new(HistogramOpts::from(opts).buckets(buckets.to_vec()), labels);
}

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $name:ident: $kind:ty $(, labels $labels:expr)? $(, buckets $buckets:expr)?;)*) => {
        /// Everything that is counted. The names in the text form are the fields' behind `ttrl_`.
        pub struct Metrics {
            registry: Registry,
            /// One scrape at a time brings the readings of the engine up to date.
            scrape: Mutex<()>,
            $($(#[doc = $help])+ pub $name: $kind,)*
        }

        impl Metrics {
            /// All metrics at zero, and those of the process.
            ///
            /// # Errors
            /// If two metrics have one name, which is a mistake in this file.
            pub fn new() -> Result<Self, Error> {
                let registry = Registry::new();
                $(
                    let help = concat!($($help),+).trim();
                    let opts = Opts::new(concat!("ttrl_", stringify!($name)), help);
                    let labels: &[&str] = { let _none: &[&str] = &[]; $(let _none = $labels;)? _none };
                    let buckets: &[f64] = { let _none: &[f64] = &[]; $(let _none = $buckets;)? _none };
                    let $name = <$kind>::make(opts, labels, buckets)?;
                    registry.register(Box::new($name.clone()))?;
                )*
                #[cfg(target_os = "linux")]
                registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
                let metrics = Self { registry, scrape: Mutex::new(()), $($name,)* };
                metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
                Ok(metrics)
            }
        }
    };
}

metrics! {
    /// HTTP requests that were answered, by route, method and status.
    http_requests_total: IntCounterVec, labels &["route", "method", "status"];
    /// Seconds from a request's head to its response, by route and method.
    http_request_duration_seconds: HistogramVec, labels &["route", "method"], buckets HTTP_SECONDS;
    /// Questions that got a response: `answered`, or `no_majority` if no answer had the most votes.
    answers_total: IntCounterVec, labels &["outcome"];
    /// Samples, of questions and of rounds, with an answer that was not understood; such an answer never votes.
    unknown_answers_total: IntCounter;
    /// Share of the winning answer among all samples of a question; 0 without a winner.
    majority_ratio: Histogram, buckets TENTHS;
    /// What clients said of answers; of what is said again about one, each time counts.
    feedback_total: IntCounterVec, labels &["good"];
    /// Choices of completions, by why they ended: `stop` or `length`.
    completions_total: IntCounterVec, labels &["finish_reason"];
    /// Seconds from the arrival of a question or a prompt until its answer was stored or its completions were whole.
    e2e_request_latency_seconds: Histogram, buckets REQUEST_SECONDS;
    /// Seconds from the arrival of a question or a prompt to its first token.
    time_to_first_token_seconds: Histogram, buckets FIRST_TOKEN_SECONDS;
    /// Seconds that a question or a prompt waited for its first computation.
    request_queue_time_seconds: Histogram, buckets REQUEST_SECONDS;
    /// Seconds from the first computation of a question or a prompt to its first token.
    request_prefill_time_seconds: Histogram, buckets REQUEST_SECONDS;
    /// Seconds from the first token of a question or a prompt to the last token of its last sample.
    request_decode_time_seconds: Histogram, buckets REQUEST_SECONDS;
    /// Requests that are being generated.
    num_requests_running: IntGauge;
    /// Requests that wait for a place in the engine.
    num_requests_waiting: IntGauge;
    /// Prompts of rounds that are being sampled.
    num_rollouts_running: IntGauge;
    /// Prompts of rounds that wait for a place in the engine.
    num_rollouts_waiting: IntGauge;
    /// Used share of the key-value cache; 1 is full.
    kv_cache_usage_perc: Gauge;
    /// Prompt tokens that were asked for.
    prompt_tokens_total: IntCounter;
    /// Prompt tokens that were looked for in the cache.
    prefix_cache_queries_total: IntCounter;
    /// Prompt tokens that were found in the cache.
    prefix_cache_hits_total: IntCounter;
    /// Tokens that were generated, every sample counted.
    generation_tokens_total: IntCounter;
    /// Rows that went through the decoder.
    computed_tokens_total: IntCounter;
    /// Answers that wait on the local disk because the database is away.
    spooled_records: IntGauge;
    /// The adapter versions that have a name; always 1.
    adapter_info: IntGaugeVec, labels &["version", "alias"];
    /// Rounds whose work ended, by outcome: `promoted`, `held` for a person, `rejected`, `cancelled` or `failed`.
    rounds_total: IntCounterVec, labels &["outcome"];
    /// Rounds that were held and that a person decided about: `promoted` or `rejected`.
    rounds_decided_total: IntCounterVec, labels &["decision"];
    /// Rounds that were given up before their last step, by the rule of the guard that was broken.
    rounds_given_up_total: IntCounterVec, labels &["rule"];
    /// Rounds that this server went on with after they had been left unfinished.
    rounds_resumed_total: IntCounter;
    /// Versions of rounds that were rolled back after their promotion, by the rule that they broke.
    rollbacks_total: IntCounterVec, labels &["rule"];
    /// Whether the live version is watched, since a round promoted it.
    watch_in_progress: IntGauge;
    /// Whether this server runs a round.
    round_in_progress: IntGauge;
    /// Mean majority ratio of the last step of a round.
    round_majority_ratio: Gauge;
    /// Mean reward of the last step of a round.
    round_reward: Gauge;
    /// Mean entropy of the last step of a round, in nats a token.
    round_entropy: Gauge;
    /// Mean divergence from the base model of the last step of a round, in nats a token.
    round_kl: Gauge;
    /// Seconds from the start of the server until it was ready.
    start_seconds: Gauge;
    /// The version of this program; always 1.
    build_info: IntGaugeVec, labels &["version"];
}

impl Metrics {
    /// Brings the readings of the engine up to date.
    pub fn observe_engine(&self, stats: &EngineStats) {
        let _only = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        let gauges = [
            (&self.num_requests_running, stats.requests_running),
            (&self.num_requests_waiting, stats.requests_waiting),
            (&self.num_rollouts_running, stats.rollouts_running),
            (&self.num_rollouts_waiting, stats.rollouts_waiting),
        ];
        for (gauge, value) in gauges {
            gauge.set(value as i64);
        }
        self.kv_cache_usage_perc.set(stats.cache_tokens_used as f64 / stats.cache_tokens_capacity.max(1) as f64);
        let counters = [
            (&self.prompt_tokens_total, stats.prompt_tokens_total),
            (&self.prefix_cache_queries_total, stats.prompt_tokens_total),
            (&self.prefix_cache_hits_total, stats.cached_prompt_tokens_total),
            (&self.generation_tokens_total, stats.generated_tokens_total),
            (&self.computed_tokens_total, stats.computed_tokens_total),
        ];
        for (counter, total) in counters {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
    }

    /// Counts where the time of a generation for a client went, which is over `elapsed` after it arrived.
    pub fn observe_generation(&self, timings: &Timings, elapsed: Duration) {
        self.request_queue_time_seconds.observe(timings.queue.as_secs_f64());
        self.request_prefill_time_seconds.observe(timings.prefill.as_secs_f64());
        self.request_decode_time_seconds.observe(timings.decode.as_secs_f64());
        self.time_to_first_token_seconds.observe((timings.queue + timings.prefill).as_secs_f64());
        self.e2e_request_latency_seconds.observe(elapsed.as_secs_f64());
    }

    /// Says which version answers requests.
    pub fn observe_live(&self, version: &Version) {
        self.adapter_info.reset();
        self.adapter_info.with_label_values(&[version.as_str(), "live"]).set(1);
    }

    /// All metrics as text.
    ///
    /// # Errors
    /// If they cannot be written down, which would be a fault of the metrics library.
    pub fn render(&self) -> Result<String, Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doc_comment_is_the_help_text() {
        let text = Metrics::new().unwrap().render().unwrap();
        assert!(
            text.contains("# HELP ttrl_kv_cache_usage_perc Used share of the key-value cache; 1 is full.\n"),
            "{text}"
        );
        assert!(text.contains(&format!("ttrl_build_info{{version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION"))));
    }

    #[test]
    fn totals_of_the_engine_are_counted_once_however_often_they_are_scraped() {
        let metrics = Metrics::new().unwrap();
        for total in [7, 7, 12] {
            metrics.observe_engine(&EngineStats { generated_tokens_total: total, ..EngineStats::default() });
        }
        assert!(metrics.render().unwrap().contains("\nttrl_generation_tokens_total 12\n"));
    }

    #[test]
    fn only_the_live_version_is_named_live() {
        let metrics = Metrics::new().unwrap();
        let other: Version = "a".repeat(64).parse().unwrap();
        metrics.observe_live(&Version::base());
        metrics.observe_live(&other);
        let text = metrics.render().unwrap();
        assert_eq!(text.matches("ttrl_adapter_info{").count(), 1);
        assert!(text.contains(&format!("ttrl_adapter_info{{alias=\"live\",version=\"{other}\"}} 1\n")), "{text}");
    }
}
