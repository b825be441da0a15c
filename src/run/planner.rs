//! What a run would do: every stage's recipe, and what the cache knows of it. Reads the cache, changes nothing.

use super::RunError;
use crate::cache::{Cache, FilesOutput, Index, Output, Record};
use crate::digest::Digest;
use crate::pipeline::error::nearest;
use crate::pipeline::resolve::ResolvedStage;
use crate::pipeline::variants::DEFAULT;
use crate::plan::key::{KEY, KeyFields, RECIPE, paths_in, recipe_of_input, without_paths};
use crate::plan::schema::{Checked, CheckedCase};
use ablate_stages::columns::Column;
use ablate_stages::sandbox::{Config, Interpreter, Toolchain};
use ablate_stages::stage::{ArtifactKind, Columns, Declaration, Environment, InputPort, Role, StageError};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

/// A pipeline with the recipe of every stage, all cases in one graph: what two of them agree on is one step.
pub struct Planned {
    /// The cases that are asked for.
    pub cases: Vec<PlannedCase>,
    /// Steps, makers before readers.
    pub steps: Vec<Step>,
    by_name: HashMap<String, usize>,
}

/// A case of the pipeline, and which step each of its stages is.
pub struct PlannedCase {
    /// The checked pipeline.
    pub checked: CheckedCase,
    /// The step of each stage.
    pub steps: BTreeMap<String, usize>,
}

/// A stage with its recipe.
#[derive(Debug, Clone)]
pub struct Step {
    /// The stage's name, and where that is not enough the variant and the seeds that it stands for: `aligned@no-curriculum,train_seed=18`.
    pub name: String,
    /// The first case that it belongs to.
    pub case: usize,
    /// Its place in the stages of that case.
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

/// What a stage's recipe is made of.
struct Draft {
    /// Its place in the stages of its case.
    stage: usize,
    recipe: Digest,
    fields: KeyFields,
    files: BTreeMap<String, Digest>,
    missing_files: Vec<PathBuf>,
    missing_environment: Option<(String, String)>,
}

/// The versions of what kinds need of their environment, asked once each.
type Environments = BTreeMap<Environment, Result<String, (String, String)>>;

impl Planned {
    /// Computes the recipes.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub fn new(checked: Checked, cache: &Cache, limit: Option<u64>) -> Result<Self, RunError> {
        let mut environments = Environments::new();
        let mut drafted = Vec::new();
        for case in checked.cases {
            let drafts = drafts(&case, &mut environments, cache, limit)?;
            drafted.push((case, drafts));
        }
        let names = Names::of(&drafted);
        let mut planned = Self { cases: Vec::new(), steps: Vec::new(), by_name: HashMap::new() };
        let mut merged: HashMap<(String, Digest), usize> = HashMap::new();
        for (case, drafts) in drafted.into_iter().filter(|(case, _)| case.is_asked) {
            let mut steps: BTreeMap<String, usize> = BTreeMap::new();
            for draft in drafts {
                let stage = &case.pipeline.stages[draft.stage];
                let step = *merged.entry((stage.name.clone(), draft.recipe)).or_insert_with(|| {
                    let mut name = names.name(&case, &stage.name, &draft.recipe);
                    if planned.find(&name).is_some() {
                        name = full_name(&case, &stage.name);
                    }
                    planned.add(name, draft, stage, &steps)
                });
                steps.insert(stage.name.clone(), step);
            }
            planned.cases.push(PlannedCase { checked: case, steps });
        }
        Ok(planned)
    }

    fn add(&mut self, name: String, draft: Draft, stage: &ResolvedStage, steps: &BTreeMap<String, usize>) -> usize {
        let sources: BTreeMap<String, (usize, String)> = stage
            .from
            .iter()
            .map(|(port, output)| (port.clone(), (steps[&output.stage], output.port.clone())))
            .collect();
        let needs = sources.values().map(|(maker, _)| *maker).collect::<BTreeSet<_>>().into_iter().collect();
        let Draft { stage: index, recipe, fields, files, missing_files, missing_environment } = draft;
        let case = self.cases.len();
        let step = Step {
            name,
            case,
            stage: index,
            fields,
            recipe,
            needs,
            sources,
            files,
            missing_files,
            missing_environment,
        };
        self.by_name.insert(step.name.clone(), self.steps.len());
        self.steps.push(step);
        self.steps.len() - 1
    }

