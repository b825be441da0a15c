//! Where a model's output ends: the statement that fills a hole, or the code inside a fence.
//!
//! Source: the post-processing of `StructureCoder`'s released code, <https://arxiv.org/abs/2508.19532>, with two differences that are
//! parameters: a loop may have its `else`, and lines inside strings and brackets belong to their statement whatever their indentation.

use super::blocks::BlockKind;
use super::lexer::Lexer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the end of a generated statement is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CutBy {
    /// By logical lines: a line inside a string or a bracket belongs to the statement it is in.
    #[default]
    Statement,
    /// By the indentation of every line (the released code of the paper).
    Indentation,
}

/// How generated blocks are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// How the end is found.
    pub by: CutBy,
    /// Whether a `for` or `while` may have an `else`.
    pub loop_else: bool,
}

impl Cut {
    /// The part of `text` that is the one statement of this kind that it begins with, without line breaks around it.
    /// For `full` and `random` there is nothing to cut by: the text without white space behind it.
    pub fn statement<'a>(&self, text: &'a str, kind: BlockKind) -> &'a str {
        let text = text.trim_start_matches(['\n', '\r']);
        text[..self.end(text, kind).0].trim_end()
    }

    /// Whether what a model wrote so far holds the whole statement, so that it need not write on.
    pub fn is_complete(&self, text: &str, kind: BlockKind) -> bool {
        self.end(text.trim_start_matches(['\n', '\r']), kind).1
    }

    /// Where the statement ends, in bytes, and whether a line behind it has been seen.
    fn end(self, text: &str, kind: BlockKind) -> (usize, bool) {
        if kind.keyword().is_none() {
            return (text.len(), false);
        }
        let mut lexer = Lexer::default();
        let mut base = 0;
        let mut end = 0;
        let mut start = 0;
        let mut had_else = false;
        for line in text.split_inclusive('\n') {
            let content = line.trim();
            let is_continued = self.by == CutBy::Statement && lexer.is_inside();
            let indent = indentation(line);
            let line_end = start + line.len();
            if start == 0 {
                base = indent;
                end = line_end;
            } else if is_continued || (!content.is_empty() && indent > base) {
                end = line_end;
            } else if content.is_empty() || (self.by == CutBy::Statement && content.starts_with('#')) {
                // Belongs to the statement only if something of it follows.
                start = line_end;
                continue;
            } else {
                let word = content.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                let may_have_else = kind == BlockKind::If || (self.loop_else && kind != BlockKind::Def);
                let is_clause = indent == base
                    && !had_else
                    && ((word == "else" && may_have_else) || (word == "elif" && kind == BlockKind::If));
                if !is_clause {
                    let could_become_one = !line.ends_with('\n')
                        && may_have_else
                        && indent == base
                        && !had_else
                        && ["else", "elif"].iter().any(|clause| clause.starts_with(content));
                    return (end, !could_become_one);
                }
                had_else = word == "else" && self.by == CutBy::Statement;
                end = line_end;
            }
            lexer.line(line);
            start = line_end;
        }
        (end, false)
    }
}

/// The width of a line's indentation, by Python's rule for tabs.
fn indentation(line: &str) -> usize {
    let mut width = 0;
    for byte in line.bytes() {
        match byte {
            b' ' => width += 1,
            b'\t' => width = width / 8 * 8 + 8,
            _ => break,
        }
    }
    width
}

/// What a model is made to begin a block with: the indentation of the reference and the keyword of its kind; nothing for other spans.
pub fn forced_start(middle: &str, kind: BlockKind) -> String {
    let Some(keyword) = kind.keyword() else { return String::new() };
    let indentation = &middle[..middle.len() - middle.trim_start_matches([' ', '\t']).len()];
    format!("{indentation}{keyword}")
}

/// The code in a chat answer.
///
/// `is_open`: the prompt opened the fence already, so the code ends at the first line that closes it. Else the code is what the first
/// fence holds (to the end, where it is never closed), or the whole answer where there is no fence.
pub fn fenced_code(answer: &str, is_open: bool) -> &str {
    let mut start = if is_open { Some(0) } else { None };
    let mut at = 0;
    for line in answer.split_inclusive('\n') {
        if line.trim_start_matches(' ').starts_with("```") {
            match start {
                None => start = Some(at + line.len()),
                Some(start) => return answer[start..at].trim_end(),
            }
        }
        at += line.len();
    }
    answer[start.unwrap_or(0)..].trim_end()
}

/// What follows the line of the first fence, as far as it is written.
pub fn behind_fence(answer: &str) -> Option<&str> {
    let mut at = 0;
    for line in answer.split_inclusive('\n') {
        at += line.len();
        if line.trim_start_matches(' ').starts_with("```") {
            return Some(&answer[at..]);
        }
    }
    None
}

/// Whether a chat answer's code is whole, so that the model need not write on.
pub fn fence_is_closed(answer: &str, is_open: bool) -> bool {
    let fences = answer.split_inclusive('\n').filter(|line| line.trim_start_matches(' ').starts_with("```")).count();
    fences >= if is_open { 1 } else { 2 }
}

