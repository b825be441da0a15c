//! What a sampler is asked for, and what becomes of what it writes: prompt in, completion out, program made.
//!
//! `fim-generate` and `generate` are declared in this crate and opened in the crate `lm`, which only encodes, samples and decodes.
//! Everything that gives a row its meaning is here.

use super::blocks::BlockKind;
use super::cut::{Cut, before_any, behind_fence, fence_is_closed, fenced_code, forced_start};
use super::prompts::{Asked, PromptStyle};
use crate::columns::{Sample, Segment};
use crate::random::{Random, stable_id};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One prompt, to be answered any number of times.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The problem.
    pub problem_id: String,
    /// The block to fill, if one is.
    pub block_id: Option<String>,
    /// What the model goes on from.
    pub prompt: Vec<Segment>,
    form: Form,
}

/// How a completion is read.
#[derive(Debug, Clone, PartialEq)]
enum Form {
    Fill { start: String, kind: BlockKind, cut: Cut, prefix: String, suffix: String },
    Chat { is_open: bool, begins_with_code: bool, starter: String, stop: Vec<String> },
}

/// A block to fill: the columns that `fim-generate` reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BlockToFill {
    /// The block.
    pub block_id: String,
    /// The problem whose solution it is cut from.
    pub problem_id: String,
    /// `if`, `for`, `while`, `def`, `full` or `random`.
    pub kind: String,
    /// The solution before the middle.
    pub prefix: String,
    /// The block itself; only its indentation enters a prompt.
    pub middle: String,
    /// The solution behind it.
    pub suffix: String,
}

/// A word in the column `kind` that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("block {block_id}: expected a kind among if, for, while, def, full, random, got `{kind}`")]
pub struct UnknownKind {
    /// The block.
    pub block_id: String,
    /// The word.
    pub kind: String,
}

impl Request {
    /// Asks for a block. A `full` block is asked for in a conversation, the others as a hole between prefix and suffix;
    /// with `force_start` the model has to begin with the block's indentation and keyword.
    ///
    /// # Errors
    /// Where the block's kind is none.
    pub fn fill(
        style: &PromptStyle,
        cut: Cut,
        force_start: bool,
        block: &BlockToFill,
        problem: &Asked,
    ) -> Result<Self, UnknownKind> {
        let kind = BlockKind::parse(&block.kind)
            .ok_or_else(|| UnknownKind { block_id: block.block_id.clone(), kind: block.kind.clone() })?;
        if kind == BlockKind::Full {
            return Ok(Self { block_id: Some(block.block_id.clone()), ..Self::chat(style, Vec::new(), problem) });
        }
        let query = style.query(&problem.question, problem.tests.style);
        let mut prompt = style.fim(&query, &block.prefix, &block.suffix);
        let start = if force_start { forced_start(&block.middle, kind) } else { String::new() };
        if !start.is_empty() {
            prompt.push(Segment::text(&start));
        }
        let form = Form::Fill { start, kind, cut, prefix: block.prefix.clone(), suffix: block.suffix.clone() };
        Ok(Self { problem_id: problem.problem_id.clone(), block_id: Some(block.block_id.clone()), prompt, form })
    }

    /// Asks for a whole program in a conversation. The program ends at the closing fence and at the first of `stop`. Where the prompt
    /// opens the answer with nothing, the answer may begin with prose, and `stop` ends nothing before a fence.
    pub fn chat(style: &PromptStyle, stop: Vec<String>, problem: &Asked) -> Self {
        let query = style.query(&problem.question, problem.tests.style);
        let opening = style.opening(problem.starter_code.as_deref());
        let prompt = style.chat(&query, &opening);
        let begins_with_code = !opening.is_empty();
        let is_open = style.prefill.contains("```");
        let starter = style.starter(problem.starter_code.as_deref()).to_owned();
        let form = Form::Chat { is_open, begins_with_code, starter, stop };
        Self { problem_id: problem.problem_id.clone(), block_id: None, prompt, form }
    }

    /// The id of the row that is asked about: the block's, else the problem's.
    pub fn parent_id(&self) -> &str {
        self.block_id.as_deref().unwrap_or(&self.problem_id)
    }

    /// The random stream of one sample; two samples of a request share nothing.
    pub fn random(&self, seed: u64, kind: &str, sample_index: u32) -> Random {
        Random::new(seed, kind, "sample", &sample_id(self.parent_id(), sample_index))
    }

    /// Whether a completion, as far as it is written, holds all that will be used of it. Cheap enough for every token.
    pub fn is_complete(&self, completion: &str) -> bool {
        match &self.form {
            Form::Fill { start, kind, cut, .. } => cut.is_complete(&format!("{start}{completion}"), *kind),
            Form::Chat { is_open, begins_with_code, stop, .. } => {
                let code = if *is_open { Some(completion) } else { behind_fence(completion) };
                let code = code.or(begins_with_code.then_some(completion));
                fence_is_closed(completion, *is_open)
                    || code.is_some_and(|code| before_any(code, stop).len() < code.len())
            }
        }
    }

