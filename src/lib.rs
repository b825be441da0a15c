//! Pipeline runner.

pub mod cache;
pub mod digest;
pub mod pipeline;
pub mod plan;
