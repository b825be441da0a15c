//! `extends`: a file laid over another, and that over its own.

use super::error::{Fault, Problem, Problems};
use super::located::{Located, Location, Sources, parse};
use super::overlay::lay_file;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A file as written, laid over what it extends.
pub struct Whole {
    /// The file.
    pub tree: Located,
    /// The folder of each text that paths can be written in, by its number in the sources.
    pub dirs: BTreeMap<usize, PathBuf>,
}

/// Parses a text and all that it extends; none where a text is no YAML. Mistakes go to `problems`, which takes the texts as well.
pub fn read(path: &Path, text: &str, problems: &mut Problems) -> Option<Whole> {
    let mut dirs = BTreeMap::new();
    let tree = read_one(path, text, &mut Vec::new(), &mut dirs, problems)?;
    Some(Whole { tree, dirs })
}

fn read_one(
    path: &Path,
    text: &str,
    above: &mut Vec<PathBuf>,
    dirs: &mut BTreeMap<usize, PathBuf>,
    problems: &mut Problems,
) -> Option<Located> {
    let source = problems.sources.add(path.display().to_string(), text);
    dirs.insert(source, folder(path));
    let (tree, duplicates) = match parse(text, source) {
        Ok(parsed) => parsed,
        Err(problem) => {
            problems.list.push(problem);
            return None;
        }
    };
    let placed = duplicates.into_iter().map(|problem| with_first_place(&tree, problem, &problems.sources));
    let placed: Vec<Problem> = placed.collect();
    problems.list.extend(placed);
    let Some(extends) = tree.entry("extends") else { return Some(tree) };
    let at = extends.value.at;
    let Some(name) = extends.value.as_str() else {
        let found = extends.value.found();
        let fault = Fault::WrongType { what: "`extends`".into(), expected: "the path of a file".into(), found };
        problems.list.push(Problem::new(fault, if at.len == 0 { extends.key_at } else { at }));
        return Some(tree);
    };
    let parent = folder(path).join(name);
    above.push(path.canonicalize().unwrap_or_else(|_| path.to_owned()));
    let text = match std::fs::read_to_string(&parent) {
        Ok(_) if above.contains(&parent.canonicalize().unwrap_or_else(|_| parent.clone())) => {
            let path = above.iter().chain([&parent]).map(|path| file_name(path)).collect();
            problems.list.push(Problem::new(Fault::ExtendsItself { path }, at));
            return Some(tree);
        }
        Ok(text) => text,
        Err(error) => {
            let fault = Fault::Unreadable { error: format!("{}: {error}", parent.display()) };
            problems.list.push(Problem::new(fault, at));
            return None;
        }
    };
    let mut whole = read_one(&parent, &text, above, dirs, problems)?;
    // What the other file is called and is for is its own: by its name its runs are known.
    whole.entries_mut().retain(|entry| !matches!(entry.key.as_str(), "name" | "about"));
    problems.list.extend(lay_file(&mut whole, &tree));
    Some(whole)
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Points at the first of two equal keys: the nearest one above at the same indentation.
fn with_first_place(tree: &Located, problem: Problem, sources: &Sources) -> Problem {
    fn find(tree: &Located, key: &str, before: usize, places: &mut Vec<Location>) {
        if let super::located::Node::Seq(items) = &tree.value {
            items.iter().for_each(|item| find(item, key, before, places));
        }
        for entry in tree.entries() {
            if entry.key == key && entry.key_at.start < before {
                places.push(entry.key_at);
            }
            find(&entry.value, key, before, places);
        }
    }
    let Fault::DuplicateKey { key } = &problem.fault else { return problem };
    let mut places = Vec::new();
    find(tree, key, problem.at.start, &mut places);
    let (line, column) = sources.line_and_column(problem.at);
    let first = places.into_iter().max().filter(|&at| {
        let (first_line, first_column) = sources.line_and_column(at);
        first_line == line || first_column == column
    });
    match first {
        Some(at) => problem.also(at, "first here"),
        None => problem,
    }
}
