//! Types checked before anything runs: the columns of every connection, from the sources down.

use crate::pipeline::error::{Fault, Problem, Problems};
use crate::pipeline::resolve::{Case, OutputRef, Resolution, Resolved, ResolvedStage, contradiction, note};
use crate::pipeline::variants::Choice;
use ablate_stages::columns::Column;
use ablate_stages::stage::{ArtifactKind, Columns, Declaration, InputPort, InputSchemas, Role, Work};
use arrow::datatypes::DataType;
use petgraph::algo::toposort;
use petgraph::graph::DiGraph;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// A pipeline in which every name, parameter and column is right, in each of its cases.
pub struct Checked {
    /// The cases, the pipeline as written first; there is one at least.
    pub cases: Vec<CheckedCase>,
    /// Warnings, and notes on what this machine lacks.
    pub problems: Problems,
}

/// One case of a checked pipeline.
pub struct CheckedCase {
    /// The variant's name; none for the pipeline as written.
    pub variant: Option<String>,
    /// The value of each varied var.
    pub seeds: BTreeMap<String, String>,
    /// Whether it is asked for.
    pub is_asked: bool,
    /// The pipeline.
    pub pipeline: Resolved,
    /// What each stage reads and writes, with the columns of its real inputs, by stage.
    pub declarations: HashMap<String, Declaration>,
    /// Positions in `pipeline.stages`, makers before readers.
    pub order: Vec<usize>,
}

/// Reads, resolves and checks a pipeline file with `--set`s on top.
///
/// # Errors
/// All that is wrong with it, warnings and notes included.
pub fn load(file: &Path, sets: &[String], choice: &Choice) -> Result<Checked, Problems> {
    check(crate::pipeline::resolve(file, sets, choice))
}

/// Checks the columns of a resolved pipeline.
///
/// # Errors
/// All that is wrong with it, together with what was found while resolving.
pub fn check(resolution: Resolution) -> Result<Checked, Problems> {
    let Resolution { cases, mut problems } = resolution;
    let mut checked = Vec::new();
    for case in cases {
        let mut found = Vec::new();
        let (variant, is_asked) = (case.variant.clone(), case.is_asked);
        let case = check_case(case, &mut found);
        if !is_asked && found.iter().any(Problem::is_error) {
            continue;
        }
        checked.push(case);
        note(&mut problems.list, found, variant.as_deref());
    }
    problems.sort();
    if problems.has_errors() { Err(problems) } else { Ok(Checked { cases: checked, problems }) }
}

fn check_case(case: Case, problems: &mut Vec<Problem>) -> CheckedCase {
    let Case { variant, seeds, is_asked, pipeline } = case;
    let order = order(&pipeline);
    let mut declarations: HashMap<String, Declaration> = HashMap::new();
    for &index in &order {
        let stage = &pipeline.stages[index];
        let mut inputs = InputSchemas::new();
        // Below a stage with mistakes nothing is known: more words would be about the same mistake.
        let known = stage.from.iter().all(|(port, output)| {
            let Some(maker) = declarations.get(&output.stage) else { return false };
            if let Some(columns) = maker.unmeasured(&output.port) {
                inputs.insert(port.clone(), columns);
            }
            true
        });
        if !known {
            continue;
        }
        let before = problems.len();
        match stage.bound.declare(&inputs) {
            Ok(declaration) => {
                connections(stage, &declaration, &pipeline, &declarations, problems);
                if problems.len() == before {
                    declarations.insert(stage.name.clone(), declaration);
                }
            }
            Err(error) => problems.push(contradiction(
                stage.expanded_from.as_deref().unwrap_or(&stage.name),
                &stage.written,
                stage.place,
                &error,
            )),
        }
    }
    CheckedCase { variant, seeds, is_asked, pipeline, declarations, order }
}

/// Makers before readers; stages on a circle, which are reported already, are left out.
fn order(pipeline: &Resolved) -> Vec<usize> {
    let index: HashMap<&str, usize> =
        pipeline.stages.iter().enumerate().map(|(index, stage)| (stage.name.as_str(), index)).collect();
    let mut graph = DiGraph::<usize, ()>::new();
    let nodes: Vec<_> = (0..pipeline.stages.len()).map(|index| graph.add_node(index)).collect();
    for (reader, stage) in pipeline.stages.iter().enumerate() {
        for output in stage.from.values() {
            if let Some(&maker) = index.get(output.stage.as_str()) {
                graph.add_edge(nodes[maker], nodes[reader], ());
            }
        }
    }
    toposort(&graph, None).map(|order| order.into_iter().map(|node| graph[node]).collect()).unwrap_or_default()
}

