//! The JSON Schema of a pipeline file, for completion and checks in editors.

use ablate_stages::stage::AnyStage;
use serde_json::{Map, Value, json};

/// The schema of files that use these kinds.
pub fn json_schema(kinds: &[&'static dyn AnyStage]) -> Value {
    let mut definitions = Map::new();
    definitions.insert(
        "var".into(),
        json!({ "type": "string", "pattern": "^\\$\\{[^}]+\\}$", "description": "A var of the pipeline." }),
    );
    let mut choices = Vec::new();
    let mut cases = Vec::new();
    for kind in kinds {
        let mut schema = kind.params_schema().to_value();
        let nested = schema.as_object_mut().and_then(|schema| schema.remove("$defs"));
        if let Some(schema) = schema.as_object_mut() {
            schema.remove("$schema");
            schema.remove("title");
        }
        rewrite(&mut schema, kind.name());
        for (name, mut definition) in nested.and_then(|nested| nested.as_object().cloned()).into_iter().flatten() {
            rewrite(&mut definition, kind.name());
            definitions.insert(format!("{}.{name}", kind.name()), definition);
        }
        definitions.insert(kind.name().into(), schema.clone());
        choices.push(json!({ "const": kind.name(), "description": kind.about() }));
        let mut then = json!({ "properties": { "with": { "$ref": format!("#/$defs/{}", kind.name()) } } });
        if schema["required"].as_array().is_some_and(|required| !required.is_empty()) {
            then["required"] = json!(["with"]);
        }
        cases.push(
            json!({ "if": { "properties": { "use": { "const": kind.name() } }, "required": ["use"] }, "then": then }),
        );
    }
    let reference =
        json!({ "type": "string", "description": "A stage, or `stage.port` for another output than its first." });
    let count = json!({ "anyOf": [{ "type": "integer", "minimum": 0 }, { "$ref": "#/$defs/var" }] });
    let stage = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "use": { "description": "The kind of stage.", "oneOf": choices },
            "from": {
                "description": "What it reads: a stage, or a map from inputs to stages.",
                "anyOf": [reference.clone(), { "type": "object", "additionalProperties": reference }],
            },
            "with": { "type": "object", "description": "The kind's parameters." },
            "resources": {
                "type": "object",
                "description": "What it may take of the machine; never changes a result.",
                "additionalProperties": false,
                "properties": {
                    "cpus": count.clone(),
                    "gpus": count,
                    "memory": { "type": ["string", "integer"], "description": "Bytes, or a size like `8 GiB`." },
                    "device": { "type": "string", "description": "`cpu`, `cuda` or `cuda:N`." },
                },
            },
        },
        "allOf": cases,
    });
    definitions.insert("stage".into(), stage);
    let point = json!({ "type": "object", "description": "`stage.parameter` or a var, with its value." });
    let overrides = json!({
        "type": ["object", "null"],
        "description": "What differs: `stage.parameter` or a var with its value; a stage with what changes of it, or `null` to drop it.",
    });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A pipeline of ablate",
        "type": "object",
        "additionalProperties": false,
        "anyOf": [{ "required": ["stages"] }, { "required": ["extends"] }],
        "properties": {
            "name": { "type": "string", "description": "The pipeline's name; the file's by default." },
            "about": { "type": "string", "description": "What it is for." },
            "extends": { "type": "string", "description": "A pipeline file that this one is laid over." },
            "variants": {
                "type": "object",
                "description": "The pipeline with something else in it, by name: `--variant NAME`, `--all`.",
                "propertyNames": { "pattern": "^[a-z][a-z0-9._-]*$" },
                "additionalProperties": overrides,
            },
            "sweep": {
                "type": "object",
                "description": "Lists of values by `stage.parameter` or var; every combination is a variant.",
                "properties": {
                    "exclude": { "type": "array", "items": point.clone(), "description": "Combinations that are left out." },
                    "include": { "type": "array", "items": point, "description": "Further points." },
                },
                "additionalProperties": { "type": "array", "minItems": 1 },
            },
            "seeds": {
                "type": "object",
                "description": "The values that vars take in turn; figures are means over them.",
                "additionalProperties": { "type": ["array", "null"], "minItems": 1 },
            },
            "vars": {
                "type": "object",
                "description": "Values that stages refer to as `${name}`; `--set name=value` changes them.",
                "propertyNames": { "pattern": "^[a-z][a-z0-9_]*$" },
            },
            "stages": {
                "type": "object",
                "description": "What is done, by name.",
                "propertyNames": { "pattern": "^[a-z][a-z0-9-]*$" },
                "additionalProperties": { "anyOf": [{ "$ref": "#/$defs/stage" }, { "type": "null", "description": "Drops what the extended file has." }] },
            },
            "compare": {
                "type": "object",
                "description": "The metric that matters and what it is held against.",
                "additionalProperties": false,
                "properties": {
                    "metric": {
                        "description": "Like `after.pass@1`, or a list of such.",
                        "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
                    },
                    "baseline": {
                        "description": "Like `before.pass@1`; or a variant, whose figures all others are held against.",
                        "type": "string",
                    },
                    "note": {
                        "description": "What whoever quotes the figures must know; printed under the table.",
                        "type": "string",
                    },
                },
            },
        },
        "$defs": definitions,
    })
}

