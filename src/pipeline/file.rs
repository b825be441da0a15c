//! The model of a pipeline file: which keys there are and what stands behind them, still as written.

use super::error::{Fault, Problem};
use super::located::{Entry, Located, Location, Node};
use serde::Serialize;

/// The keys of a pipeline file.
pub const TOP_KEYS: &[&str] = &["name", "about", "extends", "vars", "stages", "compare", "variants", "seeds", "sweep"];
/// The keys of a stage.
pub const STAGE_KEYS: &[&str] = &["use", "from", "with", "resources"];
/// The keys of `resources`.
pub const RESOURCE_KEYS: &[&str] = &["cpus", "gpus", "memory", "device"];

/// A pipeline file, as written.
#[derive(Debug, Default)]
pub struct PipelineFile {
    /// `name`.
    pub name: Option<String>,
    /// `about`.
    pub about: Option<String>,
    /// `vars`.
    pub vars: Vec<Entry>,
    /// `stages`, in the order of the file.
    pub stages: Vec<Stage>,
    /// `compare`: what is compared.
    pub metrics: Vec<Text>,
    /// `compare`: with what.
    pub baseline: Option<Text>,
    /// `compare`: what whoever quotes the figures must know.
    pub note: Option<String>,
}

/// A text with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The text.
    pub text: String,
    /// Its place.
    pub at: Location,
}

/// A stage, as written.
#[derive(Debug)]
pub struct Stage {
    /// Its name.
    pub name: Text,
    /// `use`; none where it is missing or no text, which is a problem already.
    pub kind: Option<Text>,
    /// `from`.
    pub from: From,
    /// `with`; an empty map at the stage's name where it is missing.
    pub with: Located,
    /// `resources`.
    pub resources: Option<Located>,
}

/// What a stage reads.
#[derive(Debug)]
pub enum From {
    /// No `from`.
    Nothing,
    /// Something that is reported already.
    Unclear,
    /// A bare name.
    Bare(Reference),
    /// Names by port; the ports with their places.
    Ports(Vec<(Text, Reference)>),
}

/// `stage` or `stage.port`.
#[derive(Debug, Clone)]
pub struct Reference {
    /// The stage.
    pub stage: String,
    /// The output port; none for the first.
    pub port: Option<String>,
    /// The place of the whole.
    pub at: Location,
}

impl From {
    /// All references, whatever the form.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        let (bare, ports) = match self {
            Self::Nothing | Self::Unclear => (None, [].as_slice()),
            Self::Bare(reference) => (Some(reference), [].as_slice()),
            Self::Ports(ports) => (None, ports.as_slice()),
        };
        bare.into_iter().chain(ports.iter().map(|(_, reference)| reference))
    }
}

/// What a stage may take of the machine. Never part of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Resources {
    /// CPUs.
    pub cpus: Option<u32>,
    /// GPUs.
    pub gpus: Option<u32>,
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// `cpu`, `cuda` or `cuda:N`.
    pub device: Option<String>,
}

