//! What a run would do: every stage's recipe, and what the cache knows of it. Reads the cache, changes nothing.

use super::RunError;
use crate::cache::{Cache, FilesOutput, Output, Record};
use crate::digest::Digest;
use crate::pipeline::error::nearest;
use crate::pipeline::resolve::ResolvedStage;
use crate::plan::key::{KEY, KeyFields, RECIPE, paths_in, recipe_of_input, without_paths};
use crate::plan::schema::Checked;
use ablate_stages::columns::Column;
use ablate_stages::sandbox::{Config, Interpreter};
use ablate_stages::stage::{ArtifactKind, Columns, Declaration, Environment, InputPort, Role, StageError};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A pipeline with the recipe of every stage.
pub struct Planned {
    /// The checked pipeline.
    pub checked: Checked,
    /// Stages, makers before readers.
    pub steps: Vec<Step>,
}

/// A stage with its recipe.
#[derive(Debug, Clone)]
pub struct Step {
    /// The stage's name.
    pub name: String,
    /// Its place in `checked.pipeline.stages`.
    pub stage: usize,
    /// Its recipe's fields: the inputs are recipes.
    pub fields: KeyFields,
    /// Its recipe.
    pub recipe: Digest,
    /// The steps it reads from.
    pub needs: Vec<usize>,
    /// Where each connected port's input comes from: a step, and its port.
    pub sources: BTreeMap<String, (usize, String)>,
    /// Digests of the files that its parameters name, by parameter.
    pub files: BTreeMap<String, Digest>,
    /// Paths among its parameters where nothing lies.
    pub missing_files: Vec<PathBuf>,
    /// What of its environment is not there, and how to get it.
    pub missing_environment: Option<(String, String)>,
}