    /// The pipeline's name.
    pub fn name(&self) -> &str {
        self.cases.first().map_or("", |case| &case.checked.pipeline.name)
    }

    /// The pipeline's file, as the user gave it.
    pub fn file(&self) -> &Path {
        self.cases.first().map_or(Path::new(""), |case| &case.checked.pipeline.file)
    }

    /// What a step is made of.
    pub fn stage(&self, step: usize) -> &ResolvedStage {
        let step = &self.steps[step];
        &self.cases[step.case].checked.pipeline.stages[step.stage]
    }

    /// What a step reads and writes.
    pub fn declaration(&self, step: usize) -> &Declaration {
        &self.cases[self.steps[step].case].checked.declarations[&self.stage(step).name]
    }

    /// The step of this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The steps of a stage in all cases, or the one step of a full name; else words for a user who misspelt it.
    ///
    /// # Errors
    /// That there is none, and the nearest name.
    pub fn all_named(&self, name: &str) -> Result<Vec<usize>, String> {
        // What a stage is called in every case is the full name of some of its steps too.
        let mut found: BTreeSet<usize> = self.cases.iter().filter_map(|case| case.steps.get(name).copied()).collect();
        if found.is_empty() {
            found.extend(self.find(name));
        }
        if !found.is_empty() {
            return Ok(found.into_iter().collect());
        }
        let stages = self.cases.iter().flat_map(|case| case.steps.keys().cloned());
        let names: Vec<String> =
            self.by_name.keys().cloned().chain(stages).collect::<BTreeSet<_>>().into_iter().collect();
        let near = nearest(name, &names).map(|near| format!(" (did you mean `{near}`?)"));
        Err(format!("the pipeline has no stage `{name}`{}", near.unwrap_or_default()))
    }

    /// The one step of this name: of the pipeline as written, where a stage has it.
    ///
    /// # Errors
    /// As [`Planned::all_named`]; and that there are several.
    pub fn named(&self, name: &str) -> Result<usize, String> {
        if let Some(step) = self.find(name) {
            return Ok(step);
        }
        match self.all_named(name)?.as_slice() {
            [step] => Ok(*step),
            several => {
                let names: Vec<&str> = several.iter().map(|&step| self.steps[step].name.as_str()).collect();
                Err(format!("`{name}` stands for several steps; say which: {}", names.join("  ")))
            }
        }
    }

    /// The cases that a step belongs to.
    pub fn cases_of(&self, step: usize) -> impl Iterator<Item = &PlannedCase> {
        let name = &self.stage(step).name;
        self.cases.iter().filter(move |case| case.steps.get(name) == Some(&step))
    }

    /// What the cache knows of every step without running anything: by recipe, and where all inputs are known, by key.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn lookup(&self, cache: &Cache) -> Result<Vec<Option<Record>>, RunError> {
        self.lookup_in(cache, &mut cache.index(self.name()))
    }

    /// As [`Planned::lookup`], in an index of the pipeline.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn lookup_in(&self, cache: &Cache, index: &mut Index) -> Result<Vec<Option<Record>>, RunError> {
        let mut records: Vec<Option<Record>> = Vec::new();
        for step in 0..self.steps.len() {
            let record = match index.recipe(&self.steps[step].recipe) {
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
            .filter_map(|(port, (maker, output))| Some((port.clone(), self.declaration(*maker).unmeasured(output)?)))
            .collect()
    }

    /// All columns of the table that is connected to a port, as it is stored; none where no table is connected.
    pub fn stored_columns(&self, step: usize, port: &str) -> Vec<Column> {
        let table = self.steps[step].sources.get(port);
        let table = table.and_then(|(maker, output)| table_of(self.declaration(*maker), output));
        table.map(|(columns, _)| columns.to_vec()).unwrap_or_default()
    }
}

