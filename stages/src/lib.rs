//! The kinds of stages that `ablate` runs, and what they share.
//!
//! Nothing here knows of pipeline files, caches, threads or terminals: a kind declares what it reads and writes ([`stage`]),
//! and does its work on batches of rows ([`job`]). Kinds that need libtorch are declared here and opened in the crate `lm`.

pub mod code;
pub mod columns;
pub mod fim_generate;
pub mod generate;
pub mod job;
pub mod new_model;
pub mod random;
pub mod reference;
pub mod stage;
pub mod synthesize;
pub mod train;
pub mod worker;

use stage::AnyStage;

/// Every kind there is. The one list, a line a kind.
#[rustfmt::skip]
pub const STAGES: &[&dyn AnyStage] = &[
    &fim_generate::FimGenerate,
    &generate::Generate,
    &new_model::NewModel,
    &reference::Reference,
    &synthesize::Synthesize,
    &train::Train,
];

/// The kind of this name.
pub fn find(name: &str) -> Option<&'static dyn AnyStage> {
    STAGES.iter().copied().find(|kind| kind.name() == name)
}
