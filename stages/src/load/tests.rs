//! What the kind promises, on small files of every format, and on the real ones where they are at hand.

use super::rows::{Give, Loaded};
use super::*;
use crate::columns::{Check, TestStyle};
use std::io::Write;
use std::path::PathBuf;

fn params(path: &Path) -> Params {
    serde_json::from_value(serde_json::json!({ "path": path })).unwrap()
}

fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> Params {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    params(&path)
}

/// What `load` gives: rows, and what is left out; or what is wrong, in words.
fn collected<T>(
    load: impl FnOnce(&mut Give<'_, T>) -> Result<(), StageError>,
) -> Result<(Vec<T>, Vec<Dropped>), String> {
    let (mut rows, mut dropped) = (Vec::new(), Vec::new());
    let loaded = load(&mut |loaded| {
        match loaded {
            Loaded::Row(row) => rows.push(row),
            Loaded::Dropped(row) => dropped.push(row),
        }
        Ok(())
    });
    loaded.map(|()| (rows, dropped)).map_err(|error| error.to_string())
}

fn load(params: &Params) -> Result<(Vec<Problem>, Vec<Dropped>), String> {
    collected(|give| rows::problems(params, &Cancel::default(), give))
}

fn load_samples(params: &Params, problems: Option<Vec<SampledProblem>>) -> Result<(Vec<Sample>, Vec<Dropped>), String> {
    collected(|give| rows::samples(params, problems, &Cancel::default(), give))
}

const NATIVE: &str = r#"{"problem_id": "a", "question": "Add.", "solution": "def f(x): return x + 1", "entry_point": "f", "tests": {"style": "call", "cases": [{"input": "(1,)", "output": "2"}]}, "extra": 1}

{"question": "Print.", "solutions": ["print(1)"], "tests": {"style": "stdio", "cases": [{"input": "", "output": "1\n"}], "code": null}, "difficulty": "easy"}
"#;

#[test]
fn native_records_are_loaded_and_nameless_ones_get_a_stable_id() {
    let folder = tempfile::tempdir().unwrap();
    let (problems, dropped) = load(&file(&folder, "p.jsonl", NATIVE)).unwrap();
    assert!(dropped.is_empty());
    assert_eq!(problems[0].problem_id, "a");
    assert_eq!(problems[0].solutions, ["def f(x): return x + 1"]);
    assert_eq!(problems[0].tests.cases[0].check, Check::Equal);
    assert_eq!(problems[1].problem_id, crate::random::stable_id(&["local", "Print.", ""]));
    assert_eq!(problems[1].difficulty.as_deref(), Some("easy"));
    let limited = Params { limit: Some(1), ..file(&folder, "q.jsonl", NATIVE) };
    assert_eq!(load(&limited).unwrap().0.len(), 1);
}

#[test]
fn what_is_exported_as_json_lines_is_loaded_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let (problems, _) = load(&file(&folder, "p.jsonl", NATIVE)).unwrap();
    let text: String = problems.iter().map(|problem| serde_json::to_string(problem).unwrap() + "\n").collect();
    assert_eq!(load(&file(&folder, "again.jsonl", &text)).unwrap().0, problems);
}

#[test]
fn parquet_and_gzip_hold_the_same_problems() {
    let folder = tempfile::tempdir().unwrap();
    let (problems, _) = load(&file(&folder, "p.jsonl", NATIVE)).unwrap();
    let fields = crate::columns::fields_of::<Problem>();
    let batch = serde_arrow::to_record_batch(&fields, &problems).unwrap();
    let path = folder.path().join("p.parquet");
    let mut writer =
        parquet::arrow::ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    assert_eq!(load(&params(&path)).unwrap().0, problems);
    assert_eq!(load(&Params { format: Format::Parquet, ..params(&path) }).unwrap().0, problems);

    let path = folder.path().join("p.jsonl.gz");
    let mut gzip = flate2::write::GzEncoder::new(std::fs::File::create(&path).unwrap(), flate2::Compression::fast());
    gzip.write_all(NATIVE.as_bytes()).unwrap();
    gzip.finish().unwrap();
    assert_eq!(load(&params(&path)).unwrap().0, problems);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(load(&params(&path)).unwrap_err().contains("whole gzip file"));
}

