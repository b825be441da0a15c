//! Indexes: they say what the records say, and nothing once those change.

use std::fs;

use super::*;

/// A cache with two recorded stages, and the index of them.
fn indexed() -> (Lab, [Record; 2]) {
    let lab = Lab::new();
    let records = [("a", 0..3), ("b", 0..4)]
        .map(|(name, range)| lab.cache.commit(table_record(&lab.cache, name, range).unwrap()).unwrap());
    lab.cache.keep_index("p", records.iter().map(|record| record.recipe)).unwrap();
    (lab, records)
}

#[test]
fn an_index_says_what_the_records_say() {
    let (lab, [a, b]) = indexed();
    let mut index = lab.reopened().index("p");
    assert_eq!([index.recipe(&a.recipe), index.recipe(&b.recipe)], [Some(a.clone()), Some(b)]);
    assert!(index.is_whole());
    assert_eq!(index.recipe(&Digest::of_bytes(b"unknown")), None);
    assert!(!index.is_whole());
    let mut of_another = lab.reopened().index("q");
    assert_eq!(of_another.recipe(&a.recipe), Some(a));
    assert!(!of_another.is_whole());
}

#[test]
fn what_changes_after_an_index_was_kept_is_read_where_it_lies() {
    let (lab, [a, b]) = indexed();
    lab.cache.link_recipe(&a.recipe, &b.key).unwrap();
    assert_eq!(lab.reopened().index("p").recipe(&a.recipe), Some(b.clone()));
    fs::remove_file(lab.cache.layout().action(&b.key)).unwrap();
    assert_eq!(lab.reopened().index("p").recipe(&b.recipe), None);
}

#[test]
fn a_damaged_record_behind_an_index_is_named_and_counts_as_absent() {
    let (lab, [a, _]) = indexed();
    let path = lab.cache.layout().action(&a.key);
    let altered = fs::read_to_string(&path).unwrap().replace("too-long", "too-lang");
    fs::remove_file(&path).unwrap();
    fs::write(&path, altered).unwrap();
    let cache = lab.reopened();
    assert_eq!(cache.index("p").recipe(&a.recipe), None);
    assert!(cache.take_damage()[0].problem.contains("altered"));
}

#[test]
fn a_blob_that_is_gone_is_missed_through_an_index_too() {
    let (lab, [a, _]) = indexed();
    fs::remove_file(lab.cache.layout().object(&a.outputs.values().next().unwrap().blobs()[0].hash)).unwrap();
    let cache = lab.reopened();
    assert_eq!(cache.index("p").recipe(&a.recipe), None);
    assert!(cache.take_damage()[0].problem.contains("not in the store"));
}

#[test]
fn a_damaged_index_is_named_and_the_records_answer() {
    let (lab, [a, _]) = indexed();
    let folder = lab.cache.layout().root().join("indexes");
    let path = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let mut text = fs::read(&path).unwrap();
    let middle = text.len() / 2;
    text[middle] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, text).unwrap();
    let cache = lab.reopened();
    let mut index = cache.index("p");
    assert_eq!(index.recipe(&a.recipe), Some(a));
    assert!(!index.is_whole());
    assert_eq!(cache.take_damage().len(), 1);
}
