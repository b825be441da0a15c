//! From the file as written to stages with a kind, checked parameters and known connections; uses that are short for several stages are expanded.
//!
//! The order of stages in the file changes nothing: they come out sorted by name.

use super::error::{Fault, Problem, Problems};
use super::extends::{self, Whole};
use super::file::{self, From, PipelineFile, Reference, Resources, Stage};
use super::located::{Entry, Located, Location};
use super::variants::{self, Cases, Choice};
use super::vars::Vars;
use super::{overlay, params};
use ablate_stages::stage::{
    AnyStage, ArtifactKind, BoundStage, Declaration, InputPort, InputSchemas, PATH_KEY, Source, UseSite,
};
use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::{Path, PathBuf};

/// How deep uses may stand for uses; the kinds there are need two.
const MAX_EXPANSION_DEPTH: usize = 8;

/// A pipeline, ready to be planned.
pub struct Resolved {
    /// `name`, else the file's stem.
    pub name: String,
    /// `about`.
    pub about: Option<String>,
    /// The pipeline file, as the user gave it.
    pub file: PathBuf,
    /// Its folder: what paths in it are relative to.
    pub dir: PathBuf,
    /// Stages, by name.
    pub stages: Vec<ResolvedStage>,
    /// What is compared.
    pub compare: Option<Compare>,
}

impl Resolved {
    /// The stage of this name.
    pub fn stage(&self, name: &str) -> Option<&ResolvedStage> {
        self.stages.iter().find(|stage| stage.name == name)
    }
}

/// A stage, ready to be planned.
pub struct ResolvedStage {
    /// The name, with what expansion put behind a slash (`after/generate`).
    pub name: String,
    /// The kind's name.
    pub kind: &'static str,
    /// The parameters as written, with vars put in.
    pub with: Value,
    /// The kind with its parameters; paths in them are absolute.
    pub bound: Box<dyn BoundStage>,
    /// Where each connected input comes from.
    pub from: BTreeMap<String, OutputRef>,
    /// What it may take of the machine.
    pub resources: Resources,
    /// The place of its name.
    pub place: Location,
    /// The use in the file that it was expanded from; none where it is written itself.
    pub expanded_from: Option<String>,
    /// `with` as written, for the places of parameters.
    pub written: Located,
    /// The places of what is connected, by input port.
    pub from_places: BTreeMap<String, Location>,
}

/// An output port of a stage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutputRef {
    /// The stage.
    pub stage: String,
    /// The port.
    pub port: String,
}

impl std::fmt::Display for OutputRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.stage, self.port)
    }
}

/// What is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The figures that matter.
    pub metrics: Vec<MetricRef>,
    /// What they are held against.
    pub baseline: Option<Baseline>,
    /// What whoever quotes the figures must know; printed under the table.
    pub note: Option<String>,
}

/// What metrics are held against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Baseline {
    /// Another metric of the same case.
    Metric(MetricRef),
    /// The same metric in this variant.
    Variant(String),
}

/// A metric of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricRef {
    /// The stage and the port of its metrics table.
    pub output: OutputRef,
    /// The name in that table.
    pub name: String,
    /// Where it is written.
    pub place: Location,
}

/// A pipeline in one of its cases.
pub struct Case {
    /// The variant's name; none for the pipeline as written.
    pub variant: Option<String>,
    /// The value of each varied var.
    pub seeds: BTreeMap<String, String>,
    /// Whether it is asked for; the pipeline as written, if nothing is wrong with it, is there in any case, since variants are named
    /// against it.
    pub is_asked: bool,
    /// The pipeline; stages with mistakes are left out.
    pub pipeline: Resolved,
}

/// What came of a file: its cases without what is wrong in them, and all mistakes.
pub struct Resolution {
    /// The cases, the pipeline as written first. None where the file is no YAML.
    pub cases: Vec<Case>,
    /// What is wrong.
    pub problems: Problems,
}

/// Reads and resolves a pipeline file with `--set`s on top.
pub fn resolve(file: &Path, sets: &[String], choice: &Choice) -> Resolution {
    match std::fs::read_to_string(file) {
        Ok(text) => resolve_text(file, &text, sets, choice, ablate_stages::STAGES),
        Err(error) => {
            let mut problems = Problems::default();
            problems.sources.add(file.display().to_string(), "");
            let fault = Fault::Unreadable { error: format!("{}: {error}", file.display()) };
            problems.list.push(Problem::new(fault, Location::FILE));
            Resolution { cases: Vec::new(), problems }
        }
    }
}

