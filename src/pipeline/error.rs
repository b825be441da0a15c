//! What can be wrong with a pipeline, in words, with its place: the one home of these texts.
//!
//! A check collects [`Problem`]s and never stops at the first. [`Problems`] renders them for people (the text underlined) or as JSON.

use super::located::{Location, Sources};
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};
use serde::Serialize;
use std::fmt;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The pipeline cannot run.
    Error,
    /// It can, but something in it has no effect.
    Warning,
    /// This machine lacks something that a run would need.
    Note,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The file cannot be read at all.
    #[error("the pipeline file cannot be read: {error}")]
    Unreadable {
        /// The system's words.
        error: String,
    },
    /// Not YAML.
    #[error("not valid YAML: {message}")]
    Syntax {
        /// The parser's words.
        message: String,
    },
    /// A key twice in one map.
    #[error("the key `{key}` is written twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A name that nothing has.
    #[error("unknown {what} `{name}`{}", of(.owner))]
    Unknown {
        /// What it should have been: `kind`, `stage`, `parameter`, ..
        what: &'static str,
        /// The name as written.
        name: String,
        /// In what; empty where that is plain.
        owner: String,
        /// The names there are.
        choices: Vec<String>,
    },
    /// More cases than anybody runs.
    #[error("{count} {what}: at most {most} are run")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there would be.
        count: u128,
        /// How many there may be.
        most: u128,
    },
    /// Files that extend each other.
    #[error("files extend each other: {}", .path.join(" -> "))]
    ExtendsItself {
        /// The files in the order of reading, the first again at the end.
        path: Vec<String>,
    },
    /// A key that must be there.
    #[error("{owner} lacks {what} `{name}`")]
    Missing {
        /// What it is: `the key`, `the parameter`, `an input for the port`.
        what: &'static str,
        /// Its name.
        name: String,
        /// Who lacks it.
        owner: String,
        /// What it would say.
        doc: String,
    },
    /// A value of the wrong type.
    #[error("{what}: expected {expected}, found {found}")]
    WrongType {
        /// What has the value.
        what: String,
        /// The type with an article.
        expected: String,
        /// The value with an article.
        found: String,
    },
    /// A name that cannot be a stage's.
    #[error("`{name}` cannot be the name of a {what}")]
    BadName {
        /// The name.
        name: String,
        /// `stage` or `var`.
        what: &'static str,
    },
    /// A `${..}` that does not end or names nothing.
    #[error("`{text}` is no reference to a var")]
    BadReference {
        /// As written.
        text: String,
    },
    /// A var whose own value refers to vars.
    #[error("the var `{name}` refers to another var")]
    NestedVar {
        /// The var.
        name: String,
    },
    /// A list or map in the middle of a text.
    #[error("the var `{name}` is {found}, which cannot stand inside a text")]
    NotText {
        /// The var.
        name: String,
        /// What it is.
        found: String,
    },
    /// A var that nothing refers to.
    #[error("the var `{name}` is not used")]
    UnusedVar {
        /// The var.
        name: String,
    },
    /// Stages that wait for each other.
    #[error("stages wait for each other: {}", .path.join(" -> "))]
    Cycle {
        /// The stages in the direction of the data, the first again at the end.
        path: Vec<String>,
    },
    /// A bare `from` where it cannot say which port is meant.
    #[error("`from` must say which input is which: `{kind}` has the inputs {}", list(.ports))]
    BareFrom {
        /// The kind.
        kind: String,
        /// Its ports.
        ports: Vec<String>,
    },
    /// A `from` of a kind that reads nothing.
    #[error("`{kind}` has no inputs")]
    NoInputs {
        /// The kind.
        kind: String,
    },
    /// A `--set` that is no `name=value`.
    #[error("`--set {text}` has no `=`")]
    BadSet {
        /// As written.
        text: String,
    },
    /// A parameter that its kind refuses.
    #[error("{what}: {message}")]
    BadParameter {
        /// The parameter.
        what: String,
        /// The kind's words.
        message: String,
    },
    /// What the kind says against its parameters and inputs taken together.
    #[error("stage `{stage}`: {message}")]
    Contradiction {
        /// The stage.
        stage: String,
        /// The kind's words.
        message: String,
    },
    /// A table without columns that are read.
    #[error("stage `{stage}` needs the column{} {} in `{port}`, which `{table}` does not have", plural(.columns), typed(.columns))]
    MissingColumns {
        /// The reader.
        stage: String,
        /// Its input port.
        port: String,
        /// The columns with their types.
        columns: Vec<(String, String)>,
        /// The output that is connected.
        table: String,
        /// The kind that makes it.
        kind: String,
        /// The columns there are.
        choices: Vec<String>,
    },
    /// A column of another type than is read.
    #[error("stage `{stage}` needs the column `{column}` in `{port}` as {expected}, but `{table}` has it as {found}")]
    ColumnType {
        /// The reader.
        stage: String,
        /// Its input port.
        port: String,
        /// The column.
        column: String,
        /// The type that is read.
        expected: String,
        /// The output that is connected.
        table: String,
        /// The type it has.
        found: String,
    },
    /// A model where a table is wanted, or the like.
    #[error("stage `{stage}` needs {expected} at `{port}`, but `{source_name}` is {found}")]
    WrongArtifact {
        /// The reader.
        stage: String,
        /// Its input port.
        port: String,
        /// What it wants, with an article.
        expected: &'static str,
        /// The output that is connected.
        source_name: String,
        /// What that is, with an article.
        found: &'static str,
    },
    /// A stage whose outputs hold no metrics.
    #[error("`{stage}` has no metrics to compare: `{kind}` writes {}", list(.ports))]
    NoMetrics {
        /// The stage.
        stage: String,
        /// Its kind.
        kind: String,
        /// Its outputs.
        ports: Vec<String>,
    },
    /// Something that is to be compared, not as `stage.metric`.
    #[error("`{text}` names no metric")]
    BadMetric {
        /// As written.
        text: String,
    },
    /// A file that a parameter names is not there.
    #[error("{what}: there is no file `{path}`")]
    MissingFile {
        /// The parameter.
        what: String,
        /// The path, as looked for.
        path: String,
    },
    /// A program that a kind needs is not on this machine.
    #[error("kind `{kind}`: {what} is missing on this machine")]
    MissingTool {
        /// The kind.
        kind: &'static str,
        /// The program.
        what: String,
        /// How to get it.
        fix: String,
    },
    /// A model folder that a parameter names is not there.
    #[error("{what}: there is no folder `{path}` on this machine")]
    MissingModel {
        /// The parameter.
        what: String,
        /// The path, as looked for.
        path: String,
    },
}