/// Reads the tree of a file.
pub fn read(tree: &Located, problems: &mut Vec<Problem>) -> PipelineFile {
    let mut file = PipelineFile::default();
    if !matches!(tree.value, Node::Map(_)) {
        wrong_type(tree, Location::FILE, "a pipeline file", "a map with the key `stages`", problems);
        return file;
    }
    for Entry { key, key_at, value } in tree.entries() {
        match key.as_str() {
            "name" => {
                file.name = text(value, *key_at, "`name`", problems).map(|text| text.text);
                // Runs are filed in folders of this name.
                if file
                    .name
                    .as_deref()
                    .is_some_and(|name| name.is_empty() || name.contains('/') || name.starts_with('.'))
                {
                    let message = "expected a name without `/` that does not begin with a dot".into();
                    problems.push(Problem::new(Fault::BadParameter { what: "`name`".into(), message }, value.at));
                }
            }
            "about" => file.about = text(value, *key_at, "`about`", problems).map(|text| text.text),
            "vars" => file.vars = map(value, *key_at, "`vars`", "a map of names and values", problems).to_vec(),
            "stages" => {
                let stages = map(value, *key_at, "`stages`", "a map of stages", problems);
                file.stages = stages.iter().map(|entry| stage(entry, problems)).collect();
            }
            "compare" => {
                for Entry { key, key_at, value } in map(value, *key_at, "`compare`", "a map", problems) {
                    match key.as_str() {
                        "metric" => file.metrics = texts(value, *key_at, "`metric` of `compare`", problems),
                        "baseline" => file.baseline = text(value, *key_at, "`baseline` of `compare`", problems),
                        "note" => {
                            file.note = text(value, *key_at, "`note` of `compare`", problems).map(|text| text.text);
                        }
                        other => unknown_key(other, *key_at, "in `compare`", &["metric", "baseline", "note"], problems),
                    }
                }
            }
            // Read before: these say which cases there are, and the file is now one of them.
            "extends" | "variants" | "seeds" | "sweep" => {}
            other => unknown_key(other, *key_at, "", TOP_KEYS, problems),
        }
    }
    if tree.entry("stages").is_none() {
        let fault = Fault::Missing {
            what: "the key",
            name: "stages".into(),
            owner: "the pipeline".into(),
            doc: "what is done, by name".into(),
        };
        problems.push(Problem::new(fault, Location::FILE));
    }
    file
}

fn stage(entry: &Entry, problems: &mut Vec<Problem>) -> Stage {
    let name = &entry.key;
    let what = |key: &str| format!("`{key}` of stage `{name}`");
    if !is_stage_name(name) {
        problems.push(Problem::new(Fault::BadName { name: name.clone(), what: "stage" }, entry.key_at));
    }
    let mut stage = Stage {
        name: Text { text: name.clone(), at: entry.key_at },
        kind: None,
        from: From::Nothing,
        with: Located::empty_map(entry.key_at),
        resources: None,
    };
    let keys = map(&entry.value, entry.key_at, &format!("stage `{name}`"), "a map with the key `use`", problems);
    for Entry { key, key_at, value } in keys {
        match key.as_str() {
            "use" => stage.kind = text(value, *key_at, &what("use"), problems),
            "from" => stage.from = from(value, *key_at, &what("from"), problems),
            "with" => match value.value {
                Node::Null => {}
                Node::Map(_) => stage.with = Located { at: *key_at, ..value.clone() },
                _ => wrong_type(value, *key_at, &what("with"), "a map of parameters", problems),
            },
            "resources" => stage.resources = Some(Located { at: *key_at, ..value.clone() }),
            other => unknown_key(other, *key_at, &format!("of stage `{name}`"), STAGE_KEYS, problems),
        }
    }
    if matches!(entry.value.value, Node::Map(_)) && entry.value.entry("use").is_none() {
        let fault = Fault::Missing {
            what: "the key",
            name: "use".into(),
            owner: format!("stage `{name}`"),
            doc: "the kind of stage; `ablate stages` lists them".into(),
        };
        problems.push(Problem::new(fault, entry.key_at));
    }
    stage
}

fn from(value: &Located, key_at: Location, what: &str, problems: &mut Vec<Problem>) -> From {
    match &value.value {
        Node::Null => From::Nothing,
        Node::Str(name) => From::Bare(reference(name, value.at)),
        Node::Map(entries) => From::Ports(
            entries
                .iter()
                .filter_map(|entry| {
                    let what = format!("`{}` in {what}", entry.key);
                    let source = text(&entry.value, entry.key_at, &what, problems)?;
                    let port = Text { text: entry.key.clone(), at: entry.key_at };
                    Some((port, reference(&source.text, source.at)))
                })
                .collect(),
        ),
        _ => {
            wrong_type(value, key_at, what, "the name of a stage, or a map of inputs and stages", problems);
            From::Unclear
        }
    }
}

fn reference(text: &str, at: Location) -> Reference {
    match text.split_once('.') {
        Some((stage, port)) => Reference { stage: stage.into(), port: Some(port.into()), at },
        None => Reference { stage: text.into(), port: None, at },
    }
}