impl Draft {
    fn of(
        case: &CheckedCase,
        place: usize,
        recipes: &HashMap<&str, Digest>,
        environments: &mut Environments,
        cache: &Cache,
        limit: Option<u64>,
    ) -> Result<Self, RunError> {
        let stage = &case.pipeline.stages[place];
        let declaration = &case.declarations[&stage.name];
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
        for need in &declaration.environment {
            match environments.entry(need.clone()).or_insert_with(|| probe(need)) {
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
        fields.limit = limit.filter(|_| stage.from.is_empty() && gives_rows(declaration));
        for (port, output) in &stage.from {
            let columns = seen_columns(declaration, port, table_of(&case.declarations[&output.stage], &output.port));
            let recipe = recipe_of_input(&recipes[output.stage.as_str()], &output.port, &columns);
            fields.inputs.insert(port.clone(), recipe);
        }
        let recipe = fields.digest(RECIPE);
        Ok(Self { stage: place, recipe, fields, files, missing_files, missing_environment })
    }
}

/// The drafts of a case, makers before readers.
fn drafts(
    case: &CheckedCase,
    environments: &mut Environments,
    cache: &Cache,
    limit: Option<u64>,
) -> Result<Vec<Draft>, RunError> {
    let mut recipes: HashMap<&str, Digest> = HashMap::new();
    let mut drafts = Vec::new();
    for &place in &case.order {
        let draft = Draft::of(case, place, &recipes, environments, cache, limit)?;
        recipes.insert(&case.pipeline.stages[place].name, draft.recipe);
        drafts.push(draft);
    }
    Ok(drafts)
}

/// What tells the steps of one stage apart: the variants in which it is not what it is in the pipeline as written, and the seeds that
/// change it.
struct Names {
    as_written: HashSet<(String, Digest)>,
    /// The vars on whose value a stage depends, by variant and stage.
    varied: HashMap<(Option<String>, String), BTreeSet<String>>,
}

/// A variant, a stage, and a var that it may depend on.
type Varied<'a> = (Option<&'a str>, &'a str, &'a str);

impl Names {
    fn of(drafted: &[(CheckedCase, Vec<Draft>)]) -> Self {
        let mut as_written = HashSet::new();
        let mut varied: HashMap<(Option<String>, String), BTreeSet<String>> = HashMap::new();
        // A stage depends on a var if its recipe differs where nothing but the var does.
        let mut seen: HashMap<(Varied<'_>, Vec<&str>), Digest> = HashMap::new();
        for (case, drafts) in drafted {
            for draft in drafts {
                let name = &case.pipeline.stages[draft.stage].name;
                if case.variant.is_none() {
                    as_written.insert((name.clone(), draft.recipe));
                }
                for var in case.seeds.keys() {
                    let others = case.seeds.iter().filter(|(other, _)| *other != var);
                    let others = others.map(|(_, value)| value.as_str()).collect();
                    let first = seen.entry(((case.variant.as_deref(), name, var), others)).or_insert(draft.recipe);
                    if *first != draft.recipe {
                        varied.entry((case.variant.clone(), name.clone())).or_default().insert(var.clone());
                    }
                }
            }
        }
        Self { as_written, varied }
    }

    fn name(&self, case: &CheckedCase, stage: &str, recipe: &Digest) -> String {
        let id = (stage.to_owned(), *recipe);
        let variant = case.variant.clone().filter(|_| !self.as_written.contains(&id));
        let varied = self.varied.get(&(case.variant.clone(), id.0)).into_iter().flatten();
        let seeds = varied.map(|var| format!("{var}={}", case.seeds[var]));
        let parts: Vec<String> = variant.into_iter().chain(seeds).collect();
        if parts.is_empty() { stage.to_owned() } else { format!("{stage}@{}", parts.join(",")) }
    }
}

/// A step's name with all that makes its case: no two cases have the same.
fn full_name(case: &CheckedCase, stage: &str) -> String {
    let seeds = case.seeds.iter().map(|(var, value)| format!("{var}={value}"));
    let variant = case.variant.as_deref().unwrap_or(DEFAULT).to_owned();
    format!("{stage}@{}", std::iter::once(variant).chain(seeds).collect::<Vec<_>>().join(","))
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
pub(super) fn probe(need: &Environment) -> Result<String, (String, String)> {
    let (what, found) = match need {
        Environment::Python => {
            let found = Interpreter::find(&Config::default().interpreter);
            ("a Python interpreter", found.map(|found| found.version().to_owned()).map_err(StageError::from))
        }
        Environment::Toolchain(path) => {
            let found = Toolchain::find(path);
            (
                "a file that says how a language is run",
                found.map(|found| found.version().to_owned()).map_err(StageError::from),
            )
        }
    };
    found.map_err(|error| match error {
        StageError::Missing { what, fix } => (what, fix),
        other => (what.to_owned(), other.to_string()),
    })
}
