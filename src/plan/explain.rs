//! Why a stage has to run: the difference between what it is now and what it was in the last complete run.

use super::key::KeyFields;
use serde_json::Value;
use std::collections::BTreeMap;

/// What of a stage differs besides its inputs.
pub fn own_differences(before: &KeyFields, now: &KeyFields) -> Vec<String> {
    let now = KeyFields { inputs: before.inputs.clone(), ..now.clone() };
    differences(before, &now, &BTreeMap::new())
}

/// Says in a line each what differs. `sources`: where each input comes from, and what is known of how it changed.
pub fn differences(
    before: &KeyFields,
    now: &KeyFields,
    sources: &BTreeMap<String, (String, Option<String>)>,
) -> Vec<String> {
    let mut found = Vec::new();
    if before.kind != now.kind {
        return vec![format!("kind {} -> {}", before.kind, now.kind)];
    }
    if before.version != now.version {
        found.push(format!("kind {} v{} -> v{}", now.kind, before.version, now.version));
    }
    parameters("", &before.parameters, &now.parameters, &mut found);
    let names = before.environment.keys().chain(now.environment.keys());
    for name in names.collect::<std::collections::BTreeSet<_>>() {
        let (was, is) = (before.environment.get(name), now.environment.get(name));
        if was != is {
            found.push(format!("{name} {} -> {}", or_none(was), or_none(is)));
        }
    }
    if before.limit != now.limit {
        let words = |limit: Option<u64>| limit.map_or("none".to_owned(), |limit| limit.to_string());
        found.push(format!("--limit {} -> {}", words(before.limit), words(now.limit)));
    }
    let ports = before.inputs.keys().chain(now.inputs.keys()).collect::<std::collections::BTreeSet<_>>();
    for port in ports {
        let (source, how) = match sources.get(port) {
            Some((source, how)) => (format!(" ({source})"), how.as_deref()),
            None => (String::new(), None),
        };
        match (before.inputs.get(port), now.inputs.get(port)) {
            (None, Some(_)) => found.push(format!("input {port}{source} connected")),
            (Some(_), None) => found.push(format!("input {port} no longer connected")),
            (Some(was), Some(is)) if was != is => {
                found.push(how.map_or_else(
                    || format!("input {port}{source} changed"),
                    |how| format!("input {port}{source}: {how}"),
                ));
            }
            _ => {}
        }
    }
    found
}

fn parameters(at: &str, before: &Value, now: &Value, found: &mut Vec<String>) {
    match (before, now) {
        (Value::Object(was), Value::Object(is)) if !is.contains_key("$digest") && !was.contains_key("$digest") => {
            let keys = was.keys().chain(is.keys()).collect::<std::collections::BTreeSet<_>>();
            for key in keys {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                let [was, is] = [was, is].map(|map| map.get(key).unwrap_or(&Value::Null));
                parameters(&at, was, is, found);
            }
        }
        (was, is) if was == is => {}
        (_, Value::Object(is)) if is.contains_key("$digest") => found.push(format!("file of {at} changed")),
        (was, is) => found.push(format!("{at} {was} -> {is}")),
    }
}

fn or_none(value: Option<&String>) -> &str {
    value.map_or("none", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use serde_json::json;

    #[test]
    fn names_parameters_kinds_files_and_inputs() {
        let mut before = KeyFields::new(
            "pair",
            3,
            json!({ "alpha": 0.5, "objective": { "dpo": { "beta": 0.1 } }, "path": { "$digest": "a" } }),
        );
        before.inputs.insert("problems".into(), Digest::of_bytes(b"old"));
        let mut now =
            KeyFields::new("pair", 4, json!({ "alpha": 0.3, "objective": { "sft": {} }, "path": { "$digest": "b" } }));
        now.inputs.insert("problems".into(), Digest::of_bytes(b"new"));
        let sources =
            BTreeMap::from([("problems".to_owned(), ("clean".to_owned(), Some("12 rows changed".to_owned())))]);
        assert_eq!(
            differences(&before, &now, &sources),
            [
                "kind pair v3 -> v4",
                "alpha 0.5 -> 0.3",
                "objective.dpo {\"beta\":0.1} -> null",
                "objective.sft null -> {}",
                "file of path changed",
                "input problems (clean): 12 rows changed",
            ]
        );
        assert!(differences(&now, &now, &sources).is_empty());
    }
}
