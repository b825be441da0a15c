//! Splits Python programs into the blocks that a model is to write again.
//!
//! A target is an `if`, `for`, `while` or `def` statement at any depth. Its span is whole lines: the newline before belongs to the
//! prefix, the newline behind to the suffix, the indentation of its first line to the middle, so prefix + middle + suffix is the source.
//! The span of an `if` covers its `elif` and `else`, that of a loop its `else`; neither is a target of its own. `with`, `try`, `class`,
//! `match` and everything `async` are looked into, but are no targets. Decorators stay in the prefix.
//! Source: `StructureCoder`, Ren et al. 2025, <https://arxiv.org/abs/2508.19532>, section 3.1 and its released code.

use super::lexer::Lexer;
use crate::random::Random;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use tree_sitter::{Language, Node, Parser, Tree, TreeCursor};

/// What a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BlockKind {
    /// An `if` statement with its `elif` and `else`.
    If,
    /// A `for` loop.
    For,
    /// A `while` loop.
    While,
    /// A function or method.
    Def,
    /// The whole program.
    Full,
    /// Lines drawn at random.
    Random,
}

impl BlockKind {
    /// The word in the column `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::If => "if",
            Self::For => "for",
            Self::While => "while",
            Self::Def => "def",
            Self::Full => "full",
            Self::Random => "random",
        }
    }

    /// The kind of this word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::If, Self::For, Self::While, Self::Def, Self::Full, Self::Random]
            .into_iter()
            .find(|kind| kind.as_str() == word)
    }

    /// The keyword that every block of the kind begins with, if it has one.
    pub fn keyword(self) -> Option<&'static str> {
        match self {
            Self::If | Self::For | Self::While | Self::Def => Some(self.as_str()),
            Self::Full | Self::Random => None,
        }
    }
}

/// Which functions are no targets because of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DefFilter {
    /// Those named `__like_this__`: a constructor says little about an algorithm.
    #[default]
    Dunder,
    /// Those with an underscore anywhere before the parameters, so every `snake_case` function too (the released code of the paper).
    Underscore,
    /// None.
    None,
}

/// A span of whole lines of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Where it starts, in bytes: the start of a line.
    pub start_byte: usize,
    /// Where it ends, in bytes: the end of a line, before its line break.
    pub end_byte: usize,
    /// What it holds.
    pub kind: BlockKind,
    /// 1 + the largest depth of target statements inside it; 0 for `full` and `random`.
    pub depth: u32,
    /// Its lines.
    pub num_lines: u32,
}

impl Span {
    /// The program before the span; ends with a line break unless it is empty.
    pub fn prefix<'a>(&self, source: &'a str) -> &'a str {
        &source[..self.start_byte]
    }

    /// The span itself.
    pub fn middle<'a>(&self, source: &'a str) -> &'a str {
        &source[self.start_byte..self.end_byte]
    }

    /// The program behind the span; begins with a line break unless it is empty.
    pub fn suffix<'a>(&self, source: &'a str) -> &'a str {
        &source[self.end_byte..]
    }

    /// The whole program as one span.
    pub fn full(source: &str) -> Self {
        let num_lines = source.lines().count() as u32;
        Self { start_byte: 0, end_byte: source.len(), kind: BlockKind::Full, depth: 0, num_lines }
    }
}

/// Why a program has no blocks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// It is not Python that the grammar knows.
    #[error("line {line}: expected Python, found something else")]
    NotPython {
        /// The line where the grammar stumbled first, from 1.
        line: usize,
    },
    /// Python takes a lone carriage return for a line break and no editor does.
    #[error("byte {byte}: a carriage return without a line feed; convert the line endings")]
    LoneCarriageReturn {
        /// Where it stands.
        byte: usize,
    },
}

/// Finds blocks. Holds a parser, so keep one for many programs.
pub struct Splitter {
    parser: Parser,
    grammar: Grammar,
    def_filter: DefFilter,
    kinds: BTreeSet<BlockKind>,
}

impl std::fmt::Debug for Splitter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Splitter")
            .field("kinds", &self.kinds)
            .field("def_filter", &self.def_filter)
            .finish_non_exhaustive()
    }
}

/// A parser for Python.
///
/// # Panics
/// Never: the grammar and the library that reads it are built together.
pub fn python_parser() -> Parser {
    let mut parser = Parser::new();
    parser.set_language(&tree_sitter_python::LANGUAGE.into()).expect("the grammar is built against this library");
    parser
}

impl Splitter {
    /// A splitter for these kinds.
    pub fn new(kinds: impl IntoIterator<Item = BlockKind>, def_filter: DefFilter) -> Self {
        let grammar = Grammar::new(&tree_sitter_python::LANGUAGE.into());
        Self { parser: python_parser(), grammar, def_filter, kinds: kinds.into_iter().collect() }
    }