fn of(owner: &str) -> String {
    if owner.is_empty() { String::new() } else { format!(" {owner}") }
}

fn list(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.as_slice() {
        [] => "nothing".into(),
        [one] => one.clone(),
        [front @ .., last] => format!("{} and {last}", front.join(", ")),
    }
}

fn plural<T>(things: &[T]) -> &'static str {
    if things.len() == 1 { "" } else { "s" }
}

fn typed(columns: &[(String, String)]) -> String {
    columns.iter().map(|(name, words)| format!("`{name}` ({words})")).collect::<Vec<_>>().join(", ")
}

impl Fault {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::UnusedVar { .. } => Severity::Warning,
            Self::MissingModel { .. } | Self::MissingTool { .. } => Severity::Note,
            _ => Severity::Error,
        }
    }

    /// What to do about it, or the nearest valid name.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Unknown { what, name, choices, .. } => suggestion(what, name, choices)?,
            Self::MissingColumns { columns, table, kind, choices, .. } => {
                let near: Vec<String> =
                    columns.iter().filter_map(|(name, _)| nearest(name, choices).map(str::to_owned)).collect();
                let there = if near.is_empty() {
                    format!("has the columns {}", list(choices))
                } else {
                    format!("has {}", list(&near))
                };
                format!("`{table}` is made by `{kind}` and {there}")
            }
            Self::TooMany { .. } => "shorten its lists, or `exclude` points".into(),
            Self::Missing { doc, .. } | Self::BadParameter { message: doc, .. } if doc.is_empty() => return None,
            Self::Missing { name, doc, .. } => format!("{name}: {doc}"),
            Self::BadName { what, .. } => format!(
                "the name of a {what} begins with a small letter and goes on with small letters, digits and {}",
                match *what {
                    "stage" => "`-`",
                    "variant" => "`-`, `_` and `.`; `default` is the pipeline as written",
                    _ => "`_`",
                }
            ),
            Self::BadReference { .. } => "write `${name}`, or `$${` for the characters themselves".into(),
            Self::NestedVar { .. } => "a var holds a plain value".into(),
            Self::UnusedVar { name } => format!("write `${{{name}}}` where it is meant, or remove it"),
            Self::BareFrom { ports, .. } => format!(
                "write `from: {{ {} }}`",
                ports.iter().map(|port| format!("{port}: <stage>")).collect::<Vec<_>>().join(", ")
            ),
            Self::NoInputs { .. } => "remove `from`".into(),
            Self::BadSet { .. } => "write `--set stage.parameter=value` or `--set var=value`".into(),
            Self::BadMetric { .. } => "write `stage.metric`, like `after.pass@1`".into(),
            Self::NoMetrics { .. } => "compare what a stage of kind `eval` or `score` measured".into(),
            Self::MissingTool { fix, .. } => fix.clone(),
            Self::MissingFile { .. } => "paths are relative to the pipeline file".into(),
            Self::MissingModel { .. } => {
                "paths are relative to the pipeline file; the rest of the pipeline is checked without it".into()
            }
            _ => return None,
        })
    }

    /// The name that was probably meant by an unknown one.
    pub fn nearest(&self) -> Option<String> {
        match self {
            Self::Unknown { name, choices, .. } => nearest(name, choices).map(str::to_owned),
            _ => None,
        }
    }

    /// A short name of the sort of problem, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "unreadable",
            Self::Syntax { .. } => "syntax",
            Self::DuplicateKey { .. } => "duplicate-key",
            Self::Unknown { .. } => "unknown-name",
            Self::TooMany { .. } => "too-many",
            Self::ExtendsItself { .. } => "extends-itself",
            Self::Missing { .. } => "missing",
            Self::WrongType { .. } => "wrong-type",
            Self::BadName { .. } => "bad-name",
            Self::BadReference { .. } | Self::NestedVar { .. } | Self::NotText { .. } => "bad-reference",
            Self::UnusedVar { .. } => "unused-var",
            Self::Cycle { .. } => "cycle",
            Self::BareFrom { .. } | Self::NoInputs { .. } => "bad-from",
            Self::BadSet { .. } => "bad-set",
            Self::BadParameter { .. } => "bad-parameter",
            Self::Contradiction { .. } => "contradiction",
            Self::MissingColumns { .. } => "missing-column",
            Self::ColumnType { .. } => "column-type",
            Self::WrongArtifact { .. } => "wrong-artifact",
            Self::NoMetrics { .. } | Self::BadMetric { .. } => "bad-metric",
            Self::MissingFile { .. } => "missing-file",
            Self::MissingModel { .. } => "missing-model",
            Self::MissingTool { .. } => "missing-tool",
        }
    }
}

