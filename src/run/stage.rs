//! Doing one stage: its key, its lock, its inputs, its executor, its record.

use super::batch::{LookupPort, MapWork, Rows, unix_s};
use super::event::{Event, Observer};
use super::executor::{self, Opening, Ran};
use super::planner::Planned;
use super::{RunError, lock};
use crate::cache::{
    Cache, CacheError, Cost, Digest, FilesOutput, InputNote, Machine, Output, RECORD_FORMAT, Record, RunEntry,
    TableOutput, TableWriter, Take, host_name,
};
use crate::plan::key::{FAMILY, KEY, KeyFields, paths_in};
use ablate_stages::columns::{Column, Dropped, columns_of, schema_of};
use ablate_stages::job::{Cancel, Device, FinishedBatch, OpenContext, TableStream, WholeSink, conform};
use ablate_stages::stage::{ArtifactKind, Columns, Declaration, Place, Role, StageError, Work};
use arrow::array::RecordBatch;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How long a batch of a stage is to take: long enough that committing it costs nothing, short enough that little is lost.
const BATCH_INLINE_S: f64 = 2.0;
const BATCH_SANDBOX_S: f64 = 3.0;
const BATCH_TORCH_S: f64 = 10.0;

/// One stage on its way.
pub(super) struct StageRun<'a> {
    planned: &'a Planned,
    step: usize,
    cache: Cache,
    cancel: Cancel,
    cpus: usize,
    shared: OnceLock<Shared>,
    ran: Mutex<Ran>,
    helpers: AtomicUsize,
    helper_error: Mutex<Option<RunError>>,
}

/// What running a stage made.
struct Made {
    outputs: BTreeMap<String, Output>,
    /// Units left out, by reason.
    dropped: BTreeMap<String, u64>,
    units_run: u64,
}

/// What the workers of a map stage share.
struct Shared {
    work: MapWork,
    /// What is connected, for a look at whether it is still what it was.
    inputs: BTreeMap<String, Output>,
    models: BTreeMap<String, PathBuf>,
}

impl<'a> StageRun<'a> {
    pub(super) fn new(planned: &'a Planned, step: usize, cache: Cache, cancel: Cancel, cpus: usize) -> Self {
        Self {
            planned,
            step,
            cache,
            cancel,
            cpus,
            shared: OnceLock::new(),
            ran: Mutex::default(),
            helpers: AtomicUsize::new(0),
            helper_error: Mutex::default(),
        }
    }

    fn name(&self) -> &str {
        &self.planned.steps[self.step].name
    }

