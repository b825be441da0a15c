//! The units of a map stage: a key and the numbers of the rows for each, never the rows themselves.
//!
//! A unit is one row of the rows port, or the rows that share a column. Its key is the digest of its rows and of what they look up.

use super::RunError;
use super::chunks::{Chunks, digests, text, texts};
use crate::cache::{Digest, Table};
use crate::plan::key::unit_key;
use ablate_stages::job::{LookupTable, UnitBatch};
use ablate_stages::stage::StageError;
use arrow::array::{RecordBatch, StringArray};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Stored bytes of a batch's rows, about.
const BATCH_BYTES: u64 = 16 << 20;

/// Stands for an id in an index: the first bytes of its BLAKE3.
type IdHash = [u8; 16];

fn id_hash(id: &str) -> IdHash {
    let mut hash = [0; 16];
    hash.copy_from_slice(&Digest::of_bytes(id.as_bytes()).as_bytes()[..16]);
    hash
}

/// A lookup port: its table and where each id is in it.
pub(super) struct Lookup {
    name: String,
    by: String,
    many: bool,
    rows: Chunks,
    digests: Vec<Digest>,
    /// Sorted, so that the rows of an id are neighbours.
    ids: Vec<(IdHash, u32)>,
}

impl Lookup {
    /// Reads the table's ids. `by`: the id column; `many`: whether an id may have any number of rows.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub(super) fn new(name: &str, by: &str, many: bool, rows: Chunks) -> Result<Self, RunError> {
        let (mut row_digests, mut ids) = (Vec::new(), Vec::new());
        for batch in rows.scan()? {
            let batch = batch?;
            let first = row_digests.len();
            row_digests.extend(digests(&batch)?);
            let names = texts(&batch, by)?;
            ids.extend(
                (0..batch.num_rows()).filter_map(|row| Some((id_hash(text(&names, row)?), (first + row) as u32))),
            );
        }
        ids.sort_unstable();
        Ok(Self { name: name.to_owned(), by: by.to_owned(), many, rows, digests: row_digests, ids })
    }

    fn find(&self, id: &str) -> &[(IdHash, u32)] {
        let hash = id_hash(id);
        let start = self.ids.partition_point(|(known, _)| *known < hash);
        let len = self.ids[start..].iter().take_while(|(known, _)| *known == hash).count();
        &self.ids[start..start + len]
    }

    /// What a row looks up; on a port that is not `many` exactly one row.
    fn found(&self, id: Option<&str>) -> Result<&[(IdHash, u32)], StageError> {
        let found = id.map(|id| self.find(id));
        match (id, found) {
            (None, _) if !self.many => {
                Err(StageError::input(&self.name, format!("a row has no `{}` to look up", self.by)))
            }
            (Some(id), Some(found)) if !self.many && found.len() != 1 => {
                let problem = format!("{} `{id}` is looked up: expected one row, found {}", self.by, found.len());
                Err(StageError::input(&self.name, problem))
            }
            (_, found) => Ok(found.unwrap_or_default()),
        }
    }

    /// What the rows of a batch look up.
    fn take(&self, rows: &RecordBatch) -> Result<LookupTable, StageError> {
        let ids = texts(rows, &self.by)?;
        let mut taken: HashMap<&str, Range<u32>> = HashMap::new();
        let mut wanted: Vec<u32> = Vec::new();
        let mut index = Vec::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            let Some(id) = text(&ids, row) else {
                index.push(0..0);
                continue;
            };
            let range = taken.entry(id).or_insert_with(|| {
                let start = wanted.len() as u32;
                wanted.extend(self.find(id).iter().map(|(_, row)| row));
                start..wanted.len() as u32
            });
            index.push(range.clone());
        }
        Ok(LookupTable { rows: self.rows.take(&wanted)?, index })
    }
}

/// The units of a map stage.
pub(super) struct Units {
    port: String,
    rows: Chunks,
    id_column: Option<String>,
    keys: Vec<Digest>,
    groups: Option<Groups>,
    lookups: Vec<Lookup>,
}

