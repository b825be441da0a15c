//! JSON with its numbers as they are written, and the same values as Python literals.
//!
//! The tests of APPS hold integers of hundreds of digits, which a reader of 64-bit numbers would change without a word.

use std::fmt::Write;

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json {
    /// `null`.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// A number as it is written; `NaN` and `Infinity`, which Python writes, too.
    Number(String),
    /// A string.
    Text(String),
    /// An array.
    Array(Vec<Json>),
    /// An object in the order of the text.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads a text that is one JSON value.
    ///
    /// # Errors
    /// Where it stops being JSON, in words.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader { text, at: 0, depth: 0 };
        let value = reader.value()?;
        reader.space();
        if reader.at < text.len() { Err(reader.expected("the end")) } else { Ok(value) }
    }

    /// The value of a key of an object.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(entries) = self else { return None };
        entries.iter().find(|(known, _)| known == key).map(|(_, value)| value).filter(|value| **value != Self::Null)
    }

    /// The value as a Python literal; the keys of an object are numbers where all of them are written like numbers, as APPS reads them.
    pub(super) fn python(&self) -> String {
        let mut out = String::new();
        self.write_python(&mut out, Keys::AsApps);
        out
    }

    /// Appends the value as a Python literal.
    pub(super) fn write_python(&self, out: &mut String, keys: Keys) {
        match self {
            Self::Null => out.push_str("None"),
            Self::Bool(true) => out.push_str("True"),
            Self::Bool(false) => out.push_str("False"),
            Self::Number(text) => out.push_str(match text.as_str() {
                "Infinity" => "1e999",
                "-Infinity" => "-1e999",
                text => text,
            }),
            Self::Text(text) => write_python_string(out, text),
            Self::Array(items) => {
                out.push('[');
                write_items(out, items, keys);
                out.push(']');
            }
            Self::Object(entries) => {
                let numbers = keys == Keys::AsApps && entries.iter().all(|(key, _)| key.parse::<i64>().is_ok());
                out.push('{');
                for (at, (key, value)) in entries.iter().enumerate() {
                    out.push_str(if at == 0 { "" } else { ", " });
                    if numbers {
                        out.push_str(key);
                    } else {
                        write_python_string(out, key);
                    }
                    out.push_str(": ");
                    value.write_python(out, keys);
                }
                out.push('}');
            }
        }
    }
}

/// What the keys of an object are in Python.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    /// Strings, as JSON has them.
    Strings,
    /// Numbers where all of an object's keys are written like numbers.
    AsApps,
}

/// Appends values with commas between them.
pub(super) fn write_items(out: &mut String, items: &[Json], keys: Keys) {
    for (at, item) in items.iter().enumerate() {
        out.push_str(if at == 0 { "" } else { ", " });
        item.write_python(out, keys);
    }
}

/// Appends a string as a Python literal that is also one of JSON, which the sandbox reads faster.
fn write_python_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

/// Deeper nesting is an attack on the stack, not a test.
const MAX_DEPTH: usize = 200;

impl Reader<'_> {
    fn expected(&self, what: &str) -> String {
        let rest: String = self.text[self.at..].chars().take(20).collect();
        format!("byte {}: expected {what}, found {rest:?}", self.at)
    }

    fn space(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    fn take(&mut self, token: &str) -> bool {
        self.space();
        let found = self.text[self.at..].starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn value(&mut self) -> Result<Json, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.expected("less than 200 levels of nesting"));
        }
        let value = if self.take("null") {
            Json::Null
        } else if self.take("true") {
            Json::Bool(true)
        } else if self.take("false") {
            Json::Bool(false)
        } else if self.take("[") {
            let mut items = Vec::new();
            if !self.take("]") {
                loop {
                    items.push(self.value()?);
                    if self.take("]") {
                        break;
                    }
                    if !self.take(",") {
                        return Err(self.expected("`,` or `]`"));
                    }
                }
            }
            Json::Array(items)
        } else if self.take("{") {
            let mut entries = Vec::new();
            if !self.take("}") {
                loop {
                    self.space();
                    let key = self.string()?;
                    if !self.take(":") {
                        return Err(self.expected("`:`"));
                    }
                    entries.push((key, self.value()?));
                    if self.take("}") {
                        break;
                    }
                    if !self.take(",") {
                        return Err(self.expected("`,` or `}`"));
                    }
                }
            }
            Json::Object(entries)
        } else if self.text[self.at..].starts_with('"') {
            Json::Text(self.string()?)
        } else {
            self.number()?
        };
        self.depth -= 1;
        Ok(value)
    }

    /// Finds the end of a string and leaves its escapes to `serde_json`.
    fn string(&mut self) -> Result<String, String> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        if bytes.get(start) != Some(&b'"') {
            return Err(self.expected("a string"));
        }
        let mut end = start + 1;
        loop {
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(_) => end += 1,
                None => return Err(self.expected("a string with an end")),
            }
        }
        let text = &self.text[start..=end];
        let parsed = serde_json::from_str(text).map_err(|error| format!("byte {start}: {error}"))?;
        self.at = end + 1;
        Ok(parsed)
    }

    fn number(&mut self) -> Result<Json, String> {
        for word in ["NaN", "Infinity", "-Infinity"] {
            if self.take(word) {
                return if word == "NaN" {
                    Err("NaN is equal to nothing, so it cannot be expected".into())
                } else {
                    Ok(Json::Number(word.into()))
                };
            }
        }
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !c.is_ascii_digit() && !"+-.eE".contains(c)).unwrap_or(rest.len());
        let text = &rest[..end];
        let digits = text.trim_start_matches('-');
        // Integers of any length; the rest must be what a reader of floats takes. Python has no leading zeros.
        let integer =
            !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) && text.len() - digits.len() <= 1;
        let leading_zero = digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit();
        if leading_zero || !(integer || serde_json::from_str::<f64>(text).is_ok()) {
            return Err(self.expected("a value"));
        }
        let number = Json::Number(text.to_owned());
        self.at += end;
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_python_and_numbers_keep_every_digit() {
        let text = r#" {"a": [1, -2.50, 1e5, true, false, null, "it's \"x\"\n\u00e9"], "b": {"1": 2, "-3": 123456789012345678901234567890}} "#;
        assert_eq!(
            Json::parse(text).unwrap().python(),
            r#"{"a": [1, -2.50, 1e5, True, False, None, "it's \"x\"\né"], "b": {1: 2, -3: 123456789012345678901234567890}}"#
        );
        let mut kept = String::new();
        Json::parse(r#"{"1": {"2": 3}}"#).unwrap().write_python(&mut kept, Keys::Strings);
        assert_eq!(kept, r#"{"1": {"2": 3}}"#);
        assert_eq!(Json::parse("[[], {}, Infinity]").unwrap().python(), "[[], {}, 1e999]");
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_place() {
        for (text, part) in [
            ("[1, 2", "byte 5"),
            ("{\"a\" 1}", "`:`"),
            ("[1] 2", "the end"),
            ("", "a value"),
            ("01", "a value"),
            ("--1", "a value"),
            ("\"abc", "an end"),
            ("NaN", "equal to nothing"),
        ] {
            let problem = Json::parse(text).unwrap_err();
            assert!(problem.contains(part), "{text}: {problem}");
        }
        assert!(Json::parse(&"[".repeat(100_000)).unwrap_err().contains("nesting"));
    }
}
