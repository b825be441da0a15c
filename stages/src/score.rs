//! `score`: from verdicts to pass@k with intervals, and to one outcome a problem.
//!
//! Columns in: `sample_id`, `problem_id`, `verdict`; `problem_id` of the problems, where they are connected. Out: `metrics`, `outcomes`.
//! A connected problem without any verdict (its prompt was too long, say) counts as not passed, with as many samples as the others
//! have: who gives no answer must not fare better than who gives a wrong one. Leave problems without tests out of that table.
//! pass@k is the unbiased estimate of Chen et al. 2021 (<https://arxiv.org/abs/2107.03374>), eq. 1: of `n` samples with `c` right,
//! `1 - prod_{i=n-c+1..n} (1 - k/i)`; the mean over problems. The unit of chance is the problem: samples are never pooled.
//! Intervals are 95 %: Wilson's where every problem has one sample, else the bootstrap over problems (10,000 draws, seeded).
//! Determinism: bits.

use crate::columns::{Metric, Outcome, columns_of};
use crate::job::{Job, OpenContext, WholeInputs, WholeJob, WholeOutputs};
use crate::random::Random;
use crate::sandbox::Verdict;
use crate::stage::{Declaration, InputPort, InputSchemas, OutputPort, SchemaError, Stage, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Draws of the bootstrap.
const NUM_DRAWS: usize = 10_000;
/// The two-sided 95 % point of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Score;

/// Parameters of `score`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// The k of pass@k. One is refused unless every problem has at least so many samples.
    pub k: Vec<u32>,
    /// Seed of the bootstrap.
    pub seed: u64,
}

impl Default for Params {
    fn default() -> Self {
        Self { k: vec![1], seed: 0 }
    }
}

/// The columns read.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Scored {
    /// The sample.
    pub sample_id: String,
    /// Its problem.
    pub problem_id: String,
    /// How it did.
    pub verdict: String,
}

/// A problem that was to be answered: the column read.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ToAnswer {
    /// The problem.
    pub problem_id: String,
}

impl Stage for Score {
    type Params = Params;
    const NAME: &'static str = "score";
    const VERSION: u32 = 3;
    const ABOUT: &'static str = "Computes pass@k with 95 % intervals from verdicts, and how each problem was answered.";
    const EXAMPLE: &'static str = "\
problems: { use: load, with: { path: ../examples/problems/align.jsonl } }
solutions: { use: references, from: problems }
verdicts: { use: execute, from: { programs: solutions, problems: problems } }
scores: { use: score, from: verdicts, with: { k: [1] } }
";

    fn declare(params: &Params, _inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        if params.k.is_empty() || params.k.contains(&0) {
            return Err(SchemaError::parameter("k", "expected one or more numbers from 1"));
        }
        if params.k.iter().collect::<BTreeSet<_>>().len() < params.k.len() {
            return Err(SchemaError::parameter("k", "expected each number once"));
        }
        let verdicts = InputPort::table::<Scored>("verdicts", "how each sample did");
        let problems = InputPort::table::<ToAnswer>(
            "problems",
            "the problems that were to be answered: those without a verdict count as not passed",
        )
        .optional();
        let metrics = OutputPort::table("metrics", columns_of::<Metric>(), "pass@k and the rates of the verdicts");
        let outcomes = OutputPort::table("outcomes", columns_of::<Outcome>(), "how each problem was answered");
        let shares = Verdict::ALL.into_iter().map(Verdict::name).chain([UNANSWERED]);
        let names = params.k.iter().map(|k| format!("pass@{k}")).chain(shares.map(share));
        Ok(Declaration::whole(vec![verdicts, problems], vec![metrics, outcomes]).measuring(names.collect()))
    }

    fn open(params: &Params, _cx: &OpenContext) -> Result<Job, StageError> {
        Ok(Job::Whole(Box::new(ScoreJob { params: params.clone() })))
    }
}

/// The share of problems without a verdict.
const UNANSWERED: &str = "unanswered";

/// The name of the metric of a verdict's share.
fn share(verdict: &str) -> String {
    format!("share:{verdict}")
}

