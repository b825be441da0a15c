//! What a step reads: the columns of its inputs, its units, and what is known of them.

use super::RunError;
use super::chunks::Chunks;
use super::planner::Planned;
use super::units::{Lookup, Units};
use crate::cache::{Cache, Digest, Output, Record, TableOutput, TableReader};
use crate::plan::key::FAMILY;
use ablate_stages::columns::{Column, schema_of};
use ablate_stages::stage::{ArtifactKind, Columns, Role, Work};
use arrow::datatypes::Schema;
use std::collections::BTreeMap;

/// A step and its inputs.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    /// The plan.
    pub(super) planned: &'a Planned,
    /// Where its inputs are.
    pub(super) cache: &'a Cache,
    /// The step.
    pub(super) step: usize,
}

impl Reading<'_> {
    /// The columns that a port is read with: those that it declares, missing ones being null; or all that are seen.
    pub(super) fn columns(&self, port: &str) -> Vec<Column> {
        let inputs = &self.planned.declaration(self.step).inputs;
        let declared = inputs.iter().find(|input| input.name == port).map(|input| &input.columns);
        let table = self.planned.stored_columns(self.step, port);
        match declared {
            Some(Columns::These(columns)) => columns.clone(),
            _ => {
                let seen = self.planned.columns_of(self.step, port);
                table.into_iter().filter(|column| seen.contains(&column.name)).collect()
            }
        }
    }

    /// The rows of a connected table, in the columns that are seen.
    pub(super) fn rows(&self, port: &str, table: &TableOutput) -> Result<TableReader, RunError> {
        let names = self.planned.columns_of(self.step, port);
        Ok(self.cache.read_table(table, Some(&names.iter().map(String::as_str).collect::<Vec<_>>()))?)
    }

    /// The units of a map step. Without a table on its rows port there are none yet.
    ///
    /// # Errors
    /// Where a table cannot be read, or an id that is looked up is missing.
    pub(super) fn units(&self, group_by: Option<&str>, inputs: &BTreeMap<String, Output>) -> Result<Units, RunError> {
        let declaration = self.planned.declaration(self.step);
        let rows_port = &declaration.rows_port().expect("a map stage has a rows port").name;
        let mut lookups = Vec::new();
        for port in &declaration.inputs {
            if let (Role::Lookup { by, many }, Some(Output::Table(table))) = (&port.role, inputs.get(&port.name)) {
                lookups.push(Lookup::new(&port.name, by, *many, self.chunks(&port.name, Some(table))?)?);
            }
        }
        let rows = match inputs.get(rows_port) {
            Some(Output::Table(table)) => self.chunks(rows_port, Some(table))?,
            _ => self.chunks(rows_port, None)?,
        };
        Units::new(rows_port, rows, group_by, lookups)
    }

    /// Everything that all units share, the columns of what they give included: what the tables hold enters the keys of units.
    pub(super) fn family(&self, inputs: &BTreeMap<String, Output>) -> Digest {
        let mut fields = self.planned.steps[self.step].fields.clone();
        fields.inputs = inputs
            .iter()
            .filter(|(_, input)| !matches!(input, Output::Table(_)))
            .map(|(port, input)| (port.clone(), input.content()))
            .collect();
        let outputs = self.planned.declaration(self.step).outputs.iter();
        let columns = outputs.filter_map(|output| match &output.artifact {
            ArtifactKind::Table { columns, .. } => Some(columns),
            ArtifactKind::Model | ArtifactKind::Files => None,
        });
        let columns =
            columns.flatten().map(|column| format!("{} {} {}", column.name, column.data_type, column.nullable));
        Digest::of_parts(FAMILY, [fields.digest(FAMILY).to_string()].into_iter().chain(columns))
    }

    fn chunks(&self, port: &str, table: Option<&TableOutput>) -> Result<Chunks, RunError> {
        let declared = || schema_of(&self.planned.stored_columns(self.step, port));
        let stored = table.map_or_else(|| Schema::clone(&declared()), |table| table.schema.clone());
        let schema = schema_of(&self.columns(port));
        let mut chunks = Chunks::new(self.cache, &stored, self.planned.columns_of(self.step, port), schema);
        if let Some(table) = table {
            chunks.extend(&table.table)?;
        }
        Ok(chunks)
    }
}

/// How many units of a map step are done, and how many there are, where all its inputs are known; none for a whole step.
///
/// # Errors
/// Where a table cannot be read.
pub(super) fn known_units(
    planned: &Planned,
    cache: &Cache,
    step: usize,
    records: &[Option<Record>],
) -> Result<Option<(u64, u64)>, RunError> {
    let Work::Map { group_by } = &planned.declaration(step).work else { return Ok(None) };
    let mut inputs = BTreeMap::new();
    for (port, (maker, output)) in &planned.steps[step].sources {
        let Some(record) = &records[*maker] else { return Ok(None) };
        inputs.insert(port.clone(), record.outputs[output].clone());
    }
    let reading = Reading { planned, cache, step };
    let known = cache.family(&reading.family(&inputs))?;
    if known.is_empty() {
        return Ok(None);
    }
    let units = reading.units(group_by.as_deref(), &inputs)?;
    let done = units.keys().iter().filter(|unit| known.has(unit)).count();
    Ok(Some((done as u64, units.keys().len() as u64)))
}
