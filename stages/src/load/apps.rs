//! APPS: a folder a problem, and the same fields in a record.
//!
//! Hendrycks et al. 2021, <https://arxiv.org/abs/2105.09938>. `question.txt`, `input_output.json`, `solutions.json`, `starter_code.py`,
//! `metadata.json`; problems lie in the given folder, or below it in `train/` and `test/`. The id is the folder below the given one.
//!
//! Tests with a `fn_name` call it: arguments are an array, or a string with one JSON value a line. What is expected stands in an array of
//! its own where it comes from Codewars; where the source is not known, that is believed only if all expected values look so. Other tests are
//! scripts; lines given as arrays are joined.

use super::json::Json;
use super::records::read_text;
use crate::columns::{Case, Check, Problem, TestStyle, Tests};
use crate::stage::StageError;
use std::path::{Path, PathBuf};

/// The folders of problems below a folder, with their ids, in order.
///
/// # Errors
/// Where the folder cannot be read, or holds no problem.
pub(super) fn folders(root: &Path) -> Result<Vec<(String, PathBuf)>, StageError> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if root.join("question.txt").is_file() {
        return Ok(vec![(name(root), root.to_owned())]);
    }
    let mut found = Vec::new();
    for folder in subfolders(root)? {
        if folder.join("question.txt").is_file() {
            found.push((name(&folder), folder));
        } else if matches!(name(&folder).as_str(), "train" | "test") {
            for problem in subfolders(&folder)? {
                found.push((format!("{}/{}", name(&folder), name(&problem)), problem));
            }
        } else {
            // A folder without a question is a problem with a hole in it; reading it says so.
            found.push((name(&folder), folder));
        }
    }
    Ok(found)
}

fn subfolders(root: &Path) -> Result<Vec<PathBuf>, StageError> {
    let entries = std::fs::read_dir(root).map_err(|error| StageError::file(root, error.to_string()))?;
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| StageError::file(root, error.to_string()))?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

/// The problem in a folder.
///
/// # Errors
/// Which file is missing or wrong, and how.
pub(super) fn problem(problem_id: &str, folder: &Path) -> Result<Problem, String> {
    let read = |file: &str| -> Result<Option<String>, String> {
        let path = folder.join(file);
        if path.is_file() { read_text(&path).map(Some).map_err(|error| error.to_string()) } else { Ok(None) }
    };
    let json = |file: &str| -> Result<Option<Json>, String> {
        let Some(text) = read(file)?.filter(|text| !text.trim().is_empty()) else { return Ok(None) };
        Json::parse(&text).map(Some).map_err(|problem| format!("{file}: {problem}"))
    };
    let question = read("question.txt")?.ok_or("question.txt is missing")?;
    let metadata = json("metadata.json")?;
    let field = |name: &str| match metadata.as_ref().and_then(|metadata| metadata.get(name)) {
        Some(Json::Text(text)) => Some(text.clone()),
        _ => None,
    };
    let (entry_point, tests) = tests(json("input_output.json")?.as_ref(), field("url").as_deref())
        .map_err(|problem| format!("input_output.json: {problem}"))?;
    let solutions = match json("solutions.json")? {
        None => Vec::new(),
        Some(Json::Array(items)) => items
            .into_iter()
            .map(|item| match item {
                Json::Text(code) => Ok(code),
                _ => Err("solutions.json: expected an array of strings".to_owned()),
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err("solutions.json: expected an array of strings".to_owned()),
    };
    Ok(Problem {
        problem_id: problem_id.to_owned(),
        question,
        solutions,
        starter_code: read("starter_code.py")?.filter(|code| !code.trim().is_empty()),
        entry_point,
        tests,
        source: "apps".to_owned(),
        difficulty: field("difficulty"),
    })
}

/// The entry point and the tests of an `input_output` object; without one there are no cases.
///
/// # Errors
/// Which part is wrong, and how.
pub(super) fn tests(input_output: Option<&Json>, url: Option<&str>) -> Result<(Option<String>, Tests), String> {
    let none = Tests { style: TestStyle::Stdio, cases: Vec::new(), code: None, setup: None };
    let Some(input_output) = input_output else { return Ok((None, none)) };
    let list = |name: &str| match input_output.get(name) {
        Some(Json::Array(items)) => Ok(items.as_slice()),
        None => Ok(&[][..]),
        Some(_) => Err(format!("`{name}`: expected an array")),
    };
    let (inputs, outputs) = (list("inputs")?, list("outputs")?);
    if inputs.len() != outputs.len() {
        return Err(format!("expected as many outputs as inputs, found {} and {}", outputs.len(), inputs.len()));
    }
    let entry_point = match input_output.get("fn_name") {
        Some(Json::Text(name)) => Some(name.clone()),
        None => None,
        Some(_) => return Err("`fn_name`: expected a string".to_owned()),
    };
    let wrapped = match url {
        Some(url) if url.contains("codewars.com") => true,
        Some(url) if url.contains("leetcode.com") => false,
        _ => outputs.iter().all(|output| matches!(output, Json::Array(items) if items.len() == 1)),
    };
    let mut cases = Vec::with_capacity(inputs.len());
    for (number, (input, output)) in inputs.iter().zip(outputs).enumerate() {
        let (input, output) = if entry_point.is_some() {
            let arguments = arguments(input).map_err(|problem| format!("input {}: {problem}", number + 1))?;
            let value = match output {
                Json::Array(items) if wrapped && items.len() == 1 => &items[0],
                other => other,
            };
            (super::asserts::tuple(&arguments), value.python())
        } else {
            let text = |value| text(value).map_err(|problem| format!("test {}: {problem}", number + 1));
            (text(input)?, text(output)?)
        };
        cases.push(Case { input, output, check: Check::Equal, tolerance: None });
    }
    let style = if entry_point.is_some() { TestStyle::Call } else { TestStyle::Stdio };
    Ok((entry_point, Tests { style, cases, code: None, setup: None }))
}

fn arguments(input: &Json) -> Result<Vec<String>, String> {
    match input {
        Json::Array(items) => Ok(items.iter().map(Json::python).collect()),
        Json::Text(lines) => lines.lines().map(|line| Json::parse(line).map(|value| value.python())).collect(),
        _ => Err("expected an array of arguments, or a string with a JSON value a line".to_owned()),
    }
}

fn text(value: &Json) -> Result<String, String> {
    match value {
        Json::Text(text) => Ok(text.clone()),
        Json::Array(lines) => {
            let lines = lines.iter().map(text).collect::<Result<Vec<_>, _>>()?;
            Ok(lines.join("\n"))
        }
        Json::Number(number) => Ok(number.clone()),
        _ => Err("expected a string, or an array of lines".to_owned()),
    }
}