/// Makes references point to this kind's definitions, and lets a var stand for every number, truth value or choice.
fn rewrite(schema: &mut Value, kind: &str) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get_mut("$ref")
                && let Some(name) = target.strip_prefix("#/$defs/")
            {
                *target = format!("#/$defs/{kind}.{name}");
            }
            for (key, value) in map.iter_mut() {
                if key != "default" && key != "examples" {
                    rewrite(value, kind);
                }
            }
            if let Some(Value::Object(properties)) = map.get_mut("properties") {
                properties.values_mut().for_each(allow_var);
            }
            if let Some(items) = map.get_mut("items") {
                allow_var(items);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rewrite(item, kind)),
        _ => {}
    }
}

fn allow_var(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    if map.get("type").is_some_and(|name| name == "string") && !map.contains_key("enum") && !map.contains_key("const") {
        return;
    }
    let mut outer = Map::new();
    for key in ["description", "default"] {
        if let Some(value) = map.remove(key) {
            outer.insert(key.into(), value);
        }
    }
    let inner = Value::Object(std::mem::take(map));
    outer.insert("anyOf".into(), json!([inner, { "$ref": "#/$defs/var" }]));
    *map = outer;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::file::{RESOURCE_KEYS, STAGE_KEYS, TOP_KEYS};
    use crate::pipeline::testing::KINDS;

    fn names(schema: &Value) -> Vec<&str> {
        let mut names: Vec<&str> = schema.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    fn sorted(keys: &[&'static str]) -> Vec<&'static str> {
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn the_schema_has_the_keys_that_the_reader_knows() {
        let schema = json_schema(KINDS);
        assert_eq!(names(&schema["properties"]), sorted(TOP_KEYS));
        let stage = &schema["$defs"]["stage"]["properties"];
        assert_eq!(names(stage), sorted(STAGE_KEYS));
        assert_eq!(names(&stage["resources"]["properties"]), sorted(RESOURCE_KEYS));
    }

    #[test]
    fn every_reference_in_the_schema_leads_somewhere() {
        fn walk(schema: &Value, root: &Value) {
            match schema {
                Value::Object(map) => {
                    if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                        assert!(root.pointer(target.trim_start_matches('#')).is_some(), "{target}");
                    }
                    map.values().for_each(|value| walk(value, root));
                }
                Value::Array(items) => items.iter().for_each(|item| walk(item, root)),
                _ => {}
            }
        }
        for schema in [json_schema(KINDS), json_schema(ablate_stages::STAGES)] {
            walk(&schema, &schema);
        }
    }

    #[test]
    fn a_number_may_be_a_var() {
        let schema = json_schema(KINDS);
        let temperature = &schema["$defs"]["fim-generate"]["properties"]["temperature"];
        assert_eq!(temperature["anyOf"][1]["$ref"], "#/$defs/var");
        assert_eq!(temperature["description"], "Temperature; 0 is greedy.");
    }
}
