//! What the integration tests share.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

pub mod client;
pub mod decoding;
pub mod gguf;
pub mod model;
pub mod packages;
pub mod postgres;
pub mod vocabulary;
pub mod wire;

/// A file or folder under `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// What whole servers compute on: the CPU or, with the feature `cuda`, what TEST_DEVICE names (`make cuda-test`).
pub fn device() -> String {
    match cfg!(feature = "cuda") {
        true => std::env::var("TEST_DEVICE").expect("TEST_DEVICE says what to compute on: make cuda-test"),
        false => "cpu".to_owned(),
    }
}

/// The program itself.
pub fn ttrl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ttrl"));
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}
