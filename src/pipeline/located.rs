//! A pipeline file as written: every value and every key with its place.
//!
//! The file is parsed once into a tree of our own; what a key means is decided later, so that one mistake hides no other.

use super::error::{Fault, Problem};
use serde::Deserialize;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_yaml::Spanned;
use std::fmt;

/// A stretch of a text that the user wrote: the pipeline file, or a `--set` argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// Which text, by its position in [`Sources`]: 0 is the pipeline file.
    pub source: usize,
    /// First byte.
    pub start: usize,
    /// Length in bytes.
    pub len: usize,
}

impl Location {
    /// The very beginning of the pipeline file, for what concerns the whole of it.
    pub const FILE: Self = Self { source: 0, start: 0, len: 0 };
}

/// The texts that locations point into.
#[derive(Debug, Clone, Default)]
pub struct Sources(Vec<Source>);

/// One text: a file or an argument.
#[derive(Debug, Clone)]
pub struct Source {
    /// The path of the file as the user gave it, or `--set`.
    pub name: String,
    /// What was written.
    pub text: String,
}

impl Sources {
    /// Adds a text and returns the number that locations in it carry.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> usize {
        self.0.push(Source { name: name.into(), text: text.into() });
        self.0.len() - 1
    }

    /// The text that a location points into; none if the location is not of this file.
    pub fn get(&self, source: usize) -> Option<&Source> {
        self.0.get(source)
    }

    /// The line and the column of a location's first character, both from 1; columns count characters.
    pub fn line_and_column(&self, at: Location) -> (usize, usize) {
        let Some(source) = self.0.get(at.source) else { return (1, 1) };
        let before = &source.text.as_bytes()[..at.start.min(source.text.len())];
        let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        (line, String::from_utf8_lossy(&before[line_start..]).chars().count() + 1)
    }
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    /// The value.
    pub value: Node,
    /// Its place. Of a map or list in block form, the place where it begins.
    pub at: Location,
    /// The text that it was written in, wherever its place is shown: what a relative path is relative to.
    pub home: usize,
}

/// A YAML value.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`; `yes` and `no` are text.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number beyond `i64`.
    UInt(u64),
    /// Any other number.
    Float(f64),
    /// Text.
    Str(String),
    /// A list.
    Seq(Vec<Located>),
    /// A map, in the order of the file.
    Map(Vec<Entry>),
}

/// A key of a map with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its place.
    pub key_at: Location,
    /// What stands behind it.
    pub value: Located,
}

impl Located {
    /// An empty map at a place.
    pub fn empty_map(at: Location) -> Self {
        Self { value: Node::Map(Vec::new()), at, home: at.source }
    }

    /// The entries of a map; none of anything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Node::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The entry of this key in a map.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The entries of a map, to be changed; what is no map becomes one.
    pub fn entries_mut(&mut self) -> &mut Vec<Entry> {
        if !matches!(self.value, Node::Map(_)) {
            self.value = Node::Map(Vec::new());
        }
        match &mut self.value {
            Node::Map(entries) => entries,
            _ => unreachable!("it was made a map"),
        }
    }