#[test]
fn an_empty_file_gives_an_empty_table() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(load(&file(&folder, "p.jsonl", "")).unwrap(), (Vec::new(), Vec::new()));
    assert_eq!(load(&file(&folder, "p.json", "[]")).unwrap(), (Vec::new(), Vec::new()));
}

#[test]
fn a_bad_line_is_named_and_can_be_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("{NATIVE}{{\"question\": \n{{\"question\": 3, \"tests\": {{}}}}\n{{\"tests\": {{}}}}\n[1]\n");
    let strict = file(&folder, "p.jsonl", &text);
    let message = load(&strict).unwrap_err();
    let expected = [
        "p.jsonl: 4 records cannot be read; set `on_bad_line: skip` to leave such records out",
        "  line 4, column 13: expected a JSON object: EOF while parsing a value",
        "  line 5: field `question`: expected a string, found a number",
        "  line 6: field `question` is missing; there are: tests",
        "  line 7: expected a JSON object, found an array",
    ];
    assert!(message.ends_with(&expected.join("\n")), "{message}");
    let (problems, dropped) = load(&Params { on_bad_line: OnBadLine::Skip, ..strict }).unwrap();
    assert_eq!(problems.len(), 2);
    assert_eq!(
        dropped[0].detail.as_deref(),
        Some("expected a JSON object: EOF while parsing a value at line 1 column 13")
    );
    let shown: Vec<String> =
        dropped.iter().map(|row| format!("{}: {}", row.unit_id, row.detail.as_deref().unwrap_or_default())).collect();
    assert_eq!(shown[1], "line 5: field `question`: expected a string, found a number");
    assert_eq!(shown[2], "line 6: field `question` is missing; there are: tests");
    assert_eq!(shown[3], "line 7: expected a JSON object, found an array");
    assert_eq!(dropped.len(), 4);
}

#[test]
fn a_test_that_can_judge_nothing_is_named_before_anything_runs() {
    for (tests, expected) in [
        (r#"{"style": "guess", "cases": []}"#, "unknown variant `guess`, expected one of `stdio`, `call`, `assert`"),
        (
            r#"{"style": "call", "cases": [{"input": "(1, oops)", "output": "2"}]}"#,
            "the input of case 1 is not a Python literal",
        ),
        (
            r#"{"style": "call", "cases": [{"input": "(1,)", "output": "2"}, {"input": "()", "output": "<object>"}]}"#,
            "the output of case 2 is not",
        ),
        (
            r#"{"style": "stdio", "cases": [{"input": "", "output": "", "check": "nearly"}]}"#,
            "unknown variant `nearly`",
        ),
    ] {
        let record = serde_json::json!({
            "question": "Q", "entry_point": "f", "tests": serde_json::from_str::<serde_json::Value>(tests).unwrap(),
        });
        let error = super::native::problem(&record, "here").expect_err(tests);
        assert!(error.starts_with("field `tests`: ") && error.contains(expected), "{error}");
    }
}

#[test]
fn of_many_bad_lines_twenty_are_shown_and_all_counted() {
    let folder = tempfile::tempdir().unwrap();
    let message = load(&file(&folder, "p.jsonl", &format!("{NATIVE}{{}}\n"))).unwrap_err();
    assert!(message.contains("p.jsonl: line 4: field `question` is missing; there are: ; set `on_bad"), "{message}");
    let message = load(&file(&folder, "q.jsonl", &format!("{NATIVE}{}", "[]\n".repeat(30)))).unwrap_err();
    assert!(message.contains("30 records") && message.ends_with("\n  and 10 more"), "{message}");
    assert!(message.contains("line 23: ") && !message.contains("line 24: "), "{message}");
    // What lies beyond the rows that are wanted is not read.
    let limited = Params { limit: Some(2), ..params(&folder.path().join("q.jsonl")) };
    assert_eq!(load(&limited).unwrap().0.len(), 2);
}

#[test]
fn line_ends_marks_and_blank_lines_are_read_over() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, _) = load(&file(&folder, "p.jsonl", NATIVE)).unwrap();
    let text = format!("\u{feff}{}", NATIVE.trim_end().replace('\n', "\r\n"));
    assert_eq!(load(&file(&folder, "crlf.jsonl", &text)).unwrap().0, plain);
    let array = format!("\n \n[{}]", NATIVE.trim().replace("\n\n", ","));
    assert_eq!(load(&file(&folder, "a.json", &array)).unwrap().0, plain);
    let latin = folder.path().join("latin.jsonl");
    std::fs::write(&latin, [NATIVE.as_bytes(), b"\xe9\n"].concat()).unwrap();
    let message = load(&params(&latin)).unwrap_err();
    assert!(message.contains(&format!("byte {}: expected text in UTF-8", NATIVE.len())), "{message}");
}

