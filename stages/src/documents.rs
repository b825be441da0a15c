//! `documents`: makes problems into documents to pre-train or fine-tune on, as chat (question -> solution) and fill-in-the-middle.
//!
//! A middle is a block of the syntax tree with probability `block_rate`, else a span of lines: a model that has seen random spans only
//! ends more than a third of the holes of a tree in a syntax error. Prompts are written as generation writes them ([`crate::code::prompts`]).
//! Columns in: those of [`Taught`]. Out: `examples` without a rejected side; where the context of a hole is learned too, its spans say so.
//! Determinism: bits; what is drawn depends on seed and problem. Cost: one parse a document.

use crate::code::blocks::{BlockKind, DefFilter, Span, Splitter, random_spans};
use crate::code::prompts::{AskedTests, PromptStyle};
use crate::columns::{self, Example, Segment, Special, columns_of};
use crate::job::{Job, MapJob, OpenContext, UnitSink, UnitSource};
use crate::random::{Random, stable_id};
use crate::stage::{Declaration, InputPort, InputSchemas, OutputPort, SchemaError, Stage, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Documents;

/// Parameters of `documents`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Share of documents that are written as fill-in-the-middle, from 0 to 1; the others are conversations.
    pub fim_rate: f64,
    /// Share of middles that are blocks of the syntax tree, from 0 to 1; the others are spans of lines.
    pub block_rate: f64,
    /// Which blocks may be middles.
    pub kinds: Vec<BlockKind>,
    /// The most lines of a middle that is a span of lines.
    pub max_lines: usize,
    /// Weight of the loss on the code around a hole; 0 to learn middles only.
    pub context_weight: f32,
    /// Documents of each problem; each draws its solution, its format and its middle.
    pub per_problem: u32,
    /// Seed of what is drawn.
    pub seed: u64,
    /// How problems are asked; to be the same as where samples will be made.
    pub prompt: PromptStyle,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            fim_rate: 0.5,
            block_rate: 0.7,
            kinds: vec![BlockKind::If, BlockKind::For, BlockKind::While, BlockKind::Def],
            max_lines: 8,
            context_weight: 1.0,
            per_problem: 1,
            seed: 17,
            prompt: PromptStyle::default(),
        }
    }
}

/// What of a problem goes into documents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Taught {
    /// The problem.
    pub problem_id: String,
    /// The task in words.
    pub question: String,
    /// Reference solutions.
    pub solutions: Vec<String>,
    /// Code that the solution is to start from.
    pub starter_code: Option<String>,
    /// How a solution is judged: only the style enters a prompt.
    pub tests: AskedTests,
}

impl Stage for Documents {
    type Params = Params;
    const NAME: &'static str = "documents";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "Makes problems into documents to pre-train or fine-tune on: question -> solution, and fill-in-the-middle whose middles are blocks of the syntax tree or spans of lines.";
    const EXAMPLE: &'static str = "\
problems: { use: synthesize, with: { split: base, count: 8, seed: 1 } }
documents: { use: documents, from: problems, with: { fim_rate: 0.5, block_rate: 0.7 } }
";

    fn declare(params: &Params, _inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        for (name, share) in [("fim_rate", params.fim_rate), ("block_rate", params.block_rate)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(SchemaError::parameter(name, format!("expected a number from 0 to 1, found {share}")));
            }
        }
        if !(params.context_weight >= 0.0 && params.context_weight.is_finite()) {
            let problem = format!("expected a number that is not negative, found {}", params.context_weight);
            return Err(SchemaError::parameter("context_weight", problem));
        }
        for (name, value) in [("max_lines", params.max_lines), ("per_problem", params.per_problem as usize)] {
            if value == 0 {
                return Err(SchemaError::parameter(name, "expected at least 1, found 0"));
            }
        }
        if params.kinds.iter().any(|kind| kind.keyword().is_none()) {
            return Err(SchemaError::parameter("kinds", "expected some of if, for, while, def"));
        }
        let problems = InputPort::rows::<Taught>("problems", "problems with reference solutions");
        let examples = OutputPort::table("examples", columns_of::<Example>(), "documents, in the column `chosen`");
        Ok(Declaration::map(vec![problems], examples))
    }

    fn open(params: &Params, _cx: &OpenContext) -> Result<Job, StageError> {
        let splitter = Splitter::new(params.kinds.iter().copied(), DefFilter::Dunder);
        Ok(Job::Map(Box::new(DocumentsJob { params: params.clone(), splitter })))
    }
}