    /// The entry of this key in a map, to be changed.
    pub fn entry_mut(&mut self, key: &str) -> Option<&mut Entry> {
        match &mut self.value {
            Node::Map(entries) => entries.iter_mut().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Node::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The same without places.
    pub fn to_json(&self) -> Value {
        match &self.value {
            Node::Null => Value::Null,
            Node::Bool(value) => (*value).into(),
            Node::Int(value) => (*value).into(),
            Node::UInt(value) => (*value).into(),
            Node::Float(value) => (*value).into(),
            Node::Str(value) => value.as_str().into(),
            Node::Seq(items) => items.iter().map(Self::to_json).collect(),
            Node::Map(entries) => {
                Value::Object(entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect())
            }
        }
    }

    /// The value with an article, as messages say what was found: "a list", "the text `x`".
    pub fn found(&self) -> String {
        match &self.value {
            Node::Null => "nothing".into(),
            Node::Bool(value) => format!("`{value}`"),
            Node::Int(value) => format!("the number {value}"),
            Node::UInt(value) => format!("the number {value}"),
            Node::Float(value) => format!("the number {value}"),
            Node::Str(value) if value.chars().count() > 40 => "a text".into(),
            Node::Str(value) => format!("the text `{value}`"),
            Node::Seq(_) => "a list".into(),
            Node::Map(_) => "a map".into(),
        }
    }

    /// Gives the value and all below it one place.
    pub fn place_all(&mut self, at: Location) {
        self.at = at;
        match &mut self.value {
            Node::Seq(items) => items.iter_mut().for_each(|item| item.place_all(at)),
            Node::Map(entries) => {
                for entry in entries {
                    entry.key_at = at;
                    entry.value.place_all(at);
                }
            }
            _ => {}
        }
    }

    /// The place of the deepest step of a dotted path (`objective.dpo.beta`, `cases[2].input`) that is there:
    /// a key's place for `key` true, else its value's.
    pub fn place_of(&self, path: &str, key: bool) -> Location {
        self.deepest(path, key).0
    }

    /// The text that the value at a dotted path was written in.
    pub fn home_of(&self, path: &str) -> usize {
        self.deepest(path, false).1.home
    }

    fn deepest(&self, path: &str, key: bool) -> (Location, &Self) {
        let mut here = self;
        let mut at = self.at;
        for step in path.split(['.', '[', ']']).filter(|step| !step.is_empty()) {
            match &here.value {
                Node::Map(_) => {
                    let Some(entry) = here.entry(step) else { return (at, here) };
                    at = if key { entry.key_at } else { entry.value.at };
                    here = &entry.value;
                }
                Node::Seq(items) => {
                    let Some(item) = step.parse().ok().and_then(|index: usize| items.get(index)) else {
                        return (at, here);
                    };
                    at = item.at;
                    here = item;
                }
                _ => return (at, here),
            }
        }
        (at, here)
    }
}

/// Parses a text into a tree whose locations carry the number `source`. Of a key that stands twice in a map the first is taken, with a problem.
///
/// # Errors
/// What makes the text no YAML.
pub fn parse(text: &str, source: usize) -> Result<(Located, Vec<Problem>), Problem> {
    use serde_yaml::DuplicateKeyPolicy;
    let mut problems = Vec::new();
    let raw = match parse_raw(text, DuplicateKeyPolicy::Error) {
        Ok(raw) => raw,
        Err(error) => {
            let problem = syntax_problem(text, &error, source);
            if !matches!(problem.fault, Fault::DuplicateKey { .. }) {
                return Err(problem);
            }
            problems.push(problem);
            parse_raw(text, DuplicateKeyPolicy::FirstWins).map_err(|error| syntax_problem(text, &error, source))?
        }
    };
    Ok((raw.locate(source), problems))
}

/// As [`parse`], of a single value as `--set` gives it: what is no YAML is text.
pub fn parse_argument(text: &str, source: usize, start: usize) -> Located {
    let at = Location { source, start, len: text.len() };
    let parsed = parse_raw(text, serde_yaml::DuplicateKeyPolicy::Error).ok();
    let value = parsed.map_or_else(|| Node::Str(text.to_owned()), |raw| raw.locate(source).value);
    let mut located = Located { value, at, home: source };
    // The places inside count from the argument's beginning; nothing finer than the whole value is worth showing.
    located.place_all(at);
    located
}

fn parse_raw(text: &str, duplicate_keys: serde_yaml::DuplicateKeyPolicy) -> Result<RawSpanned, serde_yaml::Error> {
    // A sweep over thousands of stages is a big file, and no attack; the limits on aliases stay.
    let options = serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_events: 20_000_000,
            max_nodes: 5_000_000,
            max_total_scalar_bytes: 512 * 1024 * 1024,
        },
        strict_booleans: true,
        with_snippet: false,
        duplicate_keys: duplicate_keys,
    };
    serde_yaml::from_str_with_options(text, options).map(RawSpanned)
}

fn syntax_problem(text: &str, error: &serde_yaml::Error, source: usize) -> Problem {
    let error = error.without_snippet();
    let at = error.location().map_or(Location { source, start: 0, len: 0 }, |location| {
        // The scanner's own errors have a line and a column, but no bytes.
        let line_start =
            text.split_inclusive('\n').take(location.line().saturating_sub(1) as usize).map(str::len).sum();
        let rest: &str = text.get(line_start..).unwrap_or_default();
        let column = location.column().saturating_sub(1) as usize;
        let start = line_start + rest.chars().take(column).map(char::len_utf8).sum::<usize>();
        let len = location.span().byte_len().unwrap_or(0) as usize;
        Location { source, start, len: len.min(text.len().saturating_sub(start)) }
    });
    let fault = match error {
        serde_yaml::Error::DuplicateMappingKey { key, .. } => {
            Fault::DuplicateKey { key: key.clone().unwrap_or_default() }
        }
        other => {
            let message = other.to_string();
            let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(words, _)| words);
            Fault::Syntax { message: message.to_owned() }
        }
    };
    Problem::new(fault, at)
}

