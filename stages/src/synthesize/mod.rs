//! Makes programming problems by procedure: an English question, a reference solution in Python, and tests that kill its mutants.
//!
//! Nine families of compositional problems (a test x a map x a reducer over an order, with guards and early exits). A composition is
//! named by a key that ignores constants, and the hash of the key decides the split: base, align, validation and held-out problems
//! never share a composition. Solutions are built as syntax trees that are both printed as Python and run here, so the expected
//! outputs need no interpreter. Degenerate problems (nearly always the same output) are dropped.
//! Columns: none in, those of `problems` out. Deterministic everywhere. Cost: about a millisecond of CPU a problem.

mod eval;
mod families;
mod mutate;
mod parse;
mod phrases;
mod python;
mod task;

pub use families::Family;
pub use mutate::{InsideHabit, WholeHabit};

use crate::columns::{Case, Check, Problem, TestStyle, Tests, columns_of};
use crate::job::{Cancel, Job, OpenContext, WholeInputs, WholeJob, WholeOutputs, thread_cpu_s};
use crate::random::{Random, stable_id};
use crate::stage::{Declaration, InputSchemas, OutputPort, SchemaError, Stage, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use task::Task;

/// Makes programming problems by procedure.
pub struct Synthesize;

/// The parameters of [`Synthesize`].
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Which compositions may be drawn. No composition is in two splits.
    pub split: Split,
    /// How many problems to make.
    pub count: usize,
    /// Another seed gives other problems of the same split.
    #[serde(default)]
    pub seed: u64,
    /// The families to draw from; all nine by default.
    #[serde(default = "all_families")]
    pub families: Vec<Family>,
    /// How many problems may share a composition and differ in constants and wording; by default 1, and any number in the split `base`.
    #[serde(default)]
    pub per_composition: Option<usize>,
    /// Tests of a problem: input and expected output.
    #[serde(default = "default_tests")]
    pub tests: usize,
    /// Bad habits that are written into the reference solutions. The tests stay true.
    #[serde(default)]
    pub habits: Option<Habits>,
}

/// A part of all compositions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// For pre-training: 80 % of the compositions.
    Base,
    /// For alignment: 10 %.
    Align,
    /// For choosing hyper-parameters: 4 %.
    Validation,
    /// For the one last evaluation: 6 %.
    Heldout,
}

impl Split {
    /// The split of a composition.
    fn of(composition: &str) -> Self {
        let id = stable_id(&["synthesize split", composition]);
        let bits = u64::from_str_radix(&id[..12], 16).expect("an id is hexadecimal");
        match bits % 100 {
            0..80 => Self::Base,
            80..90 => Self::Align,
            90..94 => Self::Validation,
            _ => Self::Heldout,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Align => "align",
            Self::Validation => "validation",
            Self::Heldout => "heldout",
        }
    }
}

/// Which bad habits an author has, and how often they show.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Habits {
    /// The probability that a habit shows in a solution; drawn for each habit by itself.
    #[serde(default = "default_probability")]
    pub probability: f64,
    /// Habits inside blocks: `true` for all, or a list.
    #[serde(default = "nothing::<InsideHabit>")]
    pub inside: Chosen<InsideHabit>,
    /// Habits of whole blocks: `true` for all, or a list.
    #[serde(default = "nothing::<WholeHabit>")]
    pub whole: Chosen<WholeHabit>,
}

/// All, none, or those of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected true, false or a list of habits")]
pub enum Chosen<T> {
    /// All or none.
    All(bool),
    /// These.
    These(Vec<T>),
}

impl<T: Copy + PartialEq> Chosen<T> {
    fn has(&self, item: T) -> bool {
        match self {
            Self::All(all) => *all,
            Self::These(items) => items.contains(&item),
        }
    }
}

fn nothing<T>() -> Chosen<T> {
    Chosen::All(false)
}

fn default_probability() -> f64 {
    0.6
}

