//! A problem under construction, and what makes it a good one: outputs that differ, and tests that tell it from its mutants.

use super::eval::{Value, run};
use super::mutate::mutants;
use super::parse::parse;
use super::phrases::helper;
use super::python::Module;
use crate::random::Random;

/// Draws the arguments of one call.
pub(super) type DrawInput = Box<dyn Fn(&mut Random) -> Vec<Value>>;

/// What a family makes: a question, a program as text, and where inputs come from.
pub(super) struct Draft {
    /// What is composed, without constants. Equal keys are the same composition.
    pub(super) key: Vec<String>,
    /// Sentences of the question.
    pub(super) question: Vec<String>,
    /// Helper functions that the program needs.
    pub(super) helpers: Vec<&'static str>,
    /// Parameters of `solve`.
    pub(super) params: &'static str,
    /// Lines of `solve`, indented from zero.
    pub(super) body: Vec<String>,
    /// Draws the arguments of one call.
    pub(super) input: DrawInput,
}

impl Draft {
    /// A draft of this family with these parameters.
    pub(super) fn new(family: &str, params: &'static str, input: DrawInput) -> Self {
        let key = vec![family.to_owned()];
        Self { key, question: Vec::new(), helpers: Vec::new(), params, body: Vec::new(), input }
    }

    /// Adds parts to the key.
    pub(super) fn key(&mut self, parts: &[&str]) {
        self.key.extend(parts.iter().map(|&part| part.to_owned()));
    }

    /// Adds a sentence to the question.
    pub(super) fn say(&mut self, sentence: impl Into<String>) {
        self.question.push(sentence.into());
    }

    /// Makes sure that the program has a helper.
    pub(super) fn need(&mut self, name: Option<&'static str>) {
        if let Some(name) = name
            && !self.helpers.contains(&name)
        {
            self.helpers.push(name);
        }
    }

    /// Adds lines to `solve`.
    pub(super) fn lines<S: Into<String>>(&mut self, lines: impl IntoIterator<Item = S>) {
        self.body.extend(lines.into_iter().map(Into::into));
    }

    /// The composition, in one word.
    pub(super) fn composition(&self) -> String {
        self.key.join("|")
    }

    fn module(&self) -> Module {
        let mut text = String::new();
        for name in &self.helpers {
            text.push_str(helper(name));
        }
        text.push_str(&format!("def solve({}):\n", self.params));
        for line in &self.body {
            text.push_str(&format!("    {line}\n"));
        }
        parse(&text)
            .unwrap_or_else(|problem| panic!("a template of {} is not the small Python: {problem}", self.composition()))
    }
}

/// Lines moved one level in.
pub(super) fn indented<S: AsRef<str>>(lines: impl IntoIterator<Item = S>) -> Vec<String> {
    lines.into_iter().map(|line| format!("    {}", line.as_ref())).collect()
}

/// A finished problem.
pub(super) struct Task {
    /// The family.
    pub(super) family: String,
    /// In words.
    pub(super) question: String,
    /// The reference solution.
    pub(super) module: Module,
    /// Arguments as a Python tuple, and the value that is expected.
    pub(super) tests: Vec<(String, String)>,
}

/// Inputs that are tried; so many of them must give an output.
const NUM_INPUTS: usize = 24;
const MIN_INPUTS: usize = 12;
/// Statements and calls that one run may take.
const MAX_STEPS: u32 = 20_000;
/// Outputs that are longer, in characters, teach a small model nothing.
const MAX_OUTPUT: usize = 200;
const NUM_MUTANTS: usize = 8;

/// Makes a problem with up to `num_tests` tests of a draft, or nothing where it is degenerate: one output for nearly all inputs.
pub(super) fn finish(draft: &Draft, num_tests: usize, random: &mut Random) -> Option<Task> {
    let module = draft.module();
    let mut cases: Vec<(Vec<Value>, String, String)> = Vec::new();
    for _ in 0..NUM_INPUTS {
        let arguments = (draft.input)(random);
        let text = tuple(&arguments);
        if cases.iter().any(|(_, known, _)| *known == text) {
            continue;
        }
        if let Ok(output) = run(&module, &arguments, MAX_STEPS) {
            let output = output.repr();
            if output.len() < MAX_OUTPUT {
                cases.push((arguments, text, output));
            }
        }
    }
    if cases.len() < MIN_INPUTS {
        return None;
    }
    let most_common = cases.iter().map(|(_, _, output)| cases.iter().filter(|case| case.2 == *output).count()).max()?;
    let truth = matches!(cases[0].2.as_str(), "True" | "False");
    if most_common as f64 > if truth { 0.75 } else { 0.6 } * cases.len() as f64 {
        return None;
    }
    let mut chosen: Vec<usize> = Vec::new();
    for mutant in mutants(&module, NUM_MUTANTS, random) {
        let tells = |case: usize| {
            let (arguments, _, output) = &cases[case];
            run(&mutant, arguments, MAX_STEPS).map_or(true, |found| found.repr() != *output)
        };
        if chosen.len() >= num_tests || chosen.iter().any(|&case| tells(case)) {
            continue;
        }
        let start = random.below(cases.len());
        let mut others = (0..cases.len()).map(|i| (start + i) % cases.len()).filter(|case| !chosen.contains(case));
        if let Some(found) = others.find(|&case| tells(case)) {
            chosen.push(found);
        }
    }
    // The rest: inputs whose outputs are not there yet first.
    let mut rest: Vec<usize> = (0..cases.len()).filter(|case| !chosen.contains(case)).collect();
    random.shuffle(&mut rest);
    while chosen.len() < num_tests && !rest.is_empty() {
        let repeats = |case: usize| chosen.iter().filter(|&&other| cases[other].2 == cases[case].2).count();
        let next = (0..rest.len()).min_by_key(|&place| repeats(rest[place])).expect("it is not empty");
        chosen.push(rest.remove(next));
    }
    Some(Task {
        family: draft.key[0].clone(),
        question: draft.question.join(" "),
        module,
        tests: chosen.into_iter().map(|case| (cases[case].1.clone(), cases[case].2.clone())).collect(),
    })
}

/// Arguments as a Python tuple.
fn tuple(arguments: &[Value]) -> String {
    let items: Vec<String> = arguments.iter().map(Value::repr).collect();
    if let [item] = items.as_slice() { format!("({item},)") } else { format!("({})", items.join(", ")) }
}
