//! The reference of kinds, for `ablate stages` and pipelines/README.md: all of it from the Rust types that read a pipeline.

use super::located::{Located, Location, parse};
use crate::plan::schema::words;
use ablate_stages::columns::Column;
use ablate_stages::stage::{AnyStage, ArtifactKind, Columns, Declaration, InputSchemas, Repeatable, Role, Work};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;

/// A kind, as a reader of the reference sees it.
#[derive(Debug, Clone, Serialize)]
pub struct KindReference {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: u32,
    /// What it does.
    pub about: &'static str,
    /// What `with` may hold.
    pub parameters: Vec<Parameter>,
    /// What `from` may connect.
    pub inputs: Vec<Port>,
    /// What it makes.
    pub outputs: Vec<Port>,
    /// The unit of reuse: `row`, `rows that share a column`, or `everything`.
    pub unit: String,
    /// When equal inputs give equal rows.
    pub repeatable: Repeatable,
    /// Stages of a small pipeline that uses it.
    pub example: &'static str,
}

/// A parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Parameter {
    /// Its place in `with`, dotted.
    pub path: String,
    /// Its type in words.
    pub value: String,
    /// Its default as JSON; none where it must be given, or where nothing is the default.
    pub default: Option<String>,
    /// Whether it must be given.
    pub required: bool,
    /// What it means.
    pub doc: String,
}

/// An input or output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// `table`, `model`, `files`, with how it is read.
    pub holds: String,
    /// Whether it may be left out.
    pub optional: bool,
    /// What it is for.
    pub doc: String,
    /// Columns with their types; empty for models and files, and where all are taken.
    pub columns: Vec<(String, String)>,
}

/// Describes a kind. The ports are those of the use in its example.
pub fn describe(kind: &'static dyn AnyStage) -> KindReference {
    let schema = kind.params_schema().to_value();
    let mut parameters = Vec::new();
    Walk { root: &schema }.properties(&schema, "", &mut parameters);
    let declaration = example_declaration(kind);
    KindReference {
        name: kind.name(),
        version: kind.version(),
        about: kind.about(),
        parameters,
        inputs: declaration.as_ref().map(inputs).unwrap_or_default(),
        outputs: declaration.as_ref().map(outputs).unwrap_or_default(),
        unit: match declaration.as_ref().map(|declaration| &declaration.work) {
            Some(Work::Map { group_by: None }) => "row".into(),
            Some(Work::Map { group_by: Some(column) }) => format!("rows that share `{column}`"),
            _ => "everything".into(),
        },
        repeatable: declaration.map_or(Repeatable::Bits, |declaration| declaration.repeatable),
        example: kind.example().trim(),
    }
}

/// What the kind declares for the use in its example, without tables.
fn example_declaration(kind: &'static dyn AnyStage) -> Option<Declaration> {
    let (tree, _) = parse(kind.example(), 0).ok()?;
    let stages = tree.entry("stages").map_or(&tree, |entry| &entry.value);
    let empty = Located::empty_map(Location::FILE);
    let used = stages
        .entries()
        .iter()
        .rev()
        .find(|entry| entry.value.entry("use").and_then(|entry| entry.value.as_str()) == Some(kind.name()))?;
    let with = used.value.entry("with").map_or(&empty, |entry| &entry.value);
    kind.bind(with.to_json()).ok()?.declare(&InputSchemas::new()).ok()
}

fn inputs(declaration: &Declaration) -> Vec<Port> {
    let port = |port: &ablate_stages::stage::InputPort| Port {
        name: port.name.clone(),
        holds: match &port.role {
            Role::Rows => "table, row by row".into(),
            Role::Lookup { by, many: false } => format!("table, looked up by `{by}`"),
            Role::Lookup { by, many: true } => format!("table, all rows of each `{by}`"),
            Role::Table => "table, as a whole".into(),
            Role::Model => "model".into(),
            Role::Files => "files".into(),
        },
        optional: port.optional,
        doc: port.doc.into(),
        columns: match &port.columns {
            Columns::These(columns) => typed(columns),
            Columns::All => Vec::new(),
        },
    };
    declaration.inputs.iter().map(port).collect()
}

