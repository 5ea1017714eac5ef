//! Routes in the shape of OpenAI's API, with what vLLM adds to it, for clients that are written for those.
//!
//! What is asked here is not stored and never learnt from.

pub mod chat;
pub mod completions;
mod fields;
mod log_probs;
pub mod models;
mod reply;
mod stream;