/// Every input port against what is connected to it.
fn connections(
    stage: &ResolvedStage,
    declaration: &Declaration,
    pipeline: &Resolved,
    declarations: &HashMap<String, Declaration>,
    problems: &mut Vec<Problem>,
) {
    let connected = |port: &InputPort| -> Option<(&OutputRef, &ArtifactKind)> {
        let output = stage.from.get(&port.name)?;
        let outputs = &declarations.get(&output.stage)?.outputs;
        Some((output, &outputs.iter().find(|found| found.name == output.port)?.artifact))
    };
    for port in &declaration.inputs {
        let Some((output, artifact)) = connected(port) else { continue };
        let at = stage.from_places.get(&port.name).copied().unwrap_or(stage.place);
        let mut report = |fault: Fault| problems.push(Problem::new(fault, at));
        if !fits(&port.role, artifact) {
            report(wrong_artifact(stage, port, output, artifact));
            continue;
        }
        let ArtifactKind::Table { columns, .. } = artifact else { continue };
        let mut missing: Vec<(String, String)> = Vec::new();
        if let Columns::These(wanted) = &port.columns {
            for wanted in wanted {
                match columns.iter().find(|column| column.name == wanted.name) {
                    None if wanted.nullable => {}
                    None => missing.push((wanted.name.clone(), words(&wanted.data_type))),
                    Some(found) if wanted.accepts(found) => {}
                    Some(found) => report(Fault::ColumnType {
                        stage: stage.name.clone(),
                        port: port.name.clone(),
                        column: wanted.name.clone(),
                        expected: full_words(wanted),
                        table: output.to_string(),
                        found: full_words(found),
                    }),
                }
            }
        }
        // An id that joins two tables, or a group's column, must be there even if the kind does not read it.
        let needed = match (&port.role, &declaration.work) {
            (Role::Lookup { by, .. }, _) => Some(by),
            (Role::Rows, Work::Map { group_by }) => group_by.as_ref(),
            _ => None,
        };
        if let Some(name) = needed
            && !columns.iter().any(|column| column.name == *name)
            && !missing.iter().any(|(column, _)| column == name)
        {
            missing.push((name.clone(), "an id".into()));
        }
        if !missing.is_empty() {
            report(Fault::MissingColumns {
                stage: stage.name.clone(),
                port: port.name.clone(),
                columns: missing,
                table: output.to_string(),
                kind: pipeline.stage(&output.stage).map_or("?", |maker| maker.kind).to_owned(),
                choices: columns.iter().map(|column| column.name.clone()).collect(),
            });
        }
    }
}

fn fits(role: &Role, artifact: &ArtifactKind) -> bool {
    matches!(
        (role, artifact),
        (Role::Rows | Role::Lookup { .. } | Role::Table, ArtifactKind::Table { .. })
            | (Role::Model, ArtifactKind::Model)
            | (Role::Files, ArtifactKind::Files)
    )
}

fn wrong_artifact(stage: &ResolvedStage, port: &InputPort, output: &OutputRef, artifact: &ArtifactKind) -> Fault {
    Fault::WrongArtifact {
        stage: stage.name.clone(),
        port: port.name.clone(),
        expected: match port.role {
            Role::Rows | Role::Lookup { .. } | Role::Table => "a table",
            Role::Model => "a model",
            Role::Files => "a folder of files",
        },
        source_name: output.to_string(),
        found: match artifact {
            ArtifactKind::Table { .. } => "a table",
            ArtifactKind::Model => "a model",
            ArtifactKind::Files => "a folder of files",
        },
    }
}

/// A column's type in words, with whether it may be empty.
fn full_words(column: &Column) -> String {
    if column.nullable { format!("{} or nothing", words(&column.data_type)) } else { words(&column.data_type) }
}

/// An Arrow type in the words of messages and of the reference.
pub fn words(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".into(),
        DataType::Boolean => "true or false".into(),
        DataType::List(item) | DataType::LargeList(item) => format!("list of {}", words(item.data_type())),
        DataType::Struct(fields) => {
            let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
            format!("struct of {}", names.join(", "))
        }
        DataType::Dictionary(_, values) => words(values),
        other => other.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shipped pipelines, with stand-ins for data that is not in the tree.
    #[test]
    fn every_shipped_pipeline_passes_check() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty.jsonl");
        std::fs::write(&empty, "").unwrap();
        let folder = dir.path().display().to_string();
        let mut checked = 0;
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines")).unwrap() {
            let file = entry.unwrap().path();
            if file.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            let sets = match file.file_stem().and_then(|stem| stem.to_str()) {
                Some("structurecoder") => vec![format!("apps={folder}"), format!("apps_test={folder}")],
                Some("judge") => vec![format!("problems={}", empty.display()), format!("samples={}", empty.display())],
                _ => Vec::new(),
            };
            if let Err(problems) = load(&file, &sets, &Choice::all()) {
                panic!("{problems}");
            }
            checked += 1;
        }
        assert!(checked >= 3, "found {checked} pipelines");
    }
}