/// As [`resolve`], of a text and with given kinds.
pub fn resolve_text(
    path: &Path,
    text: &str,
    sets: &[String],
    choice: &Choice,
    kinds: &[&'static dyn AnyStage],
) -> Resolution {
    let mut problems = Problems::default();
    let whole = extends::read(path, text, &mut problems);
    let mut list = std::mem::take(&mut problems.list);
    let mut cases = Vec::new();
    if let Some(Whole { tree, dirs }) = whole {
        let read = sets.iter().map(|set| overlay::read_set(set, &mut problems.sources)).collect::<Vec<_>>();
        let mut sets: Vec<Entry> = Vec::new();
        for set in read {
            match set {
                Ok(set) => sets.push(set),
                Err(problem) => list.push(problem),
            }
        }
        let Cases { list: asked, names } = variants::cases(&tree, &sets, choice, &mut problems.sources, &mut list);
        let mentioned = variants::mentions(&tree);
        list.retain(|problem| !matches!(&problem.fault, Fault::UnusedVar { name } if mentioned.contains(name)));
        let mut misses: Vec<Vec<Problem>> = vec![Vec::new(); sets.len()];
        let num_cases = asked.len();
        let num_asked = asked.iter().filter(|case| case.is_asked).count();
        let mut tree = Some(tree);
        for (place, case) in asked.into_iter().enumerate() {
            let last = place + 1 == num_cases;
            let Some(mut tree) = (if last { tree.take() } else { tree.clone() }) else { continue };
            let mut found = Vec::new();
            found.extend(case.over.iter().filter_map(|over| overlay::lay(&mut tree, over).err()));
            for (set, misses) in sets.iter().zip(&mut misses) {
                misses.extend(overlay::lay(&mut tree, set).err().filter(|_| case.is_asked));
            }
            let pipeline = resolve_case(path, &tree, &dirs, &names, kinds, &mut found);
            // Every value of a seed and every variant repeats the mistakes of the pipeline as written.
            found.retain(|problem| match &problem.fault {
                Fault::UnusedVar { name } => case.variant.is_none() && !mentioned.contains(name),
                _ => true,
            });
            if !case.is_asked && found.iter().any(Problem::is_error) {
                // Whatever is wrong with it, nobody wants it: it is here to name steps by, and they have names without it.
                continue;
            }
            note(&mut list, found, case.variant.as_deref());
            cases.push(Case { variant: case.variant, seeds: case.seeds, is_asked: case.is_asked, pipeline });
        }
        // A stage that only some variants have can be set for those.
        list.extend(
            misses.into_iter().filter(|misses| misses.len() == num_asked).filter_map(|mut misses| misses.pop()),
        );
    }
    problems.list = list;
    problems.sort();
    Resolution { cases, problems }
}

/// Adds what is wrong in a case to what is known to be wrong; what is wrong in other cases too is told once.
pub fn note(list: &mut Vec<Problem>, found: Vec<Problem>, variant: Option<&str>) {
    for mut problem in found {
        if list.iter().all(|known| known.fault != problem.fault || known.at != problem.at) {
            problem.variant = variant.map(str::to_owned);
            list.push(problem);
        }
    }
}

fn resolve_case(
    path: &Path,
    tree: &Located,
    dirs: &BTreeMap<usize, PathBuf>,
    variants: &[String],
    kinds: &[&'static dyn AnyStage],
    problems: &mut Vec<Problem>,
) -> Resolved {
    let mut written = file::read(tree, problems);
    let mut pipeline = Resolved {
        name: path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
        about: written.about.take(),
        file: path.to_owned(),
        dir: dirs.get(&0).cloned().unwrap_or_default(),
        stages: Vec::new(),
        compare: None,
    };
    if let Some(name) = written.name.take() {
        pipeline.name = name;
    }
    Resolver { kinds, dirs, variants, pipeline: &mut pipeline, problems, schemas: BTreeMap::new() }.run(written);
    pipeline
}

/// A stage whose parameters are read, but whose inputs are only names yet.
struct Pending {
    name: String,
    bound: Box<dyn BoundStage>,
    declaration: Declaration,
    with: Value,
    from: BTreeMap<String, Reference>,
    expanded_from: Option<String>,
    resources: Resources,
    written: Located,
    place: Location,
}

/// What all stages of one use have in common.
struct Use<'a> {
    name: &'a str,
    place: Location,
    written: &'a Located,
    resources: &'a Resources,
}

struct Resolver<'a> {
    kinds: &'a [&'static dyn AnyStage],
    /// The folder of each text that paths can be written in.
    dirs: &'a BTreeMap<usize, PathBuf>,
    /// The names of all variants.
    variants: &'a [String],
    pipeline: &'a mut Resolved,
    problems: &'a mut Vec<Problem>,
    /// The schema of each kind's parameters, made once.
    schemas: BTreeMap<&'static str, Value>,
}

