//! From a pipeline file to stages with checked parameters and known connections.
//!
//! [`located`] reads YAML as written, with places; [`mod@extends`] lays a file over another, [`overlay`] a variant or a `--set` over a file;
//! [`mod@variants`] says which cases there are; [`mod@file`] says what the keys mean; [`vars`] puts vars in;
//! [`params`] checks `with:` blocks; [`mod@resolve`] binds kinds, connects ports and expands uses. Nothing here touches a cache, runs
//! anything or stops at the first mistake: every [`error::Problem`] is collected with its place.
//! [`mod@reference`] and [`json_schema`] write down what may stand in a file.

#[cfg(test)]
mod case_tests;
pub mod error;
pub mod extends;
pub mod file;
pub mod json_schema;
pub mod located;
pub mod overlay;
pub mod params;
pub mod reference;
pub mod resolve;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod variants;
pub mod vars;

pub use error::{Fault, Problem, Problems, Severity};
pub use located::Location;
pub use resolve::{Case, Compare, MetricRef, OutputRef, Resolution, Resolved, ResolvedStage, resolve};
pub use variants::Choice;
