//! Tables, map stages and views.

use arrow::array::{
    Array, DictionaryArray, Int8Array, ListArray, ListBuilder, StringBuilder, StringViewArray, types::Int32Type,
};
use arrow::compute::concat_batches;
use arrow_schema::{DataType, Field, Schema};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::*;

#[test]
fn a_table_comes_back_with_its_types_and_only_the_columns_asked_for() {
    let lab = Lab::new();
    let dictionary: DictionaryArray<Int32Type> = [Some("a"), None, Some("b"), Some("a")].into_iter().collect();
    let written = batch(&[
        ("view", Arc::new(StringViewArray::from(vec![Some("x"), None, Some(""), Some("long enough for a buffer")]))),
        ("dictionary", Arc::new(dictionary)),
        ("small", Arc::new(Int8Array::from(vec![Some(1), None, Some(-3), Some(4)]))),
        (
            "lists",
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
                Some(vec![Some(1), None]),
                None,
                Some(vec![]),
                Some(vec![Some(2)]),
            ])),
        ),
    ]);
    let mut writer = lab.cache.output_writer(written.schema_ref(), &[]).unwrap();
    writer.write(&written).unwrap();
    let output = writer.finish_output().unwrap();
    let read = read_all(&lab.cache, &output, None).unwrap();
    assert_eq!(read, std::slice::from_ref(&written));
    let some = read_all(&lab.cache, &output, Some(&["small", "view"])).unwrap();
    assert_eq!(some, [written.project(&[2, 0]).unwrap()]);
    let none = read_all(&lab.cache, &output, Some(&[])).unwrap();
    assert_eq!((none[0].num_columns(), none[0].num_rows()), (0, 4));
    let error = lab.cache.read_table(&output, Some(&["smal"])).err().unwrap().to_string();
    assert_eq!(error, "table: expected a column `smal`, found only: view, dictionary, small, lists");
}

#[test]
fn an_empty_table_keeps_its_columns() {
    let lab = Lab::new();
    let output = store_rows(&lab.cache, 0..0).unwrap();
    assert_eq!(output.table.rows, 0);
    assert_eq!(read_all(&lab.cache, &output, None).unwrap(), []);
    let reader = lab.cache.read_table(&output, None).unwrap();
    assert_eq!(reader.schema().as_ref(), rows(0..0).schema_ref().as_ref());
}

#[test]
fn rows_of_other_columns_or_types_are_refused() {
    let lab = Lab::new();
    let mut writer = lab.cache.table_writer(rows(0..1).schema_ref()).unwrap();
    for other in [rows(0..1).project(&[0, 1]).unwrap(), rows(0..1).project(&[1, 0, 2]).unwrap()] {
        let error = writer.write(&other).unwrap_err();
        assert!(matches!(error, CacheError::SchemaMismatch { .. }), "{error}");
    }
    let strict = Schema::new(vec![Field::new("n", DataType::Int64, false)]);
    let mut writer = lab.cache.table_writer(&strict).unwrap();
    let with_null = batch(&[("n", Arc::new(Int64Array::from(vec![Some(1), None])))]);
    assert!(matches!(writer.write(&with_null).unwrap_err(), CacheError::SchemaMismatch { .. }));
    writer.write(&batch(&[("n", Arc::new(Int64Array::from(vec![1])))])).unwrap();
    assert_eq!(writer.finish().unwrap().blob_rows, 1);
}

#[test]
fn the_same_rows_give_the_same_blob() {
    let lab = Lab::new();
    let part = |metadata: &[(&str, &str)]| {
        let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let schema = rows(0..1).schema().as_ref().clone().with_metadata(metadata);
        let mut writer = lab.cache.table_writer(&schema).unwrap();
        writer.write(&rows(0..100)).unwrap();
        writer.finish().unwrap()
    };
    assert_eq!(part(&[]), part(&[("made by", "somebody")]));
}