impl Resolver<'_> {
    fn run(mut self, mut written: PipelineFile) {
        let mut vars = Vars::new(std::mem::take(&mut written.vars), self.problems);
        let mut unclear = BTreeSet::new();
        for stage in &mut written.stages {
            let before = self.problems.len();
            vars.substitute(&mut stage.with, self.problems);
            if self.problems.len() > before {
                unclear.insert(stage.name.text.clone());
            }
            if let Some(resources) = &mut stage.resources {
                vars.substitute(resources, self.problems);
            }
        }
        vars.unused(self.problems);
        self.cycles(&written.stages);

        let mut pending = Vec::with_capacity(written.stages.len());
        self.pipeline.stages.reserve(written.stages.len());
        for stage in &written.stages {
            self.stage(stage, unclear.contains(&stage.name.text), &mut pending);
        }
        let outputs: HashMap<String, Vec<String>> =
            pending.iter().map(|stage| (stage.name.clone(), port_names(&stage.declaration))).collect();
        let names: BTreeSet<String> =
            written.stages.iter().map(|stage| stage.name.text.clone()).chain(outputs.keys().cloned()).collect();
        self.unknown_stages(&written.stages, &names);
        self.compare(&written, &pending, &names);
        for stage in pending {
            self.connect(stage, &outputs);
        }
        // Not by moving the stages themselves about, which are large.
        self.pipeline.stages.sort_by_cached_key(|stage| stage.name.clone());
    }

    /// Kind, parameters and input ports of one use, and what it stands for. `unclear` says that a var in its parameters is wrong.
    fn stage(&mut self, stage: &Stage, unclear: bool, pending: &mut Vec<Pending>) {
        let name = &stage.name.text;
        let resources = match &stage.resources {
            Some(block) => file::resources(block, name, self.problems),
            None => Resources::default(),
        };
        let Some(kind_name) = &stage.kind else { return };
        let Some(kind) = self.find(&kind_name.text) else {
            let mut choices: Vec<String> = self.kinds.iter().map(|kind| kind.name().to_owned()).collect();
            choices.sort();
            let fault = Fault::Unknown { what: "kind", name: kind_name.text.clone(), owner: String::new(), choices };
            self.problems.push(Problem::new(fault, kind_name.at));
            return;
        };
        let before = self.problems.len();
        let schema = self.schemas.entry(kind.name()).or_insert_with(|| kind.params_schema().to_value());
        params::check(&stage.with, schema, kind.name(), stage.with.at, self.problems);
        if unclear {
            // What stands where a var should cannot be judged.
            let judged = self.problems.split_off(before);
            self.problems.extend(judged.into_iter().filter(|problem| !problem.is_about_reference()));
        }
        if unclear || self.problems.len() > before {
            return;
        }
        let with = stage.with.to_json();
        let used = Use { name, place: stage.name.at, written: &stage.with, resources: &resources };
        let Some((bound, declaration)) = self.bind(kind, &with, &used) else { return };
        let Some(from) = self.ports(stage, kind.name(), &declaration.inputs) else { return };
        self.check_paths(&bound.params(), &stage.with, &declaration, kind.name());
        self.expand(name.clone(), bound, declaration, with, from, &used, 0, pending);
    }

    fn find(&self, name: &str) -> Option<&'static dyn AnyStage> {
        self.kinds.iter().copied().find(|kind| kind.name() == name)
    }

    fn bind(
        &mut self,
        kind: &'static dyn AnyStage,
        with: &Value,
        used: &Use<'_>,
    ) -> Option<(Box<dyn BoundStage>, Declaration)> {
        let dir = |parameter: &str| {
            let dir = self.dirs.get(&used.written.home_of(parameter)).unwrap_or(&self.pipeline.dir);
            std::path::absolute(dir).unwrap_or_else(|_| dir.clone())
        };
        let bound = kind.bind(with.clone()).and_then(|bound| {
            let mut params = bound.params();
            // Rows and keys know nothing of where files lie; only whoever opens them does.
            if make_absolute(&mut params, "", &dir) { kind.bind(params) } else { Ok(bound) }
        });
        let bound = match bound {
            Ok(bound) => bound,
            Err(error) => {
                let what = match error.path.as_str() {
                    "" => format!("`with` of `{}`", kind.name()),
                    path => format!("`{path}` of `{}`", kind.name()),
                };
                let at = used.written.place_of(&error.path, false);
                self.problems.push(Problem::new(Fault::BadParameter { what, message: error.message }, at));
                return None;
            }
        };
        match bound.declare(&InputSchemas::new()) {
            Ok(declaration) => Some((bound, declaration)),
            Err(error) => {
                self.problems.push(contradiction(used.name, used.written, used.place, &error));
                None
            }
        }
    }

    /// Which port each part of `from` means.
    fn ports(&mut self, stage: &Stage, kind: &str, inputs: &[InputPort]) -> Option<BTreeMap<String, Reference>> {
        let before = self.problems.len();
        let mut from = BTreeMap::new();
        match &stage.from {
            From::Nothing => {}
            From::Unclear => return None,
            From::Bare(reference) => {
                let required: Vec<&InputPort> = inputs.iter().filter(|port| !port.optional).collect();
                let fault = match (required.as_slice(), inputs.iter().collect::<Vec<_>>().as_slice()) {
                    ([port], _) | ([], [port]) => {
                        from.insert(port.name.clone(), reference.clone());
                        None
                    }
                    (_, []) => Some(Fault::NoInputs { kind: kind.to_owned() }),
                    ([], all) => Some(bare_from(kind, all.iter().copied())),
                    (required, _) => Some(bare_from(kind, required.iter().copied())),
                };
                if let Some(fault) = fault {
                    self.problems.push(Problem::new(fault, reference.at));
                    return None;
                }
            }
            From::Ports(ports) => {
                for (port, reference) in ports {
                    if inputs.iter().any(|input| input.name == port.text) {
                        from.insert(port.text.clone(), reference.clone());
                        continue;
                    }
                    let fault = if inputs.is_empty() {
                        Fault::NoInputs { kind: kind.to_owned() }
                    } else {
                        Fault::Unknown {
                            what: "input",
                            name: port.text.clone(),
                            owner: format!("of `{kind}`"),
                            choices: inputs.iter().map(|input| input.name.clone()).collect(),
                        }
                    };
                    self.problems.push(Problem::new(fault, port.at));
                }
            }
        }
        // A misspelt input is one mistake, not two.
        let meant: Vec<String> = self.problems[before..].iter().filter_map(|problem| problem.fault.nearest()).collect();
        let lacking =
            |port: &&InputPort| !port.optional && !from.contains_key(&port.name) && !meant.contains(&port.name);
        for port in inputs.iter().filter(lacking) {
            let fault = Fault::Missing {
                what: "the input",
                name: port.name.clone(),
                owner: format!("stage `{}` (`{kind}`)", stage.name.text),
                doc: port.doc.to_owned(),
            };
            self.problems.push(Problem::new(fault, stage.name.at));
        }
        (self.problems.len() == before).then_some(from)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a stage in the making; a struct for one recursion tells no more"
    )]
    fn expand(
        &mut self,
        name: String,
        bound: Box<dyn BoundStage>,
        declaration: Declaration,
        with: Value,
        from: BTreeMap<String, Reference>,
        used: &Use<'_>,
        depth: usize,
        pending: &mut Vec<Pending>,
    ) {
        let site = UseSite { connected: from.keys().cloned().collect() };
        let expansion = bound.expand(&site);
        let Some(expansion) = expansion.filter(|_| depth < MAX_EXPANSION_DEPTH) else {
            pending.push(Pending {
                expanded_from: (name != used.name).then(|| used.name.to_owned()),
                name,
                bound,
                declaration,
                with,
                from,
                resources: used.resources.clone(),
                written: used.written.clone(),
                place: used.place,
            });
            return;
        };
        let reference = |source: &Source| match source {
            Source::Given(port) => from.get(*port).cloned(),
            Source::Added { suffix, port } => {
                Some(Reference { stage: format!("{name}/{suffix}"), port: port.map(str::to_owned), at: used.place })
            }
        };
        let connected = |sources: &BTreeMap<String, Source>| -> BTreeMap<String, Reference> {
            sources.iter().filter_map(|(port, source)| Some((port.clone(), reference(source)?))).collect()
        };
        let added = expansion
            .added
            .iter()
            .map(|added| (format!("{name}/{}", added.suffix), added.kind, &added.with, connected(&added.from)));
        let kept = (name.clone(), expansion.kind, &expansion.with, connected(&expansion.from));
        for (name, kind_name, with, from) in added.chain([kept]).collect::<Vec<_>>() {
            let Some(kind) = self.find(kind_name) else {
                let message = format!("it stands for a stage of kind `{kind_name}`, which this build lacks");
                let fault = Fault::Contradiction { stage: used.name.to_owned(), message };
                self.problems.push(Problem::new(fault, used.place));
                continue;
            };
            if let Some((bound, declaration)) = self.bind(kind, with, used) {
                self.expand(name, bound, declaration, with.clone(), from, used, depth + 1, pending);
            }
        }
    }

    /// Files that parameters name must be there; a model may be on another machine.
    fn check_paths(&mut self, params: &Value, written: &Located, declaration: &Declaration, kind: &str) {
        let makes_model = declaration.inputs.is_empty()
            && declaration.outputs.first().is_some_and(|output| output.artifact == ArtifactKind::Model);
        let mut paths = Vec::new();
        collect_paths(params, String::new(), &mut paths);
        for (parameter, path) in paths {
            if path.exists() {
                continue;
            }
            let what = format!("`{parameter}` of `{kind}`");
            let at = written.place_of(&parameter, false);
            let shown = std::path::absolute(&self.pipeline.dir)
                .ok()
                .and_then(|dir| path.strip_prefix(dir).ok().map(|rest| self.pipeline.dir.join(rest)))
                .unwrap_or_else(|| path.clone());
            let path = shown.display().to_string();
            let fault =
                if makes_model { Fault::MissingModel { what, path } } else { Fault::MissingFile { what, path } };
            self.problems.push(Problem::new(fault, at));
        }
    }

    /// Stages that wait for each other.
    fn cycles(&mut self, stages: &[Stage]) {
        let index: HashMap<&str, usize> =
            stages.iter().enumerate().map(|(index, stage)| (stage.name.text.as_str(), index)).collect();
        let mut graph = DiGraph::<(), Location>::new();
        let nodes: Vec<NodeIndex> = stages.iter().map(|_| graph.add_node(())).collect();
        for (reader, stage) in stages.iter().enumerate() {
            for reference in stage.from.references() {
                let own = reference.stage.split('/').next().unwrap_or_default();
                if let Some(&maker) = index.get(reference.stage.as_str()).or_else(|| index.get(own)) {
                    graph.add_edge(nodes[maker], nodes[reader], reference.at);
                }
            }
        }
        for component in tarjan_scc(&graph) {
            let members: BTreeSet<NodeIndex> = component.iter().copied().collect();
            let Some(&start) = members.iter().min_by_key(|node| &stages[node.index()].name.text) else { continue };
            let Some(path) = shortest_cycle(&graph, start, &members) else { continue };
            let name = |node: &NodeIndex| stages[node.index()].name.text.clone();
            // The edge that closes the circle is the `from` of the stage it starts with.
            let closing = path[path.len() - 2];
            let at = graph.find_edge(closing, start).map_or(stages[start.index()].name.at, |edge| graph[edge]);
            self.problems.push(Problem::new(Fault::Cycle { path: path.iter().map(name).collect() }, at));
        }
    }

    fn unknown_stages(&mut self, stages: &[Stage], names: &BTreeSet<String>) {
        for reference in stages.iter().flat_map(|stage| stage.from.references()) {
            if !names.contains(&reference.stage) {
                let fault = Fault::Unknown {
                    what: "stage",
                    name: reference.stage.clone(),
                    owner: String::new(),
                    choices: names.iter().cloned().collect(),
                };
                self.problems.push(Problem::new(fault, stage_place(reference)));
            }
        }
    }

    fn compare(&mut self, written: &PipelineFile, pending: &[Pending], names: &BTreeSet<String>) {
        let mut metric = |text: &file::Text| -> Option<MetricRef> {
            let fault = match text.text.split_once('.') {
                None | Some(("" | _, "")) => Fault::BadMetric { text: text.text.clone() },
                Some((stage, name)) => {
                    let Some(found) = pending.iter().find(|pending| pending.name == stage) else {
                        if !names.contains(stage) {
                            let choices = names.iter().filter(|name| !name.contains('/')).cloned().collect();
                            let fault =
                                Fault::Unknown { what: "stage", name: stage.to_owned(), owner: String::new(), choices };
                            let at = Location { len: stage.len(), ..text.at };
                            self.problems.push(Problem::new(fault, at));
                        }
                        return None;
                    };
                    let known = &found.declaration.metrics;
                    if !known.is_empty() && !known.iter().any(|metric| metric == name) {
                        let (name, owner) = (name.to_owned(), format!("of stage `{stage}`"));
                        let fault = Fault::Unknown { what: "metric", name, owner, choices: known.clone() };
                        let at = Location {
                            start: text.at.start + stage.len() + 1,
                            len: text.at.len.saturating_sub(stage.len() + 1),
                            ..text.at
                        };
                        self.problems.push(Problem::new(fault, at));
                        return None;
                    }
                    if let Some(port) = metrics_port(&found.declaration) {
                        let output = OutputRef { stage: stage.to_owned(), port: port.to_owned() };
                        return Some(MetricRef { output, name: name.to_owned(), place: text.at });
                    }
                    Fault::NoMetrics {
                        stage: stage.to_owned(),
                        kind: found.bound.kind().name().to_owned(),
                        ports: port_names(&found.declaration),
                    }
                }
            };
            self.problems.push(Problem::new(fault, text.at));
            None
        };
        let metrics: Vec<MetricRef> = written.metrics.iter().filter_map(&mut metric).collect();
        let baseline = match &written.baseline {
            Some(text) if self.variants.contains(&text.text) => Some(Baseline::Variant(text.text.clone())),
            other => other.as_ref().and_then(&mut metric).map(Baseline::Metric),
        };
        if !metrics.is_empty() {
            self.pipeline.compare = Some(Compare { metrics, baseline, note: written.note.clone() });
        }
    }

    /// Turns names of stages into output ports.
    fn connect(&mut self, stage: Pending, outputs: &HashMap<String, Vec<String>>) {
        let mut from = BTreeMap::new();
        let mut from_places = BTreeMap::new();
        for (input, reference) in &stage.from {
            // A stage that is not there is reported already, once for all that it was expanded into.
            let Some(ports) = outputs.get(&reference.stage) else { return };
            let port = match &reference.port {
                Some(port) if ports.contains(port) => port.clone(),
                Some(port) => {
                    let fault = Fault::Unknown {
                        what: "output",
                        name: port.clone(),
                        owner: format!("of stage `{}`", reference.stage),
                        choices: ports.clone(),
                    };
                    let at = port_place(reference, port);
                    let problem = Problem::new(fault, at);
                    if !self.problems.contains(&problem) {
                        self.problems.push(problem);
                    }
                    return;
                }
                None => match ports.first() {
                    Some(port) => port.clone(),
                    None => return,
                },
            };
            from.insert(input.clone(), OutputRef { stage: reference.stage.clone(), port });
            from_places.insert(input.clone(), reference.at);
        }
        self.pipeline.stages.push(ResolvedStage {
            name: stage.name,
            kind: stage.bound.kind().name(),
            with: stage.with,
            bound: stage.bound,
            from,
            resources: stage.resources,
            place: stage.place,
            expanded_from: stage.expanded_from,
            written: stage.written,
            from_places,
        });
    }
}

