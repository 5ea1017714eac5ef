//! Learning from unlabelled questions: TTRL (arXiv 2504.16084) with GRPO (arXiv 2402.03300) on a LoRA adapter.
//!
//! [`learner`] makes one step, [`round`] a round of them, [`rounds`] runs rounds on a live server, and [`checkpoint`]
//! keeps where they stand. [`vote`], [`advantage`], [`loss`], [`batch`], [`learning_rate`], [`guard`], [`memory`],
//! [`resume`], [`selection`], [`schedule`] and [`watch`] are pure.

pub mod advantage;
pub mod batch;
pub mod checkpoint;
pub mod guard;
pub mod learner;
pub mod learning_rate;
pub mod loss;
pub mod memory;
pub mod optimizer;
pub mod recipe;
pub mod resume;
pub mod round;
pub mod rounds;
pub mod schedule;
pub mod selection;
pub mod trainer;
pub mod vote;
pub mod watch;
