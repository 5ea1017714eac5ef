//! `ttrl`: an inference server that gets better at the questions it is asked.
//!
//! This page is the table of contents; `ARCHITECTURE.md` says which way the rooms may lean on each other.

pub mod adaptation;
pub mod adapters;
pub mod answering;
pub mod app;
pub mod cli;
pub mod completing;
pub mod config;
pub mod engine;
pub mod evaluation;
pub mod grading;
pub mod http;
pub mod machine;
pub mod prompt;
pub mod prompter;
pub mod shutdown;
pub mod statistics;
pub mod store;
pub mod telemetry;
pub mod web;
