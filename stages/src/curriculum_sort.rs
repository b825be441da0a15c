//! `curriculum-sort`: gives examples their place in a curriculum.
//!
//! Columns in: `examples`. Out: the same with `bucket` and `position`; a table has no order of its own, so the order is these columns.
//! Inside a bucket the order is drawn. `train` reads buckets in ascending order and does the repeating.
//! Determinism: bits. Cost: a sort.
//! Source: `StructureCoder`, <https://arxiv.org/abs/2508.19532>, section 3.3; its code sorts by the lines of the reference block.

use crate::code::blocks::BlockKind;
use crate::columns::{Example, OrderedExample, Segment, columns_of};
use crate::job::{Job, OpenContext, WholeInputs, WholeJob, WholeOutputs};
use crate::random::Random;
use crate::stage::{Declaration, InputPort, InputSchemas, OutputPort, SchemaError, Stage, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct CurriculumSort;

/// Parameters of `curriculum-sort`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// What makes an example hard; each value of it is a bucket.
    pub by: By,
    /// Puts the ordered examples into this many buckets of equal size instead; null for a bucket a value.
    pub buckets: Option<u32>,
    /// Seed of the order inside a bucket.
    pub seed: u64,
}

/// What makes an example hard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// Lines of the reference block.
    #[default]
    Lines,
    /// Levels of statements in the block. Whole programs have no such number and come last, behind the deepest block.
    Depth,
    /// Characters of the preferred side.
    Chars,
    /// Nothing: one bucket, in an order that is drawn.
    Random,
}

impl Stage for CurriculumSort {
    type Params = Params;
    const NAME: &'static str = "curriculum-sort";
    const VERSION: u32 = 3;
    const ABOUT: &'static str = "Orders examples from easy to hard, by the columns `bucket` and `position`.";
    const EXAMPLE: &'static str = "\
problems: { use: load, with: { path: ../examples/problems/align.jsonl, limit: 12 } }
base: { use: model, with: { path: ../examples/models/tiny } }
blocks: { use: segment, from: problems, with: { full: false } }
middles: { use: fim-generate, from: { blocks: blocks, problems: problems, model: base }, with: { samples: 4, max_tokens: 64 } }
verdicts: { use: execute, from: { programs: middles, problems: problems }, with: { cpu_limit_s: 0.5, max_timeouts: 1 } }
pairs: { use: pair, from: { samples: middles, verdicts: verdicts, blocks: blocks, problems: problems } }
ordered: { use: curriculum-sort, from: pairs, with: { by: lines } }
";

    fn declare(params: &Params, _inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        if params.buckets == Some(0) {
            return Err(SchemaError::parameter("buckets", "expected at least 1, or null for a bucket a value, got 0"));
        }
        let examples = InputPort::table::<Example>("examples", "the examples to order");
        let ordered = OutputPort::table("ordered", columns_of::<OrderedExample>(), "the examples with their places");
        Ok(Declaration::whole(vec![examples], vec![ordered]))
    }

    fn open(params: &Params, _cx: &OpenContext) -> Result<Job, StageError> {
        Ok(Job::Whole(Box::new(SortJob { params: params.clone() })))
    }
}

struct SortJob {
    params: Params,
}

impl SortJob {
    /// `deepest`: the largest depth of a block among all examples.
    fn hardness(&self, example: &Example, deepest: u32) -> u32 {
        match self.params.by {
            By::Lines => example.num_lines,
            By::Depth if is_whole(example) => deepest + 1,
            By::Depth => example.depth,
            By::Chars => {
                let chars = |segment: &Segment| segment.text.as_ref().map_or(0, |text| text.chars().count());
                example.chosen.iter().map(chars).sum::<usize>() as u32
            }
            By::Random => 0,
        }
    }
}

/// Whether the sides of an example are whole programs.
fn is_whole(example: &Example) -> bool {
    example.block_kind.as_deref().is_none_or(|kind| kind == BlockKind::Full.as_str())
}

