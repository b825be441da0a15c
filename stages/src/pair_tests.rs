//! Tests of [`super`].

use super::*;
use crate::code::prompts::AskedTests;
use crate::columns::TestStyle;
use crate::testing::{Ran, run_map, table};
use serde_json::{Value, json};

/// Samples of block `b` as (text, verdict).
fn pair_with(with: &Value, samples: &[(&str, &str)], kind: &str) -> Ran {
    let candidate = |i: usize, text: &str| Candidate {
        sample_id: format!("s{i}"),
        problem_id: "p".into(),
        block_id: Some("b".into()),
        sample_index: i as u32,
        text: text.into(),
    };
    let rows: Vec<_> = samples.iter().enumerate().map(|(i, (text, _))| candidate(i, text)).collect();
    let judged = |i: usize, verdict: &str| Judged {
        sample_id: format!("s{i}"),
        verdict: verdict.trim_end_matches('~').into(),
        flaky: verdict.ends_with('~'),
    };
    let verdicts: Vec<_> = samples.iter().enumerate().map(|(i, (_, verdict))| judged(i, verdict)).collect();
    let problem = Asked {
        problem_id: "p".into(),
        question: "Do.".into(),
        starter_code: Some("def f(x):".into()),
        tests: AskedTests { style: TestStyle::Call },
    };
    let mut others = vec![("verdicts", table(&verdicts)), ("problems", table(&[problem]))];
    if kind != "none" {
        let target = Target {
            block_id: "b".into(),
            kind: kind.into(),
            depth: 2,
            num_lines: 7,
            prefix: "x = 1\n".into(),
            suffix: "\nprint(x)\n".into(),
        };
        others.push(("blocks", table(&[target])));
    }
    run_map(&Pair, with, &rows, &others)
}

fn written(segments: &[Segment]) -> String {
    let one = |segment: &Segment| match segment.special {
        Some(special) => format!("<{}>", serde_json::to_value(special).unwrap().as_str().unwrap()),
        None => segment.text.clone().unwrap(),
    };
    segments.iter().map(one).collect()
}

const SAMPLES: &[(&str, &str)] = &[
    ("while a < 10:\n    b", "passed"),
    ("while a <= n:\n    b\n", "passed"),
    ("while a < n:\n    b", "wrong"),
    ("while a < n:\n    b\n", "wrong"),
    ("while a <", "error"),
];

#[test]
fn chosen_is_the_passing_sample_nearest_to_the_rejected_one() {
    let examples: Vec<Example> = pair_with(&json!({ "alpha": 1.0 }), SAMPLES, "while").rows();
    assert_eq!(examples.len(), 1);
    let example = &examples[0];
    assert_eq!(written(&example.chosen), "while a <= n:\n    b<end>");
    assert_eq!(written(&example.rejected), "while a < n:\n    b<end>");
    assert_eq!(written(&example.prompt), "<fim_prefix># Do.\n\nx = 1\n<fim_suffix>\nprint(x)\n<fim_middle>");
    assert_eq!((example.format.as_str(), example.num_lines, example.depth), ("fim", 7, 2));
    assert_eq!(example.chosen[0].spans[0].end as usize, "while a <= n:\n    b".len());
    assert_eq!(example.chosen[1].spans.len(), 1);
}

#[test]
fn conversations_go_on_from_the_prefix_and_leave_the_suffix_out() {
    let with = json!({ "alpha": 0.0, "prompt": { "system": null } });
    let examples: Vec<Example> = pair_with(&with, SAMPLES, "while").rows();
    assert_eq!(written(&examples[0].prompt), "<user_start>Do.<assistant_start>```python\nx = 1\n");
    assert_eq!(written(&examples[0].chosen), "while a <= n:\n    b");
    assert_eq!(examples[0].format, "chat");
    let with = json!({ "alpha": 0.0, "middle_owns_newline": true, "close_fence": true });
    let examples: Vec<Example> = pair_with(&with, SAMPLES, "while").rows();
    assert_eq!(written(&examples[0].chosen), "while a <= n:\n    b\n");
}