#[test]
fn measured_columns_are_stored_but_not_in_the_digest() {
    let lab = Lab::new();
    let slower = {
        let rows = rows(0..9);
        let times: ArrayRef = Arc::new(Float64Array::from(vec![9.0; 9]));
        batch(&[("id", Arc::clone(rows.column(0))), ("n", Arc::clone(rows.column(1))), ("wall_s", times)])
    };
    let fast = store_rows(&lab.cache, 0..9).unwrap();
    let mut writer = lab.cache.output_writer(slower.schema_ref(), &["wall_s".to_owned()]).unwrap();
    writer.write(&slower).unwrap();
    let slow = writer.finish_output().unwrap();
    assert_eq!(fast.content, slow.content);
    assert_ne!(fast.table, slow.table);
    let digest = |output, columns: &[&str]| lab.cache.declared_digest(output, columns).unwrap();
    assert_ne!(digest(&fast, &["id", "wall_s"]), digest(&slow, &["id", "wall_s"]));
    let unkept = lab.cache.subset_digest(&fast.schema, &fast.table, &["n", "id"]).unwrap();
    assert_eq!(unkept, fast.content, "a port that declares the rest gets the content digest");
    assert_ne!(
        lab.cache.view(&Output::Table(fast.clone())).unwrap(),
        lab.cache.view(&Output::Table(slow)).unwrap(),
        "their views show each its own times"
    );
    let missing = lab.cache.output_writer(rows(0..1).schema_ref(), &["cpu_s".to_owned()]);
    assert!(matches!(missing.err().unwrap(), CacheError::MissingColumn { .. }));
}

#[test]
fn the_digest_of_columns_is_computed_once() {
    let lab = Lab::new();
    let output = store_rows(&lab.cache, 0..9).unwrap();
    let digest = lab.cache.declared_digest(&output, &["id", "wall_s"]).unwrap();
    // Without the blob only what was kept can answer.
    std::fs::remove_dir_all(lab.cache.layout().objects()).unwrap();
    assert_eq!(lab.reopened().declared_digest(&output, &["wall_s", "id"]).unwrap(), digest);
    assert_eq!(lab.reopened().declared_digest(&output, &["n", "id"]).unwrap(), output.content);
    assert!(lab.reopened().declared_digest(&output, &["n"]).is_err());
}

#[test]
fn a_map_stages_table_is_made_of_the_rows_of_its_units() {
    let lab = Lab::new();
    let family = Digest::of_bytes(b"family");
    for start in [0, 20, 40] {
        lab.cache.commit_batch(&batch_record(&lab.cache, family, start..start + 20).unwrap()).unwrap();
    }
    let known = lab.reopened().family(&family).unwrap();
    assert_eq!(known.len(), 60);
    assert!((known.cost.cpu_s - 6.0).abs() < 1e-9);
    let dropped = UnitPlace::Dropped { reason: "fifth".to_owned(), detail: Some("14".to_owned()) };
    assert_eq!(known.get(&unit_key(14)), Some(dropped));
    assert_eq!(known.get(&unit_key(60)), None);
    assert_eq!(known.table([&unit_key(1), &unit_key(60)]), Err(unit_key(60)));

    // In any order, with a dropped unit and one that occurs twice.
    let units = [41, 3, 4, 2, 0, 22, 3, 1, 45].map(unit_key);
    let table = known.table(&units).unwrap();
    assert_eq!((table.rows, table.parts.len()), (8, 4), "three blobs, one of them twice");
    let output = lab.cache.table_output(rows(0..1).schema_ref(), table, &["wall_s".to_owned()]).unwrap();
    let read = read_all(&lab.cache, &output, None).unwrap();
    assert_eq!(ints(&read, "n"), [41, 45, 0, 1, 2, 3, 3, 22]);
    assert_eq!(read[0].column(0).len(), read[0].column(1).len());

    let view = lab.cache.view(&Output::Table(output.clone())).unwrap();
    let files = std::fs::read_dir(&view).unwrap().count();
    assert_eq!(files, output.table.parts.len());
    assert_eq!(lab.cache.view(&Output::Table(output.clone())).unwrap(), view);

    // The same rows, written in one piece, mean the same.
    let whole = concat_batches(read[0].schema_ref(), &read).unwrap();
    let mut writer = lab.cache.output_writer(whole.schema_ref(), &["wall_s".to_owned()]).unwrap();
    writer.write(&whole).unwrap();
    assert_eq!(writer.finish_output().unwrap().content, output.content);
}

