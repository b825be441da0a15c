//! Times the keeping of a large table: one side of `bench/runners/run.py`.
//!
//! `commit CACHE ROWS`: makes ROWS rows of about 2 KB in memory (an id, and noise in Base64, as hard to compress as text gets), then writes them
//! as an output: digested by meaning, encoded as Parquet with zstd, hashed, synced, named. Prints a JSON object with the seconds that took and
//! the bytes of the Parquet file.

use ablate::cache::Cache;
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use std::sync::Arc;
use std::time::Instant;

/// As the command has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH_ROWS: usize = 2048;
const TEXT_BYTES: usize = 2048;

#[expect(clippy::print_stdout, reason = "the result is read by the script that calls this")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let cache = Cache::open(args.next().ok_or("expected a folder for the cache")?)?;
    let rows: usize = args.next().ok_or("expected a number of rows")?.parse()?;
    let batches: Vec<RecordBatch> =
        (0..rows.div_ceil(BATCH_ROWS)).map(|number| batch(number, rows)).collect::<Result<_, _>>()?;
    let schema = batches.first().ok_or("expected a row at least")?.schema();
    let begun = Instant::now();
    let mut writer = cache.output_writer(&schema, &[])?;
    for batch in &batches {
        writer.write(batch)?;
    }
    let output = writer.finish_output()?;
    let wall_s = begun.elapsed().as_secs_f64();
    let bytes: u64 = output.table.parts.iter().map(|part| part.blob.bytes).sum();
    println!("{}", serde_json::json!({ "wall_s": wall_s, "bytes": bytes, "rows": output.table.rows }));
    Ok(())
}

fn batch(number: usize, rows: usize) -> Result<RecordBatch, arrow::error::ArrowError> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let range = number * BATCH_ROWS..rows.min((number + 1) * BATCH_ROWS);
    let texts = range.clone().map(|row| {
        let mut noise = [0; TEXT_BYTES];
        blake3::Hasher::new().update(&row.to_le_bytes()).finalize_xof().fill(&mut noise);
        noise.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 64)])).collect::<String>()
    });
    let columns: [(&str, ArrayRef); 2] = [
        ("problem_id", Arc::new(StringArray::from_iter_values(range.clone().map(|row| format!("p{row:07}"))))),
        ("question", Arc::new(StringArray::from_iter_values(texts))),
    ];
    RecordBatch::try_from_iter(columns)
}