/// The rows of a table do not depend on how many are handed on at a time.
#[test]
fn more_rows_than_a_batch_has_arrive_in_order_and_with_the_first_of_each_id() {
    let folder = tempfile::tempdir().unwrap();
    let tests = r#""tests": {"style": "stdio", "cases": [{"input": "", "output": ""}]}"#;
    let line = |id: usize| format!("{{\"id\": {id}, \"question\": \"{id}\", {tests}}}\n");
    let text: String = (0..3000).map(|at| line(if at % 1000 == 999 { 7 } else { at })).collect();
    let params = Params { on_duplicate: OnDuplicate::Drop, ..file(&folder, "p.jsonl", &text) };
    let ran = crate::testing::run_whole(&Load, &serde_json::to_value(&params).unwrap(), &[]);
    let rows = ran.rows::<Problem>();
    let ids: Vec<&str> = rows.iter().map(|row| row.problem_id.as_str()).collect();
    let wanted: Vec<String> = (0..3000).filter(|at| at % 1000 != 999).map(|at| at.to_string()).collect();
    assert_eq!(ids, wanted);
    let message = load(&Params { on_duplicate: OnDuplicate::Fail, ..params }).unwrap_err();
    assert!(message.contains("\"7\" (line 8 and line 1000), \"7\" (line 8 and line 2000)"), "{message}");
}

#[test]
fn duplicate_ids_are_named_and_can_be_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let strict = file(&folder, "p.jsonl", &format!("{NATIVE}{NATIVE}"));
    let message = load(&strict).unwrap_err();
    assert!(message.contains("\"a\" (line 1 and line 4)") && message.contains("on_duplicate: drop"), "{message}");
    let (problems, dropped) = load(&Params { on_duplicate: OnDuplicate::Drop, ..strict }).unwrap();
    assert_eq!((problems.len(), dropped.len()), (2, 2));
    assert_eq!(dropped[0].reason, "duplicate");
}

#[test]
fn problems_without_tests_are_left_out_unless_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"{"id": 7, "question": "Q", "input_output": "", "solutions": "[\"print(1)\"]"}"#;
    let params = file(&folder, "p.jsonl", text);
    let (problems, dropped) = load(&params).unwrap();
    assert_eq!((problems.len(), dropped[0].reason.as_str()), (0, "no-tests"));
    let (problems, _) = load(&Params { keep_untested: true, ..params }).unwrap();
    assert_eq!((problems[0].problem_id.as_str(), problems[0].solutions.len()), ("7", 1));
}

