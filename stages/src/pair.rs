//! `pair`: makes preference pairs from judged samples.
//!
//! Columns in: `samples` (rows, grouped by the block that they fill, or by problem where no `blocks` are connected), `verdicts` by
//! sample, `blocks` by block, `problems` by problem. Out: `examples`.
//! For a wrong sample, chosen is the passing sample of the same target that is nearest to it in edit distance (characters), so the
//! two sides differ in little but the error. Every pair is written in one format for both sides: fill-in-the-middle with probability
//! `alpha`, else a conversation; whole programs are always conversations. The reference itself is never a side.
//! Determinism: bits; what is drawn depends on the seed and on the target or pair alone. Cost: about that of the edit distances.
//! Source: `StructureCoder`, <https://arxiv.org/abs/2508.19532>, algorithm 1, section 3.3 and its released code.

use crate::code::blocks::BlockKind;
use crate::code::distance::nearest;
use crate::code::prompts::{Asked, PromptStyle};
use crate::columns::{Example, Segment, Special, columns_of};
use crate::job::{Job, MapJob, OpenContext, UnitSink, UnitSource};
use crate::random::{Random, stable_id};
use crate::stage::{Declaration, InputPort, InputSchemas, OutputPort, SchemaError, Stage, StageError};
use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::datatypes::UInt32Type;
use arrow_schema::DataType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Pair;

/// Parameters of `pair`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a parameter of its own, as a pipeline writes it")]
pub struct Params {
    /// Share of pairs that are written as fill-in-the-middle, from 0 to 1; the others are conversations.
    pub alpha: f64,
    /// Seed of what is drawn: the rejected sample, and the format.
    pub seed: u64,
    /// Which samples can be rejected.
    pub rejected_when: RejectedWhen,
    /// How many pairs a target gives.
    pub pairs_per_target: PairsPerTarget,
    /// Whether samples whose verdict is not stable are left out.
    pub drop_flaky: bool,
    /// How problems are asked; to be the same as where the samples were made.
    pub prompt: PromptStyle,
    /// Whether the line break behind a middle belongs to the response in conversations, where it is often one token with the text before.
    pub middle_owns_newline: bool,
    /// Whether the response of a conversation closes the fence and ends the turn. Off in the paper's code, where a response ends with its code.
    pub close_fence: bool,
    /// What of the solution around the middle carries loss too. Pairs share it, so that of a preference loss only what stands behind the
    /// middle feels it: the suffix in conversations.
    pub loss: Loss,
    /// Whether fill-in-the-middle prompts show the suffix.
    pub suffix: bool,
}

/// What carries loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// The middle alone.
    #[default]
    Middle,
    /// The middle and the suffix, which then follows the middle in conversations.
    Suffix,
    /// The prefix, the middle and the suffix.
    PrefixAndSuffix,
}

/// Which samples can be rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RejectedWhen {
    /// Those that ran on every test and gave a wrong answer to one; the rest is used neither way (the released code of the paper).
    #[default]
    WrongAnswer,
    /// All that do not pass (the text of the paper).
    AnyFailure,
}

/// How many pairs a target gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PairsPerTarget {
    /// One, whose rejected sample is drawn.
    #[default]
    One,
    /// One for every sample that can be rejected.
    All,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            alpha: 0.5,
            seed: 17,
            rejected_when: RejectedWhen::WrongAnswer,
            pairs_per_target: PairsPerTarget::One,
            drop_flaky: true,
            prompt: PromptStyle::default(),
            middle_owns_newline: false,
            close_fence: false,
            loss: Loss::Middle,
            suffix: true,
        }
    }
}

/// A sample: the columns read.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Candidate {
    /// The sample.
    pub sample_id: String,
    /// The problem that it answers.
    pub problem_id: String,
    /// The block that it fills.
    pub block_id: Option<String>,
    /// Which of its target's samples it is.
    pub sample_index: u32,
    /// What the model wrote.
    pub text: String,
}

/// How a sample did: the columns looked up.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Judged {
    /// The sample.
    pub sample_id: String,
    /// The worst outcome over all tests.
    pub verdict: String,
    /// Whether runs of the same program disagreed.
    pub flaky: bool,
}

