//! `ablate`: a declarative pipeline runner for experiments on how code models are aligned.
//!
//! ```text
//! pipeline   the YAML file as written, with places; all mistakes at once       [pure]
//! plan       types checked, recipes and keys, why a stage has to run           [pure]
//! cache      blobs by hash, records, tables by meaning, views, history
//! run        what the cache has, what runs when, who does it
//! report     progress, rows, comparisons
//! cli        one file a command
//! ```
//!
//! # Invariants
//! - `pipeline` and `plan` know neither `cache` nor `run`: what a stage is does not depend on what is there.
//! - The kinds live in the crate `ablate-stages`, which knows nothing of all this; kinds on libtorch in the crate `lm`, which this crate never links.
//! - Failures and cancelled work are never recorded; a record is written last and whole.
//! - Only `cli` prints to standard output.

pub mod cache;
pub mod cli;
pub mod digest;
pub mod pipeline;
pub mod plan;
pub mod report;
pub mod run;