    /// The target statements of a program, in the order in which they start.
    ///
    /// # Errors
    /// Where the program cannot be parsed, or its lines cannot be told.
    pub fn split(&mut self, source: &str) -> Result<Vec<Span>, SplitError> {
        let tree = parse(&mut self.parser, source)?;
        let mut spans = Vec::new();
        let mut walk = Walk {
            source: source.as_bytes(),
            grammar: &self.grammar,
            def_filter: self.def_filter,
            kinds: &self.kinds,
            spans: &mut spans,
        };
        walk.children(&mut tree.walk());
        spans.sort_unstable_by_key(|span| span.start_byte);
        Ok(spans)
    }
}

/// Parses a program that has to be Python.
fn parse(parser: &mut Parser, source: &str) -> Result<Tree, SplitError> {
    if let Some(byte) = lone_carriage_return(source.as_bytes()) {
        return Err(SplitError::LoneCarriageReturn { byte });
    }
    let tree = parser.parse(source, None).expect("a parser with a language and without a time limit returns a tree");
    if !tree.root_node().has_error() {
        return Ok(tree);
    }
    // The grammar takes a line inside a bracket that is indented less than its statement for the end of the statement's block.
    // With the line breaks inside brackets blanked out, every byte keeps its place and the program its meaning.
    let joined = parser.parse(joined(source), None).expect("as above");
    if joined.root_node().has_error() {
        return Err(SplitError::NotPython { line: first_error(tree.root_node()) });
    }
    Ok(joined)
}

/// A program with spaces in place of the line breaks and comments inside its brackets.
fn joined(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut lexer = Lexer::default();
    for line in source.split_inclusive('\n') {
        let comment = lexer.line(line);
        let kept = if lexer.is_in_bracket() { comment.unwrap_or(line.trim_end().len()) } else { line.len() };
        text.push_str(&line[..kept]);
        text.extend(std::iter::repeat_n(' ', line.len() - kept));
    }
    text
}

fn lone_carriage_return(source: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = source[from..].iter().position(|&byte| byte == b'\r') {
        // At the very end it is what a cut left of a line break, and harmless.
        if source.get(from + at + 1).is_some_and(|&byte| byte != b'\n') {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// The line of the first error below a node, from 1.
fn first_error(root: Node<'_>) -> usize {
    let mut node = root;
    'down: loop {
        if node.is_error() || node.is_missing() {
            break;
        }
        for i in 0..node.child_count() {
            if let Some(child) = node.child(i)
                && (child.has_error() || child.is_missing())
            {
                node = child;
                continue 'down;
            }
        }
        break;
    }
    node.start_position().row + 1
}

/// What a node of the grammar means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Expressions and simple statements: no statement inside.
    Leaf,
    /// Something that statements can stand in.
    Container,
    /// A statement that may be a target.
    Target(BlockKind),
    Comment,
}

/// The roles of node kinds by their number.
struct Grammar {
    roles: Vec<Role>,
    parameters: u16,
    name: u16,
    is_async: u16,
}

impl Grammar {
    fn new(language: &Language) -> Self {
        let mut roles = vec![Role::Leaf; language.node_kind_count()];
        let mut set = |kind: &str, role| {
            // A kind can have several numbers where the grammar uses aliases.
            for id in 0..language.node_kind_count() as u16 {
                if language.node_kind_is_named(id) && language.node_kind_for_id(id) == Some(kind) {
                    roles[usize::from(id)] = role;
                }
            }
        };
        for container in [
            "module",
            "block",
            "elif_clause",
            "else_clause",
            "class_definition",
            "decorated_definition",
            "with_statement",
            "try_statement",
            "except_clause",
            "finally_clause",
            "match_statement",
            "case_clause",
        ] {
            set(container, Role::Container);
        }
        set("if_statement", Role::Target(BlockKind::If));
        set("for_statement", Role::Target(BlockKind::For));
        set("while_statement", Role::Target(BlockKind::While));
        set("function_definition", Role::Target(BlockKind::Def));
        set("comment", Role::Comment);
        let field = |name| language.field_id_for_name(name).map_or(0, std::num::NonZero::get);
        let is_async = language.id_for_node_kind("async", false);
        Self { roles, parameters: field("parameters"), name: field("name"), is_async }
    }

    fn role(&self, node: Node<'_>) -> Role {
        self.roles.get(usize::from(node.kind_id())).copied().unwrap_or(Role::Leaf)
    }
}

struct Walk<'a> {
    source: &'a [u8],
    grammar: &'a Grammar,
    def_filter: DefFilter,
    kinds: &'a BTreeSet<BlockKind>,
    spans: &'a mut Vec<Span>,
}