/// The rows of units that have any number of them.
struct Groups {
    /// Where each unit's rows begin, and the end of the last.
    starts: Vec<u32>,
    rows: Vec<u32>,
}

impl Units {
    /// The units of a table: one for each row, or for each value of the column `group_by`.
    ///
    /// # Errors
    /// Where an id is missing or not unique in a lookup table, or the table cannot be read.
    pub(super) fn new(
        port: &str,
        rows: Chunks,
        group_by: Option<&str>,
        lookups: Vec<Lookup>,
    ) -> Result<Self, RunError> {
        let id_column = group_by.map(str::to_owned).or_else(|| id_column(&rows));
        let mut units = Self { port: port.to_owned(), rows, id_column, keys: Vec::new(), groups: None, lookups };
        match group_by {
            None => units.keys = units.row_keys(&units.rows)?,
            Some(column) => units.group(column)?,
        }
        Ok(units)
    }

    /// Adds a table's rows as units.
    ///
    /// # Errors
    /// As [`Units::new`].
    pub(super) fn extend(&mut self, table: &Table) -> Result<(), RunError> {
        debug_assert!(self.groups.is_none(), "a group may go on in what is added");
        let mut added = self.rows.empty();
        added.extend(table)?;
        self.keys.append(&mut self.row_keys(&added)?);
        Ok(self.rows.extend(table)?)
    }

    /// The key of each row, taken as a unit.
    fn row_keys(&self, rows: &Chunks) -> Result<Vec<Digest>, RunError> {
        let mut keys = Vec::with_capacity(rows.num_rows() as usize);
        for batch in rows.scan()? {
            let batch = batch?;
            let wanted = self.wanted(&batch)?;
            for (row, digest) in digests(&batch)?.into_iter().enumerate() {
                let found = self.looked_up(&wanted, row)?;
                keys.push(self.key(vec![digest], found));
            }
        }
        Ok(keys)
    }

    fn group(&mut self, column: &str) -> Result<(), RunError> {
        let mut numbers: HashMap<IdHash, u32> = HashMap::new();
        // Each row's unit and digest, so that the rows of a unit come in an order of their own, not in that of the file.
        let mut order: Vec<(u32, Digest, u32)> = Vec::new();
        let mut found: Vec<Vec<Vec<u32>>> = Vec::new();
        for batch in self.rows.scan()? {
            let batch = batch?;
            let (ids, wanted) = (texts(&batch, column)?, self.wanted(&batch)?);
            for (row, digest) in digests(&batch)?.into_iter().enumerate() {
                let next = numbers.len() as u32;
                let unit = *numbers.entry(id_hash(text(&ids, row).unwrap_or_default())).or_insert(next);
                order.push((unit, digest, order.len() as u32));
                let looked_up = self.looked_up(&wanted, row)?;
                match found.get_mut(unit as usize) {
                    None => found.push(looked_up),
                    Some(found) => found.iter_mut().zip(looked_up).for_each(|(all, more)| all.extend(more)),
                }
            }
        }
        order.sort_unstable();
        let mut groups = Groups { starts: vec![0], rows: order.iter().map(|(_, _, row)| *row).collect() };
        for members in order.chunk_by(|a, b| a.0 == b.0) {
            let rows = members.iter().map(|(_, digest, _)| *digest).collect();
            let found = std::mem::take(&mut found[members[0].0 as usize]);
            self.keys.push(self.key(rows, found));
            groups.starts.push(groups.starts[groups.starts.len() - 1] + members.len() as u32);
        }
        self.groups = Some(groups);
        Ok(())
    }

    /// What the rows of a batch want to look up, port by port.
    fn wanted(&self, rows: &RecordBatch) -> Result<Vec<StringArray>, StageError> {
        self.lookups.iter().map(|lookup| texts(rows, &lookup.by)).collect()
    }

