//! The model at work: a decoder, the thread that runs it, and the handle that everything else holds.

mod cache;
pub mod handle;
pub mod model;
mod prefix_tree;
mod sampler;
mod scheduler;
pub mod thread;
pub mod turnstile;
