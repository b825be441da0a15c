//! What the kind promises, over many problems.

use super::*;
use std::io::Write;
use std::process::{Command, Stdio};

fn params(split: Split, count: usize) -> Params {
    Params { split, count, seed: 7, families: all_families(), per_composition: None, tests: 8, habits: None }
}

fn make(params: &Params, threads: usize) -> Vec<Problem> {
    synthesize(params, threads, &Cancel::default(), &mut |_, _| {}).unwrap().problems
}

#[test]
fn the_same_problems_come_whatever_the_number_of_threads() {
    let params = params(Split::Align, 60);
    assert_eq!(make(&params, 1), make(&params, 3));
    assert_ne!(make(&params, 1), make(&Params { seed: 8, ..params.clone() }, 1));
}

#[test]
fn a_problem_is_whole() {
    let problems = make(&params(Split::Heldout, 200), 2);
    let ids: BTreeSet<_> = problems.iter().map(|problem| &problem.problem_id).collect();
    assert_eq!(ids.len(), 200);
    let mut families = BTreeSet::new();
    for problem in &problems {
        families.insert(problem.problem_id.split('/').next().unwrap());
        assert_eq!(problem.tests.cases.len(), 8, "{problem:?}");
        assert!(!problem.question.contains(['{', '}']), "{}", problem.question);
        assert!(!problem.solutions[0].contains("{x}"), "{}", problem.solutions[0]);
        let outputs: BTreeSet<_> = problem.tests.cases.iter().map(|case| &case.output).collect();
        assert!(outputs.len() > 1, "{problem:?}");
    }
    assert_eq!(families.len(), 9);
}

#[test]
fn families_can_be_chosen() {
    let problems = make(&Params { families: vec![Family::Grids], ..params(Split::Align, 20) }, 1);
    assert!(problems.iter().all(|problem| problem.problem_id.starts_with("grids/")));
}

#[test]
fn there_are_over_twenty_thousand_compositions_and_every_split_has_its_share() {
    let mut keys = BTreeSet::new();
    for number in 0..60_000 {
        let mut random = Random::new(3, "test", "keys", &number.to_string());
        let family = Family::ALL[random.below(9)].0;
        keys.insert(family.draft(&mut random).composition());
    }
    assert!(keys.len() > 20_000, "{}", keys.len());
    let mut shares = BTreeMap::<&str, usize>::new();
    for key in &keys {
        *shares.entry(Split::of(key).as_str()).or_default() += 1;
    }
    for (split, share) in [("base", 0.8), ("align", 0.1), ("validation", 0.04), ("heldout", 0.06)] {
        let found = shares[split] as f64 / keys.len() as f64;
        assert!((found - share).abs() < 0.01, "{split}: {found}");
    }
}

#[test]
fn habits_change_solutions_and_nothing_else() {
    let clean = params(Split::Base, 200);
    let habits = Habits { probability: 0.6, inside: Chosen::All(true), whole: Chosen::All(true) };
    let careless = make(&Params { habits: Some(habits), ..clean.clone() }, 2);
    let clean = make(&clean, 2);
    let mut changed = 0;
    for (clean, careless) in clean.iter().zip(&careless) {
        changed += usize::from(clean.solutions != careless.solutions);
        assert_eq!(Problem { solutions: clean.solutions.clone(), ..careless.clone() }, *clean);
    }
    assert!((120..200).contains(&changed), "{changed}");
}

#[test]
fn too_many_problems_are_refused_in_words() {
    let params = Params { families: vec![Family::While], ..params(Split::Validation, 1500) };
    let message = synthesize_within(&params, 4_000, 2, &Cancel::default(), &mut |_, _| {}).unwrap_err().to_string();
    assert!(message.contains("of 1500 wanted") && message.contains("per_composition"), "{message}");
}

/// Every expected output is what Python computes, over problems of all families; and helpers, guards and loops with it.
#[test]
fn python_agrees_with_every_expected_output() {
    let problems = make(&params(Split::Align, 400), 2);
    let mut script =
        String::from("import json, sys\nbad = []\nfor p in json.load(sys.stdin):\n    g = {}\n    exec(p['s'], g)\n");
    script.push_str("    for i, o in p['t']:\n        r = repr(g['solve'](*eval(i)))\n        if r != o: bad.append((p['s'], i, o, r))\n");
    script.push_str("print(len(bad), *bad[:1])\n");
    let input: Vec<serde_json::Value> = problems
        .iter()
        .map(|problem| {
            let tests: Vec<_> = problem.tests.cases.iter().map(|case| (&case.input, &case.output)).collect();
            serde_json::json!({ "s": problem.solutions[0], "t": tests })
        })
        .collect();
    let mut python = Command::new("python3")
        .args(["-I", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the tests need python3");
    python.stdin.take().unwrap().write_all(serde_json::to_string(&input).unwrap().as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0");
}