fn outputs(declaration: &Declaration) -> Vec<Port> {
    let port = |output: &ablate_stages::stage::OutputPort| {
        let (holds, columns) = match &output.artifact {
            ArtifactKind::Table { columns, .. } => ("table", typed(columns)),
            ArtifactKind::Model => ("model", Vec::new()),
            ArtifactKind::Files => ("files", Vec::new()),
        };
        Port { name: output.name.clone(), holds: holds.into(), optional: false, doc: output.doc.into(), columns }
    };
    declaration.outputs.iter().map(port).collect()
}

fn typed(columns: &[Column]) -> Vec<(String, String)> {
    columns.iter().map(|column| (column.name.clone(), words(&column.data_type))).collect()
}

struct Walk<'a> {
    root: &'a Value,
}

impl<'a> Walk<'a> {
    fn target(&self, mut schema: &'a Value) -> &'a Value {
        while let Some(found) =
            schema["$ref"].as_str().and_then(|target| self.root.pointer(target.trim_start_matches('#')))
        {
            schema = found;
        }
        schema
    }

    fn properties(&self, schema: &'a Value, path: &str, parameters: &mut Vec<Parameter>) {
        let schema = self.target(schema);
        let required = |name: &str| schema["required"].as_array().is_some_and(|names| names.iter().any(|n| n == name));
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let target = self.target(property);
            let doc = property["description"].as_str().or_else(|| target["description"].as_str()).unwrap_or_default();
            parameters.push(Parameter {
                value: self.words(target),
                default: property.get("default").filter(|default| !default.is_null()).map(Value::to_string),
                required: required(name),
                doc: doc.replace('\n', " "),
                path: path.clone(),
            });
            self.below(target, &path, parameters);
        }
    }

    /// The parameters inside a parameter: of a struct, of an optional one, of the alternatives of a tagged one.
    fn below(&self, schema: &'a Value, path: &str, parameters: &mut Vec<Parameter>) {
        let schema = self.target(schema);
        self.properties(schema, path, parameters);
        for alternative in alternatives(schema) {
            self.below(alternative, path, parameters);
        }
        if let Some(items) = schema.get("items") {
            self.below(items, &format!("{path}[]"), parameters);
        }
    }

    fn words(&self, schema: &'a Value) -> String {
        let schema = self.target(schema);
        let quoted = |value: &Value| format!("`{}`", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        if let Some(constant) = schema.get("const") {
            return quoted(constant);
        }
        if let Some(choices) = schema["enum"].as_array() {
            return choices.iter().map(quoted).collect::<Vec<_>>().join(", ");
        }
        let several = alternatives(schema);
        if !several.is_empty() {
            let word = |schema: &&'a Value| match tag(self.target(schema)) {
                Some(tag) => format!("`{tag}: {{..}}`"),
                None => self.words(schema),
            };
            let words: Vec<String> = several.iter().map(word).collect();
            return words.join(", ");
        }
        let one = |name: &str| match name {
            "boolean" => "true or false".to_owned(),
            "integer" => "whole number".into(),
            "number" => "number".into(),
            "string" => "text".into(),
            "array" => match schema.get("items") {
                Some(items) => format!("list of {}", self.words(items)),
                None => "list".into(),
            },
            "object" => "map".into(),
            other => other.to_owned(),
        };
        match &schema["type"] {
            Value::String(name) => one(name),
            Value::Array(names) => {
                let names = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
                names.map(one).collect::<Vec<_>>().join(" or ")
            }
            _ => "any value".into(),
        }
    }
}

/// The tag of an externally tagged alternative: its only property, which it requires.
fn tag(schema: &Value) -> Option<&str> {
    match (schema["properties"].as_object(), schema["required"].as_array()) {
        (Some(properties), Some(required)) if properties.len() == 1 && required.len() == 1 => required[0].as_str(),
        _ => None,
    }
}

fn alternatives(schema: &Value) -> Vec<&Value> {
    let list = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array());
    list.into_iter().flatten().filter(|schema| schema["type"] != "null").collect()
}

