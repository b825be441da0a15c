//! The cases of a pipeline file: its variants, the points of its sweep, and the values of its seeds.
//!
//! A case is the pipeline with some values laid over it. The pipeline as written is the variant `default`; it stands first, since
//! what a variant is can only be said against it.

use super::error::{Fault, Problem};
use super::file::wrong_type;
use super::located::{Entry, Located, Location, Node, Sources};
use super::overlay::lay;
use std::collections::{BTreeMap, BTreeSet};

/// The name of the pipeline as written.
pub const DEFAULT: &str = "default";
/// More cases than this are a mistake in a sweep.
pub const MAX_CASES: u128 = 10_000;

/// Which variants are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Variants by name; none for the pipeline as written.
    pub variants: Vec<String>,
    /// All of them.
    pub all: bool,
}

impl Choice {
    /// Every variant that a file has.
    pub fn all() -> Self {
        Self { variants: Vec::new(), all: true }
    }

    fn has(&self, name: &str) -> bool {
        self.all || self.variants.iter().any(|asked| asked == name) || (self.variants.is_empty() && name == DEFAULT)
    }
}

/// What makes a case of a pipeline.
#[derive(Debug, Clone)]
pub struct CaseOf {
    /// The variant's name; none for the pipeline as written.
    pub variant: Option<String>,
    /// The value of each varied var.
    pub seeds: BTreeMap<String, String>,
    /// What it lays over the pipeline.
    pub over: Vec<Entry>,
    /// Whether it is asked for; the pipeline as written is there in any case.
    pub is_asked: bool,
    /// Where the variant is written.
    pub at: Location,
}

/// The cases of a file.
pub struct Cases {
    /// Those that are asked for, and the pipeline as written.
    pub list: Vec<CaseOf>,
    /// The names of all variants.
    pub names: Vec<String>,
}

/// A variant as written.
struct Variant {
    name: String,
    at: Location,
    over: Vec<Entry>,
}

/// A var with the values that it takes.
struct Seed {
    name: String,
    values: Vec<Entry>,
}

/// The cases of a file: the pipeline as written at every value of its seeds, then those of the variants that are asked for. `sets` are
/// laid over every case by the caller; a var that one of them sets takes no other value here.
pub fn cases(
    tree: &Located,
    sets: &[Entry],
    choice: &Choice,
    sources: &mut Sources,
    problems: &mut Vec<Problem>,
) -> Cases {
    let mut variants = named(tree, problems);
    variants.extend(sweep(tree, problems));
    for variant in &variants {
        // What is misspelt is told even if nobody asks for the variant.
        let mut trial = Trial::of(tree);
        problems.extend(variant.over.iter().filter_map(|over| trial.lay(over).err()));
    }
    unknown_variants(choice, &variants, sources, problems);
    let seeds = seeds(tree, problems);
    let names = variants.iter().map(|variant| variant.name.clone()).chain([DEFAULT.to_owned()]).collect();
    let default = Variant { name: DEFAULT.to_owned(), at: Location::FILE, over: Vec::new() };
    let asked: Vec<Variant> =
        std::iter::once(default).chain(variants.into_iter().filter(|variant| choice.has(&variant.name))).collect();
    let count = saturating_product(seeds.iter().map(|seed| seed.values.len()).chain([asked.len()]));
    if count > MAX_CASES {
        let at = tree.entry("seeds").map_or(Location::FILE, |entry| entry.key_at);
        problems.push(Problem::new(Fault::TooMany { what: "variants and seeds", count, most: MAX_CASES }, at));
        return Cases { list: Vec::new(), names };
    }
    let mut list = Vec::new();
    for variant in asked {
        let fixed = |name: &str| sets.iter().chain(&variant.over).any(|over| over.key == name);
        let free: Vec<&Seed> = seeds.iter().filter(|seed| !fixed(&seed.name)).collect();
        for point in product(&free.iter().map(|seed| seed.values.as_slice()).collect::<Vec<_>>()) {
            list.push(CaseOf {
                is_asked: choice.has(&variant.name),
                variant: (variant.name != DEFAULT).then(|| variant.name.clone()),
                seeds: point.iter().map(|seed| (seed.key.clone(), shown(&seed.value))).collect(),
                over: variant.over.iter().cloned().chain(point).collect(),
                at: variant.at,
            });
        }
    }
    Cases { list, names }
}

