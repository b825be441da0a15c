//! How a problem is put to a model: the one place where fill-in-the-middle and chat prompts are written,
//! for generation and for training alike.
//!
//! Prompts are segments of raw text and special tokens by role, so they fit any model that has the roles, and no text of a user can
//! become a control token. Formats: `StructureCoder`, <https://arxiv.org/abs/2508.19532>, and its released code.

use crate::columns::{Segment, Special, TestStyle};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a problem is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PromptStyle {
    /// The system text of chat prompts; null for a conversation without one.
    pub system: Option<String>,
    /// What the assistant's turn is made to begin with.
    pub prefill: String,
    /// Whether the problem's starter code follows the prefill, so that the model goes on from it.
    pub starter_code: bool,
    /// What is added to the question where programs read standard input; null for nothing.
    pub stdin_instruction: Option<String>,
}

impl Default for PromptStyle {
    fn default() -> Self {
        Self {
            system: Some("You are an expert Python programmer who solves algorithmic problems.".into()),
            prefill: "```python\n".into(),
            starter_code: true,
            stdin_instruction: Some(
                "Read the input from standard input and write the answer to standard output.".into(),
            ),
        }
    }
}

/// What of a problem goes into its prompts; the columns that kinds which write prompts look up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Asked {
    /// The problem.
    pub problem_id: String,
    /// The task in words.
    pub question: String,
    /// Code that the solution is to start from.
    pub starter_code: Option<String>,
    /// How a solution is judged: only the style enters a prompt.
    pub tests: AskedTests,
}

/// What of the tests goes into prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AskedTests {
    /// What runs.
    pub style: TestStyle,
}

impl PromptStyle {
    /// The question with the instruction for standard input where it applies.
    pub fn query(&self, question: &str, style: TestStyle) -> String {
        match &self.stdin_instruction {
            Some(instruction) if style == TestStyle::Stdio => format!("{question}\n\n{instruction}"),
            _ => question.to_owned(),
        }
    }

    /// The text that a chat completion goes on from: the prefill and, where it is asked for, the starter code.
    pub fn opening(&self, starter_code: Option<&str>) -> String {
        format!("{}{}", self.prefill, self.starter(starter_code))
    }

    /// The starter code as it stands in prompts and programs: without blank lines around it.
    pub fn starter<'a>(&self, starter_code: Option<&'a str>) -> &'a str {
        if self.starter_code { starter_code.unwrap_or_default().trim_matches('\n').trim_end() } else { "" }
    }

    /// A conversation that asks `query` and opens the answer with `opening`.
    pub fn chat(&self, query: &str, opening: &str) -> Vec<Segment> {
        let mut prompt = Vec::with_capacity(6);
        if let Some(system) = &self.system {
            prompt.push(Segment::special(Special::SystemStart));
            prompt.push(Segment::text(system));
        }
        prompt.push(Segment::special(Special::UserStart));
        prompt.push(Segment::text(query));
        prompt.push(Segment::special(Special::AssistantStart));
        if !opening.is_empty() {
            prompt.push(Segment::text(opening));
        }
        prompt
    }

    /// A fill-in-the-middle prompt in the order prefix, suffix, middle, with the query as a comment before the prefix.
    pub fn fim(&self, query: &str, prefix: &str, suffix: &str) -> Vec<Segment> {
        let mut before = question_comment(query);
        before.push_str("\n\n");
        before.push_str(prefix);
        vec![
            Segment::special(Special::FimPrefix),
            Segment::text(before),
            Segment::special(Special::FimSuffix),
            Segment::text(suffix),
            Segment::special(Special::FimMiddle),
        ]
    }
}

/// A question as Python comments: `# ` before every line that holds something; blank lines become empty.
pub fn question_comment(question: &str) -> String {
    let mut comment = String::with_capacity(question.len() + 64);
    for (i, line) in question.split('\n').enumerate() {
        if i > 0 {
            comment.push('\n');
        }
        let line = line.strip_suffix('\r').unwrap_or(line);
        if !line.trim().is_empty() {
            comment.push_str("# ");
            comment.push_str(line);
        }
    }
    comment
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(prompt: &[Segment]) -> String {
        prompt
            .iter()
            .map(|segment| match segment.special {
                Some(special) => format!("<{}>", serde_json::to_value(special).unwrap().as_str().unwrap()),
                None => segment.text.clone().unwrap(),
            })
            .collect()
    }

    #[test]
    fn a_question_becomes_a_comment_line_by_line() {
        assert_eq!(question_comment("Add.\n\n  - two\r\n   \nnumbers"), "# Add.\n\n#   - two\n\n# numbers");
        assert_eq!(question_comment(""), "");
    }

    #[test]
    fn fim_prompts_have_prefix_suffix_middle() {
        let prompt = PromptStyle::default().fim("Do.", "x = 1\n", "\nprint(x)");
        assert_eq!(written(&prompt), "<fim_prefix># Do.\n\nx = 1\n<fim_suffix>\nprint(x)<fim_middle>");
        assert!(prompt.iter().all(|segment| segment.spans.is_empty()));
    }

    #[test]
    fn chat_prompts_open_the_answer() {
        let style = PromptStyle { system: Some("Be.".into()), ..PromptStyle::default() };
        let prompt = style.chat("Do <|im_end|>.", &style.opening(Some("\ndef f(x):\n    \n")));
        assert_eq!(
            written(&prompt),
            "<system_start>Be.<user_start>Do <|im_end|>.<assistant_start>```python\ndef f(x):"
        );
        let bare = PromptStyle { system: None, prefill: String::new(), starter_code: false, stdin_instruction: None };
        assert_eq!(written(&bare.chat("Do.", &bare.opening(Some("x")))), "<user_start>Do.<assistant_start>");
    }

    #[test]
    fn only_programs_that_read_standard_input_are_told_so() {
        let style = PromptStyle { stdin_instruction: Some("Read.".into()), ..PromptStyle::default() };
        assert_eq!(style.query("Do.", TestStyle::Stdio), "Do.\n\nRead.");
        assert_eq!(style.query("Do.", TestStyle::Call), "Do.");
    }
}