#[test]
fn few_rows_are_found_in_a_blob_of_many_row_groups() {
    let lab = Lab::new();
    let schema = rows(0..1).schema();
    let mut writer = lab.cache.table_writer(&schema).unwrap();
    let num_rows = 1_100_000;
    writer.write(&rows(0..num_rows)).unwrap();
    let part = writer.finish().unwrap();
    let wanted = [3, 70_000, 70_001, 1_048_575, 1_048_576, 1_099_999];
    let places = wanted.map(|row: u64| (part.blob, part.blob_rows, row..row + 1));
    let table = Table::from_ranges(places);
    assert_eq!(table.parts[0].ranges.as_ref().unwrap().len(), 4, "neighbours are read in one go");
    let read: Result<Vec<_>, _> = lab.cache.read_rows(&schema, &table, Some(&["n"])).unwrap().collect();
    assert_eq!(ints(&read.unwrap(), "n"), wanted.map(|row| row as i64));
    assert_eq!(Table::from_ranges([(part.blob, part.blob_rows, 0..part.blob_rows)]), part.into());
}

#[test]
fn a_row_that_is_much_larger_than_the_others_has_a_row_group_of_its_own() {
    let lab = Lab::new();
    // Lists of texts, as the tests of a problem are.
    let texts = |row: usize| vec!["x".repeat(if row == 20 { 9 << 20 } else { 10 }); 3];
    let mut lists = ListBuilder::new(StringBuilder::new());
    for row in 0..40 {
        texts(row).iter().for_each(|text| lists.values().append_value(text));
        lists.append(true);
    }
    let lists = lists.finish();
    let schema = Schema::new(vec![Field::new("texts", lists.data_type().clone(), false)]);
    let batch = RecordBatch::try_new(Arc::new(schema.clone()), vec![Arc::new(lists)]).unwrap();
    let mut writer = lab.cache.table_writer(&schema).unwrap();
    writer.write(&batch).unwrap();
    let part = writer.finish().unwrap();
    let file = std::fs::File::open(lab.cache.blob_path(&part.blob).unwrap()).unwrap();
    let metadata = SerializedFileReader::new(file).unwrap().metadata().clone();
    let groups: Vec<i64> = metadata.row_groups().iter().map(RowGroupMetaData::num_rows).collect();
    assert_eq!(groups, [20, 1, 19]);
    let read: Result<Vec<_>, _> = lab.cache.read_rows(&schema, &part.into(), None).unwrap().collect();
    assert_eq!(concat_batches(batch.schema_ref(), &read.unwrap()).unwrap(), batch);
}

#[test]
fn a_batch_whose_units_point_outside_its_rows_is_refused() {
    let lab = Lab::new();
    let mut batch = batch_record(&lab.cache, Digest::of_bytes(b"f"), 0..5).unwrap();
    batch.units[0].outcome = UnitOutcome::Rows(4..6);
    let error = lab.cache.commit_batch(&batch).unwrap_err().to_string();
    assert!(error.contains("expected rows within 0..5, got 4..6"), "{error}");
}

#[test]
fn a_view_holds_the_stored_files_themselves_and_mends_itself() {
    use std::os::unix::fs::MetadataExt;
    let lab = Lab::new();
    let folder = lab.folder.path().join("model");
    std::fs::create_dir_all(folder.join("sub")).unwrap();
    std::fs::write(folder.join("config.json"), "{}").unwrap();
    std::fs::write(folder.join("sub/weights"), "1234").unwrap();
    let files = lab.cache.put_folder(&folder, Take::Copy).unwrap();
    assert_eq!(files.content(), lab.cache.digest_path(&folder).unwrap().digest);
    let output = Output::Model(files);
    let view = lab.cache.view(&output).unwrap();
    assert_eq!(view, lab.cache.layout().view(&output.content()));
    assert_eq!(std::fs::read(view.join("sub/weights")).unwrap(), b"1234");
    assert_eq!(std::fs::metadata(view.join("sub/weights")).unwrap().nlink(), 2);
    std::fs::remove_file(view.join("config.json")).unwrap();
    assert_eq!(lab.cache.view(&output).unwrap(), view);
    assert_eq!(std::fs::read(view.join("config.json")).unwrap(), b"{}");
}

