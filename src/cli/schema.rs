//! `ablate schema`: the JSON Schema of a pipeline file.

use super::{EXIT_OK, Outcome, print_json};
use crate::pipeline::json_schema::json_schema;

/// Prints the JSON Schema of a pipeline file, for completion in editors
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args) -> Outcome {
    print_json(&json_schema(ablate_stages::STAGES))?;
    Ok(EXIT_OK)
}
