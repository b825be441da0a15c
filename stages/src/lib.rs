//! The kinds of stages that `ablate` runs, and what they share.
//!
//! Nothing here knows of pipeline files, caches, threads or terminals: a kind declares what it reads and writes ([`stage`]),
//! and does its work on batches of rows ([`job`]). Kinds that need libtorch are declared here and opened in the crate `lm`.

pub mod code;
pub mod columns;
pub mod command;
pub mod condition;
pub mod curriculum_sort;
pub mod dedupe;
pub mod documents;
pub mod eval;
pub mod execute;
pub mod expect;
#[cfg(test)]
mod fidelity;
pub mod filter;
pub mod fim_generate;
pub mod generate;
pub mod job;
pub mod load;
pub mod model;
pub mod new_model;
pub mod pair;
pub mod random;
pub mod reference;
pub mod references;
pub mod sandbox;
pub mod score;
pub mod segment;
pub mod stage;
pub mod synthesize;
pub mod take;
#[cfg(test)]
pub(crate) mod testing;
pub mod train;
pub mod worker;

use stage::AnyStage;

/// Every kind there is. The one list, a line a kind.
#[rustfmt::skip]
pub const STAGES: &[&dyn AnyStage] = &[
    &command::Command,
    &curriculum_sort::CurriculumSort,
    &dedupe::Dedupe,
    &documents::Documents,
    &eval::Eval,
    &execute::Execute,
    &expect::Expect,
    &filter::Filter,
    &fim_generate::FimGenerate,
    &generate::Generate,
    &load::Load,
    &model::Model,
    &new_model::NewModel,
    &pair::Pair,
    &reference::Reference,
    &references::References,
    &score::Score,
    &segment::Segment,
    &synthesize::Synthesize,
    &take::Take,
    &train::Train,
];

/// The kind of this name.
pub fn find(name: &str) -> Option<&'static dyn AnyStage> {
    STAGES.iter().copied().find(|kind| kind.name() == name)
}