/// The vars that variants refer to: they are of use though the pipeline as written may not use them.
pub fn mentions(tree: &Located) -> BTreeSet<String> {
    fn walk(value: &Located, found: &mut BTreeSet<String>) {
        if let Some(text) = value.as_str() {
            let names = text.split("${").skip(1).filter_map(|rest| rest.split_once('}'));
            found.extend(names.map(|(name, _)| name.trim().to_owned()));
        }
        if let Node::Seq(items) = &value.value {
            items.iter().for_each(|item| walk(item, found));
        }
        value.entries().iter().for_each(|entry| walk(&entry.value, found));
    }
    let mut found = BTreeSet::new();
    for section in ["variants", "sweep"] {
        tree.entry(section).into_iter().for_each(|entry| walk(&entry.value, &mut found));
    }
    found
}

/// The parts of a pipeline that an override can name, to try one on.
struct Trial(Located);

impl Trial {
    fn of(tree: &Located) -> Self {
        let sections = ["vars", "stages"].iter().filter_map(|name| tree.entry(name).cloned());
        let mut trial = Located::empty_map(tree.at);
        *trial.entries_mut() = sections.collect();
        Self(trial)
    }

    fn lay(&mut self, over: &Entry) -> Result<(), Problem> {
        lay(&mut self.0, over)
    }
}

/// The variants that are written out by name.
fn named(tree: &Located, problems: &mut Vec<Problem>) -> Vec<Variant> {
    let Some(section) = tree.entry("variants") else { return Vec::new() };
    let mut variants = Vec::new();
    for entry in map_of(section, "`variants`", "a map of names and what differs", problems) {
        let is_name = entry.key.starts_with(|first: char| first.is_ascii_lowercase())
            && entry.key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c));
        if !is_name || entry.key == DEFAULT {
            let fault = Fault::BadName { name: entry.key.clone(), what: "variant" };
            problems.push(Problem::new(fault, entry.key_at));
            continue;
        }
        let what = format!("variant `{}`", entry.key);
        let over = map_of(entry, &what, "a map like `{ stage.parameter: value }`", problems).to_vec();
        variants.push(Variant { name: entry.key.clone(), at: entry.key_at, over });
    }
    variants
}

/// The points of the sweep: the product of its lists, without what is excluded, with what is included.
fn sweep(tree: &Located, problems: &mut Vec<Problem>) -> Vec<Variant> {
    let Some(section) = tree.entry("sweep") else { return Vec::new() };
    let (mut axes, mut excluded, mut included) = (Vec::new(), Vec::new(), Vec::new());
    for entry in map_of(section, "`sweep`", "a map of names and lists of values", problems) {
        match (entry.key.as_str(), &entry.value.value) {
            ("exclude", Node::Seq(items)) => excluded = items.iter().collect(),
            ("include", Node::Seq(items)) => included = items.iter().collect(),
            (_, Node::Seq(items)) if !items.is_empty() => axes.push(
                items.iter().map(|value| Entry { value: value.clone(), ..entry.clone() }).collect::<Vec<Entry>>(),
            ),
            (key, _) => {
                let expected = if matches!(key, "exclude" | "include") { "a list of maps" } else { "a list of values" };
                wrong_type(&entry.value, entry.key_at, &format!("`{key}` of `sweep`"), expected, problems);
            }
        }
    }
    let count = if axes.is_empty() { 0 } else { saturating_product(axes.iter().map(Vec::len)) };
    if count > MAX_CASES {
        let fault = Fault::TooMany { what: "products in `sweep`", count, most: MAX_CASES };
        problems.push(Problem::new(fault, section.key_at));
        return Vec::new();
    }
    let names: Vec<String> = axes.iter().map(|axis| axis[0].key.clone()).collect();
    for entry in excluded.iter().flat_map(|point| point.entries()).filter(|entry| !names.contains(&entry.key)) {
        let (name, owner) = (entry.key.clone(), "of `sweep`".to_owned());
        let fault = Fault::Unknown { what: "key", name, owner, choices: names.clone() };
        problems.push(Problem::new(fault, entry.key_at));
    }
    for (key, point) in excluded.iter().map(|point| ("exclude", point)).chain(included.iter().map(|p| ("include", p))) {
        if !matches!(point.value, Node::Map(_)) {
            let what = format!("a point in `{key}` of `sweep`");
            wrong_type(point, section.key_at, &what, "a map like `{ stage.parameter: value }`", problems);
        }
    }
    let matches = |exclude: &Located, point: &[Entry]| {
        let is_in = |out: &Entry| point.iter().any(|over| over.key == out.key && is_same(&over.value, &out.value));
        !exclude.entries().is_empty() && exclude.entries().iter().all(is_in)
    };
    let mut points =
        if axes.is_empty() { Vec::new() } else { product(&axes.iter().map(Vec::as_slice).collect::<Vec<_>>()) };
    for exclude in &excluded {
        let known = exclude.entries().iter().all(|out| names.contains(&out.key));
        if known && !exclude.entries().is_empty() && !points.iter().any(|point| matches(exclude, point)) {
            let (what, message) = ("`exclude` of `sweep`".to_owned(), "no combination has these values".to_owned());
            problems.push(Problem::new(Fault::BadParameter { what, message }, exclude.at));
        }
    }
    points.retain(|point| !excluded.iter().any(|exclude| matches(exclude, point)));
    let mut variants: Vec<Variant> = Vec::new();
    for over in points.into_iter().chain(included.iter().map(|point| point.entries().to_vec())) {
        let name = over.iter().map(|over| format!("{}={}", over.key, shown(&over.value))).collect::<Vec<_>>().join(",");
        if !over.is_empty() && variants.iter().all(|variant| variant.name != name) {
            variants.push(Variant { name, at: over[0].key_at, over });
        }
    }
    variants
}