impl Walk<'_> {
    /// Visits the children of the cursor's node. Returns the largest depth of targets among them and where their code ends,
    /// comments left out, in bytes.
    ///
    /// It calls itself once for every level of nesting, of which a file of a megabyte can hold about a thousand.
    fn children(&mut self, cursor: &mut TreeCursor<'_>) -> (u32, usize) {
        let mut depth = 0;
        let mut code_end = 0;
        if !cursor.goto_first_child() {
            return (0, cursor.node().end_byte());
        }
        loop {
            let node = cursor.node();
            match self.grammar.role(node) {
                Role::Comment => {}
                Role::Leaf => code_end = node.end_byte().max(code_end),
                Role::Container => {
                    let (below, end) = self.children(cursor);
                    depth = depth.max(below);
                    code_end = code_end.max(end);
                }
                Role::Target(kind) => {
                    let (below, end) = self.children(cursor);
                    code_end = code_end.max(end);
                    let is_async = node.child(0).is_some_and(|first| first.kind_id() == self.grammar.is_async);
                    if is_async {
                        depth = depth.max(below);
                    } else {
                        depth = depth.max(below + 1);
                        if self.kinds.contains(&kind) && self.is_wanted(kind, node) {
                            self.add(kind, below + 1, node.start_byte(), end);
                        }
                    }
                }
            }
            if !cursor.goto_next_sibling() {
                break;
            }
        }
        cursor.goto_parent();
        (depth, code_end)
    }

    /// Whether the name filter lets a statement through.
    fn is_wanted(&self, kind: BlockKind, node: Node<'_>) -> bool {
        if kind != BlockKind::Def {
            return true;
        }
        match self.def_filter {
            DefFilter::None => true,
            DefFilter::Dunder => {
                let Some(name) = node.child_by_field_id(self.grammar.name) else { return true };
                let name = &self.source[name.byte_range()];
                !(name.len() > 4 && name.starts_with(b"__") && name.ends_with(b"__"))
            }
            DefFilter::Underscore => {
                let end = node.child_by_field_id(self.grammar.parameters).map_or(node.end_byte(), |p| p.start_byte());
                !self.source[node.start_byte()..end].contains(&b'_')
            }
        }
    }

    fn add(&mut self, kind: BlockKind, depth: u32, start: usize, end: usize) {
        let start_byte = self.source[..start].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let end_byte = end_of_line(self.source, end);
        let breaks = self.source[start_byte..end_byte].iter().filter(|&&byte| byte == b'\n').count();
        self.spans.push(Span { start_byte, end_byte, kind, depth, num_lines: breaks as u32 + 1 });
    }
}

/// Where the line ends that holds `byte`, before its line break.
fn end_of_line(source: &[u8], byte: usize) -> usize {
    match source[byte..].iter().position(|&byte| byte == b'\n') {
        Some(at) if at > 0 && source[byte + at - 1] == b'\r' => byte + at - 1,
        Some(at) => byte + at,
        None if source.ends_with(b"\r") && source.len() > byte => source.len() - 1,
        None => source.len(),
    }
}

/// Draws up to `count` different spans of 1 to `max_lines` lines, in the order in which they start; the control that does without a parser.
/// A span that begins or ends with a blank line is drawn again.
pub fn random_spans(source: &str, count: usize, max_lines: usize, random: &mut Random) -> Vec<Span> {
    let bytes = source.as_bytes();
    let mut lines = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let end = end_of_line(bytes, start);
        lines.push((start, end));
        start = bytes[end..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |at| end + at + 1);
    }
    let mut spans = BTreeSet::new();
    if lines.is_empty() || max_lines == 0 {
        return Vec::new();
    }
    // A short program has few spans, so the number of draws is limited too.
    for _ in 0..count * 8 {
        if spans.len() == count {
            break;
        }
        let num_lines = 1 + random.below(max_lines.min(lines.len()));
        let first = random.below(lines.len() - num_lines + 1);
        let (start_byte, end_byte) = (lines[first].0, lines[first + num_lines - 1].1);
        let is_blank = |(start, end): (usize, usize)| source[start..end].trim().is_empty();
        if !is_blank(lines[first]) && !is_blank(lines[first + num_lines - 1]) {
            let num_lines = num_lines as u32;
            spans.insert(Span { start_byte, end_byte, kind: BlockKind::Random, depth: 0, num_lines });
        }
    }
    spans.into_iter().collect()
}

#[cfg(test)]
#[path = "blocks_tests.rs"]
mod tests;