struct ScoreJob {
    params: Params,
}

impl WholeJob for ScoreJob {
    fn run(&mut self, inputs: &mut WholeInputs<'_>, out: &mut WholeOutputs<'_>) -> Result<(), StageError> {
        let rows: Vec<Scored> = inputs.read("verdicts")?;
        let problems: Option<Vec<ToAnswer>> =
            if inputs.tables.contains_key("problems") { Some(inputs.read("problems")?) } else { None };
        let mut counts: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
        // Verdicts that did not occur are measured too: a share of 0.
        let mut verdicts: BTreeMap<&str, u64> = Verdict::ALL.map(|verdict| (verdict.name(), 0)).into();
        for row in &rows {
            let (samples, passed) = counts.entry(&row.problem_id).or_default();
            *samples += 1;
            *passed += u32::from(row.verdict == "passed");
            *verdicts.entry(&row.verdict).or_default() += 1;
        }
        let mut num_unanswered = 0;
        if let Some(problems) = &problems {
            let most = counts.values().map(|&(samples, _)| samples).max();
            let samples = most.or_else(|| self.params.k.iter().copied().max()).unwrap_or(1);
            for problem in problems {
                counts.entry(&problem.problem_id).or_insert_with(|| {
                    num_unanswered += 1;
                    (samples, 0)
                });
            }
        }
        let outcomes: Vec<Outcome> = counts
            .iter()
            .map(|(&problem_id, &(num_samples, num_passed))| Outcome {
                problem_id: problem_id.into(),
                num_samples,
                num_passed,
            })
            .collect();
        let mut metrics = Vec::new();
        for &k in &self.params.k {
            if let Some(few) = outcomes.iter().find(|outcome| outcome.num_samples < k) {
                return Err(StageError::input(
                    "verdicts",
                    format!(
                        "pass@{k} needs at least {k} samples of every problem; `{}` has {} (take a smaller k, or draw more samples)",
                        few.problem_id, few.num_samples
                    ),
                ));
            }
            if !outcomes.is_empty() {
                metrics.push(pass_at(k, &outcomes, self.params.seed));
            }
        }
        let n = rows.len() as u64;
        for (verdict, count) in verdicts.into_iter().filter(|_| n > 0) {
            let value = count as f64 / n as f64;
            metrics.push(Metric { name: share(verdict), value, lower: None, upper: None, n });
        }
        if problems.is_some() && !outcomes.is_empty() {
            let n = outcomes.len() as u64;
            let value = f64::from(num_unanswered) / n as f64;
            metrics.push(Metric { name: share(UNANSWERED), value, lower: None, upper: None, n });
        }
        out.push("metrics", &metrics)?;
        out.push("outcomes", &outcomes)
    }
}

fn pass_at(k: u32, outcomes: &[Outcome], seed: u64) -> Metric {
    let values: Vec<f64> = outcomes.iter().map(|o| unbiased(o.num_samples, o.num_passed, k)).collect();
    let value = mean(&values);
    let (lower, upper) = if outcomes.iter().all(|outcome| outcome.num_samples == 1) {
        wilson(outcomes.iter().map(|outcome| outcome.num_passed).sum(), outcomes.len())
    } else {
        bootstrap(&values, &mut Random::new(seed, Score::NAME, "bootstrap", &format!("pass@{k}")))
    };
    Metric { name: format!("pass@{k}"), value, lower: Some(lower), upper: Some(upper), n: values.len() as u64 }
}