/// The vars that `seeds` varies, with their values.
fn seeds(tree: &Located, problems: &mut Vec<Problem>) -> Vec<Seed> {
    let Some(section) = tree.entry("seeds") else { return Vec::new() };
    let vars = tree.entry("vars").map(|vars| vars.value.entries()).unwrap_or_default();
    let mut seeds = Vec::new();
    for entry in map_of(section, "`seeds`", "a map of vars and lists of values", problems) {
        if vars.iter().all(|var| var.key != entry.key) {
            let choices = vars.iter().map(|var| var.key.clone()).collect();
            let fault = Fault::Unknown { what: "var", name: entry.key.clone(), owner: String::new(), choices };
            problems.push(Problem::new(fault, entry.key_at));
            continue;
        }
        let is_plain = |value: &Located| !matches!(value.value, Node::Null | Node::Map(_) | Node::Seq(_));
        match &entry.value.value {
            Node::Seq(items) if !items.is_empty() && items.iter().all(is_plain) => {
                let mut values: Vec<Entry> = Vec::new();
                for value in items {
                    if values.iter().all(|seen| shown(&seen.value) != shown(value)) {
                        values.push(Entry { value: value.clone(), ..entry.clone() });
                    } else {
                        let (what, message) = (format!("`{}` of `seeds`", entry.key), "it stands twice".to_owned());
                        problems.push(Problem::new(Fault::BadParameter { what, message }, value.at));
                    }
                }
                seeds.push(Seed { name: entry.key.clone(), values });
            }
            _ => {
                let what = format!("`{}` of `seeds`", entry.key);
                wrong_type(&entry.value, entry.key_at, &what, "a list of plain values like `[17, 18, 19]`", problems);
            }
        }
    }
    seeds
}

fn unknown_variants(choice: &Choice, variants: &[Variant], sources: &mut Sources, problems: &mut Vec<Problem>) {
    for name in &choice.variants {
        if name != DEFAULT && variants.iter().all(|variant| variant.name != *name) {
            let at = Location { source: sources.add("--variant", name), start: 0, len: name.len() };
            let names = variants.iter().map(|variant| variant.name.clone());
            let choices = names.chain([DEFAULT.to_owned()]).collect();
            let fault = Fault::Unknown { what: "variant", name: name.clone(), owner: String::new(), choices };
            problems.push(Problem::new(fault, at));
        }
    }
}

/// How many combinations there are, or more than anybody could count.
fn saturating_product(counts: impl Iterator<Item = usize>) -> u128 {
    counts.fold(1, |product: u128, count| product.saturating_mul(count as u128))
}

/// Whether two values are the same: `1` and `1.0` are one number.
fn is_same(a: &Located, b: &Located) -> bool {
    let (a, b) = (a.to_json(), b.to_json());
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.to_bits() == b.to_bits(),
        _ => a == b,
    }
}

/// One of each list, in every combination; the last list varies fastest.
fn product(lists: &[&[Entry]]) -> Vec<Vec<Entry>> {
    lists.iter().fold(vec![Vec::new()], |points, list| {
        let longer = |point: &Vec<Entry>| {
            let point = point.clone();
            list.iter().map(move |value| point.iter().cloned().chain([value.clone()]).collect())
        };
        points.iter().flat_map(longer).collect()
    })
}

/// A value as it stands in a name.
fn shown(value: &Located) -> String {
    value.as_str().map_or_else(|| value.to_json().to_string(), str::to_owned)
}

fn map_of<'a>(entry: &'a Entry, what: &str, expected: &str, problems: &mut Vec<Problem>) -> &'a [Entry] {
    if !matches!(entry.value.value, Node::Map(_)) {
        wrong_type(&entry.value, entry.key_at, what, expected, problems);
    }
    entry.value.entries()
}