/// What the parser hands over: the tree with the parser's own places.
struct RawSpanned(Spanned<Raw>);

enum Raw {
    Leaf(Node),
    Seq(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl RawSpanned {
    fn locate(self, source: usize) -> Located {
        locate(self.0, source)
    }
}

fn locate(raw: Spanned<Raw>, source: usize) -> Located {
    let at = location(raw.referenced, source);
    let value = match raw.value {
        Raw::Leaf(node) => node,
        Raw::Seq(items) => Node::Seq(items.into_iter().map(|item| locate(item, source)).collect()),
        Raw::Map(entries) => Node::Map(
            entries
                .into_iter()
                .map(|(key, value)| Entry {
                    key_at: location(key.referenced, source),
                    key: key.value,
                    value: locate(value, source),
                })
                .collect(),
        ),
    };
    Located { value, at, home: source }
}

fn location(location: serde_yaml::Location, source: usize) -> Location {
    let span = location.span();
    Location { source, start: span.byte_offset().unwrap_or(0) as usize, len: span.byte_len().unwrap_or(0) as usize }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyValue;
        impl<'de> Visitor<'de> for AnyValue {
            type Value = Raw;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any YAML value")
            }
            fn visit_unit<E>(self) -> Result<Raw, E> {
                Ok(Raw::Leaf(Node::Null))
            }
            fn visit_none<E>(self) -> Result<Raw, E> {
                Ok(Raw::Leaf(Node::Null))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
                Ok(Raw::Leaf(Node::Bool(value)))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
                Ok(Raw::Leaf(Node::Int(value)))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
                Ok(Raw::Leaf(i64::try_from(value).map_or(Node::UInt(value), Node::Int)))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
                Ok(Raw::Leaf(Node::Float(value)))
            }
            fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
                Ok(Raw::Leaf(Node::Str(value.to_owned())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = access.next_element()? {
                    items.push(item);
                }
                Ok(Raw::Seq(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = access.next_entry()? {
                    entries.push(entry);
                }
                Ok(Raw::Map(entries))
            }
        }
        deserializer.deserialize_any(AnyValue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tree(text: &str) -> Located {
        parse(text, 0).expect("valid YAML").0
    }

    #[test]
    fn scalars_keep_their_types_and_only_true_and_false_are_booleans() {
        let text = "{n: 1, x: 1e-6, y: 0.5, no: no, t: true, q: '17', e: , big: 18446744073709551615, neg: -3}";
        assert_eq!(
            tree(text).to_json(),
            json!({"n": 1, "x": 1e-6, "y": 0.5, "no": "no", "t": true, "q": "17", "e": null, "big": u64::MAX, "neg": -3})
        );
    }

    #[test]
    fn every_key_and_value_has_its_place() {
        let text = "about: Grüße\nstages:\n  base: { use: model, with: { path: 'a b' } }\n";
        let tree = tree(text);
        let written = |at: Location| &text[at.start..at.start + at.len];
        let base = &tree.entry("stages").unwrap().value.entry("base").unwrap();
        assert_eq!(written(base.key_at), "base");
        assert_eq!(written(base.value.entry("use").unwrap().value.at), "model");
        assert_eq!(written(base.value.place_of("with.path", true)), "path");
        assert_eq!(written(base.value.place_of("with.path", false)), "'a b'");
        let mut sources = Sources::default();
        sources.add("p.yaml", text);
        assert_eq!(sources.line_and_column(base.key_at), (3, 3));
    }

    #[test]
    fn a_large_file_is_read_and_an_alias_bomb_is_refused() {
        use std::fmt::Write;
        let mut large = String::new();
        for i in 0..8_000 {
            writeln!(large, "k{i}: {{use: filter, with: {{where: 'x > {i}', columns: [a, b, c]}}}}").unwrap();
        }
        assert_eq!(tree(&large).entries().len(), 8_000);
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for i in 1..12 {
            writeln!(bomb, "a{i}: &a{i} [{}]", vec![format!("*a{}", i - 1); 9].join(",")).unwrap();
        }
        assert!(matches!(parse(&bomb, 0).unwrap_err().fault, Fault::Syntax { .. }));
    }
}
