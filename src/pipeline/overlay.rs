//! Laying values over a pipeline file as written: `--set`, a variant, a point of a sweep, a file that extends another.
//!
//! One rule for all of them. `stage.parameter` sets a parameter; the name of a stage with a map changes the stage, with `null` drops
//! it, and with a `use` of another kind replaces it; the name of a var sets the var. What is laid over keeps the place where it is written.

use super::error::{Fault, Problem};
use super::file::{STAGE_KEYS, wrong_type};
use super::located::{Entry, Located, Location, Node, Sources, parse_argument};

/// Reads a `--set name=value` as what it lays over the pipeline; the value is a YAML value.
///
/// # Errors
/// Where there is no `=`.
pub fn read_set(set: &str, sources: &mut Sources) -> Result<Entry, Problem> {
    let source = sources.add("--set", set);
    let Some((target, value)) = set.split_once('=') else {
        let at = Location { source, start: 0, len: set.len() };
        return Err(Problem::new(Fault::BadSet { text: set.to_owned() }, at));
    };
    let key_at = Location { source, start: 0, len: target.len() };
    Ok(Entry { key: target.to_owned(), key_at, value: parse_argument(value, source, target.len() + 1) })
}

/// Lays one value over a pipeline.
///
/// # Errors
/// Where the pipeline has no such stage or var, or the value is none that a stage could have.
pub fn lay(tree: &mut Located, over: &Entry) -> Result<(), Problem> {
    if let Some((stage, path)) = over.key.split_once('.') {
        let Some(entry) = section(tree, "stages").and_then(|stages| stages.entry_mut(stage)) else {
            return Err(unknown(tree, "stage", "stages", stage, Location { len: stage.len(), ..over.key_at }));
        };
        set_parameter(&mut entry.value, path, over, stage.len() + 1);
        return Ok(());
    }
    let is_stage = section(tree, "stages").is_some_and(|stages| stages.entry(&over.key).is_some());
    let shaped_as_stage = match &over.value.value {
        Node::Null => true,
        Node::Map(entries) => entries.iter().all(|entry| STAGE_KEYS.contains(&entry.key.as_str())),
        _ => false,
    };
    if let Some(var) = section(tree, "vars").and_then(|vars| vars.entry_mut(&over.key))
        && !(is_stage && shaped_as_stage)
    {
        var.value = over.value.clone();
        return Ok(());
    }
    let is_new = over.value.entry("use").is_some();
    if is_stage || (is_new && shaped_as_stage) {
        return lay_stage(tree, over);
    }
    let (what, of) = if shaped_as_stage { ("stage", "stages") } else { ("var", "vars") };
    Err(unknown(tree, what, of, &over.key, over.key_at))
}

/// Lays a stage over that of the same name, or adds it; `null` drops it.
fn lay_stage(tree: &mut Located, over: &Entry) -> Result<(), Problem> {
    let name = &over.key;
    match &over.value.value {
        Node::Map(_) => {}
        Node::Null => {
            let Some(stages) = section(tree, "stages").filter(|stages| stages.entry(name).is_some()) else {
                return Err(unknown(tree, "stage", "stages", name, over.key_at));
            };
            stages.entries_mut().retain(|stage| stage.key != *name);
            return Ok(());
        }
        _ => {
            let mut problems = Vec::new();
            let expected = "a map with keys of a stage, or `null` to drop it";
            wrong_type(&over.value, over.key_at, &format!("stage `{name}`"), expected, &mut problems);
            return problems.pop().map_or(Ok(()), Err);
        }
    }
    let Some(stages) = section(tree, "stages") else { return Ok(()) };
    let Some(stage) = stages.entry_mut(name) else {
        stages.entries_mut().push(over.clone());
        return Ok(());
    };
    let kind = |stage: &Located| stage.entry("use").and_then(|kind| kind.value.as_str().map(str::to_owned));
    // Of another kind, with other inputs and parameters: nothing of the old stage would mean the same.
    if kind(&over.value).is_some_and(|kind_over| Some(kind_over) != kind(&stage.value)) {
        stage.value = over.value.clone();
        return Ok(());
    }
    for part in over.value.entries() {
        match stage.value.entry_mut(&part.key) {
            Some(was) if matches!((&was.value.value, &part.value.value), (Node::Map(_), Node::Map(_))) => {
                merge(&mut was.value, part.value.entries(), part.key == "from");
            }
            Some(was) => *was = part.clone(),
            None => stage.value.entries_mut().push(part.clone()),
        }
    }
    Ok(())
}

/// Lays a file over the one that it extends.
pub fn lay_file(parent: &mut Located, child: &Located) -> Vec<Problem> {
    let mut problems = Vec::new();
    for section in child.entries() {
        match (section.key.as_str(), &section.value.value) {
            ("extends", _) => {}
            ("stages", Node::Map(stages)) => {
                if parent.entry("stages").is_none() {
                    parent.entries_mut().push(section.clone());
                    continue;
                }
                problems.extend(stages.iter().filter_map(|stage| lay_stage(parent, stage).err()));
            }
            ("vars" | "seeds" | "compare" | "variants", Node::Map(entries)) if parent.entry(&section.key).is_some() => {
                if let Some(was) = parent.entry_mut(&section.key) {
                    merge(&mut was.value, entries, section.key == "variants" || section.key == "seeds");
                }
            }
            _ => match parent.entry_mut(&section.key) {
                Some(was) => *was = section.clone(),
                None => parent.entries_mut().push(section.clone()),
            },
        }
    }
    problems
}

/// Puts entries into a map, over those of the same key; with `null_drops`, a `null` takes an entry away.
fn merge(map: &mut Located, entries: &[Entry], null_drops: bool) {
    for entry in entries {
        let drops = null_drops && entry.value.value == Node::Null;
        match map.entry_mut(&entry.key) {
            Some(_) if drops => map.entries_mut().retain(|was| was.key != entry.key),
            Some(was) => *was = entry.clone(),
            None => map.entries_mut().push(entry.clone()),
        }
    }
}

/// Sets the parameter at a dotted path. `start`: where the path begins in the key of what is laid over.
fn set_parameter(stage: &mut Located, path: &str, over: &Entry, mut start: usize) {
    // A key that stands in a file is as long as its text; a quoted one is shown whole.
    let is_plain = over.key_at.len == over.key.len();
    let mut here = child(stage, "with", over.key_at);
    for step in path.split('.') {
        let at = if is_plain {
            Location { start: over.key_at.start + start, len: step.len(), ..over.key_at }
        } else {
            over.key_at
        };
        here = child(here, step, at);
        start += step.len() + 1;
    }
    *here = over.value.clone();
}

/// The value behind a key, made if need be; what is no map becomes one.
fn child<'a>(parent: &'a mut Located, key: &str, at: Location) -> &'a mut Located {
    let entries = parent.entries_mut();
    let index = entries.iter().position(|entry| entry.key == key).unwrap_or_else(|| {
        entries.push(Entry { key: key.to_owned(), key_at: at, value: Located::empty_map(at) });
        entries.len() - 1
    });
    &mut entries[index].value
}

fn section<'a>(tree: &'a mut Located, name: &str) -> Option<&'a mut Located> {
    tree.entry_mut(name).map(|entry| &mut entry.value)
}

fn unknown(tree: &Located, what: &'static str, section: &str, name: &str, at: Location) -> Problem {
    let entries = tree.entry(section).map(|entry| entry.value.entries()).unwrap_or_default();
    let choices = entries.iter().map(|entry| entry.key.clone()).collect();
    Problem::new(Fault::Unknown { what, name: name.to_owned(), owner: String::new(), choices }, at)
}