fn suggestion(what: &str, name: &str, choices: &[String]) -> Option<String> {
    if let Some(near) = nearest(name, choices) {
        return Some(format!("did you mean `{near}`?"));
    }
    match choices.len() {
        0 => Some(format!("there is no {what} here")),
        1..=24 => Some(format!("there {} {}", if choices.len() == 1 { "is" } else { "are" }, list(choices))),
        _ => None,
    }
}

/// The name that was probably meant: the nearest by edits, if at most a third of the letters are wrong, or one that begins with it.
pub fn nearest<'a>(name: &str, choices: &'a [String]) -> Option<&'a str> {
    let folded = name.to_lowercase().replace('_', "-");
    choices
        .iter()
        .map(|choice| {
            let other = choice.to_lowercase().replace('_', "-");
            let starts = folded.len() >= 3 && (other.starts_with(&folded) || folded.starts_with(&other));
            let distance = strsim::damerau_levenshtein(&folded, &other);
            (if starts { distance.min(1) } else { distance }, choice)
        })
        .filter(|(distance, choice)| *distance <= (name.chars().count().max(choice.chars().count()) / 3).max(1))
        .min()
        .map(|(_, choice)| choice.as_str())
}

/// A fault at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub fault: Fault,
    /// Where.
    pub at: Location,
    /// Other places that matter, with a word on each.
    pub also: Vec<(Location, String)>,
    /// The variant in which alone it is wrong; none where the pipeline as written is wrong.
    pub variant: Option<String>,
}

impl Problem {
    /// Whether it keeps the pipeline from running.
    pub fn is_error(&self) -> bool {
        self.fault.severity() == Severity::Error
    }

    /// A fault at a place.
    pub fn new(fault: Fault, at: Location) -> Self {
        Self { fault, at, also: Vec::new(), variant: None }
    }

    /// What is wrong, and in which variant.
    pub fn message(&self) -> String {
        match &self.variant {
            None => self.fault.to_string(),
            Some(variant) => format!("in variant `{variant}`: {}", self.fault),
        }
    }

