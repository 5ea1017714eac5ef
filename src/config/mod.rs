//! Every setting, where it may come from, and what values it may have. The only reader of the environment.

mod client_key;
mod key_file;
mod load;
mod operator_key;
mod print;

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

pub use client_key::ClientKey;
pub use key_file::KeyFileError;
pub use load::{ConfigError, Flag, load, process_environment};
pub use operator_key::OperatorKey;
pub use print::{json, toml};

use crate::{adaptation::recipe::Recipe, grading::Reading};

/// The most votes of one question: more change no majority that matters, and each takes a place in the engine.
pub const MAX_VOTES: u32 = 64;

/// Everything that can be set. `ttrl config` prints what is in effect.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where the database, the operator's key, adapters and downloaded models are kept.
    pub data_dir: PathBuf,
    /// A known model's name, a GGUF file or a folder with safetensors.
    pub model: String,
    pub device: Device,
    pub dtype: Dtype,
    /// Unset: the SQLite file `ttrl.sqlite` in `data_dir`.
    #[serde(serialize_with = "print::address", deserialize_with = "load::secret")]
    pub database_url: Option<SecretString>,
    /// Unset: the key in the file `operator.key` in `data_dir`, which the first start makes.
    #[serde(serialize_with = "print::hidden", deserialize_with = "load::secret")]
    pub operator_key: Option<SecretString>,
    /// A built-in template's name or the path of a template file.
    pub prompt_template: String,
    pub server: ServerSettings,
    pub engine: EngineSettings,
    pub answer: AnswerSettings,
    /// How answers are read: `kind` is auto, math, choice, number or text; `last_number` allows a guess.
    pub grading: Reading,
    pub learning: Recipe,
    pub adapters: AdapterSettings,
    pub schedule: ScheduleSettings,
    pub rounds: RoundSettings,
    pub log: LogSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: "ttrl-data".into(),
            model: "smollm2-135m-instruct".into(),
            device: Device::Auto,
            dtype: Dtype::Auto,
            database_url: None,
            operator_key: None,
            prompt_template: "boxed".into(),
            server: ServerSettings::default(),
            engine: EngineSettings::default(),
            answer: AnswerSettings::default(),
            grading: Reading::default(),
            learning: Recipe::default(),
            adapters: AdapterSettings::default(),
            schedule: ScheduleSettings::default(),
            rounds: RoundSettings::default(),
            log: LogSettings::default(),
        }
    }
}

/// The HTTP server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Port 0 takes any free port.
    pub bind: SocketAddr,
    /// The largest request body.
    pub max_body_bytes: usize,
    /// A request that takes longer is given up.
    pub request_timeout_seconds: u64,
    /// A connection is closed on which no head of a request has arrived for so long, or whose client has taken nothing
    /// of a reply for so long.
    pub idle_timeout_seconds: u64,
    /// Connections at a time; more wait until one is closed.
    pub max_connections: usize,
    /// A header that tells clients apart, set by a proxy that clients cannot pass by (`x-real-ip`, say, or the one with
    /// their keys). Unset, it is their address.
    pub client_header: Option<String>,
    /// How long a stop waits for requests that are being answered.
    pub shutdown_deadline_seconds: u64,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], 8080)),
            max_body_bytes: 1 << 20,
            request_timeout_seconds: 300,
            idle_timeout_seconds: 30,
            // Half of the files that many systems allow a process.
            max_connections: 512,
            client_header: None,
            shutdown_deadline_seconds: 30,
        }
    }
}

/// The engine's bounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSettings {
    /// Positions of the key-value cache, for all sequences together. Unset: on a GPU what half of its free memory holds;
    /// on a CPU 20,480, which is 0.94 GB with the default model, touched as it comes into use.
    pub cache_tokens: Option<usize>,
    /// Calls of clients that may be unanswered at a time; one more is refused.
    pub max_waiting: usize,
    /// The share of the engine's time that a round may take while clients wait.
    pub background_share: f64,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self { cache_tokens: None, max_waiting: 256, background_share: 0.5 }
    }
}

