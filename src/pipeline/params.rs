//! The `with:` block of a stage against the JSON Schema of its kind's parameters: all mistakes at once, each at its place.
//!
//! The schema comes from the same Rust type that reads the block afterwards. What this check does not understand it lets pass;
//! the type itself has the last word.

use super::error::{Fault, Problem};
use super::located::{Located, Location, Node};
use serde_json::Value;

/// Checks a block against a schema. `kind` is named in messages; `at` is the place for what is missing from the whole block.
pub fn check(with: &Located, schema: &Value, kind: &str, at: Location, problems: &mut Vec<Problem>) {
    Check { root: schema, kind }.value(with, schema, "", at, problems);
}

struct Check<'a> {
    root: &'a Value,
    kind: &'a str,
}

impl Check<'_> {
    /// Follows `$ref`s.
    fn target<'s>(&'s self, mut schema: &'s Value) -> &'s Value {
        while let Some(target) = schema["$ref"].as_str() {
            match self.root.pointer(target.trim_start_matches('#')) {
                Some(found) => schema = found,
                None => break,
            }
        }
        schema
    }

    fn value(&self, value: &Located, schema: &Value, path: &str, key_at: Location, problems: &mut Vec<Problem>) {
        let schema = self.target(schema);
        if let Some(all) = schema["allOf"].as_array() {
            for part in all {
                self.value(value, part, path, key_at, problems);
            }
        }
        if let Some(alternatives) = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array()) {
            self.alternatives(value, alternatives, path, key_at, problems);
            return;
        }
        let wrong_type = |problems: &mut Vec<Problem>| {
            let fault =
                Fault::WrongType { what: self.name(path), expected: self.describe(schema), found: value.found() };
            problems.push(Problem::new(fault, if value.at.len == 0 { key_at } else { value.at }));
        };
        if !matches_type(&value.value, &schema["type"]) {
            return wrong_type(problems);
        }
        if let Some(constant) = schema.get("const")
            && *constant != value.to_json()
        {
            return wrong_type(problems);
        }
        if let Some(choices) = schema["enum"].as_array() {
            self.choice(value, choices.iter(), path, problems);
            return;
        }
        self.bounds(value, schema, path, problems);
        match &value.value {
            Node::Map(entries) => {
                let before = problems.len();
                let properties = schema["properties"].as_object();
                for entry in entries {
                    let below = join(path, &entry.key);
                    match properties.and_then(|properties| properties.get(&entry.key)) {
                        Some(schema) => self.value(&entry.value, schema, &below, entry.key_at, problems),
                        None => match &schema["additionalProperties"] {
                            Value::Bool(false) => problems.push(Problem::new(
                                self.unknown(&entry.key, path, properties.into_iter().flat_map(|p| p.keys())),
                                entry.key_at,
                            )),
                            schema @ Value::Object(_) => {
                                self.value(&entry.value, schema, &below, entry.key_at, problems);
                            }
                            _ => {}
                        },
                    }
                }
                // A misspelt parameter is one mistake, not two.
                let meant: Vec<String> =
                    problems[before..].iter().filter_map(|problem| problem.fault.nearest()).collect();
                for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    if value.entry(name).is_none() && !meant.iter().any(|meant| meant == name) {
                        problems.push(Problem::new(self.missing(name, path, schema), key_at));
                    }
                }
            }
            Node::Seq(items) => {
                if let Some(schema) = schema.get("items") {
                    for (index, item) in items.iter().enumerate() {
                        self.value(item, schema, &format!("{path}[{index}]"), item.at, problems);
                    }
                }
            }
            _ => {}
        }
    }

    fn alternatives(
        &self,
        value: &Located,
        alternatives: &[Value],
        path: &str,
        key_at: Location,
        problems: &mut Vec<Problem>,
    ) {
        let alternatives: Vec<&Value> = self.flat(alternatives);
        let mut candidates = Vec::new();
        for &alternative in &alternatives {
            let mut found = Vec::new();
            self.value(value, alternative, path, key_at, &mut found);
            if found.is_empty() {
                return;
            }
            candidates.push((alternative, found));
        }
        // `dpo: {..}`: the tag says which alternative is meant, and the mistake is inside.
        if let [entry] = value.entries()
            && let Some((_, found)) =
                candidates.iter_mut().find(|(schema, _)| Self::tag(schema) == Some(entry.key.as_str()))
        {
            problems.append(found);
            return;
        }
        // Exactly one alternative is of the value's own type, as in `Option<f64>` or `Option<Struct>`.
        let mut of_type = candidates.iter_mut().filter(|(schema, _)| {
            matches_type(&value.value, &schema["type"]) && schema.get("const").is_none() && Self::tag(schema).is_none()
        });
        if let (Some((_, found)), None) = (of_type.next(), of_type.next()) {
            problems.append(found);
            return;
        }
        let tags: Vec<String> = alternatives
            .iter()
            .filter_map(|schema| schema["const"].as_str().or_else(|| Self::tag(schema)))
            .map(str::to_owned)
            .chain(
                alternatives
                    .iter()
                    .filter_map(|schema| schema["enum"].as_array())
                    .flatten()
                    .filter_map(|name| name.as_str().map(str::to_owned)),
            )
            .collect();
        let named = match (&value.value, value.entries()) {
            (Node::Str(name), _) => Some((name, value.at)),
            (_, [entry]) => Some((&entry.key, entry.key_at)),
            _ => None,
        };
        if let Some((name, at)) = named
            && !tags.is_empty()
            && !tags.contains(name)
        {
            problems.push(Problem::new(self.no_choice(name, path, tags), at));
            return;
        }
        let mut expected: Vec<String> = alternatives.iter().map(|schema| self.describe(schema)).collect();
        expected.dedup();
        let fault = Fault::WrongType { what: self.name(path), expected: expected.join(" or "), found: value.found() };
        problems.push(Problem::new(fault, if value.at.len == 0 { key_at } else { value.at }));
    }

    /// The alternatives with nested ones (an optional enum) in their place.
    fn flat<'s>(&'s self, alternatives: &'s [Value]) -> Vec<&'s Value> {
        let mut flat = Vec::new();
        for alternative in alternatives {
            let alternative = self.target(alternative);
            match alternative["anyOf"].as_array().or_else(|| alternative["oneOf"].as_array()) {
                Some(nested) => flat.extend(self.flat(nested)),
                None => flat.push(alternative),
            }
        }
        flat
    }

    /// The tag of an externally tagged alternative: its only property, which it requires.
    fn tag(schema: &Value) -> Option<&str> {
        match schema["required"].as_array()?.as_slice() {
            [only] if schema["properties"].as_object()?.len() == 1 => only.as_str(),
            _ => None,
        }
    }

    fn choice<'v>(
        &self,
        value: &Located,
        choices: impl Iterator<Item = &'v Value> + Clone,
        path: &str,
        problems: &mut Vec<Problem>,
    ) {
        let found = value.to_json();
        if choices.clone().any(|choice| *choice == found) {
            return;
        }
        let names: Vec<String> =
            choices.map(|choice| choice.as_str().map_or_else(|| choice.to_string(), str::to_owned)).collect();
        let name = value.as_str().map_or_else(|| found.to_string(), str::to_owned);
        problems.push(Problem::new(self.no_choice(&name, path, names), value.at));
    }

    fn bounds(&self, value: &Located, schema: &Value, path: &str, problems: &mut Vec<Problem>) {
        let number = match value.value {
            Node::Int(number) => number as f64,
            Node::UInt(number) => number as f64,
            Node::Float(number) => number,
            _ => return,
        };
        let below = |key: &str| schema[key].as_f64().filter(|&bound| number < bound);
        let above = |key: &str| schema[key].as_f64().filter(|&bound| number > bound);
        let expected = if let Some(least) = below("minimum") {
            format!("at least {least}")
        } else if let Some(most) = above("maximum") {
            format!("at most {most}")
        } else if let Some(bound) = schema["exclusiveMinimum"].as_f64().filter(|&bound| number <= bound) {
            format!("more than {bound}")
        } else if let Some(bound) = schema["exclusiveMaximum"].as_f64().filter(|&bound| number >= bound) {
            format!("less than {bound}")
        } else {
            return;
        };
        let fault = Fault::WrongType { what: self.name(path), expected, found: value.found() };
        problems.push(Problem::new(fault, value.at));
    }

    fn name(&self, path: &str) -> String {
        if path.is_empty() { format!("`with` of `{}`", self.kind) } else { format!("`{path}` of `{}`", self.kind) }
    }

    fn owner(&self, path: &str) -> String {
        if path.is_empty() { format!("of `{}`", self.kind) } else { format!("in `{path}` of `{}`", self.kind) }
    }

    fn unknown<'n>(&self, name: &str, path: &str, choices: impl Iterator<Item = &'n String>) -> Fault {
        Fault::Unknown {
            what: "parameter",
            name: name.to_owned(),
            owner: self.owner(path),
            choices: choices.cloned().collect(),
        }
    }

    fn no_choice(&self, name: &str, path: &str, choices: Vec<String>) -> Fault {
        let owner = format!("for {}", self.name(path));
        Fault::Unknown { what: "choice", name: name.to_owned(), owner, choices }
    }

    fn missing(&self, name: &str, path: &str, schema: &Value) -> Fault {
        let doc = self.doc(&schema["properties"][name]);
        let owner = if path.is_empty() { format!("`{}`", self.kind) } else { format!("`{path}` of `{}`", self.kind) };
        Fault::Missing { what: "the parameter", name: name.to_owned(), owner, doc }
    }

    fn doc(&self, schema: &Value) -> String {
        let doc = schema["description"].as_str().or_else(|| self.target(schema)["description"].as_str());
        doc.unwrap_or_default().replace('\n', " ")
    }

    /// The type with an article.
    fn describe(&self, schema: &Value) -> String {
        let schema = self.target(schema);
        if let Some(constant) = schema.get("const") {
            return format!("`{}`", constant.as_str().map_or_else(|| constant.to_string(), str::to_owned));
        }
        if let Some(tag) = Self::tag(schema) {
            return format!("`{tag}: ..`");
        }
        if let Some(choices) = schema["enum"].as_array() {
            let names: Vec<String> = choices.iter().filter_map(Value::as_str).map(|name| format!("`{name}`")).collect();
            return names.join(" or ");
        }
        match &schema["type"] {
            Value::String(name) => type_name(name).to_owned(),
            Value::Array(names) => {
                names.iter().filter_map(Value::as_str).map(type_name).collect::<Vec<_>>().join(" or ")
            }
            _ => "another value".into(),
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn type_name(name: &str) -> &str {
    match name {
        "null" => "nothing",
        "boolean" => "`true` or `false`",
        "integer" => "a whole number",
        "number" => "a number",
        "string" => "a text",
        "array" => "a list",
        "object" => "a map",
        other => other,
    }
}

fn matches_type(value: &Node, expected: &Value) -> bool {
    let one = |name: &str| match value {
        Node::Null => name == "null",
        Node::Bool(_) => name == "boolean",
        Node::Int(_) | Node::UInt(_) => name == "integer" || name == "number",
        Node::Float(_) => name == "number",
        Node::Str(_) => name == "string",
        Node::Seq(_) => name == "array",
        Node::Map(_) => name == "object",
    };
    match expected {
        Value::String(name) => one(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(one),
        _ => true,
    }
}