/// What a kind says against a stage, at the parameter it names, else at the stage.
pub fn contradiction(
    stage: &str,
    written: &Located,
    place: Location,
    error: &ablate_stages::stage::SchemaError,
) -> Problem {
    let at = error.parameter.as_ref().map_or(place, |parameter| written.place_of(parameter, false));
    Problem::new(Fault::Contradiction { stage: stage.to_owned(), message: error.problem.clone() }, at)
}

fn bare_from<'a>(kind: &str, ports: impl Iterator<Item = &'a InputPort>) -> Fault {
    Fault::BareFrom { kind: kind.to_owned(), ports: ports.map(|port| port.name.clone()).collect() }
}

fn port_names(declaration: &Declaration) -> Vec<String> {
    declaration.outputs.iter().map(|output| output.name.clone()).collect()
}

/// The port of a metrics table: the one named so, else the first with the columns `name` and `value`.
fn metrics_port(declaration: &Declaration) -> Option<&str> {
    declaration
        .outputs
        .iter()
        .filter(|output| match &output.artifact {
            ArtifactKind::Table { columns, .. } => {
                ["name", "value"].iter().all(|name| columns.iter().any(|column| column.name == *name))
            }
            _ => false,
        })
        .min_by_key(|output| output.name != "metrics")
        .map(|output| output.name.as_str())
}

