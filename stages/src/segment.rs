//! `segment`: splits reference solutions into the blocks that a model is to write again.
//!
//! Columns in: `problem_id`, `solutions`. Out: `blocks`. One problem is one unit, so its equal solutions are split once.
//! Strategy `ast` takes the statements of [`crate::code::blocks`]; `random` takes lines drawn at random, the control of the paper.
//! Determinism: bits. Cost: about a parse of the source by tree-sitter.
//! Source: `StructureCoder`, <https://arxiv.org/abs/2508.19532>, section 3.1 and its released code.

use crate::code::blocks::{BlockKind, DefFilter, Span, SplitError, Splitter, random_spans};
use crate::code::comments::CommentStripper;
use crate::columns::{Block, columns_of};
use crate::job::{Job, MapJob, OpenContext, UnitSink, UnitSource};
use crate::random::{Random, stable_id};
use crate::stage::{Declaration, InputPort, InputSchemas, OutputPort, SchemaError, Stage, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Segment;

/// Parameters of `segment`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// How solutions are cut.
    pub strategy: Strategy,
    /// The statements that become blocks, for strategy `ast`: among `if`, `for`, `while`, `def`.
    pub kinds: Vec<BlockKind>,
    /// Which functions are left out because of their names.
    pub def_filter: DefFilter,
    /// Whether each problem also gives one block of kind `full`: its first solution that can be split, as a whole.
    pub full: bool,
    /// Whether a solution that differs from an earlier one of its problem in blank lines and white space at line ends alone is left out.
    /// Blocks that are equal to the byte are always one.
    pub dedupe: bool,
    /// Whether comments are removed before the cut (docstrings stay). The blocks then make up the solution without them.
    pub strip_comments: bool,
    /// Most lines of a block; null for no limit. Does not concern `full`.
    pub max_lines: Option<u32>,
    /// Most levels of targets inside one another in a block; null for no limit. Does not concern `full`.
    pub max_depth: Option<u32>,
    /// Most solutions of a problem that are split; null for all.
    pub max_solutions: Option<u32>,
    /// Spans a solution, for strategy `random`.
    pub random_spans: u32,
    /// Most lines of a span, for strategy `random`.
    pub random_lines: u32,
    /// Seed of the spans, for strategy `random`.
    pub seed: u64,
}

/// How solutions are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// By statements.
    #[default]
    Ast,
    /// By lines drawn at random.
    Random,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            strategy: Strategy::Ast,
            kinds: vec![BlockKind::If, BlockKind::For, BlockKind::While, BlockKind::Def],
            def_filter: DefFilter::Dunder,
            full: true,
            dedupe: true,
            strip_comments: false,
            max_lines: None,
            max_depth: None,
            max_solutions: None,
            random_spans: 5,
            random_lines: 8,
            seed: 17,
        }
    }
}

/// The columns read.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Solved {
    /// The problem.
    pub problem_id: String,
    /// Its reference solutions.
    pub solutions: Vec<String>,
}

impl Stage for Segment {
    type Params = Params;
    const NAME: &'static str = "segment";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "Splits reference solutions into blocks of code (if, for, while, def) that a model is to write again.";
    const EXAMPLE: &'static str = "\
problems: { use: load, with: { path: ../examples/problems/align.jsonl } }
blocks: { use: segment, from: problems, with: { kinds: [if, for, while], full: false } }
";

    fn declare(params: &Params, _inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        if let Some(kind) = params.kinds.iter().find(|kind| kind.keyword().is_none()) {
            let problem = format!(
                "expected kinds among if, for, while, def, got `{}`; `full` and `strategy` are parameters of their own",
                kind.as_str()
            );
            return Err(SchemaError::parameter("kinds", problem));
        }
        if params.strategy == Strategy::Ast && params.kinds.is_empty() && !params.full {
            return Err(SchemaError::parameter("kinds", "expected at least one of if, for, while, def, got none"));
        }
        if params.strategy == Strategy::Random && (params.random_spans == 0 || params.random_lines == 0) {
            let name = if params.random_spans == 0 { "random_spans" } else { "random_lines" };
            return Err(SchemaError::parameter(name, "expected at least 1, got 0"));
        }
        let problems = InputPort::rows::<Solved>("problems", "problems with the solutions to split");
        let blocks = OutputPort::table("blocks", columns_of::<Block>(), "blocks, each with what stands around it");
        Ok(Declaration::map(vec![problems], blocks))
    }

