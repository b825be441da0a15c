//! Doing a stage that works on whole tables: they stream in, and what it writes streams into the cache.

use super::RunError;
use super::event::Event;
use super::executor;
use super::stage::{Made, StageRun};
use crate::cache::{Digest, FilesOutput, Output, TableWriter, Take};
use ablate_stages::columns::schema_of;
use ablate_stages::job::{TableStream, WholeSink, conform};
use ablate_stages::stage::{ArtifactKind, StageError};
use arrow::array::RecordBatch;
use std::collections::BTreeMap;
use std::path::PathBuf;

impl StageRun<'_> {
    /// Does a stage that works on whole tables.
    pub(super) fn whole(
        &self,
        key: &Digest,
        limit: Option<u64>,
        inputs: &BTreeMap<String, Output>,
    ) -> Result<Made, RunError> {
        self.run.tell(&Event::StageStarted { stage: self.name().to_owned(), units: None, reused: 0 });
        let declaration = self.declaration();
        let mut tables: BTreeMap<String, TableStream<'_>> = BTreeMap::new();
        for (port, input) in inputs {
            if let Output::Table(table) = input {
                let schema = schema_of(&self.reading().columns(port));
                let stream = self
                    .reading()
                    .rows(port, table)?
                    .map(move |batch| conform(&batch.map_err(|error| StageError::failed(error.to_string()))?, &schema));
                tables.insert(port.clone(), Box::new(stream));
            }
        }
        let mut sink = Sink { stage: self, writers: BTreeMap::new(), folders: BTreeMap::new(), limit };
        let mut outputs = Vec::new();
        for port in &declaration.outputs {
            if let ArtifactKind::Table { columns, measured } = &port.artifact {
                sink.writers.insert(port.name.clone(), self.run.cache.output_writer(&schema_of(columns), measured)?);
                outputs.push((port.name.clone(), columns.clone()));
            }
        }
        let scratch = self.run.cache.scratch()?;
        let state = self.run.cache.state_dir(key)?;
        let models = self.models(inputs)?;
        let opening = self.opening(&models, scratch.path().into(), Some(state))?;
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
        Ok(Made { outputs: made, dropped: BTreeMap::new(), units_run: 0 })
    }
}

/// Takes what a whole job writes.
struct Sink<'a> {
    stage: &'a StageRun<'a>,
    writers: BTreeMap<String, TableWriter>,
    folders: BTreeMap<String, FilesOutput>,
    limit: Option<u64>,
}

impl Sink<'_> {
    fn folder_of(&mut self, port: &str) -> Result<FilesOutput, StageError> {
        self.folders
            .remove(port)
            .ok_or_else(|| StageError::failed(format!("nothing was written to `{port}`; this is a bug of the kind")))
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
        let cache = self.stage.run.cache;
        let stored = if keep_in_place {
            cache.digest_path(&folder).map(|found| FilesOutput::Referenced { content: found.digest, path: folder })
        } else {
            cache.put_folder(&folder, Take::Move)
        };
        self.folders.insert(port.to_owned(), stored.map_err(|error| StageError::failed(error.to_string()))?);
        Ok(())
    }

    fn progress(&mut self, done: u64, total: u64, note: &str) {
        let (stage, note) = (self.stage.name().to_owned(), note.to_owned());
        self.stage.run.tell(&Event::StageProgress { stage, done, total, note });
    }
}