/// The whole reference as Markdown.
pub fn markdown(kinds: &[&'static dyn AnyStage]) -> String {
    let mut text = String::from(MARKDOWN_HEAD);
    for &kind in kinds {
        let first = kind.about().split(". ").next().unwrap_or_default().trim_end_matches('.');
        let _ = writeln!(text, "- [`{0}`](#{0}): {1}", kind.name(), first.replace('\n', " "));
    }
    for &kind in kinds {
        text.push('\n');
        text += &kind_markdown(&describe(kind));
    }
    text
}

const MARKDOWN_HEAD: &str = "\
# Pipelines

Ready pipelines, and the reference of every kind of stage. This page and `pipeline.schema.json` are generated from the types
that read a pipeline (`make generate`); an editor with a YAML language server completes and checks a file that begins with

```yaml
# yaml-language-server: $schema=pipeline.schema.json
```

A stage is `name: { use: kind, from: .., with: .., resources: .. }`. `from` is the name of a stage where one input is required, else a
map from inputs to stages; `stage.port` means another output than the first. `${var}` stands for a var of the pipeline. Paths are relative to the
file that they are written in. `resources` (`cpus`, `gpus`, `memory`, `device`) never changes a result. `ablate check` says what is wrong with a
file, all at once.

## Variants

```yaml
extends: quickstart.yaml                       # this file is laid over that one
seeds: { train_seed: [17, 18, 19] }            # the var takes these values in turn; figures are means over them
variants:                                      # the file itself is the variant `default`
  no-curriculum: { ordered.by: random }        # stage.parameter, or a var
  sft: { aligned: { with: { objective: { sft: {} } } } }    # a part of a stage: `from` and `with` name by name
  direct: { ordered: null, aligned: { from: { examples: pairs } } }    # `null` drops a stage, `from` connects another
  other: { pairs: { use: take, from: .., with: .. } }       # another kind replaces a stage, a new name adds one
sweep:                                         # every combination is a variant: `pairs.alpha=0,beta=0.1`
  pairs.alpha: [0, 0.5, 1]
  beta: [0.1, 0.5]
  exclude: [{ pairs.alpha: 0, beta: 0.5 }]
  include: [{ pairs.alpha: 0.7, beta: 0.3 }]
compare: { metric: after.pass@1, baseline: default }        # a variant, or a metric like `before.pass@1`
```

`ablate run FILE` runs the file as written, over its seeds; `--variant NAME` others, `--all` all of them, as one graph: what two cases agree on
is done once. `--set train_seed=17` takes one seed. A step that is not the same in all cases is named after what it depends on:
`aligned@no-curriculum,train_seed=18`.

## Judging programs

`ablate run FILE --set problems=.. --set samples=..` judges anyone's programs. Samples are JSON lines or Parquet: `{task_id, completion}`,
`{task_id, solution}`, or a table with `problem_id` and `program`, which keeps its `sample_id`. Verdicts say in `trust` where they were made: `full`,
outside the program's process, which never has what is expected; `weak`, in that process, for test code that needs what cannot go from one
process to another (`is` between two objects, a class of the test's own, captured output). The stage's log says how many.

`language: ../languages/cpp.yaml` judges programs in another language, by what they print: the file says what to compile and run (C++, Rust and
JavaScript are there; write the next one), and the version of its tools is part of every verdict's key. `coverage: lines` says which lines of a
program ran. `repeats: 9` runs each program nine times on one core and gives times that programs can be ranked by.

| problems | pipeline | what is compared, and how |
|---|---|---|
| HumanEval, MBPP (whole or sanitized), a table of problems | `judge.yaml` | literal asserts as values, by Python's `==`; other test code runs in a process of its own, on stand-ins for the program's objects |
| HumanEval+ as it is released (also Mini and `NoExtreme`) | `judge-plus.yaml` | values, as `EvalPlus` 0.3.1 compares them; scores on base tests, and on base and added ones |
| the folders of APPS | `judge-apps.yaml` | standard output line by line, or values; and both as the published harness, whose ladder takes wrong answers too |

The tests of HumanEval+ are inputs alone: `expect` has the reference solution say what is right. Its `HumanEval/32`, which no program can pass in
`EvalPlus` 0.3.1, is judged by the value of the polynomial. MBPP+ is not read: its JSON has lost the tuples, sets and complex numbers of its
arguments. Programs see Python's own library and no other, so one that imports NumPy fails.

## Kinds

";

/// One kind as Markdown.
pub fn kind_markdown(kind: &KindReference) -> String {
    let mut text = format!("### {}\n\n{}\n", kind.name, kind.about);
    let unit = if kind.unit == "everything" { "as a whole" } else { "by the unit" };
    let repeatable = match kind.repeatable {
        Repeatable::Bits => "equal inputs give equal rows everywhere",
        Repeatable::SameMachine => "equal inputs give equal rows on one type of machine",
        Repeatable::No => "equal inputs need not give equal rows; the cache keeps the first",
    };
    let _ = write!(text, "\nVersion {}. Reused {unit}", kind.version);
    if kind.unit != "everything" {
        let _ = write!(text, " ({})", kind.unit);
    }
    let _ = writeln!(text, "; {repeatable}.");
    if !kind.parameters.is_empty() {
        text += "\n| parameter | value | default | |\n|---|---|---|---|\n";
        for parameter in &kind.parameters {
            let default = match (&parameter.default, parameter.required) {
                (_, true) => "required".to_owned(),
                (Some(default), _) if default.len() <= 60 => format!("`{default}`"),
                (Some(_), _) => "..".into(),
                (None, _) => String::new(),
            };
            let cells = [format!("`{}`", parameter.path), parameter.value.clone(), default, parameter.doc.clone()];
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
    }
    for (title, ports) in [("input", &kind.inputs), ("output", &kind.outputs)] {
        if ports.is_empty() {
            continue;
        }
        let _ = write!(text, "\n| {title} | holds | columns | |\n|---|---|---|---|\n");
        for port in ports {
            let columns: Vec<String> = port.columns.iter().map(|(name, _)| format!("`{name}`")).collect();
            let holds = if port.optional { format!("{} (optional)", port.holds) } else { port.holds.clone() };
            let columns =
                if columns.is_empty() && holds.starts_with("table") { "all".into() } else { columns.join(", ") };
            let _ = writeln!(text, "| `{}` | {holds} | {columns} | {} |", port.name, port.doc);
        }
    }
    let _ = write!(text, "\n```yaml\n{}\n```\n", kind.example);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::json_schema::json_schema;
    use crate::pipeline::testing::{FimGenerate, Train};

    #[test]
    fn parameters_inside_parameters_are_listed_with_their_path() {
        let train = describe(&Train);
        let lines: Vec<String> =
            train.parameters.iter().map(|p| format!("{} | {} | {}", p.path, p.value, p.required)).collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
    learning_rate | number | false
    objective | `sft: {..}`, `dpo: {..}` | true
    objective.sft | map | true
    objective.dpo | map | true
    objective.dpo.beta | number | true
    "#);
    }

    #[test]
    fn a_kind_is_described_with_its_ports() {
        let text = kind_markdown(&describe(&FimGenerate));
        assert!(text.contains("| `samples` | whole number | `5` | Samples a block. |"), "{text}");
        assert!(text.contains("| `problems` | table, looked up by `problem_id` |"), "{text}");
    }

    /// Compares with what is in the tree; with `ABLATE_GENERATE` set (`make generate`), writes it.
    #[test]
    fn generated_files_are_up_to_date() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
        let mut schema = serde_json::to_string_pretty(&json_schema(ablate_stages::STAGES)).unwrap();
        schema.push('\n');
        for (name, text) in [("README.md", markdown(ablate_stages::STAGES)), ("pipeline.schema.json", schema)] {
            let file = folder.join(name);
            if std::env::var_os("ABLATE_GENERATE").is_some() {
                std::fs::write(&file, text).unwrap();
            } else {
                let there = std::fs::read_to_string(&file).unwrap_or_default();
                assert!(there == text, "pipelines/{name} is not up to date; renew it: make generate");
            }
        }
    }
}
