//! Times the split of Python programs into blocks: the Rust side of `bench/segment/run.py`.
//!
//! `segment SOURCES REPEATS`: SOURCES is a JSON list of programs. Prints a JSON object with the best time of one pass over all of them
//! on one thread, in seconds, and the spans found, so that the other side can be compared.

use ablate_stages::code::blocks::{BlockKind, DefFilter, Splitter};
use std::hint::black_box;
use std::time::Instant;

#[expect(clippy::print_stdout, reason = "the result is read by the script that calls this")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let sources = args.next().ok_or("expected a file of sources")?;
    let repeats: usize = args.next().ok_or("expected a number of repeats")?.parse()?;
    let sources: Vec<String> = serde_json::from_slice(&std::fs::read(sources)?)?;
    let kinds = [BlockKind::If, BlockKind::For, BlockKind::While, BlockKind::Def];
    let mut best = f64::INFINITY;
    let mut spans = Vec::new();
    for _ in 0..repeats {
        spans.clear();
        let mut splitter = Splitter::new(kinds, DefFilter::None);
        let start = Instant::now();
        for source in &sources {
            let found = splitter.split(source).unwrap_or_default();
            for span in &found {
                black_box((
                    span.prefix(source).to_owned(),
                    span.middle(source).to_owned(),
                    span.suffix(source).to_owned(),
                ));
            }
            spans.push(found);
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    let spans: Vec<Vec<_>> = spans
        .iter()
        .map(|found| found.iter().map(|span| (span.kind.as_str(), span.start_byte, span.end_byte)).collect())
        .collect();
    println!("{}", serde_json::json!({ "seconds": best, "spans": spans }));
    Ok(())
}