fn default_tests() -> usize {
    8
}

fn all_families() -> Vec<Family> {
    Family::ALL.map(|(family, _)| family).to_vec()
}

impl Stage for Synthesize {
    type Params = Params;
    const NAME: &'static str = "synthesize";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "Makes programming problems by procedure: an English question, a reference solution with if / for / while / def, and tests that kill its mutants. No two splits share a composition.";
    const EXAMPLE: &'static str = "
problems: { use: synthesize, with: { split: align, count: 8, seed: 1 } }
careless: { use: synthesize, with: { split: base, count: 8, seed: 1, habits: { inside: [strict-comparison, off-by-one], whole: true } } }
";

    fn declare(params: &Params, _inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        if params.families.is_empty() {
            return Err(SchemaError::parameter(
                "families",
                "expected at least one family, found none; leave it out for all",
            ));
        }
        if params.tests == 0 {
            return Err(SchemaError::parameter("tests", "expected at least 1, found 0"));
        }
        if params.per_composition == Some(0) {
            return Err(SchemaError::parameter("per_composition", "expected at least 1, found 0"));
        }
        if let Some(habits) = &params.habits
            && !(0.0..=1.0).contains(&habits.probability)
        {
            let problem = format!("expected a number from 0 to 1, found {}", habits.probability);
            return Err(SchemaError::parameter("habits.probability", problem));
        }
        let output = OutputPort::table("problems", columns_of::<Problem>(), "the problems");
        Ok(Declaration::whole(Vec::new(), vec![output]))
    }

    fn open(params: &Params, cx: &OpenContext) -> Result<Job, StageError> {
        let job = SynthesizeJob { params: params.clone(), threads: cx.threads.max(1), cancel: cx.cancel.clone() };
        Ok(Job::Whole(Box::new(job)))
    }
}

struct SynthesizeJob {
    params: Params,
    threads: usize,
    cancel: Cancel,
}

impl WholeJob for SynthesizeJob {
    fn run(&mut self, _inputs: &mut WholeInputs<'_>, out: &mut WholeOutputs<'_>) -> Result<(), StageError> {
        let made = synthesize(&self.params, self.threads, &self.cancel, &mut |done, total| {
            out.progress(done as u64, total as u64, "");
        })?;
        out.add_cpu(made.cpu_s);
        out.push("problems", &made.problems)
    }
}

/// Attempts that are made before the number accepted is looked at again.
const WAVE: usize = 2048;

/// A problem as it leaves its thread.
struct Candidate {
    key: String,
    problem: Problem,
}

/// What was made.
#[derive(Debug)]
pub struct Synthesized {
    /// The problems.
    pub problems: Vec<Problem>,
    /// CPU seconds of the threads that made them.
    pub cpu_s: f64,
}