    fn declaration(&self) -> &'a Declaration {
        self.planned.declaration(self.step)
    }

    /// Does the stage; says whether it was done already. `ask` is told how many more workers could help.
    pub(super) fn run(
        &self,
        record: &dyn Fn(usize) -> Record,
        entry: &RunEntry,
        observer: &dyn Observer,
        ask: &dyn Fn(usize),
    ) -> Result<(Record, bool), RunError> {
        let step = &self.planned.steps[self.step];
        // By key, not by recipe: what a stage above made anew may differ from what the recipe's record was made of.
        let fields = self.planned.key_fields(self.step, &self.cache, record)?;
        let key = fields.digest(KEY);
        if let Some(found) = self.known(&key)? {
            return Ok((found, true));
        }
        // Whoever computes holds the lock; it falls with its holder.
        let held = loop {
            if let Some(held) = self.cache.try_lock(&key)? {
                break held;
            }
            self.cancel.check()?;
            std::thread::sleep(Duration::from_millis(50));
        };
        if let Some(found) = self.known(&key)? {
            return Ok((found, true));
        }
        let started = Instant::now();
        let inputs: BTreeMap<String, Output> = step
            .sources
            .iter()
            .map(|(port, (maker, output))| (port.clone(), record(*maker).outputs[output].clone()))
            .collect();
        let Made { outputs, dropped, units_run } = match &self.declaration().work {
            Work::Map { group_by } => self.map(&fields, group_by.as_deref(), &inputs, entry, observer, ask)?,
            Work::Whole => {
                let outputs = self.whole(&key, &fields, &inputs, entry, observer)?;
                Made { outputs, dropped: BTreeMap::new(), units_run: 0 }
            }
        };
        self.check_unchanged(&inputs)?;
        let wall_s = started.elapsed().as_secs_f64();
        let ran = lock(&self.ran).clone();
        let cost = Cost { wall_s, cpu_s: ran.cpu_s, peak_memory_bytes: ran.peak_memory_bytes };
        let done = self.cache.commit(Record {
            format: RECORD_FORMAT,
            key,
            recipe: step.recipe,
            kind: fields.kind.clone(),
            version: fields.version,
            stage: self.name().to_owned(),
            parameters: fields.parameters.clone(),
            inputs: self.input_notes(&fields),
            files: step.files.clone(),
            environment: fields.environment.clone(),
            outputs,
            dropped: dropped.clone(),
            cost,
            machine: Machine {
                host: host_name(),
                device: ran.versions.get("device").cloned().unwrap_or_else(|| "cpu".into()),
                libraries: ran.versions,
            },
            log: self.log_blob(entry)?,
            finished_unix_s: unix_s(),
        })?;
        drop(held);
        if self.declaration().work == Work::Whole {
            self.cache.remove_state(&key)?;
        }
        observer.observe(&Event::StageFinished {
            stage: self.name().to_owned(),
            rows: super::first_rows(self.planned, self.step, &done),
            wall_s,
            cpu_s: cost.cpu_s,
            dropped,
            units_run,
        });
        Ok((done, false))
    }

    /// Checks that files and model folders that stay where the user has them are what the key says, now that they have been read.
    fn check_unchanged(&self, inputs: &BTreeMap<String, Output>) -> Result<(), RunError> {
        let step = &self.planned.steps[self.step];
        let parameters = self.planned.stage(self.step).bound.params();
        let files = paths_in(&parameters).into_iter().filter_map(|(name, path)| Some((path, *step.files.get(&name)?)));
        let folders = inputs.values().filter_map(|input| match input {
            Output::Model(FilesOutput::Referenced { content, path })
            | Output::Files(FilesOutput::Referenced { content, path }) => Some((path.clone(), *content)),
            _ => None,
        });
        for (path, expected) in files.chain(folders) {
            if self.cache.digest_path(&path)?.digest != expected {
                return Err(CacheError::Unsettled { path }.into());
            }
        }
        Ok(())
    }

    /// Works on units as one worker more, until there are none.
    pub(super) fn help(&self, entry: &RunEntry, observer: &dyn Observer) {
        let Some(shared) = self.shared.get() else { return };
        self.helpers.fetch_add(1, Ordering::SeqCst);
        if let Err(error) = self.work(shared, entry, observer) {
            lock(&self.helper_error).get_or_insert(error);
        }
        self.helpers.fetch_sub(1, Ordering::SeqCst);
    }

    fn known(&self, key: &Digest) -> Result<Option<Record>, RunError> {
        let found = self.cache.action(key);
        if found.is_some() {
            self.cache.link_recipe(&self.planned.steps[self.step].recipe, key)?;
        }
        Ok(found)
    }

    fn input_notes(&self, fields: &KeyFields) -> BTreeMap<String, InputNote> {
        let sources = &self.planned.steps[self.step].sources;
        sources
            .iter()
            .map(|(port, (maker, output))| {
                let note = InputNote {
                    digest: fields.inputs[port],
                    columns: self.planned.columns_of(self.step, port),
                    source: format!("{}.{output}", self.planned.steps[*maker].name),
                };
                (port.clone(), note)
            })
            .collect()
    }

    fn map(
        &self,
        fields: &KeyFields,
        group_by: Option<&str>,
        inputs: &BTreeMap<String, Output>,
        entry: &RunEntry,
        observer: &dyn Observer,
        ask: &dyn Fn(usize),
    ) -> Result<Made, RunError> {
        let declaration = self.declaration();
        let models = self.models(inputs)?;
        // The family is everything that all units share: what the tables hold enters the keys of units.
        let mut shared_fields = fields.clone();
        shared_fields.inputs.retain(|port, _| matches!(inputs[port], Output::Model(_) | Output::Files(_)));
        let family = shared_fields.digest(FAMILY);
        let rows_port = declaration.rows_port().expect("a map stage has a rows port");
        let mut lookups = Vec::new();
        for port in &declaration.inputs {
            if let (Role::Lookup { by, many }, Some(Output::Table(table))) = (&port.role, inputs.get(&port.name)) {
                let rows = self.rows(&port.name, table)?;
                lookups.push(LookupPort { name: port.name.clone(), by: by.clone(), many: *many, rows });
            }
        }
        let Some(Output::Table(table)) = inputs.get(&rows_port.name) else {
            return Err(StageError::input(&rows_port.name, "a table must be connected").into());
        };
        let target_s = match declaration.place {
            Place::Inline => BATCH_INLINE_S,
            Place::Sandbox => BATCH_SANDBOX_S,
            Place::Torch => BATCH_TORCH_S,
        };
        let rows = self.rows(&rows_port.name, table)?;
        let work = MapWork::new(&self.cache, family, &rows_port.name, rows, group_by, lookups, target_s)?;
        let reused = work.num_done();
        observer.observe(&Event::StageStarted { stage: self.name().to_owned(), units: Some(work.num_units()), reused });
        let shared = self.shared.get_or_init(|| Shared { work, inputs: inputs.clone(), models });
        if shared.work.num_pending() > 0 {
            let room = (shared.work.num_pending() / 16).min(self.cpus.saturating_sub(1));
            ask(room);
            let result = self.work(shared, entry, observer);
            ask(0);
            while self.helpers.load(Ordering::SeqCst) > 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
            result?;
            if let Some(error) = lock(&self.helper_error).take() {
                return Err(error);
            }
        }
        self.cancel.check()?;
        let failures = shared.work.failures();
        if !failures.is_empty() {
            return Err(RunError::Units { total: shared.work.num_units(), failures });
        }
        let (table, dropped) = shared.work.result()?;
        let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
        for unit in &dropped {
            *reasons.entry(unit.reason.clone()).or_default() += 1;
        }
        let [first, second] = &declaration.outputs[..] else {
            return Err(
                StageError::failed("a map stage writes one table and `dropped`; this is a bug of the kind").into()
            );
        };
        let ArtifactKind::Table { columns, measured } = &first.artifact else {
            return Err(StageError::failed("a map stage writes a table; this is a bug of the kind").into());
        };
        let table = self.cache.table_output(&schema_of(columns), table, measured)?;
        let outputs = BTreeMap::from([
            (first.name.clone(), Output::Table(table)),
            (second.name.clone(), Output::Table(self.dropped_table(&dropped)?)),
        ]);
        Ok(Made { outputs, dropped: reasons, units_run: shared.work.num_run() })
    }

    fn dropped_table(&self, dropped: &[Dropped]) -> Result<TableOutput, RunError> {
        let schema = schema_of(&columns_of::<Dropped>());
        let mut writer = self.cache.output_writer(&schema, &[])?;
        if !dropped.is_empty() {
            let rows = serde_arrow::to_record_batch(&schema.fields, &dropped).map_err(StageError::from)?;
            writer.write(&conform(&rows, &schema)?)?;
        }
        Ok(writer.finish_output()?)
    }

    /// One worker's share of a map stage.
    fn work(&self, shared: &Shared, entry: &RunEntry, observer: &dyn Observer) -> Result<(), RunError> {
        let work = &shared.work;
        let scratch = self.cache.scratch()?;
        let opening = self.opening(&shared.models, scratch.path().into(), None, self.threads(), entry)?;
        let mut next = || if self.cancel.is_cancelled() { Ok(None) } else { work.next(self.cpus) };
        let mut deliver = |batch: FinishedBatch| {
            self.check_unchanged(&shared.inputs).map_err(to_stage_error)?;
            work.deliver(&self.cache, &batch).map_err(to_stage_error)?;
            observer.observe(&Event::StageProgress {
                stage: self.name().to_owned(),
                done: work.num_done(),
                total: work.num_units(),
                note: String::new(),
            });
            Ok(())
        };
        let ran = executor::run_units(opening, &mut next, &mut deliver)?;
        self.note(ran);
        Ok(())
    }

    fn whole(
        &self,
        key: &Digest,
        fields: &KeyFields,
        inputs: &BTreeMap<String, Output>,
        entry: &RunEntry,
        observer: &dyn Observer,
    ) -> Result<BTreeMap<String, Output>, RunError> {
        observer.observe(&Event::StageStarted { stage: self.name().to_owned(), units: None, reused: 0 });
        let declaration = self.declaration();
        let mut tables: BTreeMap<String, TableStream<'_>> = BTreeMap::new();
        for (port, input) in inputs {
            if let Output::Table(table) = input {
                let schema = schema_of(&self.read_columns(port));
                let stream = self
                    .reader(port, table)?
                    .map(move |batch| conform(&batch.map_err(|error| StageError::failed(error.to_string()))?, &schema));
                tables.insert(port.clone(), Box::new(stream));
            }
        }
        let mut sink =
            Sink { run: self, writers: BTreeMap::new(), folders: BTreeMap::new(), limit: fields.limit, observer };
        let mut outputs = Vec::new();
        for port in &declaration.outputs {
            if let ArtifactKind::Table { columns, measured } = &port.artifact {
                sink.writers.insert(port.name.clone(), self.cache.output_writer(&schema_of(columns), measured)?);
                outputs.push((port.name.clone(), columns.clone()));
            }
        }
        let scratch = self.cache.scratch()?;
        let state = self.cache.state_dir(key)?;
        let models = self.models(inputs)?;
        let threads = self.threads();
        let opening = self.opening(&models, scratch.path().into(), Some(state), threads, entry)?;
        let ran = executor::run_whole(opening, tables, outputs, &mut sink)?;
        self.note(ran);
        let mut made = BTreeMap::new();
        for port in &declaration.outputs {
            let output = match port.artifact {
                ArtifactKind::Table { .. } => {
                    Output::Table(sink.writers.remove(&port.name).expect("made above").finish_output()?)
                }
                ArtifactKind::Model => Output::Model(sink.folder_of(&port.name)?),
                ArtifactKind::Files => Output::Files(sink.folder_of(&port.name)?),
            };
            made.insert(port.name.clone(), output);
        }
        Ok(made)
    }

    fn note(&self, ran: Ran) {
        let mut all = lock(&self.ran);
        all.cpu_s += ran.cpu_s;
        all.peak_memory_bytes = all.peak_memory_bytes.max(ran.peak_memory_bytes);
        all.versions.extend(ran.versions);
    }

    fn threads(&self) -> usize {
        let resources = &self.planned.stage(self.step).resources;
        (resources.cpus.unwrap_or(self.declaration().cpus) as usize).clamp(1, self.cpus.max(1))
    }

    fn opening(
        &self,
        models: &BTreeMap<String, PathBuf>,
        scratch: PathBuf,
        state: Option<PathBuf>,
        threads: usize,
        entry: &RunEntry,
    ) -> Result<Opening<'_>, RunError> {
        let stage = self.planned.stage(self.step);
        let device = match stage.resources.device.as_deref() {
            None => Device::Auto,
            Some("cpu") => Device::Cpu,
            Some(_) => Device::Cuda,
        };
        Ok(Opening {
            bound: &*stage.bound,
            declaration: self.declaration(),
            context: OpenContext {
                inputs: self.planned.input_schemas(self.step),
                models: models.clone(),
                scratch,
                state,
                threads,
                device,
                cancel: self.cancel.clone(),
            },
            log: entry.log(self.name())?,
        })
    }

    fn models(&self, inputs: &BTreeMap<String, Output>) -> Result<BTreeMap<String, PathBuf>, RunError> {
        let mut models = BTreeMap::new();
        for (port, input) in inputs {
            if !matches!(input, Output::Table(_)) {
                models.insert(port.clone(), self.cache.view(input)?);
            }
        }
        Ok(models)
    }

    /// The columns that a port is read with: those that it declares, missing ones being null; or all that are seen.
    fn read_columns(&self, port: &str) -> Vec<Column> {
        let declared = self.declaration().inputs.iter().find(|input| input.name == port).map(|input| &input.columns);
        let table = self.planned.input_schemas(self.step).remove(port).unwrap_or_default();
        match declared {
            Some(Columns::These(columns)) => columns.clone(),
            _ => {
                let seen = self.planned.columns_of(self.step, port);
                table.into_iter().filter(|column| seen.contains(&column.name)).collect()
            }
        }
    }

    fn reader(&self, port: &str, table: &TableOutput) -> Result<crate::cache::TableReader, RunError> {
        let names = self.planned.columns_of(self.step, port);
        Ok(self.cache.read_table(table, Some(&names.iter().map(String::as_str).collect::<Vec<_>>()))?)
    }

    fn rows(&self, port: &str, table: &TableOutput) -> Result<Rows, RunError> {
        let schema = schema_of(&self.read_columns(port));
        let batches = self
            .reader(port, table)?
            .map(|batch| Ok(conform(&batch?, &schema)?))
            .collect::<Result<Vec<RecordBatch>, RunError>>()?;
        Ok(Rows::new(batches, schema))
    }

    fn log_blob(&self, entry: &RunEntry) -> Result<Option<crate::cache::Blob>, RunError> {
        let path = entry.log_path(self.name());
        match std::fs::metadata(&path) {
            Ok(found) if found.len() > 0 => Ok(Some(self.cache.put_file(&path, Take::Copy)?)),
            _ => Ok(None),
        }
    }
}