    fn open(params: &Params, _cx: &OpenContext) -> Result<Job, StageError> {
        Ok(Job::Map(Box::new(SegmentJob::new(params.clone()))))
    }
}

/// Splits problem after problem with one parser.
#[derive(Debug)]
pub struct SegmentJob {
    params: Params,
    splitter: Splitter,
    stripper: CommentStripper,
}

impl SegmentJob {
    /// A job with these parameters.
    pub fn new(params: Params) -> Self {
        let splitter = Splitter::new(params.kinds.iter().copied(), params.def_filter);
        Self { params, splitter, stripper: CommentStripper::new() }
    }

    /// The blocks of a problem, and the first solution that could not be split.
    pub fn split(&mut self, problem: &Solved) -> (Vec<Block>, Option<SplitError>) {
        let Params { strategy, full, dedupe, strip_comments, max_lines, max_depth, .. } = self.params;
        let most = self.params.max_solutions.map_or(usize::MAX, |most| most as usize);
        let mut seen_sources = BTreeSet::new();
        let mut seen_blocks = BTreeSet::new();
        let mut has_full = !full;
        let mut refused = None;
        let mut blocks = Vec::new();
        for solution in problem.solutions.iter().take(most) {
            let stripped = strip_comments.then(|| self.stripper.strip(solution));
            let source = stripped.as_deref().unwrap_or(solution);
            // Equal solutions have equal blocks, so comparing whole solutions is comparing (prefix, middle, suffix).
            if dedupe && problem.solutions.len() > 1 && !seen_sources.insert(normalised(source)) {
                continue;
            }
            let mut spans = match self.splitter.split(source) {
                Ok(spans) => spans,
                Err(error) => {
                    refused.get_or_insert(error);
                    continue;
                }
            };
            if strategy == Strategy::Random {
                let row = stable_id(&[&problem.problem_id, source]);
                let mut random = Random::new(self.params.seed, Segment::NAME, "spans", &row);
                spans = random_spans(
                    source,
                    self.params.random_spans as usize,
                    self.params.random_lines as usize,
                    &mut random,
                );
            }
            spans.retain(|span| {
                max_lines.is_none_or(|most| span.num_lines <= most) && max_depth.is_none_or(|most| span.depth <= most)
            });
            if !has_full && !source.trim().is_empty() {
                has_full = true;
                spans.push(Span::full(source));
            }
            for span in spans {
                let block = block(&problem.problem_id, source, span);
                if seen_blocks.insert(block.block_id.clone()) {
                    blocks.push(block);
                }
            }
        }
        (blocks, refused)
    }
}

fn block(problem_id: &str, source: &str, span: Span) -> Block {
    let (prefix, middle, suffix) = (span.prefix(source), span.middle(source), span.suffix(source));
    Block {
        block_id: stable_id(&[problem_id, prefix, middle, suffix, span.kind.as_str()]),
        problem_id: problem_id.to_owned(),
        kind: span.kind.as_str().to_owned(),
        depth: span.depth,
        start_byte: span.start_byte as u64,
        end_byte: span.end_byte as u64,
        num_lines: span.num_lines,
        prefix: prefix.to_owned(),
        middle: middle.to_owned(),
        suffix: suffix.to_owned(),
    }
}

/// A program without blank lines and white space at line ends.
fn normalised(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    for line in source.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        text.push_str(line);
        text.push('\n');
    }
    text
}

