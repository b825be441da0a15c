//! Judges programs in one sandbox, shut in fully or not at all: one side of `bench/execution/run.py`.
//!
//! `isolation PROGRAMS full|none`: PROGRAMS is JSON lines of `{program, entry_point, tests}`. Prints a JSON object with the seconds that opening
//! the sandbox took, and how many programs passed. CPU time is for the caller to ask: the sandbox has ended with this process.

use ablate_stages::columns::Tests;
use ablate_stages::sandbox::{
    Config, Feature, Grade, Limits, OutputComparator, Program, Sandbox, ValueComparator, Verdict,
};
use serde::Deserialize;
use std::time::Instant;

#[derive(Deserialize)]
struct Row {
    program: String,
    entry_point: Option<String>,
    tests: Tests,
}

#[expect(clippy::print_stdout, reason = "the result is read by the script that calls this")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let text = std::fs::read_to_string(args.next().ok_or("expected a file of programs")?)?;
    let rows: Vec<Row> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let without = match args.next().as_deref() {
        Some("full") => Vec::new(),
        Some("none") => vec![Feature::Namespaces, Feature::Landlock, Feature::Seccomp],
        _ => return Err("expected `full` or `none`".into()),
    };
    let begun = Instant::now();
    let mut sandbox = Sandbox::open(Config { floor: Grade::None, without, ..Config::default() })?;
    let open_s = begun.elapsed().as_secs_f64();
    let limits = Limits { cpu_s: 3.0, ..Limits::default() };
    let mut passed = 0;
    for row in &rows {
        let program = Program {
            source: &row.program,
            entry_point: row.entry_point.as_deref(),
            tests: &row.tests,
            output: OutputComparator::Lines,
            value: ValueComparator::PyEq,
            coverage: false,
        };
        passed += u32::from(sandbox.run(&program, &limits)?.verdict == Verdict::Passed);
    }
    println!("{}", serde_json::json!({ "open_s": open_s, "passed": passed, "programs": rows.len() }));
    Ok(())
}