/// The place of the stage's name in `stage.port`.
fn stage_place(reference: &Reference) -> Location {
    match &reference.port {
        Some(port) if reference.at.len == reference.stage.len() + 1 + port.len() => {
            Location { len: reference.stage.len(), ..reference.at }
        }
        _ => reference.at,
    }
}

/// The place of the port's name in `stage.port`.
fn port_place(reference: &Reference, port: &str) -> Location {
    let before = reference.stage.len() + 1;
    if reference.at.len == before + port.len() {
        Location { start: reference.at.start + before, len: port.len(), ..reference.at }
    } else {
        reference.at
    }
}

fn shortest_cycle(
    graph: &DiGraph<(), Location>,
    start: NodeIndex,
    members: &BTreeSet<NodeIndex>,
) -> Option<Vec<NodeIndex>> {
    let mut came_from: BTreeMap<NodeIndex, NodeIndex> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        let mut next: Vec<NodeIndex> = graph.neighbors(node).filter(|next| members.contains(next)).collect();
        next.sort();
        for next in next {
            if next == start {
                let mut path = vec![start, node];
                let mut here = node;
                while here != start {
                    here = came_from[&here];
                    path.push(here);
                }
                if node == start {
                    path.truncate(2);
                }
                path.reverse();
                return Some(path);
            }
            if next != start && !came_from.contains_key(&next) {
                came_from.insert(next, node);
                queue.push_back(next);
            }
        }
    }
    None
}

