//! Defaults, or those of a preset, then a file, then the environment, then flags: the later one wins.

use std::path::Path;

use config::{Config, File, FileFormat, builder::DefaultState};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::Settings;
use crate::adaptation::recipe::Preset;

type Builder = config::ConfigBuilder<DefaultState>;

/// What the names of our environment variables begin with. `TTRL_ENGINE__CACHE_TOKENS` is `engine.cache_tokens`.
const PREFIX: &str = "TTRL_";

/// The largest settings file; one with every setting has two kilobytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A setting that cannot be used: where it was given, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct ConfigError {
    /// A file, a variable or a flag.
    origin: String,
    problem: String,
}

/// A setting given on the command line.
#[derive(Clone, Debug)]
pub struct Flag {
    /// As the user wrote it: `--bind`.
    pub name: &'static str,
    /// The setting: `server.bind`.
    pub key: &'static str,
    pub value: String,
}

/// The settings in effect: the defaults, or a preset's if one of the others names it, changed by `file`, then by the
/// variables of the `environment` (all of them: others than ours are passed over), then by `flags`.
///
/// # Errors
/// Names the file, variable or flag that cannot be used and says what is wrong. Values are checked one by one, so the
/// first faulty one is named even where a later one would replace it.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[Flag],
) -> Result<Settings, ConfigError> {
    let known = leaves(&serde_json::to_value(Settings::default()).unwrap_or_default());
    let mut builder = Config::builder();
    if let Some(path) = file {
        let (origin, text) = (path.display().to_string(), read(path)?);
        let alone = Config::builder().add_source(File::from_str(&text, FileFormat::Toml));
        check(&origin, alone, &known)?;
        builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
    }
    let variables = environment.into_iter().filter_map(|(name, value)| {
        let key = key_of(&name)?;
        Some((format!("environment variable {name}"), key, value))
    });
    let mut given: Vec<(String, String, String)> = variables.collect();
    given.extend(flags.iter().map(|flag| (flag.name.to_owned(), flag.key.to_owned(), flag.value.clone())));
    for (origin, key, value) in given {
        let refused = |problem: String| ConfigError { origin: origin.clone(), problem };
        if !known.contains(&key) {
            return Err(refused(unknown(&key)));
        }
        let alone = Config::builder().set_override(&key, value.as_str()).map_err(|e| refused(e.to_string()))?;
        check(&origin, alone, &known)?;
        builder = builder.set_override(&key, value).map_err(|e| refused(e.to_string()))?;
    }
    let whole = |problem: String| ConfigError { origin: "the settings".into(), problem };
    let settings = builder.build().and_then(complete).map_err(|error| whole(error.to_string()))?;
    settings.validate().map_err(whole)?;
    Ok(settings)
}

/// The settings that are given, over those of the preset that they name, over the defaults.
fn complete(given: Config) -> Result<Settings, config::ConfigError> {
    let preset = match given.get("learning.preset") {
        Err(config::ConfigError::NotFound(_)) => Preset::default(),
        named => named?,
    };
    let presets = Config::try_from(&json!({ "learning": preset.recipe() }))?;
    Config::builder().add_source(presets).add_source(given).build()?.try_deserialize()
}

/// The environment of this process; what is not Unicode is none of ours.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Whether all of what one origin gives is known and in range.
fn check(origin: &str, builder: Builder, known: &[String]) -> Result<(), ConfigError> {
    let refused = |problem: String| ConfigError { origin: origin.into(), problem };
    let config = builder.build().map_err(|error| refused(error.to_string().trim().to_owned()))?;
    let keys = leaves(&config.clone().try_deserialize().map_err(|error| refused(error.to_string()))?);
    if let Some(key) = keys.iter().find(|key| !known.contains(key)) {
        return Err(refused(unknown(key)));
    }
    let settings = complete(config).map_err(|error| refused(error.to_string()))?;
    settings.validate().map_err(refused)
}