/// Makes the problems of these parameters. Attempts are numbered and drawn apart, and accepted in the order of their numbers, so the
/// number of threads changes nothing.
///
/// # Errors
/// Where the run is cancelled, or there are fewer problems to be had.
pub fn synthesize(
    params: &Params,
    threads: usize,
    cancel: &Cancel,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Synthesized, StageError> {
    synthesize_within(params, 100_000 + 300 * params.count, threads, cancel, progress)
}

fn synthesize_within(
    params: &Params,
    max_attempts: usize,
    threads: usize,
    cancel: &Cancel,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Synthesized, StageError> {
    let per_composition = params.per_composition.unwrap_or(if params.split == Split::Base { usize::MAX } else { 1 });
    let mut problems: Vec<Problem> = Vec::with_capacity(params.count);
    let mut compositions = BTreeMap::<String, usize>::new();
    let mut questions = BTreeSet::new();
    let mut full = BTreeSet::new();
    let (mut attempt, mut cpu_s) = (0, 0.0);
    while problems.len() < params.count {
        cancel.check()?;
        if attempt >= max_attempts {
            return Err(StageError::failed(format!(
                "found {} problems of {} wanted in {attempt} attempts; ask for fewer, for more families, or raise per_composition",
                problems.len(),
                params.count
            )));
        }
        let (candidates, wave_cpu_s) = wave(params, attempt, threads, &full);
        cpu_s += wave_cpu_s;
        for candidate in candidates.into_iter().flatten() {
            let used = compositions.entry(candidate.key).or_default();
            if problems.len() == params.count
                || *used >= per_composition
                || !questions.insert(candidate.problem.question.clone())
            {
                continue;
            }
            *used += 1;
            problems.push(candidate.problem);
        }
        full = compositions.iter().filter(|(_, used)| **used >= per_composition).map(|(key, _)| key.clone()).collect();
        attempt += WAVE;
        progress(problems.len(), params.count);
    }
    Ok(Synthesized { problems, cpu_s })
}

/// The attempts from `first` on, and the CPU seconds that they took.
fn wave(params: &Params, first: usize, threads: usize, full: &BTreeSet<String>) -> (Vec<Option<Candidate>>, f64) {
    let mut results: Vec<Option<Candidate>> = Vec::new();
    results.resize_with(WAVE, || None);
    let share = WAVE.div_ceil(threads);
    let cpu_s = std::thread::scope(|scope| {
        let mut helpers = Vec::new();
        for (number, slots) in results.chunks_mut(share).enumerate() {
            helpers.push(scope.spawn(move || {
                for (offset, slot) in slots.iter_mut().enumerate() {
                    *slot = attempt(params, first + number * share + offset, full);
                }
                thread_cpu_s()
            }));
        }
        helpers.into_iter().map(|helper| helper.join().expect("an attempt does not panic")).sum()
    });
    (results, cpu_s)
}

/// One attempt at a problem: nothing where it is of another split, used up, or degenerate.
fn attempt(params: &Params, number: usize, full: &BTreeSet<String>) -> Option<Candidate> {
    let mut random = Random::new(params.seed, Synthesize::NAME, "problem", &number.to_string());
    let weights: Vec<(Family, usize)> =
        Family::ALL.into_iter().filter(|(family, _)| params.families.contains(family)).collect();
    let mut place = random.below(weights.iter().map(|(_, weight)| weight).sum());
    let family = weights.iter().find(|(_, weight)| {
        let found = place < *weight;
        place = place.saturating_sub(*weight);
        found
    })?;
    let draft = family.0.draft(&mut random);
    let key = draft.composition();
    if Split::of(&key) != params.split || full.contains(&key) {
        return None;
    }
    let task = task::finish(&draft, params.tests, &mut random)?;
    Some(Candidate { key, problem: problem(params, task) })
}

fn problem(params: &Params, task: Task) -> Problem {
    let source = format!("synthesize/{}", params.split.as_str());
    let problem_id = format!("{}/{}", task.family, &stable_id(&[&source, &task.question, "solve"])[..16]);
    let mut module = task.module;
    if let Some(habits) = &params.habits {
        let mut random = Random::new(params.seed, Synthesize::NAME, "habits", &problem_id);
        for habit in InsideHabit::ALL {
            if random.uniform() < habits.probability && habits.inside.has(habit) {
                mutate::inside_habit(&mut module, habit);
            }
        }
        for habit in WholeHabit::ALL {
            if random.uniform() < habits.probability && habits.whole.has(habit) {
                mutate::whole_habit(&mut module, habit);
            }
        }
    }
    let cases = task
        .tests
        .into_iter()
        .map(|(input, output)| Case { input, output, check: Check::Equal, tolerance: None })
        .collect();
    Problem {
        problem_id,
        question: task.question,
        solutions: vec![module.print()],
        starter_code: None,
        entry_point: Some("solve".to_owned()),
        tests: Tests { style: TestStyle::Call, cases, code: None, setup: None },
        source,
        difficulty: None,
    }
}

#[cfg(test)]
mod tests;
