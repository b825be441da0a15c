//! From records to rows, one by one: what is kept, what is left out, and everything that is wrong with a file, at once.

use super::records::{NO_OBJECT, Place};
use super::samples::{SampleReader, SampledProblem};
use super::{OnBadLine, OnDuplicate, Params, problem_rows, records};
use crate::columns::{Dropped, Problem, Sample, TestStyle};
use crate::job::{Cancel, WholeOutputs};
use crate::stage::StageError;
use serde::Serialize;
use std::collections::HashMap;

/// How many bad records a message shows.
const SHOWN_BAD: usize = 20;
/// How many ids that are there twice a message shows.
const SHOWN_DUPLICATES: usize = 5;
/// Rows are handed on when there are so many of them ..
const BATCH_ROWS: usize = 1024;
/// .. or when they hold so much text.
const BATCH_BYTES: usize = 4 << 20;

/// What a record came to.
pub(super) enum Loaded<T> {
    /// A row.
    Row(T),
    /// It is left out.
    Dropped(Dropped),
}

/// Takes what records came to, in their order.
pub(super) type Give<'a, T> = dyn FnMut(Loaded<T>) -> Result<(), StageError> + 'a;

/// Loads problems.
///
/// # Errors
/// Where the file cannot be read, or holds something that the parameters do not let be left out.
pub(super) fn problems(params: &Params, cancel: &Cancel, give: &mut Give<'_, Problem>) -> Result<(), StageError> {
    let path = params.path.as_path();
    if !path.exists() {
        return Err(StageError::file(path, "the file does not exist"));
    }
    let (mut bad, mut ids) = (BadRecords::new(params), Ids::default());
    let mut left = params.limit.unwrap_or(usize::MAX);
    let mut rows = problem_rows(params)?;
    while left > 0
        && let Some(row) = rows.next()
    {
        cancel.check()?;
        let (place, row) = row?;
        let problem = match row {
            Ok(problem) => problem,
            Err(problem) => {
                bad.take(&place, problem, give)?;
                continue;
            }
        };
        if let Some(first) = ids.first(&problem.problem_id, &place) {
            give(Loaded::Dropped(duplicate(problem.problem_id, &place, &first)))?;
            continue;
        }
        let untested = match problem.tests.style {
            TestStyle::Assert => problem.tests.code.as_deref().unwrap_or_default().trim().is_empty(),
            TestStyle::Call | TestStyle::Stdio => problem.tests.cases.is_empty(),
        };
        if untested && !params.keep_untested {
            let unit_id = problem.problem_id;
            give(Loaded::Dropped(Dropped { unit_id, reason: "no-tests".to_owned(), detail: None }))?;
        } else {
            left -= 1;
            bad.give(problem, give)?;
        }
    }
    bad.check()?;
    ids.check(params)
}

/// Loads samples.
///
/// # Errors
/// As [`problems`].
pub(super) fn samples(
    params: &Params,
    problems: Option<Vec<SampledProblem>>,
    cancel: &Cancel,
    give: &mut Give<'_, Sample>,
) -> Result<(), StageError> {
    let (mut bad, mut ids, mut reader) = (BadRecords::new(params), Ids::default(), SampleReader::new(problems));
    let mut left = params.limit.unwrap_or(usize::MAX);
    let mut records = records::read(params.path.as_path())?;
    while left > 0
        && let Some(record) = records.next()
    {
        cancel.check()?;
        let record = record?;
        let sample = match record.value.and_then(|value| reader.sample(&value)) {
            Ok(sample) => sample,
            Err(problem) => {
                bad.take(&record.place, problem, give)?;
                continue;
            }
        };
        if let Some(first) = ids.first(&sample.sample_id, &record.place) {
            give(Loaded::Dropped(duplicate(sample.sample_id, &record.place, &first)))?;
        } else {
            left -= 1;
            bad.give(sample, give)?;
        }
    }
    bad.check()?;
    ids.check(params)
}

fn duplicate(unit_id: String, place: &Place, first: &Place) -> Dropped {
    let detail = Some(format!("{place}; the first is at {first}"));
    Dropped { unit_id, reason: "duplicate".to_owned(), detail }
}

/// The records that cannot be read: left out, or all of them told at the end.
struct BadRecords<'a> {
    params: &'a Params,
    shown: Vec<String>,
    count: usize,
}

impl<'a> BadRecords<'a> {
    fn new(params: &'a Params) -> Self {
        Self { params, shown: Vec::new(), count: 0 }
    }

    fn take<T>(&mut self, place: &Place, problem: String, give: &mut Give<'_, T>) -> Result<(), StageError> {
        if self.params.on_bad_line == OnBadLine::Skip {
            let (unit_id, reason) = (place.to_string(), "bad-line".to_owned());
            return give(Loaded::Dropped(Dropped { unit_id, reason, detail: Some(problem) }));
        }
        self.count += 1;
        if self.shown.len() < SHOWN_BAD {
            self.shown.push(told(place, &problem));
        }
        Ok(())
    }