/// The block that samples fill: the columns looked up.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Target {
    /// The block.
    pub block_id: String,
    /// `if`, `for`, `while`, `def`, `full` or `random`.
    pub kind: String,
    /// Levels of targets in it.
    pub depth: u32,
    /// Lines of the reference block.
    pub num_lines: u32,
    /// The solution before the block.
    pub prefix: String,
    /// The solution behind it.
    pub suffix: String,
}

impl Target {
    /// Whether it is a part of the solution, and not the whole.
    fn is_hole(&self) -> bool {
        self.kind != BlockKind::Full.as_str()
    }
}

impl Stage for Pair {
    type Params = Params;
    const NAME: &'static str = "pair";
    const VERSION: u32 = 3;
    const ABOUT: &'static str =
        "Makes preference pairs: a wrong sample, and the passing sample of the same target that is nearest to it.";
    const EXAMPLE: &'static str = "\
problems: { use: load, with: { path: ../examples/problems/align.jsonl, limit: 12 } }
base: { use: model, with: { path: ../examples/models/tiny } }
blocks: { use: segment, from: problems, with: { full: false } }
middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 4, max_tokens: 64 } }
verdicts: { use: execute, from: { programs: middles, problems: problems }, with: { cpu_limit_s: 0.5, max_timeouts: 1 } }
pairs: { use: pair, from: { samples: middles, verdicts: verdicts, blocks: blocks, problems: problems }, with: { alpha: 0.5 } }
";

    fn declare(params: &Params, inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        if !(0.0..=1.0).contains(&params.alpha) {
            let problem = format!("expected a share from 0 to 1, got {}", params.alpha);
            return Err(SchemaError::parameter("alpha", problem));
        }
        let ports = vec![
            InputPort::rows::<Candidate>("samples", "what a model wrote"),
            InputPort::lookup::<Judged>("verdicts", "sample_id", "how each sample did"),
            InputPort::lookup::<Asked>("problems", "problem_id", "the problems that were asked"),
            InputPort::lookup::<Target>(
                "blocks",
                "block_id",
                "the blocks that the samples fill; without them whole programs are paired",
            )
            .optional(),
        ];
        let examples = OutputPort::table("examples", columns_of::<Example>(), "preference pairs");
        let group = if inputs.contains_key("blocks") { "block_id" } else { "problem_id" };
        Ok(Declaration::map(ports, examples).grouped_by(group))
    }

    fn open(params: &Params, _cx: &OpenContext) -> Result<Job, StageError> {
        Ok(Job::Map(Box::new(PairJob { params: params.clone() })))
    }
}

/// Pairs the samples of target after target.
#[derive(Debug)]
pub struct PairJob {
    /// The parameters.
    pub params: Params,
}

/// A sample and its verdict, as they stand in their tables.
#[derive(Debug, Clone, Copy)]
pub struct Tried<'a> {
    /// The sample.
    pub sample_id: &'a str,
    /// Which of its target's samples it is.
    pub sample_index: u32,
    /// What the model wrote, as it is compared and trained on: without line breaks around it where it fills a hole; without those
    /// behind it where it is a whole program, whose first line break may end the last line of the starter code.
    pub text: &'a str,
    /// Its verdict; none where it is not to be trusted.
    pub verdict: Option<&'a str>,
}

/// What is known of a target's samples after duplicates are merged; each list in the order of the sample index.
struct Sides<'a> {
    passed: Vec<Tried<'a>>,
    wrong: Vec<Tried<'a>>,
    /// Samples that are used neither way.
    num_unused: usize,
}

impl PairJob {
    /// The pairs of one target, or why there are none.
    ///
    /// # Errors
    /// Two strings, the reason and its detail, where the target gives no pair.
    pub fn pairs(
        &self,
        unit_id: &str,
        samples: &mut [Tried<'_>],
        problem: &Asked,
        target: Option<&Target>,
    ) -> Result<Vec<Example>, (&'static str, String)> {
        let Sides { passed, wrong, num_unused } = self.sides(samples);
        let counts = || format!("{} passed, {} to reject, {num_unused} unused", passed.len(), wrong.len());
        if passed.is_empty() {
            return Err(("no-correct", counts()));
        }
        if wrong.is_empty() {
            return Err((if num_unused > 0 { "none-to-reject" } else { "no-incorrect" }, counts()));
        }
        let rejected: Vec<Tried<'_>> = match self.params.pairs_per_target {
            PairsPerTarget::All => wrong,
            PairsPerTarget::One => {
                vec![*Random::new(self.params.seed, Pair::NAME, "rejected", unit_id).choose(&wrong)]
            }
        };
        let examples = rejected.into_iter().map(|rejected| {
            let at = nearest(rejected.text, passed.iter().map(|tried| tried.text)).expect("some candidate passed");
            self.example(problem, target, passed[at], rejected)
        });
        Ok(examples.collect())
    }