impl Planned {
    /// Computes the recipes.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub fn new(checked: Checked, cache: &Cache, limit: Option<u64>) -> Result<Self, RunError> {
        let mut steps: Vec<Step> = Vec::new();
        let mut index = BTreeMap::new();
        let mut environment = BTreeMap::new();
        for &stage_index in &checked.order {
            let stage = &checked.pipeline.stages[stage_index];
            let declaration = &checked.declarations[&stage.name];
            let kind = stage.bound.kind();
            let mut parameters = stage.bound.params();
            if let Some(parameters) = parameters.as_object_mut() {
                parameters.retain(|name, _| !kind.not_in_key().contains(&name.as_str()));
            }
            let (mut digests, mut files, mut missing_files) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
            for (parameter, path) in paths_in(&parameters) {
                if path.exists() {
                    let digest = cache.digest_path(&path)?.digest;
                    digests.insert(path, digest);
                    files.insert(parameter, digest);
                } else {
                    missing_files.push(path);
                }
            }
            let mut fields = KeyFields::new(kind.name(), kind.version(), without_paths(&parameters, &digests));
            let mut missing_environment = None;
            for &need in &declaration.environment {
                match environment.entry(need).or_insert_with(|| probe(need)) {
                    Ok(version) => {
                        fields.environment.insert(need.name().to_owned(), version.clone());
                    }
                    Err(missing) => {
                        // What does not need it can still be planned, shown and run.
                        fields.environment.insert(need.name().to_owned(), "not there".to_owned());
                        missing_environment = Some(missing.clone());
                    }
                }
            }
            let is_source = stage.from.is_empty();
            fields.limit = limit.filter(|_| is_source && gives_rows(declaration));
            let mut sources = BTreeMap::new();
            for (port, output) in &stage.from {
                let maker: usize = index[&output.stage];
                let columns = seen_columns(declaration, port, table_columns(&checked, output));
                fields.inputs.insert(port.clone(), recipe_of_input(&steps[maker].recipe, &output.port, &columns));
                sources.insert(port.clone(), (maker, output.port.clone()));
            }
            let needs = sources.values().map(|(maker, _)| *maker).collect::<BTreeSet<_>>().into_iter().collect();
            index.insert(stage.name.clone(), steps.len());
            let recipe = fields.digest(RECIPE);
            let name = stage.name.clone();
            steps.push(Step {
                name,
                stage: stage_index,
                fields,
                recipe,
                needs,
                sources,
                files,
                missing_files,
                missing_environment,
            });
        }
        Ok(Self { checked, steps })
    }

    /// The pipeline's name.
    pub fn name(&self) -> &str {
        &self.checked.pipeline.name
    }

    /// What a step is made of.
    pub fn stage(&self, step: usize) -> &ResolvedStage {
        &self.checked.pipeline.stages[self.steps[step].stage]
    }

    /// What a step reads and writes.
    pub fn declaration(&self, step: usize) -> &Declaration {
        &self.checked.declarations[&self.steps[step].name]
    }

    /// The step of this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.steps.iter().position(|step| step.name == name)
    }

    /// The step of this name, or words for a user who misspelt it.
    ///
    /// # Errors
    /// That there is none, and the nearest name.
    pub fn named(&self, name: &str) -> Result<usize, String> {
        self.find(name).ok_or_else(|| {
            let names: Vec<String> = self.steps.iter().map(|step| step.name.clone()).collect();
            let near = nearest(name, &names).map(|near| format!(" (did you mean `{near}`?)"));
            format!("the pipeline has no stage `{name}`{}", near.unwrap_or_default())
        })
    }

    /// What the cache knows of every step without running anything: by recipe, and where all inputs are known, by key.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn lookup(&self, cache: &Cache) -> Result<Vec<Option<Record>>, RunError> {
        let mut records: Vec<Option<Record>> = Vec::new();
        for step in 0..self.steps.len() {
            let record = match cache.recipe(&self.steps[step].recipe) {
                Some(record) if in_place(&record, cache) && self.fits(step, &record, &records, cache)? => Some(record),
                _ if self.steps[step].needs.iter().all(|&need| records[need].is_some()) => {
                    let fields = self.key_fields(step, cache, &|need| records[need].clone().expect("checked above"))?;
                    cache.action(&fields.digest(KEY)).filter(|record| in_place(record, cache))
                }
                _ => None,
            };
            records.push(record);
        }
        Ok(records)
    }

    /// Whether a record that was found by its recipe was made of what its inputs hold now: a stage above that need not give equal
    /// rows may have been done anew since. An input that is not known is taken to be what it was.
    fn fits(&self, step: usize, record: &Record, records: &[Option<Record>], cache: &Cache) -> Result<bool, RunError> {
        for (port, (maker, output)) in &self.steps[step].sources {
            let (Some(note), Some(made)) = (record.inputs.get(port), &records[*maker]) else { continue };
            if self.input_digest(step, port, &made.outputs[output], cache)? != note.digest {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The digest of what a step sees of an input.
    fn input_digest(&self, step: usize, port: &str, input: &Output, cache: &Cache) -> Result<Digest, RunError> {
        Ok(match input {
            Output::Table(table) => {
                let columns = self.columns_of(step, port);
                cache.declared_digest(table, &columns.iter().map(String::as_str).collect::<Vec<_>>())?
            }
            other => other.content(),
        })
    }

    /// The fields of a step's key, given the records of what it reads.
    ///
    /// # Errors
    /// Where an input's columns cannot be digested.
    pub fn key_fields(
        &self,
        step: usize,
        cache: &Cache,
        record: &dyn Fn(usize) -> Record,
    ) -> Result<KeyFields, RunError> {
        let mut fields = self.steps[step].fields.clone();
        for (port, (maker, output)) in &self.steps[step].sources {
            let digest = self.input_digest(step, port, &record(*maker).outputs[output], cache)?;
            fields.inputs.insert(port.clone(), digest);
        }
        Ok(fields)
    }

    /// The names of the columns that a step sees on a port.
    pub fn columns_of(&self, step: usize, port: &str) -> Vec<String> {
        let (maker, output) = &self.steps[step].sources[port];
        let found = table_of(self.declaration(*maker), output);
        seen_columns(self.declaration(step), port, found)
    }

    /// The columns of the tables that are connected to a step, as its declaration was given them.
    pub fn input_schemas(&self, step: usize) -> BTreeMap<String, Vec<Column>> {
        let sources = &self.steps[step].sources;
        sources
            .iter()
            .filter_map(|(port, (maker, output))| {
                Some((port.clone(), table_of(self.declaration(*maker), output)?.0.to_vec()))
            })
            .collect()
    }
}

/// Whether what a record only refers to is still what it was: a model folder that stays where the user has it.
fn in_place(record: &Record, cache: &Cache) -> bool {
    record.outputs.values().all(|output| match output {
        Output::Model(FilesOutput::Referenced { content, path })
        | Output::Files(FilesOutput::Referenced { content, path }) => {
            cache.digest_path(path).is_ok_and(|found| found.digest == *content)
        }
        _ => true,
    })
}

fn gives_rows(declaration: &Declaration) -> bool {
    declaration.outputs.iter().any(|port| matches!(port.artifact, ArtifactKind::Table { .. }))
}

fn table_of<'a>(maker: &'a Declaration, port: &str) -> Option<(&'a [Column], &'a [String])> {
    maker.outputs.iter().find(|output| output.name == port).and_then(|output| match &output.artifact {
        ArtifactKind::Table { columns, measured } => Some((columns.as_slice(), measured.as_slice())),
        ArtifactKind::Model | ArtifactKind::Files => None,
    })
}

fn table_columns<'a>(
    checked: &'a Checked,
    output: &crate::pipeline::resolve::OutputRef,
) -> Option<(&'a [Column], &'a [String])> {
    table_of(&checked.declarations[&output.stage], &output.port)
}

/// What a port sees of a table: the columns it declares that are there, or all but the measured ones.
fn seen_columns(declaration: &Declaration, port: &str, table: Option<(&[Column], &[String])>) -> Vec<String> {
    let Some((columns, measured)) = table else { return Vec::new() };
    match declaration.inputs.iter().find(|input| input.name == port) {
        Some(InputPort { columns: Columns::These(these), role, .. }) if *role != Role::Model => {
            these.iter().filter(|want| columns.iter().any(|c| c.name == want.name)).map(|c| c.name.clone()).collect()
        }
        _ => columns.iter().map(|c| c.name.clone()).filter(|name| !measured.contains(name)).collect(),
    }
}

/// The version of what a kind declares of its environment; or what is missing, and how to get it.
pub(super) fn probe(need: Environment) -> Result<String, (String, String)> {
    let Environment::Python = need;
    match Interpreter::find(&Config::default().interpreter).map_err(StageError::from) {
        Ok(interpreter) => Ok(interpreter.version().to_owned()),
        Err(StageError::Missing { what, fix }) => Err((what, fix)),
        Err(other) => Err(("a Python interpreter".to_owned(), other.to_string())),
    }
}