#[test]
fn files_that_are_missing_or_of_another_format_are_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let missing = load(&params(&folder.path().join("none.jsonl"))).unwrap_err();
    assert!(missing.contains("none.jsonl: the file does not exist"), "{missing}");
    let samples = load(&file(&folder, "s.jsonl", r#"{"task_id": "a", "completion": ""}"#)).unwrap_err();
    assert!(samples.contains("format: samples"), "{samples}");
    let unknown = load(&file(&folder, "u.jsonl", r#"{"instruction": "a"}"#)).unwrap_err();
    assert!(unknown.contains("found instruction"), "{unknown}");
    let wrong = load(&Params { format: Format::Mbpp, ..file(&folder, "p.jsonl", NATIVE) }).unwrap_err();
    assert!(wrong.contains("expected the format `mbpp`, found records of `jsonl`"), "{wrong}");
    let text = load(&Params { format: Format::Parquet, ..file(&folder, "p.jsonl", NATIVE) }).unwrap_err();
    assert!(text.contains("found text"), "{text}");
    let latin = folder.path().join("latin.jsonl");
    std::fs::write(&latin, b"{\"question\": \"\xe9\"}").unwrap();
    assert!(load(&params(&latin)).unwrap_err().contains("UTF-8"));
    let apps = load(&Params { format: Format::Apps, ..file(&folder, "p.jsonl", NATIVE) }).unwrap_err();
    assert!(apps.contains("found a file"), "{apps}");
}

#[test]
fn human_eval_and_mbpp_records_become_problems_with_cases_or_test_code() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"{"task_id": "HumanEval/0", "prompt": "def f(x):\n", "entry_point": "f", "canonical_solution": "    return x\n", "test": "def check(candidate):\n    assert candidate(1) == 1\n"}
{"task_id": "HumanEval/1", "prompt": "def f(x):\n", "entry_point": "f", "canonical_solution": "    return x\n", "test": "def check(candidate):\n    for i in range(3):\n        assert candidate(i) == i\n"}
"#;
    let (problems, _) = load(&file(&folder, "h.jsonl", text)).unwrap();
    assert_eq!(problems[0].solutions, ["def f(x):\n    return x\n"]);
    assert_eq!((problems[0].tests.style, problems[0].tests.cases.len()), (TestStyle::Call, 1));
    assert_eq!(problems[1].tests.style, TestStyle::Assert);
    assert!(problems[1].tests.code.as_deref().unwrap().ends_with("== i\ncheck(f)\n"));

    let text = r#"[{"task_id": 2, "prompt": "Add.", "code": "def g(x):\r\n  return x + 1", "test_imports": ["import math"], "test_list": ["assert g(1) == 2"]},
 {"task_id": 3, "prompt": "Halve.", "code": "def h(x): return x / 2", "test_imports": ["import math"], "test_list": ["assert math.isclose(h(1), 0.5)"]}]"#;
    let (problems, _) = load(&file(&folder, "m.json", text)).unwrap();
    assert_eq!((problems[0].problem_id.as_str(), problems[0].question.as_str()), ("Mbpp/2", "Add.\nassert g(1) == 2"));
    assert_eq!((problems[0].entry_point.as_deref(), problems[0].tests.cases[0].output.as_str()), (Some("g"), "2"));
    assert_eq!(problems[0].solutions, ["def g(x):\n  return x + 1"]);
    assert_eq!(problems[1].entry_point.as_deref(), Some("h"));
    assert_eq!(problems[1].tests.code.as_deref(), Some("import math\nassert math.isclose(h(1), 0.5)\n"));
}

#[test]
fn human_eval_plus_records_are_inputs_and_are_asked_for_by_their_fields() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"{"task_id": "HumanEval/1", "prompt": "def f(x):\n", "entry_point": "f", "canonical_solution": "    return x\n", "test": "def check(candidate):\n    assert candidate(1) == 1\n", "base_input": [[1]], "plus_input": [[12345678901234567890123]], "atol": 0}"#;
    let strict = file(&folder, "plus.jsonl", text);
    let (problems, _) = load(&strict).unwrap();
    let inputs: Vec<&str> = problems[0].tests.cases.iter().map(|case| case.input.as_str()).collect();
    assert_eq!(inputs, ["(1,)", "(12345678901234567890123,)"]);
    // Its own test code is that of HumanEval.
    let (problems, _) = load(&Params { format: Format::Humaneval, ..strict.clone() }).unwrap();
    assert_eq!(problems[0].tests.cases[0].output, "1");
    let (problems, _) = load(&Params { tests: Some(PlusTests::Base), ..strict.clone() }).unwrap();
    assert_eq!(problems[0].tests.cases.len(), 1);
    let other = Params { tests: Some(PlusTests::Base), ..file(&folder, "p.jsonl", NATIVE) };
    assert!(load(&other).unwrap_err().contains("`tests` is for HumanEval+"));
    let misplaced = Params { format: Format::Mbpp, ..other };
    assert!(Load::declare(&misplaced, &InputSchemas::new()).unwrap_err().to_string().contains("found `mbpp`"));
    let array = load(&file(&folder, "plus.json", &format!("[{text}]"))).unwrap_err();
    assert!(array.contains("a JSON object a line"), "{array}");
    let mbpp = load(&file(&folder, "mbpp.jsonl", &text.replace("HumanEval/1", "Mbpp/2"))).unwrap_err();
    assert!(mbpp.contains("MBPP+ is not read: its arguments are tuples"), "{mbpp}");
}