struct DocumentsJob {
    params: Params,
    splitter: Splitter,
}

impl MapJob for DocumentsJob {
    fn run(&mut self, units: &mut dyn UnitSource, out: &mut UnitSink<'_>) -> Result<(), StageError> {
        while let Some(batch) = units.next()? {
            let problems: Vec<Taught> = batch.rows()?;
            for (unit, rows) in batch.units() {
                let problem = &problems[rows.start];
                let solutions: Vec<&str> =
                    problem.solutions.iter().map(|code| code.trim_end()).filter(|code| !code.is_empty()).collect();
                if solutions.is_empty() {
                    out.drop(unit, "no-solution", None)?;
                    continue;
                }
                let examples: Vec<Example> =
                    (0..self.params.per_problem).map(|number| self.document(problem, &solutions, number)).collect();
                out.emit(unit, &examples)?;
            }
        }
        Ok(())
    }
}

impl DocumentsJob {
    fn document(&mut self, problem: &Taught, solutions: &[&str], number: u32) -> Example {
        let row = format!("{}/{number}", problem.problem_id);
        let mut random = Random::new(self.params.seed, Documents::NAME, "document", &row);
        let solution = *random.choose(solutions);
        let middle = if random.uniform() < self.params.fim_rate { self.middle(solution, &mut random) } else { None };
        let style = &self.params.prompt;
        let query = style.query(&problem.question, problem.tests.style);
        let (prompt, chosen) = match &middle {
            Some(span) => {
                let chosen = vec![Segment::target(span.middle(solution)), Segment::special_target(Special::End)];
                (self.hole(&query, solution, span), chosen)
            }
            None => {
                // Starter code that the solution does not begin with would have to be written twice.
                let starter = style.starter(problem.starter_code.as_deref());
                let (opening, rest) = match solution.strip_prefix(starter) {
                    Some(rest) if !rest.is_empty() => (style.opening(problem.starter_code.as_deref()), rest),
                    _ => (style.prefill.clone(), solution),
                };
                let fence = if style.prefill.contains("```") { "\n```" } else { "\n" };
                let chosen = vec![Segment::target(format!("{rest}{fence}")), Segment::special_target(Special::TurnEnd)];
                (style.chat(&query, &opening), chosen)
            }
        };
        Example {
            example_id: stable_id(&[Documents::NAME, &problem.problem_id, &number.to_string()]),
            problem_id: problem.problem_id.clone(),
            block_id: None,
            chosen_id: None,
            rejected_id: None,
            block_kind: middle.as_ref().map(|span| span.kind.as_str().to_owned()),
            num_lines: middle.as_ref().map_or_else(|| solution.lines().count() as u32, |span| span.num_lines),
            depth: middle.as_ref().map_or(0, |span| span.depth),
            format: if middle.is_some() { "fim" } else { "chat" }.to_owned(),
            prompt,
            chosen,
            rejected: Vec::new(),
        }
    }

    /// A middle of a program: a block where one is wanted and there is one, else a span of lines, where there is one.
    fn middle(&mut self, solution: &str, random: &mut Random) -> Option<Span> {
        if random.uniform() < self.params.block_rate
            && let Ok(blocks) = self.splitter.split(solution)
            && !blocks.is_empty()
        {
            return Some(*random.choose(&blocks));
        }
        random_spans(solution, 1, self.params.max_lines, random).pop()
    }