    /// Sorts a target's samples by what they are good for. Equal texts count once; those whose verdicts disagree are not used.
    fn sides<'a>(&self, samples: &mut [Tried<'a>]) -> Sides<'a> {
        samples.sort_unstable_by_key(|tried| (tried.sample_index, tried.sample_id));
        // Targets have a handful of samples, for which looking at all is faster than hashing; many samples are hashed.
        let mut places: HashMap<&str, usize> = HashMap::new();
        let is_many = samples.len() > 16;
        let mut merged: Vec<Tried<'a>> = Vec::with_capacity(samples.len());
        for &tried in samples.iter() {
            let place = if is_many {
                places.get(tried.text).copied()
            } else {
                merged.iter().position(|other| other.text == tried.text)
            };
            match place {
                Some(at) if merged[at].verdict != tried.verdict => merged[at].verdict = None,
                Some(_) => {}
                None => {
                    if is_many {
                        places.insert(tried.text, merged.len());
                    }
                    merged.push(tried);
                }
            }
        }
        let mut sides = Sides { passed: Vec::new(), wrong: Vec::new(), num_unused: 0 };
        for tried in merged {
            let can_be_rejected = match self.params.rejected_when {
                RejectedWhen::WrongAnswer => tried.verdict == Some("wrong"),
                RejectedWhen::AnyFailure => tried.verdict.is_some(),
            };
            // An empty response would have nothing to learn from.
            if tried.text.trim().is_empty() {
                sides.num_unused += 1;
            } else if tried.verdict == Some("passed") {
                sides.passed.push(tried);
            } else if can_be_rejected {
                sides.wrong.push(tried);
            } else {
                sides.num_unused += 1;
            }
        }
        sides
    }

    fn example(&self, problem: &Asked, target: Option<&Target>, chosen: Tried<'_>, rejected: Tried<'_>) -> Example {
        let example_id = stable_id(&["pair", chosen.sample_id, rejected.sample_id]);
        let hole = target.filter(|target| target.is_hole());
        let fim = hole
            .filter(|_| Random::new(self.params.seed, Pair::NAME, "format", &example_id).uniform() < self.params.alpha);
        let style = &self.params.prompt;
        let query = style.query(&problem.question, problem.tests.style);
        let mut prompt = match (fim, hole) {
            (Some(target), _) => {
                style.fim(&query, &target.prefix, if self.params.suffix { &target.suffix } else { "" })
            }
            (None, Some(target)) => style.chat(&query, &format!("{}{}", style.prefill, target.prefix)),
            (None, None) => style.chat(&query, &style.opening(problem.starter_code.as_deref())),
        };
        if let Some(target) = hole {
            self.weigh_around(&mut prompt, target, fim.is_some());
        }
        let response = |tried: Tried<'_>| self.response(tried.text, fim.is_some(), hole);
        Example {
            problem_id: problem.problem_id.clone(),
            block_id: target.map(|target| target.block_id.clone()),
            chosen_id: Some(chosen.sample_id.to_owned()),
            rejected_id: Some(rejected.sample_id.to_owned()),
            block_kind: target.map(|target| target.kind.clone()),
            num_lines: target
                .map_or_else(|| chosen.text.trim_start_matches('\n').lines().count() as u32, |target| target.num_lines),
            depth: target.map_or(0, |target| target.depth),
            format: if fim.is_some() { "fim" } else { "chat" }.into(),
            prompt,
            chosen: response(chosen),
            rejected: response(rejected),
            example_id,
        }
    }

    /// Puts loss on what of the solution stands in the prompt, where it is asked for.
    fn weigh_around(&self, prompt: &mut [Segment], target: &Target, is_fim: bool) {
        // The prefix ends the text before the suffix in one format, and the last text of all in the other.
        let (before, suffix) = if is_fim { (1, Some(3)) } else { (prompt.len() - 1, None) };
        if self.params.loss == Loss::PrefixAndSuffix {
            prompt[before].weigh_end(target.prefix.len());
        }
        if let Some(suffix) = suffix.filter(|_| self.params.loss != Loss::Middle && self.params.suffix) {
            prompt[suffix].weigh_end(target.suffix.len());
        }
    }

    /// A side: all of it carries loss.
    fn response(&self, text: &str, is_fim: bool, hole: Option<&Target>) -> Vec<Segment> {
        if is_fim {
            return vec![Segment::target(text), Segment::special_target(Special::End)];
        }
        let is_hole = hole.is_some();
        if let Some(target) = hole.filter(|_| self.params.loss != Loss::Middle) {
            return vec![Segment::target(text), Segment::target(target.suffix.as_str())];
        }
        let owns_newline = is_hole && self.params.middle_owns_newline;
        // Inside a program, the fence is not closed behind the middle: what follows is the suffix.
        if self.params.close_fence && !is_hole {
            vec![Segment::target(format!("{text}\n```")), Segment::special_target(Special::TurnEnd)]
        } else if owns_newline {
            vec![Segment::target(format!("{text}\n"))]
        } else {
            vec![Segment::target(text)]
        }
    }
}