impl WholeJob for SortJob {
    fn run(&mut self, inputs: &mut WholeInputs<'_>, out: &mut WholeOutputs<'_>) -> Result<(), StageError> {
        let examples: Vec<Example> = inputs.read("examples")?;
        let deepest =
            examples.iter().filter(|example| !is_whole(example)).map(|example| example.depth).max().unwrap_or(0);
        let mut examples: Vec<(u32, u64, Example)> = examples
            .into_iter()
            .map(|example| {
                let draw = Random::new(self.params.seed, CurriculumSort::NAME, "order", &example.example_id).bits();
                (self.hardness(&example, deepest), draw, example)
            })
            .collect();
        examples.sort_by(|a, b| (a.0, a.1, &a.2.example_id).cmp(&(b.0, b.1, &b.2.example_id)));
        let total = examples.len() as u64;
        let ordered: Vec<OrderedExample> = examples
            .into_iter()
            .enumerate()
            .map(|(position, (hardness, _, example))| OrderedExample {
                bucket: self.params.buckets.map_or(hardness, |n| (position as u64 * u64::from(n) / total) as u32),
                position: position as u32,
                example_id: example.example_id,
                problem_id: example.problem_id,
                block_id: example.block_id,
                chosen_id: example.chosen_id,
                rejected_id: example.rejected_id,
                block_kind: example.block_kind,
                num_lines: example.num_lines,
                depth: example.depth,
                format: example.format,
                prompt: example.prompt,
                chosen: example.chosen,
                rejected: example.rejected,
            })
            .collect();
        out.push("ordered", &ordered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{run_whole, table};
    use serde_json::{Value, json};

    fn example(id: &str, num_lines: u32, depth: u32, chosen: &str) -> Example {
        Example {
            example_id: id.into(),
            problem_id: "p".into(),
            block_id: None,
            chosen_id: None,
            rejected_id: None,
            block_kind: Some("if".into()),
            num_lines,
            depth,
            format: "chat".into(),
            prompt: vec![Segment::text("q")],
            chosen: vec![Segment::target(chosen)],
            rejected: vec![Segment::target("r")],
        }
    }

    fn order(with: &Value, examples: &[Example]) -> Vec<(String, u32)> {
        let mut rows: Vec<OrderedExample> = run_whole(&CurriculumSort, with, &[("examples", table(examples))]).rows();
        rows.sort_by_key(|row| row.position);
        assert!(rows.iter().enumerate().all(|(i, row)| row.position == i as u32));
        rows.into_iter().map(|row| (row.example_id, row.bucket)).collect()
    }

    #[test]
    fn easy_examples_come_first() {
        let examples = [example("a", 9, 1, "xx"), example("b", 2, 3, "äöüß"), example("c", 5, 2, "x")];
        let named =
            |with| order(&with, &examples).into_iter().map(|(id, bucket)| format!("{id}{bucket}")).collect::<Vec<_>>();
        assert_eq!(named(json!({})), ["b2", "c5", "a9"]);
        assert_eq!(named(json!({ "by": "depth" })), ["a1", "c2", "b3"]);
        assert_eq!(named(json!({ "by": "chars" })), ["c1", "a2", "b4"]);
        assert_eq!(named(json!({ "by": "lines", "buckets": 2 })), ["b0", "c0", "a1"]);
    }

    #[test]
    fn whole_programs_are_deeper_than_every_block() {
        let mut examples = [example("full", 30, 0, "x"), example("none", 30, 0, "x"), example("b", 9, 4, "x")];
        examples[0].block_kind = Some("full".into());
        examples[1].block_kind = None;
        let found = order(&json!({ "by": "depth" }), &examples);
        assert_eq!(found[0], ("b".to_owned(), 4));
        assert!(found[1..].iter().all(|(_, bucket)| *bucket == 5), "{found:?}");
    }

    #[test]
    fn the_order_inside_a_bucket_depends_on_the_seed_and_not_on_the_order_of_rows() {
        let examples: Vec<_> = (0..20).map(|i| example(&format!("e{i}"), i % 3, 1, "x")).collect();
        let backward: Vec<_> = examples.iter().rev().cloned().collect();
        let with = json!({ "by": "random", "seed": 3 });
        assert_eq!(order(&with, &examples), order(&with, &backward));
        assert_ne!(order(&with, &examples), order(&json!({ "by": "random", "seed": 4 }), &examples));
        assert!(order(&with, &examples).iter().all(|(_, bucket)| *bucket == 0));
    }

    #[test]
    fn no_examples_give_no_rows() {
        assert!(order(&json!({ "buckets": 4 }), &[]).is_empty());
    }
}