    /// Whether the value that is wrong is a text with a reference still in it.
    pub fn is_about_reference(&self) -> bool {
        matches!(&self.fault, Fault::WrongType { found, .. } if found.contains("${"))
            || matches!(&self.fault, Fault::Unknown { name, .. } if name.contains("${"))
    }

    /// Adds another place that matters.
    #[must_use]
    pub fn also(mut self, at: Location, label: impl Into<String>) -> Self {
        self.also.push((at, label.into()));
        self
    }
}

/// Everything that is wrong with a pipeline, in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Problems {
    /// The texts that the locations point into.
    pub sources: Sources,
    /// The problems.
    pub list: Vec<Problem>,
}

/// A problem as a program reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProblemRecord {
    /// How bad it is.
    pub severity: Severity,
    /// A short name of the sort of problem.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// The file, or `--set`.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The text concerned.
    pub text: String,
}

impl Problems {
    /// Whether any of them keeps the pipeline from running.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(Problem::is_error)
    }

    /// How many of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.list.iter().filter(|problem| problem.fault.severity() == severity).count()
    }

    /// Puts them into the order of the file, without repeats.
    pub fn sort(&mut self) {
        self.list.sort_by_cached_key(|problem| (problem.at.source, problem.at.start, problem.fault.to_string()));
        self.list.dedup();
    }

    /// As a program reads them.
    pub fn records(&self) -> Vec<ProblemRecord> {
        self.list
            .iter()
            .map(|problem| {
                let (line, column) = self.sources.line_and_column(problem.at);
                let source = self.sources.get(problem.at.source);
                let span = problem.at.start..problem.at.start + problem.at.len;
                ProblemRecord {
                    severity: problem.fault.severity(),
                    code: problem.fault.code(),
                    message: problem.message(),
                    help: problem.fault.help(),
                    file: source.map(|source| source.name.clone()).unwrap_or_default(),
                    line,
                    column,
                    text: source.and_then(|source| source.text.get(span)).unwrap_or_default().to_owned(),
                }
            })
            .collect()
    }

    /// For people: each with its lines of the file and the text underlined.
    pub fn render(&self, colour: bool) -> String {
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(110).with_links(false);
        let mut text = String::new();
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                text.push('\n');
            }
            let shown = Shown::new(problem, &self.sources);
            handler.render_report(&mut text, &shown).expect("writing to a string");
        }
        text
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Problems {}

/// A problem with the text that its places point into. Places in other texts go into the help.
#[derive(Debug)]
struct Shown<'a> {
    problem: &'a Problem,
    source: Option<NamedSource<String>>,
}

impl<'a> Shown<'a> {
    fn new(problem: &'a Problem, sources: &Sources) -> Self {
        let source = sources
            .get(problem.at.source)
            .filter(|source| !source.text.is_empty())
            .map(|source| NamedSource::new(&source.name, source.text.clone()));
        Self { problem, source }
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.message())
    }
}

impl std::error::Error for Shown<'_> {}

impl Diagnostic for Shown<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.problem.fault.severity() {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
            Severity::Note => miette::Severity::Advice,
        })
    }

    fn help<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        self.problem.fault.help().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let main = LabeledSpan::new_primary_with_span(None, (self.problem.at.start, self.problem.at.len));
        let also = self
            .problem
            .also
            .iter()
            .filter(|(at, _)| at.source == self.problem.at.source)
            .map(|(at, label)| LabeledSpan::new(Some(label.clone()), at.start, at.len));
        Some(Box::new(std::iter::once(main).chain(also)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(name: &str, choices: &[&str]) -> Option<String> {
        let choices: Vec<String> = choices.iter().map(|&choice| choice.to_owned()).collect();
        nearest(name, &choices).map(str::to_owned)
    }

    #[test]
    fn the_nearest_name_is_suggested_only_when_it_is_near() {
        let kinds = ["load", "filter", "fim-generate", "generate", "curriculum-sort", "train"];
        assert_eq!(near("fillter", &kinds).as_deref(), Some("filter"));
        assert_eq!(near("fim_generate", &kinds).as_deref(), Some("fim-generate"));
        assert_eq!(near("curriculum", &kinds).as_deref(), Some("curriculum-sort"));
        assert_eq!(near("trian", &kinds).as_deref(), Some("train"));
        assert_eq!(near("banana", &kinds), None);
    }
}
