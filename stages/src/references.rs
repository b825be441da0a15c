//! `references`: makes the reference solutions of problems into samples, so that they can be executed like what a model wrote.
//!
//! Columns in: `problem_id`, `solutions`. Out: `samples`, one a solution; its index is the solution's. Determinism: bits.

use crate::code::request::sample_id;
use crate::columns::{SAMPLE_MEASURED, Sample, columns_of};
use crate::job::{Job, MapJob, OpenContext, UnitSink, UnitSource};
use crate::segment::Solved;
use crate::stage::{Declaration, InputPort, InputSchemas, OutputPort, SchemaError, Stage, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct References;

/// Parameters of `references`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Most solutions of a problem; null for all.
    pub max_solutions: Option<u32>,
}

impl Stage for References {
    type Params = Params;
    const NAME: &'static str = "references";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Makes reference solutions into samples, so that they can be executed and judged.";
    const EXAMPLE: &'static str = "\
problems: { use: load, with: { path: ../examples/problems/align.jsonl } }
solutions: { use: references, from: problems }
";

    fn declare(_params: &Params, _inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        let problems = InputPort::rows::<Solved>("problems", "problems with reference solutions");
        let samples = OutputPort::table("samples", columns_of::<Sample>(), "one sample for each solution")
            .measured(SAMPLE_MEASURED);
        Ok(Declaration::map(vec![problems], samples))
    }

    fn open(params: &Params, _cx: &OpenContext) -> Result<Job, StageError> {
        Ok(Job::Map(Box::new(ReferencesJob { params: params.clone() })))
    }
}

struct ReferencesJob {
    params: Params,
}

impl MapJob for ReferencesJob {
    fn run(&mut self, units: &mut dyn UnitSource, out: &mut UnitSink<'_>) -> Result<(), StageError> {
        let most = self.params.max_solutions.map_or(usize::MAX, |most| most as usize);
        while let Some(batch) = units.next()? {
            let problems: Vec<Solved> = batch.rows()?;
            for (unit, rows) in batch.units() {
                let problem = &problems[rows.start];
                let samples: Vec<Sample> = problem
                    .solutions
                    .iter()
                    .take(most)
                    .enumerate()
                    .map(|(i, solution)| Sample {
                        sample_id: sample_id(&problem.problem_id, i as u32),
                        problem_id: problem.problem_id.clone(),
                        block_id: None,
                        sample_index: i as u32,
                        text: solution.clone(),
                        finish: "stop".into(),
                        num_tokens: 0,
                        logprob: None,
                        program: solution.clone(),
                    })
                    .collect();
                if samples.is_empty() {
                    out.drop(unit, "no-solution", None)?;
                } else {
                    out.emit(unit, &samples)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::run_map;
    use serde_json::json;

    #[test]
    fn every_solution_is_a_sample_of_its_problem() {
        let problems = [
            Solved { problem_id: "p".into(), solutions: vec!["a".into(), "b".into()] },
            Solved { problem_id: "q".into(), solutions: vec![] },
        ];
        let ran = run_map(&References, &json!({}), &problems, &[]);
        let samples: Vec<Sample> = ran.rows();
        assert_eq!(samples.iter().map(|s| s.program.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_ne!(samples[0].sample_id, samples[1].sample_id);
        assert_eq!(ran.reasons(), ["no-solution"]);
        let one = run_map(&References, &json!({ "max_solutions": 1 }), &problems, &[]);
        assert_eq!(one.rows::<Sample>().len(), 1);
    }
}
