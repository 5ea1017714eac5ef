//! The settings in effect, as text. What is secret is left out.

use std::fmt::Write;

use secrecy::{ExposeSecret, SecretString};
use serde::Serializer;
use serde_json::Value;

use super::Settings;

const HIDDEN: &str = "[hidden]";

/// As JSON.
pub fn json(settings: &Settings) -> String {
    serde_json::to_string_pretty(settings).unwrap_or_default()
}

/// As TOML that a settings file may hold. What is unset is a comment.
pub fn toml(settings: &Settings) -> String {
    // By way of text: a 32-bit 0.8 is written as 0.8 there, but as 0.800000011920929 in a JSON value.
    let tree = serde_json::from_str(&json(settings)).unwrap_or_default();
    let mut text = String::new();
    write_table(&mut text, "", &tree);
    text
}

fn write_table(text: &mut String, path: &str, table: &Value) {
    let Value::Object(fields) = table else { return };
    let (tables, values): (Vec<_>, Vec<_>) = fields.iter().partition(|(_, value)| value.is_object());
    for (name, value) in values {
        // JSON's texts, numbers and lists are TOML's too. Writing to a String cannot fail.
        let _ = match value {
            Value::Null => writeln!(text, "# {name} is unset"),
            value => writeln!(text, "{name} = {value}"),
        };
    }
    for (name, table) in tables {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let _ = writeln!(text, "\n[{path}]");
        write_table(text, &path, table);
    }
}

/// Writes that a secret is there, without the secret.
pub(super) fn hidden<S: Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    match secret {
        Some(_) => serializer.serialize_some(HIDDEN),
        None => serializer.serialize_none(),
    }
}

/// Writes the address of a database without its password.
pub(super) fn address<S: Serializer>(address: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    match address {
        Some(address) => serializer.serialize_some(&without_password(address.expose_secret())),
        None => serializer.serialize_none(),
    }
}

/// A path, or `scheme://host...` of a URL. User, password and parameters (which may hold a password too) go, and all
/// of an address that is not understood.
fn without_password(address: &str) -> String {
    match address.split_once("://") {
        None if address.starts_with("sqlite:") => address.into(),
        None => HIDDEN.into(),
        Some((scheme, rest)) => {
            let place = rest.rsplit('@').next().unwrap_or_default().split('?').next().unwrap_or_default();
            let user = if rest.contains('@') { format!("{HIDDEN}@") } else { String::new() };
            format!("{scheme}://{user}{place}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::load, *};

    #[test]
    fn what_is_printed_can_be_loaded_again() {
        let printed = toml(&Settings::default());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &printed).unwrap();
        assert_eq!(toml(&load(Some(file.path()), [], &[]).unwrap()), printed);
        assert!(printed.contains("\n[learning.gate]\n") && printed.contains("\ntemperature = 0.8\n"), "{printed}");
        assert!(printed.contains("# database_url is unset\n"), "{printed}");
    }

    #[test]
    fn no_secret_is_printed() {
        let settings = Settings {
            database_url: Some("postgres://me:hush%40hush@db:5432/ttrl?password=hush".to_owned().into()),
            operator_key: Some("ttrl_hush_hush_hush".to_owned().into()),
            ..Settings::default()
        };
        for text in [toml(&settings), json(&settings), format!("{settings:?}")] {
            assert!(!text.contains("hush") && !text.contains("password"), "{text}");
        }
        assert!(toml(&settings).contains("postgres://[hidden]@db:5432/ttrl\""));
    }

    #[test]
    fn an_address_without_a_password_is_printed_whole() {
        for address in ["sqlite:/data/a.db", "postgres://db/ttrl"] {
            assert_eq!(without_password(address), address);
        }
        assert_eq!(without_password("me:secret"), HIDDEN);
    }
}
