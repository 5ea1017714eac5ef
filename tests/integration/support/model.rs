//! The default model, for the tests that need a real one.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
    thread,
};

use ttrl::engine::model::source;

/// The default model's file in `target/models`. The first test to ask fetches it, as a first start would; it stays
/// there, and its hash is checked once in every test process.
pub fn default_model() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let path = PATH.get_or_init(|| {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/models");
        // On a thread of its own: a test that asks may be asynchronous, and a download must not be.
        let fetched = thread::spawn(move || source::resolve(source::DEFAULT_MODEL, &models, &|_, _, _| ()));
        fetched.join().unwrap().unwrap_or_else(|error| panic!("{error}")).path
    });
    path.clone()
}
