//! What the program tells about itself: logs and metrics.

mod logs;
mod metrics;

pub use logs::{LogError, init};
pub use metrics::{CONTENT_TYPE, Metrics};
