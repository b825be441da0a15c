//! The digest of a table by meaning: vectors, and what must not and what must change it.

use arrow::array::{
    Array as _, BinaryArray, BooleanArray, DictionaryArray, Float16Array, Float32Array, Int32Array, LargeListArray,
    LargeStringArray, ListArray, StringViewArray, StructArray, UInt64Array, new_null_array, types::Int16Type,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{cast, concat_batches, take_record_batch};
use arrow_schema::{DataType, Field, Schema};
use proptest::prelude::*;

use super::*;

fn digest_of(batches: &[RecordBatch], columns: &[&str]) -> Digest {
    let mut hasher = TableHasher::new(batches[0].schema_ref(), columns).unwrap();
    for batch in batches {
        hasher.push(batch).unwrap();
    }
    hasher.finish()
}

fn digest(columns: &[(&str, ArrayRef)]) -> Digest {
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    digest_of(&[batch(columns)], &names)
}

fn int(values: &[Option<i64>]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

/// A list column of structs `{text, weight}`; `None` is a null list, the inner `None` a null struct.
type Segment = Option<(Option<&'static str>, f64)>;

fn segments(rows: &[Option<Vec<Segment>>], texts_as: &DataType, swapped: bool) -> ArrayRef {
    let items: Vec<Segment> = rows.iter().flatten().flatten().copied().collect();
    let text = StringArray::from_iter(items.iter().map(|item| item.and_then(|(text, _)| text)));
    let text = cast(&text, texts_as).unwrap();
    let weight: ArrayRef = Arc::new(Float64Array::from_iter_values(items.iter().map(|item| item.map_or(9.0, |i| i.1))));
    let mut fields = vec![Field::new("text", texts_as.clone(), true), Field::new("weight", DataType::Float64, true)];
    let mut columns = vec![text, weight];
    if swapped {
        fields.reverse();
        columns.reverse();
    }
    let nulls = NullBuffer::from_iter(items.iter().map(Option::is_some));
    let items = StructArray::new(fields.into(), columns, Some(nulls));
    let lengths = rows.iter().map(|row| row.as_ref().map_or(0, Vec::len));
    let nulls = NullBuffer::from_iter(rows.iter().map(Option::is_some));
    let item = Arc::new(Field::new(if swapped { "element" } else { "item" }, items.data_type().clone(), true));
    if swapped {
        Arc::new(LargeListArray::new(item, OffsetBuffer::from_lengths(lengths), Arc::new(items), Some(nulls)))
    } else {
        Arc::new(ListArray::new(item, OffsetBuffer::from_lengths(lengths), Arc::new(items), Some(nulls)))
    }
}

/// The numbers come from an implementation in Python that shares nothing with this one but the description in digest.rs
/// (package `blake3`: `derive_key_context`, key). They may change only together with the encoding's version.
#[test]
fn digests_are_those_of_the_description() {
    let vectors = [
        (digest(&[("a", int(&[]))]), "3580b85764d8b3b4ec88232824fe1e2ed732b2a74cfabf6ea9758db7c5be90ea"),
        (
            digest(&[("a", int(&[Some(1), Some(-1), None, Some(0), Some(i64::MAX)]))]),
            "5cab8d6df9235a33ce78c1efbb685d39bf0bab52fe6b71a7e3520773bfa5dd72",
        ),
        (
            digest(&[("a", Arc::new(UInt64Array::from(vec![u64::MAX])))]),
            "4427872839942d22cc348ad3469d1bd05273ae483e26da956eca69e4dd7d29a0",
        ),
        (
            digest(&[(
                "x",
                Arc::new(Float64Array::from(vec![Some(-0.0), Some(1.5), Some(-f64::NAN), None, Some(-2.0)])),
            )]),
            "3ac952cc104c5e77a55a09ef1fc3694f6252f381f226ef02bf1c9d92a68bff3c",
        ),
        (
            digest(&[
                ("id", Arc::new(StringArray::from(vec!["a", "ü", "", "d"]))),
                ("ok", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), Some(false)]))),
                ("raw", Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\0\x01"), Some(b""), None, Some(b"z")]))),
                (
                    "segs",
                    segments(
                        &[Some(vec![Some((Some("x"), 1.0)), Some((None, 0.5))]), Some(vec![]), None, Some(vec![None])],
                        &DataType::Utf8,
                        false,
                    ),
                ),
            ]),
            "520df59024fff807ec324e2f871af931b9bf43a7f5b196b1d9030f30554e668b",
        ),
    ];
    for (got, expected) in vectors {
        assert_eq!(got.to_string(), expected);
    }
}

