//! The integration tests: one binary, one file a subject.

mod architecture;
mod bench;
#[cfg(feature = "cuda")]
mod card;
mod engine;
mod evals;
mod families;
mod grading;
mod http;
mod kernels;
mod learning;
mod openai;
mod ops;
mod outages;
mod parity;
mod probe;
mod real_files;
mod reports;
mod resume;
mod rounds;
mod store;
mod support;
mod tokenizer;
mod tokenizer_kinds;
mod watch;
mod weights;