/// Cuts at the first of these strings.
pub fn before_any<'a>(text: &'a str, stops: &[String]) -> &'a str {
    let end = stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop.as_str())).min();
    &text[..end.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CUT: Cut = Cut { by: CutBy::Statement, loop_else: true };
    const CODE: Cut = Cut { by: CutBy::Indentation, loop_else: false };

    #[test]
    fn a_statement_ends_at_the_first_line_that_is_not_deeper() {
        let text = "    for i in x:\n        a\n\n        b\n    c\n        d";
        assert_eq!(CUT.statement(text, BlockKind::For), "    for i in x:\n        a\n\n        b");
        assert_eq!(CUT.statement("if a: b\nc", BlockKind::If), "if a: b");
        assert_eq!(CUT.statement("while a:\n\tb\n  c", BlockKind::While), "while a:\n\tb\n  c");
        assert_eq!(CUT.statement("\n\ndef f():\n  a\n\n\n", BlockKind::Def), "def f():\n  a");
    }

    #[test]
    fn clauses_stay_with_statements_that_can_have_them() {
        let text = "if a:\n  b\nelif c:\n  d\nelse:\n  e\nelse_ = 1";
        assert_eq!(CUT.statement(text, BlockKind::If), &text[..text.len() - 10]);
        let text = "for a in b:\n  c\nelse:\n  d";
        assert_eq!(CUT.statement(text, BlockKind::For), text);
        assert_eq!(CODE.statement(text, BlockKind::For), "for a in b:\n  c");
        assert_eq!(CUT.statement(text, BlockKind::Def), "for a in b:\n  c");
        assert_eq!(CUT.statement("if a:\n  b\nelse:\n  c\nelse:\n  d", BlockKind::If), "if a:\n  b\nelse:\n  c");
        assert_eq!(CUT.statement("while a:\n  b\nelif c:\n  d", BlockKind::While), "while a:\n  b");
    }

    #[test]
    fn strings_and_brackets_keep_their_lines() {
        let text = "if a:\n    s = '''\nx'''\n    t = (1 +\n2)\n    u = 1 \\\n+ 2\n# not code\n    v\nw";
        assert_eq!(CUT.statement(text, BlockKind::If), &text[..text.len() - 2]);
        assert_eq!(CODE.statement(text, BlockKind::If), "if a:\n    s = '''");
        assert_eq!(CUT.statement("if a:\n    '(' # [\n# end\nb", BlockKind::If), "if a:\n    '(' # [");
    }

    #[test]
    fn a_model_may_stop_once_a_line_behind_the_statement_is_seen() {
        let text = "if a:\n    b\nelse:\n    c\nd";
        for end in 0..text.len() {
            assert!(!CUT.is_complete(&text[..end], BlockKind::If), "after {:?}", &text[..end]);
        }
        assert!(CUT.is_complete(text, BlockKind::If));
        assert!(CUT.is_complete("def f():\n    b\ne", BlockKind::Def));
        assert!(!CUT.is_complete("anything\nat all", BlockKind::Full));
    }

    #[test]
    fn the_start_is_the_indentation_and_the_keyword() {
        assert_eq!(forced_start("\t  while x:\n  y", BlockKind::While), "\t  while");
        assert_eq!(forced_start("  x", BlockKind::Random), "");
    }

    #[test]
    fn code_is_taken_out_of_fences() {
        assert_eq!(fenced_code("x = 1\n```\nThat is it.\n```python\ny\n```", true), "x = 1");
        assert_eq!(fenced_code("Here:\n```python\nx = 1\ny\n```\nDone.", false), "x = 1\ny");
        assert_eq!(fenced_code("Here:\n```py\nx = '```'\n", false), "x = '```'");
        assert_eq!(fenced_code("x = 1\n", false), "x = 1");
        assert!(fence_is_closed("x\n```", true) && !fence_is_closed("x", true) && !fence_is_closed("```\nx", false));
        assert_eq!(before_any("a\nif b\nassert c", &["\nassert".into(), "\nif".into()]), "a");
    }

    proptest! {
        #[test]
        fn a_cut_is_a_stable_part_of_the_text(text in "(if a:\n)?([ \t]{0,3}[a-z\"'(){}\\\\#é]{0,4}\n){0,8}") {
            for cut in [CUT, CODE] {
                let once = cut.statement(&text, BlockKind::If);
                prop_assert!(text.contains(once));
                prop_assert_eq!(cut.statement(once, BlockKind::If), once);
            }
        }

        #[test]
        fn what_is_complete_is_cut_the_same_whatever_follows(text in "if a:\n([ ]{0,3}[a-z\"(#]{0,4}\n){0,8}", more in "[a-z \n]{0,9}") {
            if CUT.is_complete(&text, BlockKind::If) {
                let longer = format!("{text}{more}");
                prop_assert_eq!(CUT.statement(&longer, BlockKind::If), CUT.statement(&text, BlockKind::If));
            }
        }
    }
}
