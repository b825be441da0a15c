//! `${name}` in parameters.
//!
//! A value that is one reference takes the var's value with its type; inside a longer text the var is written out. `$${` stands for `${`.

use super::error::{Fault, Problem};
use super::located::{Entry, Located, Location, Node};
use std::collections::BTreeSet;

/// The vars of a pipeline, and which of them were used.
pub struct Vars {
    entries: Vec<Entry>,
    used: BTreeSet<String>,
}

impl Vars {
    /// Checks names and values of a `vars:` block.
    pub fn new(entries: Vec<Entry>, problems: &mut Vec<Problem>) -> Self {
        for entry in &entries {
            if !is_name(&entry.key) {
                problems.push(Problem::new(Fault::BadName { name: entry.key.clone(), what: "var" }, entry.key_at));
            }
            if refers(&entry.value) {
                problems.push(Problem::new(Fault::NestedVar { name: entry.key.clone() }, entry.value.at));
            }
        }
        Self { entries, used: BTreeSet::new() }
    }

    /// Puts vars into every text below `value`.
    pub fn substitute(&mut self, value: &mut Located, problems: &mut Vec<Problem>) {
        let at = value.at;
        match &mut value.value {
            Node::Str(text) if text.contains("${") => {
                if let Some(node) = self.text(text, at, problems) {
                    *value = node;
                }
            }
            Node::Seq(items) => items.iter_mut().for_each(|item| self.substitute(item, problems)),
            Node::Map(entries) => entries.iter_mut().for_each(|entry| self.substitute(&mut entry.value, problems)),
            _ => {}
        }
    }

    fn text(&mut self, text: &str, at: Location, problems: &mut Vec<Problem>) -> Option<Located> {
        let mut result = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            if rest[..start].ends_with('$') {
                result += &rest[..start];
                result.push('{');
                rest = &rest[start + 2..];
                continue;
            }
            result += &rest[..start];
            let Some(len) = rest[start..].find('}') else {
                problems.push(Problem::new(Fault::BadReference { text: rest[start..].to_owned() }, at));
                return None;
            };
            let reference = &rest[start..=start + len];
            let name = reference[2..len].trim();
            if name.is_empty() {
                problems.push(Problem::new(Fault::BadReference { text: reference.to_owned() }, at));
                return None;
            }
            let place = narrow(at, text, text.len() - rest.len() + start, reference.len());
            let Some(entry) = self.entries.iter().find(|entry| entry.key == name) else {
                let choices = self.entries.iter().map(|entry| entry.key.clone()).collect();
                let fault = Fault::Unknown { what: "var", name: name.to_owned(), owner: String::new(), choices };
                problems.push(Problem::new(fault, place));
                return None;
            };
            self.used.insert(name.to_owned());
            if reference == text {
                let mut value = entry.value.clone();
                value.place_all(at);
                return Some(value);
            }
            match &entry.value.value {
                Node::Str(value) => result += value,
                Node::Null | Node::Seq(_) | Node::Map(_) => {
                    let fault = Fault::NotText { name: name.to_owned(), found: entry.value.found() };
                    problems.push(Problem::new(fault, place));
                    return None;
                }
                _ => result += &entry.value.to_json().to_string(),
            }
            rest = &rest[start + len + 1..];
        }
        result += rest;
        // A path that begins with a var is relative to where the var is written.
        let opening = text.strip_prefix("${").and_then(|rest| rest.split_once('}')).map(|(name, _)| name.trim());
        let home = self.entries.iter().find(|entry| Some(entry.key.as_str()) == opening);
        let home = home.map_or(at.source, |entry| entry.value.home);
        Some(Located { value: Node::Str(result), at, home })
    }

    /// A warning for each var that nothing used.
    pub fn unused(&self, problems: &mut Vec<Problem>) {
        for entry in self.entries.iter().filter(|entry| !self.used.contains(&entry.key) && is_name(&entry.key)) {
            problems.push(Problem::new(Fault::UnusedVar { name: entry.key.clone() }, entry.key_at));
        }
    }
}

/// The place of `len` bytes from `offset` of a text, where the text stands in the file as it is; one leading quote is reckoned with.
fn narrow(at: Location, text: &str, offset: usize, len: usize) -> Location {
    match at.len.checked_sub(text.len()) {
        Some(0) => Location { start: at.start + offset, len, ..at },
        Some(2) => Location { start: at.start + 1 + offset, len, ..at },
        _ => at,
    }
}

fn refers(value: &Located) -> bool {
    match &value.value {
        Node::Str(text) => text.replace("$${", "").contains("${"),
        Node::Seq(items) => items.iter().any(refers),
        Node::Map(entries) => entries.iter().any(|entry| refers(&entry.value)),
        _ => false,
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}