    fn looked_up(&self, wanted: &[StringArray], row: usize) -> Result<Vec<Vec<u32>>, StageError> {
        let found = self.lookups.iter().zip(wanted).map(|(lookup, ids)| {
            let found = lookup.found(text(ids, row))?;
            Ok(found.iter().map(|(_, row)| *row).collect())
        });
        found.collect()
    }

    fn key(&self, rows: Vec<Digest>, found: Vec<Vec<u32>>) -> Digest {
        let mut ports = vec![(self.port.as_str(), rows)];
        for (lookup, mut found) in self.lookups.iter().zip(found) {
            found.sort_unstable();
            found.dedup();
            ports.push((&lookup.name, found.into_iter().map(|row| lookup.digests[row as usize]).collect()));
        }
        unit_key(&ports)
    }

    /// How many units there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// A unit's key.
    pub(super) fn key_of(&self, unit: u32) -> Digest {
        self.keys[unit as usize]
    }

    /// The keys of all units.
    pub(super) fn keys(&self) -> &[Digest] {
        &self.keys
    }

    /// How many units a batch may have, so that its rows fit into memory.
    pub(super) fn most_in_batch(&self) -> usize {
        let rows_per_unit = (self.rows.num_rows() as usize).div_ceil(self.len().max(1)).max(1);
        (self.rows.rows_within(BATCH_BYTES) / rows_per_unit).max(1)
    }

    /// A unit's rows.
    fn rows_of(&self, unit: u32) -> Vec<u32> {
        match &self.groups {
            None => vec![unit],
            Some(groups) => {
                let [start, end] = [unit, unit + 1].map(|unit| groups.starts[unit as usize] as usize);
                groups.rows[start..end].to_vec()
            }
        }
    }

    /// The units' names, for messages and for `dropped`: only the column of ids is read.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub(super) fn names_of(&self, units: &[u32]) -> Result<Vec<String>, StageError> {
        let firsts: Vec<u32> = units.iter().map(|&unit| self.rows_of(unit)[0]).collect();
        match &self.id_column {
            Some(column) => names(&self.rows.only(column)?.take(&firsts)?, Some(column)),
            None => names(&self.rows.take(&firsts)?, None),
        }
    }

    /// A batch of these units, with all that it needs.
    ///
    /// # Errors
    /// Where rows cannot be read.
    pub(super) fn batch(&self, id: u64, members: &[u32]) -> Result<UnitBatch, StageError> {
        let (mut wanted, mut units) = (Vec::new(), Vec::with_capacity(members.len()));
        for &member in members {
            let start = wanted.len() as u32;
            wanted.extend(self.rows_of(member));
            units.push(start..wanted.len() as u32);
        }
        let rows = self.rows.take(&wanted)?;
        let mut lookups = BTreeMap::new();
        for lookup in &self.lookups {
            lookups.insert(lookup.name.clone(), lookup.take(&rows)?);
        }
        let names = names(&rows, self.id_column.as_deref())?;
        let unit_ids = units.iter().map(|range: &Range<u32>| names[range.start as usize].clone()).collect();
        Ok(UnitBatch { id, port: self.port.clone(), rows, unit_ids, units, lookups })
    }
}

/// The names of rows: their id, or a piece of their digest where no column is one.
fn names(rows: &RecordBatch, column: Option<&str>) -> Result<Vec<String>, StageError> {
    match column {
        Some(column) => {
            let ids = texts(rows, column)?;
            Ok((0..rows.num_rows()).map(|row| text(&ids, row).unwrap_or_default().to_owned()).collect())
        }
        None => {
            let digests = digests(rows).map_err(|error| StageError::failed(error.to_string()))?;
            Ok(digests.iter().map(Digest::short).collect())
        }
    }
}

/// The column that names a row: the first that ends in `_id`.
fn id_column(rows: &Chunks) -> Option<String> {
    rows.schema().fields().iter().map(|field| field.name()).find(|name| name.ends_with("_id")).cloned()
}
