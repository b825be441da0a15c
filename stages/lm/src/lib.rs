//! lm

pub mod objective;
pub mod optimizer;
pub mod schedule;