#[test]
fn what_differs_in_meaning_differs_in_digest() {
    let text = |values: &[Option<&str>]| -> ArrayRef { Arc::new(StringArray::from(values.to_vec())) };
    let tables = [
        digest(&[("a", int(&[Some(1)]))]),
        digest(&[("b", int(&[Some(1)]))]),
        digest(&[("a", int(&[None]))]),
        digest(&[("a", int(&[]))]),
        digest(&[("a", int(&[Some(1), Some(1)]))]),
        digest(&[("a", int(&[Some(-1)]))]),
        digest(&[("a", Arc::new(UInt64Array::from(vec![u64::MAX])))]),
        digest(&[("a", Arc::new(Float64Array::from(vec![1.0])))]),
        digest(&[("a", Arc::new(BooleanArray::from(vec![true])))]),
        digest(&[("a", text(&[Some("1")]))]),
        digest(&[("a", text(&[Some("")]))]),
        digest(&[("a", text(&[None]))]),
        digest(&[("a", Arc::new(BinaryArray::from_vec(vec![b"1"])))]),
        digest(&[("a", text(&[Some("1")])), ("b", text(&[Some("2")]))]),
        digest(&[("a", text(&[Some("2")])), ("b", text(&[Some("1")]))]),
        digest(&[("a", text(&[Some("12")])), ("b", text(&[Some("")]))]),
        digest(&[("a", Arc::new(ListArray::from_iter_primitive::<Int16Type, _, _>(vec![Some(vec![Some(1)])])))]),
        digest(&[("a", Arc::new(ListArray::from_iter_primitive::<Int16Type, _, _>(vec![Some(vec![])])))]),
        digest(&[("a", Arc::new(ListArray::from_iter_primitive::<Int16Type, _, _>(vec![None::<Vec<_>>])))]),
        digest(&[("a", new_null_array(&DataType::Null, 1))]),
        digest(&[("a", new_null_array(&DataType::Date32, 1))]),
        digest(&[("a", new_null_array(&DataType::Date64, 1))]),
    ];
    for (place, one) in tables.iter().enumerate() {
        for (other_place, other) in tables.iter().enumerate().skip(place + 1) {
            assert_ne!(one, other, "tables {place} and {other_place}");
        }
    }
}

#[test]
fn floats_of_all_widths_that_are_equal_have_one_digest() {
    let values = [1.5_f32, -0.0, f32::NAN, f32::INFINITY];
    let wide: ArrayRef = Arc::new(Float64Array::from_iter_values(values.map(f64::from)));
    let narrow: ArrayRef = Arc::new(Float32Array::from_iter_values(values));
    let half: ArrayRef = cast(&narrow, &DataType::Float16).unwrap();
    assert!(half.as_any().is::<Float16Array>());
    assert_eq!(digest(&[("x", Arc::clone(&wide))]), digest(&[("x", narrow)]));
    assert_eq!(digest(&[("x", wide)]), digest(&[("x", half)]));
}

#[test]
fn a_value_under_a_null_means_nothing() {
    let fields = vec![Field::new("n", DataType::Int32, false)];
    let hidden = |value| -> ArrayRef {
        let column: ArrayRef = Arc::new(Int32Array::from(vec![value]));
        Arc::new(StructArray::new(fields.clone().into(), vec![column], Some(NullBuffer::new_null(1))))
    };
    assert_eq!(digest(&[("s", hidden(1))]), digest(&[("s", hidden(2))]));
    let list = |hidden| -> ArrayRef {
        let items: ArrayRef = Arc::new(Int32Array::from(vec![hidden, 7]));
        let item = Arc::new(Field::new("item", DataType::Int32, true));
        let nulls = NullBuffer::from(vec![false, true]);
        Arc::new(ListArray::new(item, OffsetBuffer::from_lengths([1, 1]), items, Some(nulls)))
    };
    assert_eq!(digest(&[("l", list(1))]), digest(&[("l", list(2))]));
}

#[test]
fn an_empty_dictionary_of_nulls_is_nulls() {
    let dictionary: DictionaryArray<Int16Type> = [None::<&str>, None].into_iter().collect();
    assert_eq!(digest(&[("a", Arc::new(dictionary))]), digest(&[("a", new_null_array(&DataType::Utf8, 2))]));
}

#[test]
fn mistakes_are_named() {
    let rows = rows(0..1);
    let error = |columns: &[&str]| row_digests(&rows, columns).unwrap_err().to_string();
    assert_eq!(error(&["id", "m"]), "table: expected a column `m`, found only: id, n, wall_s");
    assert_eq!(error(&["id", "n", "id"]), "table: column `id` occurs twice");
    let odd = batch(&[("i", new_null_array(&DataType::Interval(arrow_schema::IntervalUnit::DayTime), 1))]);
    assert!(matches!(row_digests(&odd, &["i"]).unwrap_err(), CacheError::UnsupportedType { .. }));
    let mut hasher = TableHasher::new(rows.schema_ref(), &["n"]).unwrap();
    let texts = batch(&[("n", Arc::new(StringArray::from(vec!["1"])))]);
    assert!(matches!(hasher.push(&texts).unwrap_err(), CacheError::SchemaMismatch { .. }));
}

#[derive(Debug, Clone)]
struct Row {
    id: i32,
    text: Option<String>,
    score: Option<f32>,
    segments: Option<Vec<Segment>>,
}

