//! Keys and recipes: one struct of named fields that holds everything that can change a stage's output, and its digest.
//!
//! The key has the content of the inputs in it, the recipe their recipes: it is known before any data is.
//! Host, time, paths, threads, devices and stage names are in neither.

use crate::digest::Digest;
use ablate_stages::stage::PATH_KEY;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Raised when the meaning of a field changes; every key changes with it.
///
/// 1: the first.
const KEY_FORMAT: u32 = 1;

/// Everything that can change what a stage writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyFields {
    /// [`KEY_FORMAT`].
    pub format: u32,
    /// The kind.
    pub kind: String,
    /// The kind's version.
    pub version: u32,
    /// Its parameters with defaults filled in; a path is replaced by the digest of what lies there.
    pub parameters: Value,
    /// What the kind declares of its environment.
    pub environment: BTreeMap<String, String>,
    /// For each connected port, the digest of what it sees.
    pub inputs: BTreeMap<String, Digest>,
    /// `--limit`: how many rows a source may give.
    pub limit: Option<u64>,
}

impl KeyFields {
    /// Fields with this format.
    pub fn new(kind: &str, version: u32, parameters: Value) -> Self {
        Self {
            format: KEY_FORMAT,
            kind: kind.to_owned(),
            version,
            parameters,
            environment: BTreeMap::new(),
            inputs: BTreeMap::new(),
            limit: None,
        }
    }

    /// The digest: of the canonical JSON, under a context of its own.
    pub fn digest(&self, context: &str) -> Digest {
        let mut canonical = String::new();
        write_canonical(&serde_json::to_value(self).expect("key fields are plain data"), &mut canonical);
        Digest::of_parts(context, [canonical])
    }
}

/// JSON with the keys of every object sorted: whether `serde_json` keeps maps sorted is up to whoever else is in the build.
fn write_canonical(value: &Value, to: &mut String) {
    match value {
        Value::Object(map) => {
            let mut sorted: Vec<(&String, &Value)> = map.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| *key);
            to.push('{');
            for (key, value) in sorted {
                to.push_str(&serde_json::to_string(key).expect("a text is plain data"));
                to.push(':');
                write_canonical(value, to);
                to.push(',');
            }
            to.push('}');
        }
        Value::Array(items) => {
            to.push('[');
            for item in items {
                write_canonical(item, to);
                to.push(',');
            }
            to.push(']');
        }
        scalar => to.push_str(&scalar.to_string()),
    }
}

/// The context of keys.
pub const KEY: &str = "ablate key";
/// The context of recipes.
pub const RECIPE: &str = "ablate recipe";
/// The context of families of units.
pub const FAMILY: &str = "ablate family";

/// What a port sees of an output that is known only by its recipe.
pub fn recipe_of_input(recipe: &Digest, port: &str, columns: &[String]) -> Digest {
    let parts = [recipe.to_string(), port.to_owned()].into_iter().chain(columns.iter().cloned());
    Digest::of_parts("ablate recipe of an input", parts)
}

/// The digest of one unit of a map stage: of its rows and of what they look up, each port's in sorted order.
pub fn unit_key(ports: &[(&str, Vec<Digest>)]) -> Digest {
    let mut parts = Vec::new();
    for (port, rows) in ports {
        let mut rows = rows.clone();
        rows.sort_unstable();
        parts.push(port.as_bytes().to_vec());
        parts.push((rows.len() as u64).to_le_bytes().to_vec());
        parts.extend(rows.iter().map(|row| row.as_bytes().to_vec()));
    }
    Digest::of_parts("ablate unit", parts)
}

/// The paths in bound parameters, by parameter.
pub fn paths_in(parameters: &Value) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    walk(parameters, "", &mut found);
    found
}

fn walk(value: &Value, at: &str, found: &mut BTreeMap<String, PathBuf>) {
    let below = |key: &str| if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
    match value {
        Value::Object(map) => match map.get(PATH_KEY) {
            Some(Value::String(path)) if map.len() == 1 => {
                found.insert(at.to_owned(), path.into());
            }
            _ => map.iter().for_each(|(key, value)| walk(value, &below(key), found)),
        },
        Value::Array(items) => items.iter().enumerate().for_each(|(i, item)| walk(item, &below(&i.to_string()), found)),
        _ => {}
    }
}

/// The parameters with the digest of what lies there in place of each path.
pub fn without_paths(parameters: &Value, digests: &BTreeMap<PathBuf, Digest>) -> Value {
    match parameters {
        Value::Object(map) => match map.get(PATH_KEY) {
            Some(Value::String(path)) if map.len() == 1 => {
                let digest =
                    digests.get(&PathBuf::from(path)).map_or_else(|| format!("missing: {path}"), Digest::to_string);
                Value::Object(Map::from_iter([("$digest".to_owned(), Value::String(digest))]))
            }
            _ => Value::Object(map.iter().map(|(k, v)| (k.clone(), without_paths(v, digests))).collect()),
        },
        Value::Array(items) => Value::Array(items.iter().map(|item| without_paths(item, digests)).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_path_enters_the_key_as_the_digest_of_what_lies_there() {
        let parameters = json!({ "path": { PATH_KEY: "/a/b.jsonl" }, "files": [{ PATH_KEY: "/c" }], "n": 3 });
        let paths = paths_in(&parameters);
        assert_eq!(paths.keys().collect::<Vec<_>>(), ["files.0", "path"]);
        let digest = Digest::of_bytes(b"content");
        let digests = BTreeMap::from([("/a/b.jsonl".into(), digest), ("/c".into(), digest)]);
        let text = without_paths(&parameters, &digests).to_string();
        assert!(!text.contains("/a/b") && text.contains(&digest.to_string()), "{text}");
    }

    #[test]
    fn every_field_changes_the_digest() {
        let base = KeyFields::new("segment", 1, json!({ "a": 1 }));
        let mut others = vec![base.clone(); 6];
        others[0].kind = "pair".into();
        others[1].version = 2;
        others[2].parameters = json!({ "a": 2 });
        others[3].environment.insert("python".into(), "3.11".into());
        others[4].inputs.insert("rows".into(), Digest::of_bytes(b"x"));
        others[5].limit = Some(3);
        for other in others {
            assert_ne!(base.digest(KEY), other.digest(KEY), "{other:?}");
        }
        assert_ne!(base.digest(KEY), base.digest(RECIPE));
    }

    #[test]
    fn a_unit_is_the_same_in_any_order_of_its_rows() {
        let [a, b] = [Digest::of_bytes(b"a"), Digest::of_bytes(b"b")];
        assert_eq!(unit_key(&[("rows", vec![a, b])]), unit_key(&[("rows", vec![b, a])]));
        assert_ne!(unit_key(&[("rows", vec![a]), ("problems", vec![b])]), unit_key(&[("rows", vec![a, b])]));
    }
}