    /// What is used of a completion: the statement that fills the hole, or the code of an answer.
    pub fn text(&self, completion: &str) -> String {
        match &self.form {
            Form::Fill { start, kind, cut, .. } => cut.statement(&format!("{start}{completion}"), *kind).to_owned(),
            Form::Chat { is_open, stop, .. } => {
                before_any(fenced_code(completion, *is_open), stop).trim_end().to_owned()
            }
        }
    }

    /// The program that a text makes.
    pub fn program(&self, text: &str) -> String {
        match &self.form {
            Form::Fill { prefix, suffix, .. } => format!("{prefix}{text}{suffix}"),
            Form::Chat { starter, .. } => format!("{starter}{text}"),
        }
    }

    /// The row for a completion. `ended`: the model ended by itself, or was stopped because [`Request::is_complete`].
    pub fn sample(&self, index: u32, completion: &str, ended: bool, num_tokens: u32, logprob: Option<f64>) -> Sample {
        let text = self.text(completion);
        Sample {
            sample_id: sample_id(self.parent_id(), index),
            problem_id: self.problem_id.clone(),
            block_id: self.block_id.clone(),
            sample_index: index,
            program: self.program(&text),
            text,
            finish: if ended || self.is_complete(completion) { "stop" } else { "length" }.into(),
            num_tokens,
            logprob,
        }
    }
}

/// The id of a sample: a digest of the id of the row it was asked for and of its index.
pub fn sample_id(parent_id: &str, sample_index: u32) -> String {
    stable_id(&["sample", parent_id, &sample_index.to_string()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::cut::CutBy;
    use crate::code::prompts::AskedTests;
    use crate::columns::TestStyle;

    const CUT: Cut = Cut { by: CutBy::Statement, loop_else: true };

    fn problem(starter_code: Option<&str>) -> Asked {
        Asked {
            problem_id: "p".into(),
            question: "Do.".into(),
            starter_code: starter_code.map(str::to_owned),
            tests: AskedTests { style: TestStyle::Call },
        }
    }

    fn block(kind: &str) -> BlockToFill {
        BlockToFill {
            block_id: "b".into(),
            problem_id: "p".into(),
            kind: kind.into(),
            prefix: "def f(x):\n".into(),
            middle: "    if x:\n        return 1".into(),
            suffix: "\n    return 2\n".into(),
        }
    }

    #[test]
    fn a_hole_is_filled_from_its_forced_start() {
        let request = Request::fill(&PromptStyle::default(), CUT, true, &block("if"), &problem(None)).unwrap();
        assert_eq!(request.prompt.last().unwrap().text.as_deref(), Some("    if"));
        let completion = " x > 1:\n        return 3\n    return 4";
        assert!(request.is_complete(completion) && !request.is_complete(" x > 1:\n        return 3"));
        let sample = request.sample(2, completion, false, 9, Some(-1.0));
        assert_eq!(sample.text, "    if x > 1:\n        return 3");
        assert_eq!(sample.program, "def f(x):\n    if x > 1:\n        return 3\n    return 2\n");
        assert_eq!((sample.finish.as_str(), sample.sample_id), ("stop", sample_id("b", 2)));
        assert_eq!(request.sample(0, " x:\n        y", false, 9, None).finish, "length");
    }

    #[test]
    fn a_free_start_is_cut_by_what_the_model_wrote() {
        let request = Request::fill(&PromptStyle::default(), CUT, false, &block("if"), &problem(None)).unwrap();
        assert_eq!(request.prompt.last().unwrap().text, None);
        assert_eq!(request.text("    if y:\n        z\n    a"), "    if y:\n        z");
    }

    #[test]
    fn whole_programs_are_asked_for_in_a_conversation() {
        let full = Request::fill(&PromptStyle::default(), CUT, true, &block("full"), &problem(None)).unwrap();
        assert_eq!((full.parent_id(), full.block_id.as_deref()), ("b", Some("b")));
        assert_eq!(full.program(&full.text("x = 1\n```\nwell")), "x = 1");
        let request = Request::chat(&PromptStyle::default(), vec!["\nassert".into()], &problem(Some("def f(x):\n")));
        assert_eq!(request.program(&request.text("\n    return x\nassert f(1)")), "def f(x):\n    return x");
        assert_eq!(request.parent_id(), "p");
    }

    #[test]
    fn a_stop_string_in_prose_ends_nothing() {
        let style = PromptStyle { prefill: String::new(), ..PromptStyle::default() };
        let request = Request::chat(&style, vec!["\nassert".into(), "\nif".into()], &problem(None));
        let prose = "I shall\nassert nothing.\n";
        assert!(!request.is_complete(prose));
        let code = format!("{prose}```python\ndef f(x):\n    return x\n");
        assert!(!request.is_complete(&code));
        let done = format!("{code}\nassert f(1)");
        assert!(request.is_complete(&done));
        assert_eq!(request.text(&done), "def f(x):\n    return x");
        // What goes on from starter code is code from its first character.
        let request = Request::chat(&style, vec!["\nassert".into()], &problem(Some("def f(x):\n")));
        assert!(request.is_complete("\n    return x\nassert f(1)"));
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        let error = Request::fill(&PromptStyle::default(), CUT, true, &block("try"), &problem(None)).unwrap_err();
        assert_eq!(error.to_string(), "block b: expected a kind among if, for, while, def, full, random, got `try`");
    }
}
