//! The model at work: a decoder, the thread that runs it, and the handle that everything else holds.

pub mod bookkeeping;
mod cache;
pub mod handle;
pub mod line;
pub mod model;
mod prefix_tree;
pub mod report;
mod response;
mod runner;
mod sampler;
pub mod sampling;
mod scheduler;
pub mod sizes;
pub mod thread;
pub mod turnstile;
