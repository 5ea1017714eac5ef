//! Which way the rooms may lean (ARCHITECTURE.md). A breach fails here, not in a review.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each room with the rooms that it may use, itself left out.
const MAY_USE: &[(&str, &[&str])] = &[
    (
        "adaptation",
        &["adapters", "engine", "evaluation", "grading", "machine", "prompter", "statistics", "store", "telemetry"],
    ),
    ("adapters", &["engine", "grading", "statistics", "store"]),
    ("answering", &["adapters", "config", "engine", "grading", "prompter", "store", "telemetry"]),
    (
        "cli",
        &["adaptation", "adapters", "app", "config", "engine", "grading", "machine", "shutdown", "telemetry", "web"],
    ),
    ("completing", &["adapters", "config", "engine", "prompter", "telemetry"]),
    ("config", &["adaptation", "grading"]),
    ("engine", &["web"]),
    ("evaluation", &["adapters", "engine", "grading", "prompter", "statistics", "store"]),
    ("grading", &[]),
    (
        "http",
        &[
            "adaptation",
            "adapters",
            "answering",
            "completing",
            "config",
            "engine",
            "evaluation",
            "prompter",
            "store",
            "telemetry",
        ],
    ),
    ("machine", &[]),
    ("prompt", &["engine", "grading"]),
    ("prompter", &["engine", "grading", "prompt"]),
    ("shutdown", &[]),
    ("statistics", &[]),
    ("store", &["engine"]),
    ("telemetry", &["config", "engine"]),
    ("web", &[]),
];

/// Words that may stand in one place only.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("sqlx::", &["src/store/"]),
    ("axum::", &["src/http/"]),
    ("env::var", &["src/config/"]),
    ("reqwest::Client::", &["src/web.rs"]),
    ("web::download(", &["src/engine/model/source/"]),
    ("LocalEngine::start(", &["src/app.rs"]),
    ("Registry::open(", &["src/app.rs"]),
    ("Answering::new(", &["src/app.rs"]),
    ("Completing::new(", &["src/app.rs"]),
    ("Rounds::new(", &["src/app.rs"]),
    ("store::connect(", &["src/app.rs"]),
    // Labels never leak: of what learns, only the gate of a round sees evaluation sets.
    ("evaluation::", &["src/evaluation/", "src/adaptation/rounds", "src/http/", "src/store/", "src/app.rs"]),
    ("evaluation_set", &["src/evaluation/", "src/adaptation/rounds", "src/http/", "src/store/"]),
    // And what clients say of answers is seen by nothing that learns.
    ("feedback", &["src/http/", "src/store/", "src/telemetry/", "src/adaptation/watch.rs"]),
    ("Feedback", &["src/http/", "src/store/", "src/adaptation/watch.rs"]),
    ("seen_answers", &["src/store/", "src/adaptation/rounds/watching.rs"]),
    ("SeenAnswer", &["src/store/", "src/adaptation/watch.rs"]),
];

/// What the pure files must not know.
const PURE: &[(&str, &[&str])] = &[
    ("src/grading/", &["tokio", "candle", "async ", "std::fs", "std::io"]),
    ("src/adaptation/advantage.rs", &["tokio", "candle", "store", "async "]),
    ("src/adaptation/loss.rs", &["tokio", "candle", "store", "async "]),
    ("src/adaptation/vote.rs", &["tokio", "candle", "store", "async "]),
    ("src/adaptation/memory.rs", &["tokio", "candle", "store", "async "]),
    ("src/adaptation/resume.rs", &["tokio", "candle", "async "]),
    ("src/adaptation/watch.rs", &["tokio", "candle", "async "]),
    ("src/adaptation/schedule.rs", &["tokio", "candle", "store", "async "]),
    ("src/statistics.rs", &["tokio", "candle", "async "]),
    ("src/adapters/gate.rs", &["tokio", "candle", "store::", "async "]),
    ("src/engine/prefix_tree.rs", &["tokio", "candle", "async "]),
    ("src/engine/response.rs", &["tokio", "candle", "async "]),
    ("src/engine/sampler.rs", &["tokio", "candle", "async "]),
    ("src/engine/sampling.rs", &["tokio", "candle", "async "]),
    ("src/engine/scheduler", &["tokio", "candle", "async "]),
    ("src/engine/model/", &["tokio", "crate::engine::thread", "crate::engine::scheduler"]),
];

fn sources(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            // Comments may speak of anything.
            let code: String = code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .map(|line| format!("{line}\n"))
                .collect();
            let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_str().unwrap().to_owned();
            found.push((name, code));
        }
    }
}

fn all_sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 40, "the sources were not found");
    found
}

/// The rooms that a file uses: `crate::room::...` and the members of `use crate::{room::..., ...}`.
fn uses(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for (start, _) in code.match_indices("crate::") {
        let rest = &code[start + "crate::".len()..];
        let name = |text: &str| text.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>();
        match rest.strip_prefix('{') {
            None => drop(rooms.insert(name(rest))),
            Some(group) => {
                let mut depth = 1;
                let mut member = String::new();
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 || (depth == 1 && c == ',') {
                        rooms.insert(name(member.trim()));
                        member.clear();
                    } else {
                        member.push(c);
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
        }
    }
    rooms.retain(|room| !room.is_empty());
    rooms
}

#[test]
fn rooms_lean_only_where_they_may() {
    for (name, code) in all_sources() {
        let room = name.trim_start_matches("src/").split(['/', '.']).next().unwrap();
        if ["lib", "main", "app"].contains(&room) {
            continue;
        }
        let (_, allowed) =
            MAY_USE.iter().find(|(known, _)| *known == room).unwrap_or_else(|| panic!("{name}: a new room"));
        for used in uses(&code) {
            assert!(used == room || allowed.contains(&used.as_str()), "{name} must not use {used}");
        }
    }
}

#[test]
fn drivers_frameworks_and_constructors_stay_in_their_rooms() {
    for (name, code) in all_sources() {
        for (word, places) in ONLY_IN {
            let here = places.iter().any(|place| name.starts_with(place));
            assert!(here || !code.contains(word), "{name} must not contain {word}");
        }
    }
}

#[test]
fn pure_files_know_no_runtime_no_tensors_and_no_store() {
    for (name, code) in all_sources() {
        for (_, words) in PURE.iter().filter(|(place, _)| name.starts_with(place)) {
            for word in *words {
                assert!(!code.contains(word), "{name} must not contain {word:?}");
            }
        }
    }
}

#[test]
fn a_breach_would_be_found() {
    let code = "use crate::{\n    engine::{handle::Lease, model},\n    store::Store,\n};\nfn f() { crate::http::g() }";
    assert_eq!(uses(code), ["engine", "http", "store"].map(String::from).into());
}