#[test]
fn whole_programs_are_always_conversations() {
    for kind in ["full", "none"] {
        let with = json!({ "alpha": 1.0, "prompt": { "system": null }, "close_fence": true });
        let examples: Vec<Example> = pair_with(&with, SAMPLES, kind).rows();
        assert_eq!(written(&examples[0].prompt), "<user_start>Do.<assistant_start>```python\ndef f(x):");
        assert_eq!(written(&examples[0].rejected), "while a < n:\n    b\n```<turn_end>");
        assert_eq!(examples[0].block_kind.is_some(), kind == "full");
        assert_eq!(examples[0].num_lines, if kind == "full" { 7 } else { 2 });
    }
}

#[test]
fn which_failures_are_rejected_is_a_parameter() {
    let all = |when: &str| {
        let with = json!({ "alpha": 1.0, "rejected_when": when, "pairs_per_target": "all" });
        let examples: Vec<Example> = pair_with(&with, SAMPLES, "while").rows();
        examples.iter().map(|example| written(&example.rejected)).collect::<Vec<_>>()
    };
    assert_eq!(all("wrong_answer"), ["while a < n:\n    b<end>"]);
    assert_eq!(all("any_failure"), ["while a < n:\n    b<end>", "while a <<end>"]);
}

#[test]
fn targets_without_a_pair_say_why() {
    let reason = |samples: &[(&str, &str)]| pair_with(&json!({}), samples, "if").reasons();
    assert_eq!(reason(&[("a", "wrong"), ("b", "error")]), ["no-correct"]);
    assert_eq!(reason(&[("a", "passed"), ("b", "passed")]), ["no-incorrect"]);
    assert_eq!(reason(&[("a", "passed"), ("b", "timeout")]), ["none-to-reject"]);
    // A flaky sample, an empty one, and a text that was judged both ways are of no use.
    assert_eq!(reason(&[("a", "passed"), ("b", "wrong~")]), ["none-to-reject"]);
    assert_eq!(reason(&[("a", "passed"), ("\n", "wrong")]), ["none-to-reject"]);
    assert_eq!(reason(&[("a", "passed"), ("a", "wrong"), ("b", "wrong")]), ["no-correct"]);
}

#[test]
fn alpha_is_the_share_of_fill_in_the_middle() {
    let job = PairJob { params: Params { alpha: 0.3, ..Params::default() } };
    let problem = Asked {
        problem_id: "p".into(),
        question: "Do.".into(),
        starter_code: None,
        tests: AskedTests { style: TestStyle::Call },
    };
    let target = Target {
        block_id: "b".into(),
        kind: "if".into(),
        depth: 1,
        num_lines: 1,
        prefix: String::new(),
        suffix: String::new(),
    };
    let is_fim = |id: usize| {
        let (chosen, rejected) = (format!("{id}a"), format!("{id}b"));
        let tried = |sample_id| Tried { sample_id, sample_index: 0, text: "a", verdict: None };
        job.example(&problem, Some(&target), tried(&chosen), tried(&rejected)).format == "fim"
    };
    let share = (0..2000).filter(|&id| is_fim(id)).count();
    assert!((540..660).contains(&share), "{share} of 2000");
}

#[test]
fn the_order_of_samples_changes_nothing() {
    let ids: Vec<String> = (0..SAMPLES.len()).map(|i| format!("s{i}")).collect();
    let tried = |i: usize| Tried {
        sample_id: &ids[i],
        sample_index: i as u32,
        text: SAMPLES[i].0.trim_matches('\n'),
        verdict: Some(SAMPLES[i].1),
    };
    let mut forth: Vec<_> = (0..SAMPLES.len()).map(tried).collect();
    let mut back: Vec<_> = forth.iter().rev().copied().collect();
    let problem = Asked {
        problem_id: "p".into(),
        question: "Do.".into(),
        starter_code: None,
        tests: AskedTests { style: TestStyle::Stdio },
    };
    let job = PairJob { params: Params { rejected_when: RejectedWhen::AnyFailure, ..Params::default() } };
    assert_eq!(job.pairs("b", &mut forth, &problem, None), job.pairs("b", &mut back, &problem, None));
}