/// The chance that of `k` samples, drawn without replacement from `n` of which `c` are right, at least one is right.
fn unbiased(n: u32, c: u32, k: u32) -> f64 {
    if n - c < k {
        return 1.0;
    }
    1.0 - (n - c + 1..=n).map(|i| 1.0 - f64::from(k) / f64::from(i)).product::<f64>()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Wilson's interval of a share (1927).
fn wilson(passed: u32, n: usize) -> (f64, f64) {
    let n = n as f64;
    let share = f64::from(passed) / n;
    let centre = share + Z * Z / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (((centre - half) / scale).max(0.0), ((centre + half) / scale).min(1.0))
}

/// The percentile interval of the mean over problems.
fn bootstrap(values: &[f64], random: &mut Random) -> (f64, f64) {
    // Ten thousand times all problems: the keyed stream seeds a fast generator (SplitMix64).
    let mut state = random.bits();
    let mut below = |n: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((u128::from(z) * n as u128) >> 64) as usize
    };
    let mut means: Vec<f64> = (0..NUM_DRAWS)
        .map(|_| (0..values.len()).map(|_| values[below(values.len())]).sum::<f64>() / values.len() as f64)
        .collect();
    means.sort_by(f64::total_cmp);
    (means[NUM_DRAWS * 25 / 1000], means[NUM_DRAWS * 975 / 1000 - 1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{run_whole, table};
    use serde_json::json;

    fn rows(problems: &[(&str, u32, u32)]) -> Vec<Scored> {
        let mut rows = Vec::new();
        for &(problem, samples, passed) in problems {
            for i in 0..samples {
                rows.push(Scored {
                    sample_id: format!("{problem}/{i}"),
                    problem_id: problem.into(),
                    verdict: if i < passed { "passed" } else { "wrong" }.into(),
                });
            }
        }
        rows
    }

    #[test]
    fn pass_at_k_is_the_share_of_draws_with_a_right_sample() {
        // By hand: 1 - C(3,2)/C(5,2) = 0.7; any two of three samples hold one of two right ones.
        assert!((unbiased(5, 2, 2) - 0.7).abs() < 1e-12);
        assert!((unbiased(3, 2, 2) - 1.0).abs() < 1e-12);
        assert!((unbiased(10, 3, 1) - 0.3).abs() < 1e-12);
        assert!(unbiased(7, 0, 7).abs() < 1e-12);
    }

    #[test]
    fn metrics_and_outcomes_are_by_problem() {
        let ran =
            run_whole(&Score, &json!({ "k": [1, 2] }), &[("verdicts", table(&rows(&[("a", 4, 4), ("b", 2, 1)])))]);
        let metrics: Vec<Metric> = ran.output("metrics");
        let (found, absent): (Vec<_>, Vec<_>) = metrics
            .iter()
            .map(|metric| (metric.name.as_str(), metric.value, metric.n))
            .partition(|&(_, value, _)| value > 0.0);
        assert_eq!(
            found,
            [("pass@1", 0.75, 2), ("pass@2", 1.0, 2), ("share:passed", 5.0 / 6.0, 6), ("share:wrong", 1.0 / 6.0, 6)]
        );
        // A verdict that did not occur has a share too.
        assert!(absent.contains(&("share:timeout", 0.0, 6)) && absent.len() == Verdict::ALL.len() - 2, "{absent:?}");
        assert_eq!((metrics[0].lower, metrics[0].upper), (Some(0.5), Some(1.0)));
        let outcomes: Vec<Outcome> = ran.output("outcomes");
        assert_eq!(outcomes[1], Outcome { problem_id: "b".into(), num_samples: 2, num_passed: 1 });
    }

    #[test]
    fn one_sample_a_problem_gives_wilsons_interval() {
        let problems: Vec<(String, u32, u32)> = (0..10).map(|i| (format!("p{i}"), 1, u32::from(i < 8))).collect();
        let problems: Vec<(&str, u32, u32)> = problems.iter().map(|(name, n, c)| (name.as_str(), *n, *c)).collect();
        let ran = run_whole(&Score, &json!({}), &[("verdicts", table(&rows(&problems)))]);
        let metric = &ran.output::<Metric>("metrics")[0];
        // statsmodels.stats.proportion.proportion_confint(8, 10, method="wilson") == (0.490162, 0.943318)
        assert!((metric.lower.expect("given") - 0.490_162).abs() < 1e-5, "{metric:?}");
        assert!((metric.upper.expect("given") - 0.943_318).abs() < 1e-5, "{metric:?}");
    }

    #[test]
    fn intervals_hold_the_value_and_depend_on_the_seed_alone() {
        let values: Vec<f64> = (0..50).map(|i| f64::from(i % 5) / 4.0).collect();
        let draw = |seed| bootstrap(&values, &mut Random::new(seed, "score", "bootstrap", "pass@1"));
        let (lower, upper) = draw(1);
        assert!(lower < 0.5 && 0.5 < upper && upper - lower < 0.3);
        assert_eq!(draw(1), (lower, upper));
    }

    #[test]
    fn a_k_beyond_the_samples_is_refused_with_the_problem_named() {
        let outcomes = rows(&[("a", 2, 1), ("b", 1, 1)]);
        let mut inputs = WholeInputs::default();
        inputs.tables.insert("verdicts".into(), Box::new(std::iter::once(Ok(table(&outcomes)))));
        let mut sink = Nowhere;
        let mut out = WholeOutputs::new(std::iter::empty(), &mut sink);
        let error =
            ScoreJob { params: Params { k: vec![2], seed: 0 } }.run(&mut inputs, &mut out).expect_err("too few");
        assert!(error.to_string().contains("pass@2") && error.to_string().contains("`b` has 1"), "{error}");
    }

    #[test]
    fn no_verdicts_give_no_metrics() {
        let ran = run_whole(&Score, &json!({}), &[("verdicts", table::<Scored>(&[]))]);
        assert!(ran.output::<Metric>("metrics").is_empty() && ran.output::<Outcome>("outcomes").is_empty());
    }

    fn asked(problems: &[&str]) -> arrow::array::RecordBatch {
        table(&problems.iter().map(|id| ToAnswer { problem_id: (*id).into() }).collect::<Vec<_>>())
    }

    #[test]
    fn problems_without_a_verdict_count_as_not_passed() {
        let verdicts = table(&rows(&[("a", 4, 4), ("b", 4, 2)]));
        let ran = run_whole(
            &Score,
            &json!({ "k": [1] }),
            &[("verdicts", verdicts), ("problems", asked(&["a", "b", "c", "d"]))],
        );
        let metrics: Vec<Metric> = ran.output("metrics");
        assert_eq!((metrics[0].name.as_str(), metrics[0].value, metrics[0].n), ("pass@1", 0.375, 4));
        let last = metrics.last().unwrap();
        assert_eq!((last.name.as_str(), last.value, last.n), ("share:unanswered", 0.5, 4));
        let outcomes: Vec<Outcome> = ran.output("outcomes");
        assert_eq!(outcomes[3], Outcome { problem_id: "d".into(), num_samples: 4, num_passed: 0 });
    }

    #[test]
    fn the_share_of_unanswered_problems_is_told_where_it_is_nothing() {
        let verdicts = table(&rows(&[("a", 1, 1)]));
        let ran = run_whole(&Score, &json!({}), &[("verdicts", verdicts), ("problems", asked(&["a"]))]);
        let last = ran.output::<Metric>("metrics").pop().unwrap();
        assert_eq!((last.name.as_str(), last.value), ("share:unanswered", 0.0));
    }

    #[test]
    fn where_nothing_was_answered_nothing_was_passed() {
        let given = [("verdicts", table::<Scored>(&[])), ("problems", asked(&["a", "b"]))];
        let ran = run_whole(&Score, &json!({ "k": [1, 5] }), &given);
        let metrics: Vec<Metric> = ran.output("metrics");
        let found: Vec<_> = metrics.iter().map(|metric| (metric.name.as_str(), metric.value)).collect();
        assert_eq!(found, [("pass@1", 0.0), ("pass@5", 0.0), ("share:unanswered", 1.0)]);
        assert!(ran.output::<Outcome>("outcomes").iter().all(|outcome| outcome.num_samples == 5));
    }

    struct Nowhere;

    impl crate::job::WholeSink for Nowhere {
        fn rows(&mut self, _port: &str, _rows: arrow::array::RecordBatch) -> Result<(), StageError> {
            Ok(())
        }
        fn folder(&mut self, _port: &str, _folder: std::path::PathBuf, _keep: bool) -> Result<(), StageError> {
            Ok(())
        }
        fn progress(&mut self, _done: u64, _total: u64, _note: &str) {}
    }
}