fn unknown(key: &str) -> String {
    format!("there is no setting `{key}`; `ttrl config` prints all there are")
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let refused = |problem: String| ConfigError { origin: path.display().to_string(), problem };
    let unreadable = |error: std::io::Error| refused(format!("the settings file cannot be read: {error}"));
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(refused(format!("it has {bytes} bytes, which is too large for a settings file")));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

/// The setting that a variable stands for; `None` if it is not one of ours.
fn key_of(variable: &str) -> Option<String> {
    let name = variable.strip_prefix(PREFIX)?;
    // Kubernetes gives these to every container beside a service called `ttrl`.
    let is_service_link = name.starts_with("SERVICE_") || name == "PORT" || name.starts_with("PORT_");
    (!is_service_link).then(|| name.to_lowercase().replace("__", "."))
}

/// The paths of all values in a tree of objects.
fn leaves(value: &Value) -> Vec<String> {
    let Value::Object(fields) = value else { return vec![] };
    let below = |(name, value): (&String, &Value)| match value {
        Value::Object(_) => leaves(value).iter().map(|key| format!("{name}.{key}")).collect(),
        _ => vec![name.clone()],
    };
    fields.iter().flat_map(below).collect()
}

/// Reads a text that is never printed.
pub(super) fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(SecretString::from))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::adaptation::{loss::Kl, recipe::Recipe};

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn from_file(text: &str) -> Result<Settings, String> {
        load(Some(file(text).path()), [], &[]).map_err(|error| error.to_string())
    }

    fn from_variable(name: &str, value: &str) -> Result<Settings, String> {
        load(None, [(name.to_owned(), value.to_owned())], &[]).map_err(|error| error.to_string())
    }

    #[test]
    fn a_flag_beats_a_variable_beats_a_file_beats_a_default() {
        let file = file("model = 'file'\nprompt_template = 'file'\n[answer]\nvotes = 3\n[engine]\ncache_tokens = 512");
        let variables = [("TTRL_MODEL", "env"), ("TTRL_ANSWER__VOTES", "4"), ("HOME", "/"), ("TTRL_PORT", "tcp://x")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let flag = Flag { name: "--model", key: "model", value: "flag".into() };
        let settings = load(Some(file.path()), variables, &[flag]).unwrap();
        assert_eq!((settings.model.as_str(), settings.answer.votes), ("flag", 4));
        assert_eq!((settings.prompt_template.as_str(), settings.engine.cache_tokens), ("file", Some(512)));
        assert_eq!(settings.engine.max_waiting, 256);
    }

    #[test]
    fn every_kind_of_value_can_come_from_the_environment() {
        assert_eq!(from_variable("TTRL_SERVER__BIND", "[::1]:0").unwrap().server.bind.to_string(), "[::1]:0");
        assert_eq!(from_variable("TTRL_LEARNING__LEARNING_RATE", "3e-5").unwrap().learning.learning_rate, 3e-5);
        assert_eq!(from_variable("TTRL_LEARNING__GATE__MAX_KL", "1").unwrap().learning.gate.max_kl, 1.0);
        assert_eq!(from_variable("TTRL_SCHEDULE__EVERY_QUESTIONS", "9").unwrap().schedule.every_questions, Some(9));
        assert_eq!(from_variable("TTRL_MODEL", "007").unwrap().model, "007");
        assert_eq!(from_variable("TTRL_DEVICE", "cuda:1").unwrap().device, super::super::Device::Cuda(1));
        let key = from_variable("TTRL_OPERATOR_KEY", "0123456789abcdef").unwrap().operator_key.unwrap();
        assert_eq!(key.expose_secret(), "0123456789abcdef");
    }

    #[test]
    fn a_preset_stands_in_for_defaults_wherever_it_is_named_and_anything_that_is_set_beats_it() {
        let file = file("[learning]\nvotes = 12\nlora_targets = 'q_proj, v_proj'");
        let flag = |value: &str| Flag { name: "--preset", key: "learning.preset", value: value.into() };
        let variable = ("TTRL_LEARNING__KL".to_owned(), "k2".to_owned());
        let recipe = load(Some(file.path()), [variable], &[flag("ttrl")]).unwrap().learning;
        let lora_targets = recipe.lora_targets.clone();
        let expected = Recipe { votes: 12, kl: Kl::K2, lora_targets, ..Preset::Ttrl.recipe() };
        assert_eq!((&recipe, recipe.lora_targets.projections().len()), (&expected, 2));
        assert_eq!(load(None, [], &[]).unwrap().learning, Recipe::default());
        let error = load(None, [], &[flag("grpo")]).unwrap_err().to_string();
        assert!(error.starts_with("--preset: ") && error.contains("grpo"), "{error}");
    }

    #[test]
    fn a_faulty_setting_is_named_with_its_origin_and_what_is_expected() {
        for (name, value, expected) in [
            ("TTRL_ENGINE__CACH_TOKENS", "1", "no setting `engine.cach_tokens`"),
            ("TTRL_ENGINE", "1", "no setting `engine`"),
            ("TTRL_ENGINE__CACHE_TOKENS", "many", "integer"),
            ("TTRL_ENGINE__CACHE_TOKENS", "-1", "engine.cache_tokens"),
            ("TTRL_ENGINE__CACHE_TOKENS", "1", "engine.cache_tokens is 1, it must be from 256 to 100000000"),
            ("TTRL_SERVER__BIND", "localhost", "server.bind"),
            ("TTRL_LOG__FORMAT", "xml", "write `text` or `json`"),
            ("TTRL_DEVICE", "tpu", "`cuda:N`"),
        ] {
            let error = from_variable(name, value).unwrap_err();
            assert!(error.starts_with(&format!("environment variable {name}: ")), "{error}");
            assert!(error.contains(expected), "{error}");
        }
        for (text, expected) in [
            ("modle = 'x'", "no setting `modle`"),
            ("[engine]\ncache = 1", "no setting `engine.cache`"),
            ("[engine]\ncache_tokens = true\nmax_waiting = []", "engine.max_waiting"),
            ("[server]\nclient_header = 'x y'", "server.client_header is \"x y\", it must be the name of a header"),
            ("[answer]\nvotes = 0", "answer.votes is 0, it must be from 1 to 64"),
            ("model = ", "line 1"),
        ] {
            let error = from_file(text).unwrap_err();
            assert!(error.starts_with('/') && error.contains(expected), "{text}: {error}");
        }
        let flag = Flag { name: "--bind", key: "server.bind", value: "8080".into() };
        let error = load(None, [], &[flag]).unwrap_err().to_string();
        assert!(error.starts_with("--bind: ") && error.contains("socket address"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error() {
        let error = load(Some(Path::new("/no/such.toml")), [], &[]).unwrap_err().to_string();
        assert!(error.starts_with("/no/such.toml: the settings file cannot be read"), "{error}");
    }
}