#[test]
fn a_share_outside_0_to_1_is_refused() {
    let error = Pair::declare(&Params { alpha: 1.5, ..Params::default() }, &InputSchemas::new()).unwrap_err();
    assert_eq!(error.to_string(), "expected a share from 0 to 1, got 1.5");
}

#[test]
fn many_samples_are_merged_like_few() {
    let job = PairJob { params: Params { pairs_per_target: PairsPerTarget::All, ..Params::default() } };
    let ids: Vec<String> = (0..40).map(|i| format!("s{i}")).collect();
    let texts = ["a = 1", "a = 2", "b = 1", "b = 22"];
    let tried = |i: usize| Tried {
        sample_id: &ids[i],
        sample_index: i as u32,
        text: texts[i % 4],
        verdict: Some(if i % 4 < 2 { "passed" } else { "wrong" }),
    };
    let sides = job.sides(&mut (0..40).map(tried).collect::<Vec<_>>());
    assert_eq!(sides.passed.iter().map(|tried| tried.sample_id).collect::<Vec<_>>(), ["s0", "s1"]);
    assert_eq!(sides.wrong.iter().map(|tried| tried.sample_id).collect::<Vec<_>>(), ["s2", "s3"]);
}

#[test]
fn prompt_and_chosen_make_the_program_that_was_judged() {
    let samples = [("\n    y = 1\n    return y\n", "passed"), ("\n    y = 2\n    return y\n", "wrong")];
    let with = json!({ "alpha": 1.0, "prompt": { "system": null } });
    for kind in ["none", "full"] {
        let examples: Vec<Example> = pair_with(&with, &samples, kind).rows();
        assert_eq!(written(&examples[0].prompt), "<user_start>Do.<assistant_start>```python\ndef f(x):", "{kind}");
        assert_eq!(written(&examples[0].chosen), "\n    y = 1\n    return y", "{kind}");
        assert_eq!(examples[0].num_lines, if kind == "full" { 7 } else { 2 });
    }
}

/// The texts that carry loss, prompt and chosen side.
fn weighted(segments: &[Segment]) -> Vec<String> {
    let of = |segment: &Segment| {
        let text = segment.text.clone()?;
        let span = segment.spans.first()?;
        Some(text[span.start as usize..span.end as usize].to_owned())
    };
    segments.iter().filter_map(of).collect()
}

#[test]
fn loss_on_what_stands_around_the_middle_and_prompts_without_the_suffix() {
    let one = |with: Value| pair_with(&with, SAMPLES, "while").rows::<Example>().remove(0);
    let middle = "while a <= n:\n    b";
    let chat = one(json!({ "alpha": 0.0, "loss": "suffix" }));
    assert_eq!((weighted(&chat.prompt), weighted(&chat.chosen)), (vec![], vec![middle.into(), "\nprint(x)\n".into()]));
    assert_eq!(weighted(&chat.rejected)[1], "\nprint(x)\n");
    let chat = one(json!({ "alpha": 0.0, "loss": "prefix_and_suffix" }));
    assert_eq!(weighted(&chat.prompt), ["x = 1\n"]);
    let fim = one(json!({ "alpha": 1.0, "loss": "prefix_and_suffix" }));
    assert_eq!(
        (weighted(&fim.prompt), weighted(&fim.chosen)),
        (vec!["x = 1\n".into(), "\nprint(x)\n".into()], vec![middle.into()])
    );
    let fim = one(json!({ "alpha": 1.0, "loss": "suffix", "suffix": false }));
    assert!(written(&fim.prompt).ends_with("x = 1\n<fim_suffix><fim_middle>"), "{}", written(&fim.prompt));
    assert_eq!(weighted(&fim.prompt), [""; 0]);
}
