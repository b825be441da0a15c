//! Batches under workers that die, and under stages that share their units.

use super::*;
use crate::run::chunks::Chunks;
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};

struct Lab {
    _folder: tempfile::TempDir,
    cache: Cache,
    ledger: Ledger,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        Self { _folder: folder, cache, ledger: Ledger::default() }
    }

    /// The work on rows with these numbers.
    fn work(&self, rows: Range<u32>) -> MapWork {
        let schema = Schema::new(vec![Field::new("row_id", DataType::Utf8, false)]);
        let ids: ArrayRef = Arc::new(StringArray::from_iter_values(rows.map(|row| row.to_string())));
        let mut writer = self.cache.table_writer(&schema).unwrap();
        writer.write(&RecordBatch::try_new(Arc::new(schema.clone()), vec![ids]).unwrap()).unwrap();
        let mut chunks = Chunks::new(&self.cache, &schema, vec!["row_id".into()], Arc::new(schema.clone()));
        chunks.extend(&writer.finish().unwrap().into()).unwrap();
        let units = Units::new("rows", chunks, None, Vec::new()).unwrap();
        MapWork::new(&self.cache, &self.ledger, Digest::of_bytes(b"family"), units, 2.0).unwrap()
    }
}

fn pass(work: &MapWork, batch: &UnitBatch) {
    let answers = batch.units.iter().map(|range| UnitAnswer::Rows(range.clone())).collect();
    work.deliver(&FinishedBatch { id: batch.id, rows: batch.rows.clone(), answers }).unwrap();
}

/// Does all the work with workers that die of the units that are named so. How many workers it took.
fn run(work: &MapWork, deadly: &[&str]) -> usize {
    let mut workers = 0;
    while work.has_work() {
        let worker = work.hire();
        workers += 1;
        while let Some(batch) = work.next(worker, 1).unwrap() {
            if batch.unit_ids.iter().any(|id| deadly.contains(&id.as_str())) {
                work.bury(worker, "was killed", "its last words", 2).unwrap();
                break;
            }
            pass(work, &batch);
        }
    }
    workers
}

#[test]
fn a_unit_that_kills_its_workers_is_found_and_fails_alone() {
    let lab = Lab::new();
    let work = lab.work(0..100);
    run(&work, &["13", "77"]);
    let failures = work.failures();
    assert_eq!(work.names_of(&failures.iter().map(|(unit, _)| *unit).collect::<Vec<_>>()).unwrap(), ["13", "77"]);
    assert!(failures[0].1.starts_with("a worker that had this unit alone was killed; it said:\nits last words"));
    assert_eq!((work.num_run(), work.num_done(), work.done_table().rows), (100, 100, 98));
    // The rerun does what failed, and nothing else.
    drop(work);
    let again = lab.work(0..100);
    assert_eq!((again.num_done(), again.num_pending()), (98, 2));
    assert_eq!(run(&again, &[]), 1);
    assert_eq!(again.table().unwrap().rows, 100);
}

#[test]
fn what_other_workers_have_is_left_to_them() {
    let lab = Lab::new();
    let work = lab.work(0..100);
    let [first, second] = [work.hire(), work.hire()];
    let kept = work.next(first, 2).unwrap().unwrap();
    let lost = work.next(second, 2).unwrap().unwrap();
    work.bury(second, "was killed", "", 2).unwrap();
    // One who has work already gets no suspects, and who has suspects gets nothing else.
    let more = work.next(first, 2).unwrap().unwrap();
    assert!(more.unit_ids.iter().all(|id| !lost.unit_ids.contains(id)));
    let third = work.hire();
    let half = work.next(third, 2).unwrap().unwrap();
    assert_eq!(half.unit_ids[..], lost.unit_ids[..16]);
    assert!(work.next(third, 2).unwrap().is_none());
    for batch in [&kept, &more, &half] {
        pass(&work, batch);
    }
    run(&work, &[]);
    assert_eq!((work.num_run(), work.table().unwrap().rows), (100, 100));
}

#[test]
fn workers_that_all_die_end_the_stage() {
    let lab = Lab::new();
    let work = lab.work(0..100);
    let error = (0..100).find_map(|_| {
        let worker = work.hire();
        work.next(worker, 1).unwrap();
        work.bury(worker, "was killed by signal 9", "", 2).err()
    });
    let error = error.unwrap().to_string();
    assert!(error.contains("its workers die one after the other") && error.contains("signal 9"), "{error}");
}

#[test]
fn two_stages_that_share_units_do_each_once() {
    let lab = Lab::new();
    let (one, two) = (lab.work(0..60), lab.work(20..80));
    let (a, b) = (one.hire(), two.hire());
    let first = one.next(a, 1).unwrap().unwrap();
    let second = two.next(b, 1).unwrap().unwrap();
    assert!(second.unit_ids.iter().all(|id| !first.unit_ids.contains(id)), "others first");
    pass(&two, &second);
    // The first stage ends early: what it had is for the second one, what the second did need not be done again.
    drop(one);
    run(&two, &[]);
    assert_eq!((two.num_run(), two.table().unwrap().rows), (60, 60));
    let one = lab.work(0..60);
    assert_eq!((one.num_done(), one.num_pending()), (40, 20));
    run(&one, &[]);
    assert_eq!(one.num_run(), 20);
}

#[test]
fn rows_that_are_added_become_units_once() {
    let lab = Lab::new();
    let (whole, ahead) = (lab.work(0..50), lab.work(0..0));
    let table = lab.work(0..40);
    run(&table, &[]);
    ahead.extend(&table.table().unwrap()).unwrap();
    assert_eq!((ahead.num_units(), ahead.num_pending()), (40, 0));
    assert!(whole.has_work());
    assert_eq!((whole.num_done(), whole.num_pending()), (40, 10));
}