/// Puts a folder before every relative path; whether there was any path. `dir` says which, by the parameter that names the path.
fn make_absolute(params: &mut Value, at: &str, dir: &dyn Fn(&str) -> PathBuf) -> bool {
    let below = |key: &str| if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
    let mut any = false;
    match params {
        Value::Object(map) => match map.get(PATH_KEY).and_then(Value::as_str) {
            Some(path) if map.len() == 1 => {
                let path = dir(at).join(path).to_string_lossy().into_owned();
                map.insert(PATH_KEY.to_owned(), path.into());
                any = true;
            }
            _ => {
                for (key, value) in map.iter_mut() {
                    any |= make_absolute(value, &below(key), dir);
                }
            }
        },
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                any |= make_absolute(item, &format!("{at}[{index}]"), dir);
            }
        }
        _ => {}
    }
    any
}

fn collect_paths(params: &Value, at: String, paths: &mut Vec<(String, PathBuf)>) {
    match params {
        Value::Object(map) => match map.get(PATH_KEY).and_then(Value::as_str) {
            Some(path) if map.len() == 1 => paths.push((at, path.into())),
            _ => {
                for (key, value) in map {
                    let below = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                    collect_paths(value, below, paths);
                }
            }
        },
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect_paths(item, format!("{at}[{index}]"), paths);
            }
        }
        _ => {}
    }
}