/// How questions are answered where the client does not say.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnswerSettings {
    /// Samples of each question. Eight are enough for a majority to stand out, and one question still leaves room.
    pub votes: u32,
    /// The most tokens of a sample; unset, what the prompt template says.
    pub max_tokens: Option<usize>,
    /// Sampling temperature where there are two votes or more. A single vote takes the most likely tokens: there is
    /// no majority that would even out the noise.
    pub temperature: f32,
    pub top_p: f32,
    pub max_question_chars: usize,
}

impl Default for AnswerSettings {
    fn default() -> Self {
        Self { votes: 8, max_tokens: None, temperature: 0.8, top_p: 1.0, max_question_chars: 8000 }
    }
}

/// What becomes of adapters.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdapterSettings {
    /// How many of the newest versions keep their files, besides those in use. The default is 0.4 GB with the default
    /// model and rank.
    pub keep: usize,
}

impl Default for AdapterSettings {
    fn default() -> Self {
        Self { keep: 20 }
    }
}

/// When a round starts by itself; both unset, never.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleSettings {
    /// After so many new questions.
    pub every_questions: Option<u32>,
    /// So many minutes after the last round began, if there is a new question.
    pub every_minutes: Option<u32>,
}

/// How rounds are shared among servers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoundSettings {
    /// How long a round stays a server's without a sign of life; then another server, or its own next start, goes on with
    /// it. Servers on one database should have the same.
    pub lease_seconds: u32,
}

impl Default for RoundSettings {
    fn default() -> Self {
        Self { lease_seconds: 60 }
    }
}

/// What is logged, to the standard error output.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`, also by module: `info,ttrl::engine=debug`.
    pub filter: String,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".into() }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl TryFrom<String> for LogFormat {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("{text:?} is no log format: write `text` or `json`")),
        }
    }
}

/// Where the model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The first CUDA device if this build can use one and there is one, else the CPU.
    Auto,
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
    /// The GPU of a Mac.
    Metal,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let index = |text: &str| text.strip_prefix("cuda:").and_then(|index| index.parse().ok());
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "metal" => Ok(Self::Metal),
            _ => index(text).map(Self::Cuda).ok_or_else(|| {
                format!("{text:?} is no device: write `auto`, `cpu`, `metal` or `cuda:N` with a number for N")
            }),
        }
    }
}

/// The numbers that the model's matrices are kept in. Everything else is computed in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// bf16 on a CUDA device, f32 with Metal; on a CPU those of the file.
    Auto,
    F32,
    Bf16,
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