/// Reads a `resources` block, after vars were put in.
pub fn resources(block: &Located, stage: &str, problems: &mut Vec<Problem>) -> Resources {
    let mut resources = Resources::default();
    let entries = map(block, block.at, &format!("`resources` of stage `{stage}`"), "a map", problems);
    for Entry { key, key_at, value } in entries {
        let what = format!("`{key}` in `resources` of stage `{stage}`");
        match key.as_str() {
            "cpus" => resources.cpus = count(value, *key_at, &what, problems),
            "gpus" => resources.gpus = count(value, *key_at, &what, problems),
            "memory" => {
                resources.memory_bytes = match &value.value {
                    Node::Int(bytes) if *bytes > 0 => Some(*bytes as u64),
                    Node::Str(size) => parse_size(size),
                    _ => None,
                };
                if resources.memory_bytes.is_none() {
                    wrong_type(value, *key_at, &what, "a size like `8 GiB`", problems);
                }
            }
            "device" => {
                resources.device = value.as_str().filter(|name| is_device(name)).map(str::to_owned);
                if resources.device.is_none() {
                    wrong_type(value, *key_at, &what, "`cpu`, `cuda` or `cuda:N`", problems);
                }
            }
            other => {
                if RESOURCE_KEYS.contains(&other) {
                    continue;
                }
                let fault = Fault::Unknown {
                    what: "resource",
                    name: other.to_owned(),
                    owner: format!("of stage `{stage}`"),
                    choices: RESOURCE_KEYS.iter().map(|&key| key.to_owned()).collect(),
                };
                problems.push(Problem::new(fault, *key_at));
            }
        }
    }
    resources
}

fn count(value: &Located, key_at: Location, what: &str, problems: &mut Vec<Problem>) -> Option<u32> {
    let count = match value.value {
        Node::Int(count) => u32::try_from(count).ok(),
        _ => None,
    };
    if count.is_none() {
        wrong_type(value, key_at, what, "a whole number from 0", problems);
    }
    count
}

fn is_device(name: &str) -> bool {
    name == "cpu" || name == "cuda" || name.strip_prefix("cuda:").is_some_and(|index| index.parse::<u32>().is_ok())
}

/// Bytes of a size like `8 GiB`, `500MB`, `2G`.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit: f64 = match text[digits..].trim() {
        "" | "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "K" | "KiB" => 1024.0,
        "M" | "MiB" => 1024.0 * 1024.0,
        "G" | "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some((number * unit) as u64)
}

fn is_stage_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

fn text(value: &Located, key_at: Location, what: &str, problems: &mut Vec<Problem>) -> Option<Text> {
    let Some(text) = value.as_str() else {
        wrong_type(value, key_at, what, "a text", problems);
        return None;
    };
    Some(Text { text: text.to_owned(), at: value.at })
}

/// One text, or a list of them.
fn texts(value: &Located, key_at: Location, what: &str, problems: &mut Vec<Problem>) -> Vec<Text> {
    match &value.value {
        Node::Seq(items) => items.iter().filter_map(|item| text(item, key_at, what, problems)).collect(),
        _ => text(value, key_at, what, problems).into_iter().collect(),
    }
}

fn map<'a>(
    value: &'a Located,
    key_at: Location,
    what: &str,
    expected: &str,
    problems: &mut Vec<Problem>,
) -> &'a [Entry] {
    if !matches!(value.value, Node::Map(_)) {
        wrong_type(value, key_at, what, expected, problems);
    }
    value.entries()
}

pub(super) fn wrong_type(value: &Located, key_at: Location, what: &str, expected: &str, problems: &mut Vec<Problem>) {
    let fault = Fault::WrongType { what: what.into(), expected: expected.into(), found: value.found() };
    let at = if value.at.len == 0 { key_at } else { value.at };
    problems.push(Problem::new(fault, at));
}

fn unknown_key(key: &str, at: Location, owner: &str, choices: &[&str], problems: &mut Vec<Problem>) {
    let fault = Fault::Unknown {
        what: "key",
        name: key.to_owned(),
        owner: owner.to_owned(),
        choices: choices.iter().map(|&choice| choice.to_owned()).collect(),
    };
    problems.push(Problem::new(fault, at));
}