/// A column of text, whatever its encoding.
fn text_column(port: &str, batch: &RecordBatch, name: &str) -> Result<StringArray, StageError> {
    let column =
        batch.column_by_name(name).ok_or_else(|| StageError::input(port, format!("column `{name}` is missing")))?;
    let text = arrow::compute::cast(column, &DataType::Utf8)?;
    Ok(text.as_string::<i32>().clone())
}

impl MapJob for PairJob {
    fn run(&mut self, units: &mut dyn UnitSource, out: &mut UnitSink<'_>) -> Result<(), StageError> {
        while let Some(batch) = units.next()? {
            // Samples and verdicts are many, and most of their text goes nowhere: they are read where they lie.
            let sample_ids = text_column(&batch.port, &batch.rows, "sample_id")?;
            let texts = text_column(&batch.port, &batch.rows, "text")?;
            let index = batch
                .rows
                .column_by_name("sample_index")
                .ok_or_else(|| StageError::input(&batch.port, "column `sample_index` is missing"))?;
            let index = arrow::compute::cast(index, &DataType::UInt32)?;
            let index = index.as_primitive::<UInt32Type>();
            let judged = batch.lookups.get("verdicts").ok_or_else(|| StageError::input("verdicts", "not connected"))?;
            let verdicts = text_column("verdicts", &judged.rows, "verdict")?;
            let flaky = judged
                .rows
                .column_by_name("flaky")
                .and_then(|column| column.as_boolean_opt())
                .ok_or_else(|| StageError::input("verdicts", "column `flaky` is missing"))?;
            let problems = batch.lookup::<Asked>("problems")?;
            let blocks = if batch.has("blocks") { Some(batch.lookup::<Target>("blocks")?) } else { None };
            for (unit, rows) in batch.units() {
                let first = rows.start;
                let target = blocks.as_ref().map(|blocks| blocks.one(first));
                let is_hole = target.is_some_and(Target::is_hole);
                let tried = |row: usize| {
                    let verdict = judged.index[row].start as usize;
                    let is_trusted = !(self.params.drop_flaky && flaky.value(verdict));
                    let text = texts.value(row).trim_end_matches('\n');
                    Tried {
                        sample_id: sample_ids.value(row),
                        sample_index: index.value(row),
                        text: if is_hole { text.trim_start_matches('\n') } else { text },
                        verdict: is_trusted.then(|| verdicts.value(verdict)),
                    }
                };
                let mut samples: Vec<Tried<'_>> = rows.map(tried).collect();
                let unit_id = &batch.unit_ids[unit.unit as usize];
                match self.pairs(unit_id, &mut samples, problems.one(first), target) {
                    Ok(examples) => out.emit(unit, &examples)?,
                    Err((reason, detail)) => out.drop(unit, reason, Some(detail))?,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "pair_tests.rs"]
mod tests;