    /// Hands a row on, unless nothing will come of the rows.
    fn give<T>(&self, row: T, give: &mut Give<'_, T>) -> Result<(), StageError> {
        if self.count == 0 { give(Loaded::Row(row)) } else { Ok(()) }
    }

    fn check(&self) -> Result<(), StageError> {
        let path = self.params.path.as_path();
        match (self.count, self.shown.as_slice()) {
            (0, _) => Ok(()),
            (1, [only]) => {
                let problem = format!("{only}; set `on_bad_line: skip` to leave such records out");
                Err(StageError::file(path, problem))
            }
            (count, shown) => {
                let mut problem =
                    format!("{count} records cannot be read; set `on_bad_line: skip` to leave such records out");
                shown.iter().for_each(|line| problem.push_str(&format!("\n  {line}")));
                if count > shown.len() {
                    problem.push_str(&format!("\n  and {} more", count - shown.len()));
                }
                Err(StageError::file(path, problem))
            }
        }
    }
}

/// A bad record in a message. Where it is no JSON, the column stands with the line: to the parser every line is the first.
fn told(place: &Place, problem: &str) -> String {
    let at_column = problem.strip_prefix(NO_OBJECT).and_then(|rest| rest.rsplit_once(" at line 1 column "));
    match at_column {
        Some((what, column)) => format!("{place}, column {column}: {NO_OBJECT}{what}"),
        None => format!("{place}: {problem}"),
    }
}

/// The ids that were seen. Only their hashes are held, 20 bytes an id: two ids with one hash of 128 bits do not occur.
#[derive(Default)]
struct Ids {
    /// The number of each one's first record.
    seen: HashMap<[u8; 16], u32>,
    shown: Vec<String>,
    count: usize,
}

impl Ids {
    /// Where an id was seen before, if it was.
    fn first(&mut self, id: &str, place: &Place) -> Option<Place> {
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(id.as_bytes()).as_bytes()[..16]);
        let number = *self.seen.entry(hash).or_insert(place.number);
        if number == place.number {
            return None;
        }
        let first = Place { unit: place.unit, number, name: None };
        self.count += 1;
        if self.shown.len() < SHOWN_DUPLICATES {
            self.shown.push(format!("{id:?} ({first} and {place})"));
        }
        Some(first)
    }

    fn check(&self, params: &Params) -> Result<(), StageError> {
        if params.on_duplicate == OnDuplicate::Drop || self.count == 0 {
            return Ok(());
        }
        let shown = self.shown.join(", ");
        let more = self.count - self.shown.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let found = format!("expected unique ids, found again: {shown}{more}");
        Err(StageError::file(
            params.path.as_path(),
            format!("{found}; set `on_duplicate: drop` to keep the first of each"),
        ))
    }
}

/// Rows on their way to an output table, handed on in batches of bounded size.
pub(super) struct Batches<'a, 'b, T> {
    out: &'a mut WholeOutputs<'b>,
    port: &'static str,
    /// How much text a row holds, about.
    bytes_of: fn(&T) -> usize,
    rows: Vec<T>,
    bytes: usize,
    dropped: Vec<Dropped>,
}

impl<'a, 'b, T: Serialize> Batches<'a, 'b, T> {
    /// Batches for this port; what is left out goes to `dropped`.
    pub(super) fn new(out: &'a mut WholeOutputs<'b>, port: &'static str, bytes_of: fn(&T) -> usize) -> Self {
        Self { out, port, bytes_of, rows: Vec::new(), bytes: 0, dropped: Vec::new() }
    }

    /// Adds what a record came to.
    ///
    /// # Errors
    /// Where rows cannot be stored.
    pub(super) fn add(&mut self, loaded: Loaded<T>) -> Result<(), StageError> {
        match loaded {
            Loaded::Row(row) => {
                self.bytes += (self.bytes_of)(&row);
                self.rows.push(row);
            }
            Loaded::Dropped(dropped) => self.dropped.push(dropped),
        }
        let is_full = self.rows.len().max(self.dropped.len()) >= BATCH_ROWS || self.bytes >= BATCH_BYTES;
        if is_full { self.flush() } else { Ok(()) }
    }

    /// Hands on what there is.
    ///
    /// # Errors
    /// Where rows cannot be stored.
    pub(super) fn flush(&mut self) -> Result<(), StageError> {
        self.out.push(self.port, &self.rows)?;
        self.out.push("dropped", &self.dropped)?;
        self.rows.clear();
        self.dropped.clear();
        self.bytes = 0;
        Ok(())
    }
}

/// About how much text a problem holds.
pub(super) fn bytes_of_problem(problem: &Problem) -> usize {
    let solutions: usize = problem.solutions.iter().map(String::len).sum();
    let cases: usize = problem.tests.cases.iter().map(|case| case.input.len() + case.output.len()).sum();
    problem.question.len() + solutions + cases + problem.tests.code.as_deref().map_or(0, str::len)
}