/// Takes what a whole job writes.
struct Sink<'a> {
    run: &'a StageRun<'a>,
    writers: BTreeMap<String, TableWriter>,
    folders: BTreeMap<String, FilesOutput>,
    limit: Option<u64>,
    observer: &'a dyn Observer,
}

impl Sink<'_> {
    fn folder_of(&mut self, port: &str) -> Result<FilesOutput, StageError> {
        self.folders
            .remove(port)
            .ok_or_else(|| StageError::failed(format!("nothing was written to `{port}`; this is a bug of the kind")))
    }
}

/// A failure of the run as one of the stage, for whom only such can be told.
fn to_stage_error(error: RunError) -> StageError {
    match error {
        RunError::Stage(error) => error,
        other => StageError::failed(other.to_string()),
    }
}

impl WholeSink for Sink<'_> {
    fn rows(&mut self, port: &str, rows: RecordBatch) -> Result<(), StageError> {
        let writer = self
            .writers
            .get_mut(port)
            .ok_or_else(|| StageError::failed(format!("no output table `{port}` is declared")))?;
        let left = self.limit.map_or(u64::MAX, |limit| limit.saturating_sub(writer.rows()));
        let rows = if left < rows.num_rows() as u64 { rows.slice(0, left as usize) } else { rows };
        writer.write(&rows).map_err(|error| StageError::failed(error.to_string()))
    }

    fn folder(&mut self, port: &str, folder: PathBuf, keep_in_place: bool) -> Result<(), StageError> {
        let cache = &self.run.cache;
        let stored = if keep_in_place {
            cache.digest_path(&folder).map(|found| FilesOutput::Referenced { content: found.digest, path: folder })
        } else {
            cache.put_folder(&folder, Take::Move)
        };
        self.folders.insert(port.to_owned(), stored.map_err(|error| StageError::failed(error.to_string()))?);
        Ok(())
    }

    fn progress(&mut self, done: u64, total: u64, note: &str) {
        let (stage, note) = (self.run.name().to_owned(), note.to_owned());
        self.observer.observe(&Event::StageProgress { stage, done, total, note });
    }
}