    /// The prompt of a hole; the code around it, not the question, carries loss of its own weight.
    fn hole(&self, query: &str, solution: &str, span: &Span) -> Vec<Segment> {
        let (prefix, suffix) = (span.prefix(solution), span.suffix(solution));
        let mut prompt = self.params.prompt.fim(query, prefix, suffix);
        if self.params.context_weight > 0.0 {
            let mut texts = prompt.iter_mut().filter(|segment| segment.text.is_some());
            for code in [prefix, suffix] {
                if let Some(segment) = texts.next() {
                    let end = segment.text.as_ref().map_or(0, String::len);
                    if !code.is_empty() {
                        let start = (end - code.len()) as u32;
                        let weight = self.params.context_weight;
                        segment.spans.push(columns::Span { start, end: end as u32, weight });
                    }
                }
            }
        }
        prompt
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::TestStyle;
    use crate::testing::run_map;
    use serde_json::{Value, json};

    const SOLUTION: &str = "def solve(xs):\n    total = 0\n    for x in xs:\n        if x > 0:\n            total += x\n    return total\n";

    fn problem(id: &str, solutions: &[&str], starter_code: Option<&str>) -> Taught {
        Taught {
            problem_id: id.into(),
            question: "Add.\nAll.".into(),
            solutions: solutions.iter().map(|&solution| solution.to_owned()).collect(),
            starter_code: starter_code.map(str::to_owned),
            tests: AskedTests { style: TestStyle::Call },
        }
    }

    fn documents(with: &Value, problems: &[Taught]) -> Vec<Example> {
        run_map(&Documents, with, problems, &[]).rows()
    }

    fn text(segments: &[Segment]) -> String {
        segments.iter().filter_map(|segment| segment.text.as_deref()).collect()
    }

    #[test]
    fn a_hole_and_its_context_are_the_solution() {
        let examples = documents(&json!({ "fim_rate": 1, "per_problem": 60 }), &[problem("p", &[SOLUTION], None)]);
        let mut kinds = std::collections::BTreeSet::new();
        for example in &examples {
            assert_eq!(example.format, "fim");
            kinds.insert(example.block_kind.clone().unwrap());
            let context: Vec<&Segment> = example.prompt.iter().filter(|segment| segment.text.is_some()).collect();
            let code = |segment: &Segment| {
                let text = segment.text.as_deref().unwrap();
                segment.spans.iter().map(|span| &text[span.start as usize..span.end as usize]).collect::<String>()
            };
            let whole = format!("{}{}{}", code(context[0]), text(&example.chosen), code(context[1]));
            assert_eq!(whole, SOLUTION.trim_end());
            assert!(context[0].text.as_deref().unwrap().starts_with("# Add.\n# All.\n\n"));
            assert_eq!(example.chosen[1], Segment::special_target(Special::End));
        }
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["def", "for", "if", "random"]);
    }

    #[test]
    fn a_conversation_closes_its_fence_and_goes_on_from_starter_code() {
        let with = json!({ "fim_rate": 0 });
        let examples = documents(
            &with,
            &[
                problem("p", &[SOLUTION], None),
                problem("q", &[SOLUTION], Some("def solve(xs):\n")),
                problem("r", &[SOLUTION], Some("def other():\n")),
            ],
        );
        let shown: Vec<(String, String)> =
            examples.iter().map(|example| (text(&example.prompt), text(&example.chosen))).collect();
        let body = SOLUTION.trim_end().strip_prefix("def solve(xs):").unwrap();
        assert!(shown[0].0.ends_with("Add.\nAll.```python\n"), "{}", shown[0].0);
        assert_eq!(shown[0].1, format!("{}\n```", SOLUTION.trim_end()));
        assert!(shown[1].0.ends_with("```python\ndef solve(xs):"), "{}", shown[1].0);
        assert_eq!(shown[1].1, format!("{body}\n```"));
        assert!(shown[2].0.ends_with("```python\n"), "{}", shown[2].0);
        assert_eq!(examples[0].chosen[1], Segment::special_target(Special::TurnEnd));
        assert!(examples.iter().all(|example| example.rejected.is_empty() && example.num_lines == 6));
    }

    #[test]
    fn rates_are_kept_and_a_problem_without_solution_is_dropped() {
        let problems: Vec<Taught> = (0..400).map(|number| problem(&number.to_string(), &[SOLUTION], None)).collect();
        let examples = documents(&json!({ "fim_rate": 0.5, "block_rate": 0.7, "context_weight": 0 }), &problems);
        let fim: Vec<&Example> = examples.iter().filter(|example| example.format == "fim").collect();
        assert!((160..240).contains(&fim.len()), "{}", fim.len());
        let random = fim.iter().filter(|example| example.block_kind.as_deref() == Some("random")).count();
        assert!((0.2..0.4).contains(&(random as f64 / fim.len() as f64)), "{random} of {}", fim.len());
        assert!(fim.iter().all(|example| example.prompt.iter().all(|segment| segment.spans.is_empty())));
        let ran = run_map(&Documents, &json!({}), &[problem("p", &["\n"], None)], &[]);
        assert_eq!(ran.reasons(), ["no-solution"]);
    }
}
