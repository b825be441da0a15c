//! Pipeline runner.

pub mod cache;
pub mod digest;