fn a_row() -> impl Strategy<Value = Row> {
    let segment =
        proptest::option::of((proptest::option::of(proptest::sample::select(vec!["", "x", "yz"])), -2.0..2.0));
    (
        any::<i32>(),
        proptest::option::of("[a-c]{0,3}"),
        proptest::option::of(any::<f32>()),
        proptest::option::of(proptest::collection::vec(segment, 0..3)),
    )
        .prop_map(|(id, text, score, segments)| Row { id, text, score, segments })
}

/// The rows in the plainest types.
fn plain(rows: &[Row]) -> RecordBatch {
    let lists: Vec<_> = rows.iter().map(|row| row.segments.clone()).collect();
    batch(&[
        ("id", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| i64::from(row.id))))),
        ("text", Arc::new(StringArray::from_iter(rows.iter().map(|row| row.text.as_deref())))),
        ("score", Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.score.map(f64::from))))),
        ("segments", segments(&lists, &DataType::Utf8, false)),
    ])
}

/// The same in other types, columns in another order, with metadata.
fn fancy(rows: &[Row], as_dictionary: bool) -> RecordBatch {
    let lists: Vec<_> = rows.iter().map(|row| row.segments.clone()).collect();
    let texts = rows.iter().map(|row| row.text.as_deref());
    let texts: ArrayRef = if as_dictionary {
        Arc::new(texts.collect::<DictionaryArray<Int16Type>>())
    } else {
        Arc::new(StringViewArray::from_iter(texts))
    };
    let batch = batch(&[
        ("segments", segments(&lists, &DataType::LargeUtf8, true)),
        ("text", texts),
        ("score", Arc::new(Float32Array::from_iter(rows.iter().map(|row| row.score)))),
        ("id", Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.id)))),
    ]);
    let schema = Schema::clone(batch.schema_ref()).with_metadata([("by".to_owned(), "x".to_owned())].into());
    batch.with_schema(Arc::new(schema)).unwrap()
}

const COLUMNS: [&str; 4] = ["id", "text", "score", "segments"];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn order_batches_and_types_do_not_change_the_digest(
        (rows, order) in proptest::collection::vec(a_row(), 0..12).prop_flat_map(|rows| {
            let order: Vec<u32> = (0..rows.len() as u32).collect();
            (Just(rows), Just(order).prop_shuffle())
        }),
        cut in any::<prop::sample::Index>(),
        as_dictionary in any::<bool>(),
    ) {
        let plain = plain(&rows);
        let fancy = fancy(&rows, as_dictionary);
        let expected = digest_of(std::slice::from_ref(&plain), &COLUMNS);
        let shuffled = take_record_batch(&fancy, &arrow::array::UInt32Array::from(order)).unwrap();
        let cut = cut.index(rows.len() + 1);
        let pieces = [shuffled.slice(cut, rows.len() - cut), shuffled.slice(0, cut)];
        prop_assert_eq!(digest_of(&pieces, &["text", "segments", "score", "id"]), expected);

        let of_fancy = row_digests(&fancy, &COLUMNS).unwrap();
        prop_assert_eq!(&of_fancy, &row_digests(&plain, &COLUMNS).unwrap());
        // Rows have one digest exactly if they are equal in every value.
        for (a, row) in rows.iter().enumerate() {
            for (b, other) in rows.iter().enumerate() {
                prop_assert_eq!(of_fancy[a] == of_fancy[b], same(row, other));
            }
        }
    }

    #[test]
    fn a_table_survives_parquet_with_its_digest(rows in proptest::collection::vec(a_row(), 0..12)) {
        let lab = Lab::new();
        let fancy = fancy(&rows, true);
        let mut writer = lab.cache.output_writer(fancy.schema_ref(), &[]).unwrap();
        writer.write(&fancy).unwrap();
        let output = writer.finish_output().unwrap();
        prop_assert_eq!(output.content, digest_of(&[plain(&rows)], &COLUMNS));
        let read = read_all(&lab.cache, &output, None).unwrap();
        let read = concat_batches(&Arc::new(output.schema.clone()), &read).unwrap();
        prop_assert_eq!(digest_of(&[read], &COLUMNS), output.content);
    }
}

fn same(a: &Row, b: &Row) -> bool {
    let same_float = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan());
    let same_segments = match (&a.segments, &b.segments) {
        (None, None) => true,
        (Some(a), Some(b)) => a == b,
        _ => false,
    };
    let same_score = match (a.score, b.score) {
        (None, None) => true,
        (Some(a), Some(b)) => same_float(f64::from(a), f64::from(b)),
        _ => false,
    };
    a.id == b.id && a.text == b.text && same_score && same_segments
}

#[test]
fn long_strings_and_large_strings_mean_the_same() {
    let text = "x".repeat(100_000);
    let plain: ArrayRef = Arc::new(StringArray::from(vec![text.as_str()]));
    let large: ArrayRef = Arc::new(LargeStringArray::from(vec![text.as_str()]));
    assert_eq!(digest(&[("t", plain)]), digest(&[("t", large)]));
}