/// A family in forty batches of five rows, and the table of all its units but the last three.
fn fragments(lab: &Lab, family: &Digest) -> (Vec<Digest>, Table) {
    for start in (0..200).step_by(5) {
        lab.cache.commit_batch(&batch_record(&lab.cache, *family, start..start + 5).unwrap()).unwrap();
    }
    let units: Vec<Digest> = (0..197).map(unit_key).collect();
    let table = lab.cache.family(family).unwrap().table(&units).unwrap();
    (units, table)
}

fn records_of(lab: &Lab, family: &Digest) -> Vec<std::path::PathBuf> {
    let folder = lab.cache.layout().root().join("maps").join(family.to_string());
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn many_small_batches_become_one_and_mean_the_same() {
    let lab = Lab::new();
    let family = Digest::of_bytes(b"family");
    let (units, table) = fragments(&lab, &family);
    let schema = rows(0..1).schema();
    assert!(table.is_fragmented());
    let output = |table: Table| lab.cache.table_output(&schema, table, &["wall_s".to_owned()]).unwrap();
    let before = output(table);
    let mut known = lab.cache.family(&family).unwrap();
    let made = lab.cache.compact_units(&family, &schema, &units, &known).unwrap();
    assert_eq!(made.len(), 1);
    made.iter().for_each(|record| known.move_to(record));
    // Here, for those who read the family before, and for those who read it now.
    let mut refreshed = known.clone();
    lab.reopened().refresh_family(&family, &mut refreshed).unwrap();
    for known in [known, refreshed, lab.reopened().family(&family).unwrap()] {
        assert_eq!(known.len(), 200);
        let table = known.table(&units).unwrap();
        assert_eq!((table.rows, table.parts.len(), table.is_fragmented()), (158, 1, false));
        assert_eq!(output(table).content, before.content);
        let dropped = UnitPlace::Dropped { reason: "fifth".to_owned(), detail: Some("14".to_owned()) };
        assert_eq!(known.get(&unit_key(14)), Some(dropped));
    }
    // The batch of which some units were not in the table stays, the others went.
    assert_eq!(records_of(&lab, &family).len(), 2);
    assert!(
        (lab.reopened().family(&family).unwrap().cost.wall_s - 40.0).abs() < 1e-9,
        "the cost is that of all batches"
    );
    assert_eq!(
        read_all(&lab.cache, &before, Some(&["n"]))
            .unwrap()
            .iter()
            .map(arrow::array::RecordBatch::num_rows)
            .sum::<usize>(),
        158
    );
    assert_eq!(lab.cache.take_damage(), []);
}

#[test]
fn records_that_a_killed_compaction_left_do_no_harm() {
    let lab = Lab::new();
    let family = Digest::of_bytes(b"family");
    let (units, _) = fragments(&lab, &family);
    let old: Vec<_> =
        records_of(&lab, &family).into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    let compact = || {
        let known = lab.reopened().family(&family).unwrap();
        lab.cache.compact_units(&family, &rows(0..1).schema(), &units, &known).unwrap()
    };
    let made = compact();
    for (path, text) in &old {
        std::fs::write(path, text).unwrap();
    }
    assert_eq!(records_of(&lab, &family).len(), 41);
    let known = lab.reopened().family(&family).unwrap();
    assert_eq!((known.len(), known.table(&units).unwrap().parts.len()), (200, 1), "the new record counts");
    assert_eq!(compact()[0].units, made[0].units);
    assert_eq!(records_of(&lab, &family).len(), 2);
}
