//! Removes comments from Python programs; docstrings stay.
//!
//! Comments are those that the grammar finds, so a `#` inside a string is none. A line that holds nothing but a comment goes altogether.

use super::blocks::python_parser;
use tree_sitter::Parser;

/// Removes comments. Holds a parser, so keep one for many programs.
pub struct CommentStripper {
    parser: Parser,
    comment: u16,
}

impl std::fmt::Debug for CommentStripper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CommentStripper")
    }
}

impl Default for CommentStripper {
    fn default() -> Self {
        Self::new()
    }
}

impl CommentStripper {
    /// A stripper.
    pub fn new() -> Self {
        let language: tree_sitter::Language = tree_sitter_python::LANGUAGE.into();
        Self { parser: python_parser(), comment: language.id_for_node_kind("comment", true) }
    }

    /// The program without its comments.
    ///
    /// # Panics
    /// Never: the parser has a language and no time limit.
    pub fn strip(&mut self, source: &str) -> String {
        if !source.contains('#') {
            return source.to_owned();
        }
        let tree = self.parser.parse(source, None).expect("a parser with a language and no time limit returns a tree");
        let mut kept = String::with_capacity(source.len());
        let mut from = 0;
        let mut cursor = tree.walk();
        let mut goes_down = true;
        loop {
            let node = cursor.node();
            if goes_down && node.kind_id() == self.comment {
                let line_start = source[..node.start_byte()].rfind('\n').map_or(0, |at| at + 1);
                let before = source[line_start..node.start_byte()].trim_end();
                if before.is_empty() {
                    // The whole line, with its line break.
                    kept.push_str(&source[from..line_start.max(from)]);
                    from = source[node.end_byte()..].find('\n').map_or(source.len(), |at| node.end_byte() + at + 1);
                } else {
                    kept.push_str(&source[from..line_start + before.len()]);
                    from = node.start_byte() + source[node.byte_range()].trim_end_matches('\r').len();
                }
            }
            if (goes_down && cursor.goto_first_child()) || cursor.goto_next_sibling() {
                goes_down = true;
            } else if cursor.goto_parent() {
                goes_down = false;
            } else {
                break;
            }
        }
        kept.push_str(&source[from..]);
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strip(source: &str) -> String {
        CommentStripper::new().strip(source)
    }

    #[test]
    fn comments_go_and_strings_and_docstrings_stay() {
        let source = "#!/usr/bin/env python\nx = '# no'  # yes\ndef f():\n    \"\"\"# doc\n    # doc\n    \"\"\"\n    # gone\n    y = [  # a\n        # b\n        1,\n    ]\n# end";
        let expected = "x = '# no'\ndef f():\n    \"\"\"# doc\n    # doc\n    \"\"\"\n    y = [\n        1,\n    ]\n";
        assert_eq!(strip(source), expected);
    }

    #[test]
    fn line_endings_stay_as_they_are() {
        assert_eq!(strip("a = 1 # b\r\n  # c\r\nd\r\n"), "a = 1\r\nd\r\n");
        assert_eq!(strip("a"), "a");
    }

    #[test]
    fn what_stays_still_has_no_comment() {
        let once = strip("if a: # b\n    # c\n    d # e # f\nelse: # g\n    h\n");
        assert_eq!(once, "if a:\n    d\nelse:\n    h\n");
        assert_eq!(strip(&once), once);
    }
}
