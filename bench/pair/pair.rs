//! Times the making of preference pairs: the Rust side of `bench/pair/run.py`.
//!
//! `pair TARGETS REPEATS`: TARGETS is a JSON list of targets with their samples. Runs the real job of the kind `pair` from Arrow tables to
//! Arrow tables on one thread. Prints a JSON object with the best time, in seconds, and for every pair the ids of its two samples.

use ablate_stages::code::prompts::Asked;
use ablate_stages::columns::{Example, columns_of, fields_of};
use ablate_stages::job::{Cancel, Device, FinishedBatch, Job, LookupTable, OpenContext, UnitBatch, run_map};
use ablate_stages::pair::{Candidate, Judged, Pair, Params, Target};
use ablate_stages::stage::Stage;
use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::time::Instant;

#[derive(Deserialize)]
struct Targets {
    samples: Vec<Candidate>,
    verdicts: Vec<Judged>,
    problem: Asked,
    block: Target,
}

fn table<T: Serialize + DeserializeOwned>(rows: &[T]) -> Result<RecordBatch, serde_arrow::Error> {
    serde_arrow::to_record_batch(&fields_of::<T>(), &rows)
}

#[expect(clippy::print_stdout, reason = "the result is read by the script that calls this")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let file = args.next().ok_or("expected a file of targets")?;
    let repeats: usize = args.next().ok_or("expected a number of repeats")?.parse()?;
    let targets: Vec<Targets> = serde_json::from_slice(&std::fs::read(file)?)?;
    let (mut samples, mut verdicts, mut problems, mut blocks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut units, mut unit_ids) = (Vec::new(), Vec::new());
    let (mut by_sample, mut by_problem, mut by_block) = (Vec::new(), Vec::new(), Vec::new());
    let mut places: BTreeMap<String, u32> = BTreeMap::new();
    for (number, target) in targets.into_iter().enumerate() {
        let start = samples.len() as u32;
        let number = number as u32;
        let place = *places.entry(target.problem.problem_id.clone()).or_insert(problems.len() as u32);
        if place as usize == problems.len() {
            problems.push(target.problem);
        }
        for (sample, verdict) in target.samples.into_iter().zip(target.verdicts) {
            by_sample.push(samples.len() as u32..samples.len() as u32 + 1);
            by_problem.push(place..place + 1);
            by_block.push(number..number + 1);
            samples.push(sample);
            verdicts.push(verdict);
        }
        units.push(start..samples.len() as u32);
        unit_ids.push(target.block.block_id.clone());
        blocks.push(target.block);
    }
    let lookups = BTreeMap::from([
        ("verdicts".to_owned(), LookupTable { rows: table(&verdicts)?, index: by_sample }),
        ("problems".to_owned(), LookupTable { rows: table(&problems)?, index: by_problem }),
        ("blocks".to_owned(), LookupTable { rows: table(&blocks)?, index: by_block }),
    ]);
    let batch = UnitBatch { id: 0, port: "samples".into(), rows: table(&samples)?, unit_ids, units, lookups };
    let params = Params { alpha: 1.0, ..Params::default() };
    let context = OpenContext {
        inputs: BTreeMap::new(),
        models: BTreeMap::new(),
        scratch: std::env::temp_dir(),
        state: None,
        threads: 1,
        device: Device::Cpu,
        cancel: Cancel::default(),
    };
    let mut best = f64::INFINITY;
    let mut finished: Vec<FinishedBatch> = Vec::new();
    for _ in 0..repeats {
        let Job::Map(mut job) = Pair::open(&params, &context)? else { return Err("expected a map job".into()) };
        finished.clear();
        let mut waiting = Some(batch.clone());
        let mut deliver = |done| {
            finished.push(done);
            Ok(())
        };
        let start = Instant::now();
        run_map(job.as_mut(), &columns_of::<Example>(), &Cancel::default(), &mut || Ok(waiting.take()), &mut deliver)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    let examples: Vec<Example> = serde_arrow::from_record_batch(&finished[0].rows)?;
    let text = |side: &[ablate_stages::columns::Segment]| side[0].text.clone();
    let pairs: Vec<_> =
        examples.iter().map(|example| (&example.block_id, text(&example.chosen), text(&example.rejected))).collect();
    println!("{}", serde_json::json!({ "seconds": best, "pairs": pairs }));
    Ok(())
}