impl Settings {
    /// Checks every value.
    ///
    /// # Errors
    /// Names the first value that is out of range, and the range.
    pub fn validate(&self) -> Result<(), String> {
        let Self { server, engine, answer, adapters, schedule, rounds, .. } = self;
        for (name, text) in [("model", &self.model), ("prompt_template", &self.prompt_template)] {
            if text.trim().is_empty() {
                return Err(format!("{name} is empty"));
            }
        }
        if self.data_dir.as_os_str().is_empty() {
            return Err("data_dir is empty".into());
        }
        if self.operator_key.as_ref().is_some_and(|key| !key_file::is_usable(key.expose_secret())) {
            return Err(format!("operator_key is not usable: {}", key_file::USABLE));
        }
        within("server.max_body_bytes", server.max_body_bytes as f64, 1024.0, 1e9)?;
        within("server.request_timeout_seconds", server.request_timeout_seconds as f64, 1.0, 86_400.0)?;
        within("server.idle_timeout_seconds", server.idle_timeout_seconds as f64, 1.0, 3600.0)?;
        within("server.max_connections", server.max_connections as f64, 1.0, 100_000.0)?;
        within("server.shutdown_deadline_seconds", server.shutdown_deadline_seconds as f64, 0.0, 3600.0)?;
        if let Some(name) = &server.client_header
            && (name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)))
        {
            return Err(format!(
                "server.client_header is {name:?}, it must be the name of a header, such as `x-real-ip`"
            ));
        }
        if let Some(tokens) = engine.cache_tokens {
            within("engine.cache_tokens", tokens as f64, 256.0, 1e8)?;
        }
        within("engine.max_waiting", engine.max_waiting as f64, 1.0, 100_000.0)?;
        within("engine.background_share", engine.background_share, 0.01, 1.0)?;
        within("answer.votes", f64::from(answer.votes), 1.0, f64::from(MAX_VOTES))?;
        if let Some(tokens) = answer.max_tokens {
            within("answer.max_tokens", tokens as f64, 1.0, 1e6)?;
        }
        within("answer.temperature", f64::from(answer.temperature), 0.0, 2.0)?;
        within("answer.top_p", f64::from(answer.top_p), 0.01, 1.0)?;
        within("answer.max_question_chars", answer.max_question_chars as f64, 1.0, 1e6)?;
        self.learning.validate().map_err(|problem| format!("learning.{problem}"))?;
        within("adapters.keep", adapters.keep as f64, 1.0, 100_000.0)?;
        if let Some(questions) = schedule.every_questions {
            within("schedule.every_questions", f64::from(questions), 1.0, 1e6)?;
        }
        if let Some(minutes) = schedule.every_minutes {
            within("schedule.every_minutes", f64::from(minutes), 1.0, 1e6)?;
        }
        // Signs of life come three times in a lease: no more often than each second.
        within("rounds.lease_seconds", f64::from(rounds.lease_seconds), 3.0, 3600.0)?;
        Ok(())
    }

    /// The address of the database, in the form that the store understands.
    pub fn database_address(&self) -> SecretString {
        let sqlite = || format!("sqlite:{}", self.data_dir.join("ttrl.sqlite").display()).into();
        self.database_url.clone().unwrap_or_else(sqlite)
    }

    pub fn operator_key_path(&self) -> PathBuf {
        self.data_dir.join("operator.key")
    }

    pub fn client_key_path(&self) -> PathBuf {
        self.data_dir.join("client.key")
    }

    /// Answers that wait here while the database is away.
    pub fn spool_path(&self) -> PathBuf {
        self.data_dir.join("spool.jsonl")
    }

    pub fn adapters_dir(&self) -> PathBuf {
        self.data_dir.join("adapters")
    }

    /// Where rounds stand that have not ended.
    pub fn checkpoints_dir(&self) -> PathBuf {
        self.data_dir.join("rounds")
    }

    /// Downloaded models.
    pub fn models_dir(&self) -> PathBuf {
        self.data_dir.join("models")
    }
}

fn within(name: &str, value: f64, low: f64, high: f64) -> Result<(), String> {
    if value.is_finite() && (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(format!("{name} is {value}, it must be from {low} to {high}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Settings::default().validate(), Ok(()));
    }

    #[test]
    fn a_value_out_of_range_is_named_with_its_range() {
        let refusal = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.validate().unwrap_err()
        };
        assert_eq!(refusal(|s| s.answer.votes = 65), "answer.votes is 65, it must be from 1 to 64");
        assert_eq!(refusal(|s| s.learning.votes = 1), "learning.votes is 1, it must be from 2 to 256");
        assert!(refusal(|s| s.answer.temperature = f32::NAN).starts_with("answer.temperature is NaN"));
        assert_eq!(refusal(|s| s.adapters.keep = 0), "adapters.keep is 0, it must be from 1 to 100000");
        assert!(refusal(|s| s.schedule.every_minutes = Some(0)).starts_with("schedule.every_minutes is 0"));
        assert_eq!(refusal(|s| s.model = " ".into()), "model is empty");
        let short = refusal(|s| s.operator_key = Some("secret".to_owned().into()));
        assert!(short.contains("at least 16") && !short.contains("secret"), "{short}");
    }

    #[test]
    fn a_device_reads_back_as_it_was_written() {
        for device in [Device::Auto, Device::Cpu, Device::Cuda(3), Device::Metal] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        for text in ["cuda", "cuda:", "cuda:-1", "gpu", ""] {
            assert!(text.parse::<Device>().unwrap_err().contains("`cuda:N`"), "{text}");
        }
    }
}