#[test]
fn apps_folders_become_stdio_and_call_problems() {
    let folder = tempfile::tempdir().unwrap();
    let make = |id: &str, files: &[(&str, &str)]| {
        let path = folder.path().join(id);
        std::fs::create_dir_all(&path).unwrap();
        for (name, text) in files {
            std::fs::write(path.join(name), text).unwrap();
        }
    };
    make(
        "train/0001",
        &[
            ("question.txt", "Double."),
            ("input_output.json", r#"{"inputs": ["1\n", ["2", "3"]], "outputs": ["2\n", ["4", "6"]]}"#),
            ("solutions.json", r#"["print(int(input()) * 2)"]"#),
            ("metadata.json", r#"{"difficulty": "interview", "url": "https://codeforces.com/1"}"#),
        ],
    );
    make(
        "test/0002",
        &[
            ("question.txt", "Prime?"),
            (
                "input_output.json",
                r#"{"fn_name": "p", "inputs": [[1], "12345678901234567890123\n\"a\""], "outputs": [[false], [true]]}"#,
            ),
            ("starter_code.py", "def p(n):"),
            ("metadata.json", r#"{"url": "https://www.codewars.com/kata/1"}"#),
        ],
    );
    let (problems, _) = load(&params(folder.path())).unwrap();
    let ids: Vec<&str> = problems.iter().map(|problem| problem.problem_id.as_str()).collect();
    assert_eq!(ids, ["test/0002", "train/0001"]);
    let cases: Vec<(&str, &str)> = problems
        .iter()
        .flat_map(|problem| &problem.tests.cases)
        .map(|case| (case.input.as_str(), case.output.as_str()))
        .collect();
    assert_eq!(
        cases,
        [("(1,)", "False"), ("(12345678901234567890123, \"a\")", "True"), ("1\n", "2\n"), ("2\n3", "4\n6")]
    );
    assert_eq!(problems[0].entry_point.as_deref(), Some("p"));
    assert_eq!(problems[1].difficulty.as_deref(), Some("interview"));
    make("test/0003", &[("question.txt", "?"), ("input_output.json", "{\"inputs\": [1")]);
    let message = load(&params(folder.path())).unwrap_err();
    assert!(message.contains("problem test/0003: input_output.json: byte 13"), "{message}");
    make("test/0003", &[("input_output.json", r#"{"inputs": ["1"], "outputs": []}"#)]);
    let message = load(&params(folder.path())).unwrap_err();
    assert!(message.contains("as many outputs as inputs, found 0 and 1"), "{message}");
}

#[test]
fn samples_go_on_from_prompts_or_stand_alone() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        "{\"task_id\": \"a\", \"completion\": \"    return 1\\n\"}\n{\"task_id\": \"a\", \"solution\": \"x = 1\\n\"}\n";
    let params = Params { format: Format::Samples, ..file(&folder, "s.jsonl", text) };
    let problems = vec![SampledProblem { problem_id: "a".into(), starter_code: Some("def f():\n".into()) }];
    let (samples, _) = load_samples(&params, Some(problems)).unwrap();
    assert_eq!((samples[0].program.as_str(), samples[0].sample_index), ("def f():\n    return 1\n", 0));
    assert_eq!((samples[1].program.as_str(), samples[1].sample_index), ("x = 1\n", 1));
    assert_ne!(samples[0].sample_id, samples[1].sample_id);
    let rows = "{\"problem_id\": \"a\", \"sample_id\": \"mine\", \"program\": \"x = 2\"}\n{\"task_id\": 3, \"program\": \"x = 3\"}\n";
    let table = Params { format: Format::Samples, ..file(&folder, "t.jsonl", rows) };
    let (samples, _) = load_samples(&table, None).unwrap();
    assert_eq!((samples[0].sample_id.as_str(), samples[0].program.as_str()), ("mine", "x = 2"));
    assert_eq!((samples[1].problem_id.as_str(), samples[1].sample_index), ("Mbpp/3", 0));
    let twice = Params { format: Format::Samples, ..file(&folder, "u.jsonl", &rows.repeat(2)) };
    assert!(load_samples(&twice, None).unwrap_err().contains("\"mine\" (line 1 and line 3)"));
    let message = load_samples(&params, None).unwrap_err();
    assert!(message.contains("line 1: a `completion`") && message.contains("connect the problems"), "{message}");
    let message = load_samples(&params, Some(Vec::new())).unwrap_err();
    assert!(message.contains("\"a\" is not in the connected problems"), "{message}");
}

/// The folder with the published files, where it is at hand.
fn data() -> Option<PathBuf> {
    let given =
        option_env!("ABLATE_DATA").map(PathBuf::from).or_else(|| std::env::var_os("ABLATE_DATA").map(PathBuf::from));
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    given.or(Some(beside)).filter(|folder| folder.is_dir())
}

#[test]
fn the_published_files_are_loaded_whole_and_nearly_all_their_asserts_are_lowered() {
    let Some(data) = data() else { return };
    let lowered =
        |problems: &[Problem]| problems.iter().filter(|problem| problem.tests.style == TestStyle::Call).count();
    let path = data.join("humaneval/HumanEval.jsonl.gz");
    if path.is_file() {
        let (problems, _) = load(&params(&path)).unwrap();
        assert_eq!(problems.len(), 164);
        assert!(lowered(&problems) >= 147, "{} of HumanEval", lowered(&problems));
    }
    for (name, all) in [("HumanEvalPlus", 124_253), ("HumanEvalPlus-Mini", 2_677), ("HumanEvalPlus-NoExtreme", 124_074)]
    {
        let path = data.join(format!("humaneval_plus/{name}.jsonl.gz"));
        if !path.is_file() {
            continue;
        }
        let cases = |problems: &[Problem]| problems.iter().map(|problem| problem.tests.cases.len()).sum::<usize>();
        let (problems, _) = load(&params(&path)).unwrap();
        assert_eq!((problems.len(), cases(&problems)), (164, all), "{name}");
        let (base, _) = load(&Params { tests: Some(PlusTests::Base), ..params(&path) }).unwrap();
        assert_eq!((base.len(), cases(&base)), (164, 1570), "{name}");
    }
    if data.join("mbpp").is_dir() {
        let (problems, _) = load(&params(&data.join("mbpp/sanitized-mbpp.json"))).unwrap();
        assert_eq!(problems.len(), 427);
        assert!(lowered(&problems) >= 407, "{} of sanitized MBPP", lowered(&problems));
        assert!(problems.iter().all(|problem| problem.entry_point.is_some()));
        assert_eq!(load(&params(&data.join("mbpp/mbpp.jsonl"))).unwrap().0.len(), 974);
    }
    if data.join("apps_coderl/APPS").is_dir() {
        let (problems, _) = load(&params(&data.join("apps_coderl/APPS"))).unwrap();
        assert_eq!(problems.len(), 5);
        assert_eq!(lowered(&problems), 2);
        assert!(problems.iter().all(|problem| !problem.solutions.is_empty() && !problem.tests.cases.is_empty()));
    }
}

/// The lowered cases say what the asserts said: the published solutions pass every one of them, and none is lost.
#[test]
fn the_published_solutions_pass_the_lowered_cases() {
    let Some(data) = data() else { return };
    for name in ["humaneval/HumanEval.jsonl.gz", "mbpp/sanitized-mbpp.json"] {
        let path = data.join(name);
        if !path.is_file() {
            continue;
        }
        let (problems, _) = load(&params(&path)).unwrap();
        let called: Vec<&Problem> = problems.iter().filter(|problem| problem.tests.style == TestStyle::Call).collect();
        let script = "
import ast, json, sys
bad = []
for p in json.load(sys.stdin):
    g = {}
    exec(p['solutions'][0], g)
    for c in p['tests']['cases']:
        value = g[p['entry_point']](*ast.literal_eval(c['input']))
        wanted = ast.literal_eval(c['output']) if c['output'] else None
        ok = {'equal': lambda: value == wanted, 'truthy': lambda: bool(value), 'falsy': lambda: not value,
              'close': lambda: abs(value - wanted) < c['tolerance']}[c['check']]()
        if not ok: bad.append((p['problem_id'], c, repr(value)))
print(len(bad), bad[:3])
";
        let mut python = std::process::Command::new("python3")
            .args(["-I", "-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("the tests need python3");
        python.stdin.take().unwrap().write_all(serde_json::to_string(&called).unwrap().as_bytes()).unwrap();
        let output = python.wait_with_output().unwrap();
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.trim_end().ends_with("0 []"), "{name}: {output}");
    }
}