impl MapJob for SegmentJob {
    fn run(&mut self, units: &mut dyn UnitSource, out: &mut UnitSink<'_>) -> Result<(), StageError> {
        while let Some(batch) = units.next()? {
            let problems: Vec<Solved> = batch.rows()?;
            for (unit, rows) in batch.units() {
                let problem = &problems[rows.start];
                let (blocks, refused) = self.split(problem);
                if !blocks.is_empty() {
                    out.emit(unit, &blocks)?;
                } else if problem.solutions.is_empty() {
                    out.drop(unit, "no-solution", None)?;
                } else if let Some(error) = refused {
                    out.drop(unit, "not-python", Some(error.to_string()))?;
                } else {
                    out.drop(unit, "no-target", None)?;
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

    fn problem(id: &str, solutions: &[&str]) -> Solved {
        Solved { problem_id: id.into(), solutions: solutions.iter().map(|&text| text.to_owned()).collect() }
    }

    const SOURCE: &str = "def f(x):\n    for i in x:  # all\n        if i:\n            return i\n";

    #[test]
    fn a_problem_gives_its_blocks_and_itself_as_a_whole() {
        let ran = run_map(&Segment, &json!({}), &[problem("p", &[SOURCE])], &[]);
        let blocks: Vec<Block> = ran.rows();
        let found: Vec<_> = blocks.iter().map(|b| (b.kind.as_str(), b.depth, b.num_lines)).collect();
        assert_eq!(found, [("def", 3, 4), ("for", 2, 3), ("if", 1, 2), ("full", 0, 4)]);
        assert!(blocks.iter().all(|b| format!("{}{}{}", b.prefix, b.middle, b.suffix) == SOURCE));
        let ids: BTreeSet<_> = blocks.iter().map(|b| &b.block_id).collect();
        assert_eq!(ids.len(), 4);
    }

    #[test]
    fn solutions_that_differ_in_white_space_at_line_ends_are_split_once() {
        let spaced = SOURCE.replace('\n', "  \n\n");
        let count =
            |with| run_map(&Segment, &with, &[problem("p", &[SOURCE, &spaced, SOURCE])], &[]).rows::<Block>().len();
        assert_eq!(count(json!({ "full": false })), 3);
        assert_eq!(count(json!({ "full": false, "dedupe": false })), 6);
    }

    #[test]
    fn limits_and_comments_are_parameters() {
        let with = json!({ "full": false, "max_lines": 3, "max_depth": 2, "strip_comments": true });
        let blocks: Vec<Block> = run_map(&Segment, &with, &[problem("p", &[SOURCE])], &[]).rows();
        assert_eq!(blocks.iter().map(|b| b.kind.as_str()).collect::<Vec<_>>(), ["for", "if"]);
        assert!(blocks[0].middle.starts_with("    for i in x:\n"));
    }

    #[test]
    fn random_spans_depend_on_the_seed_and_the_problem() {
        let source = "a\n".repeat(40);
        let draw = |seed, id| {
            let with = json!({ "strategy": "random", "full": false, "seed": seed });
            let blocks: Vec<Block> = run_map(&Segment, &with, &[problem(id, &[&source])], &[]).rows();
            blocks.iter().map(|b| (b.start_byte, b.end_byte)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1, "p").len(), 5);
        assert_eq!(draw(1, "p"), draw(1, "p"));
        assert_ne!(draw(1, "p"), draw(2, "p"));
        assert_ne!(draw(1, "p"), draw(1, "q"));
    }

    #[test]
    fn what_gives_no_block_says_why() {
        let problems = [problem("a", &[]), problem("b", &["if (:\n"]), problem("c", &["x = 1\n"])];
        let ran = run_map(&Segment, &json!({ "full": false }), &problems, &[]);
        assert_eq!(ran.reasons(), ["no-solution", "not-python", "no-target"]);
        assert!(ran.rows::<Block>().is_empty());
    }
}
