//! The table of what a pipeline compares: each metric with its interval, its difference to the baseline, and a paired test.
//!
//! The unit is the problem, never the sample. With one sample a problem the test is McNemar's, exact on the discordant pairs;
//! with several it is a sign-flip permutation test on the problems' pass rates. Intervals of differences are paired bootstraps.

use crate::cache::{Cache, Output};
use crate::pipeline::resolve::MetricRef;
use crate::run::RunError;
use crate::run::planner::Planned;
use ablate_stages::columns::{Metric, Outcome};
use ablate_stages::random::Random;
use ablate_stages::stage::StageError;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// Resamplings of a bootstrap, and flips of a permutation test.
const RESAMPLES: usize = 10_000;

/// What a pipeline compares.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// The pipeline's name.
    pub pipeline: String,
    /// What is compared, the baseline first.
    pub rows: Vec<Row>,
    /// What whoever quotes the figures must know.
    pub note: Option<String>,
}

/// One metric.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The stage.
    pub stage: String,
    /// The metric's name.
    pub metric: String,
    /// The figure.
    pub value: f64,
    /// Its 95 % interval.
    pub interval: Option<(f64, f64)>,
    /// Units it is a mean over.
    pub n: u64,
    /// How it stands to the baseline.
    pub against: Option<Against>,
}

/// The metric that is the mean of the problems' own rates, of which there are two for every problem.
const PAIRED: &str = "pass@1";

/// How problems were answered: of each, samples passed and samples in all.
type Outcomes = BTreeMap<String, (u32, u32)>;

/// A metric against the baseline.
#[derive(Debug, Clone, Serialize)]
pub struct Against {
    /// The difference.
    pub difference: f64,
    /// Its 95 % interval by a paired bootstrap over problems.
    pub interval: Option<(f64, f64)>,
    /// Problems on which it did better and worse; none where the metric is not a mean over problems.
    pub won_lost: Option<(usize, usize)>,
    /// The two-sided p-value of the paired test, and the test's name.
    pub test: Option<(f64, &'static str)>,
}

/// The comparison that a pipeline asks for; none if it asks for none, or if a stage of it has not run.
///
/// # Errors
/// Where an output cannot be read, or has no metric of that name.
pub fn of_pipeline(planned: &Planned, cache: &Cache) -> Result<Option<Comparison>, RunError> {
    let Some(compare) = &planned.checked.pipeline.compare else { return Ok(None) };
    let records = planned.lookup(cache)?;
    let mut rows = Vec::new();
    let mut baseline: Option<(f64, Outcomes)> = None;
    for (is_baseline, metric) in
        compare.baseline.iter().map(|metric| (true, metric)).chain(compare.metrics.iter().map(|metric| (false, metric)))
    {
        let Some(step) = planned.find(&metric.output.stage) else { return Ok(None) };
        let Some(record) = &records[step] else { return Ok(None) };
        let found = metric_of(cache, &record.outputs, metric)?;
        // What is known of each problem is whether its samples passed: pairs can be made of that metric alone.
        let outcomes = match record.outputs.get("outcomes") {
            Some(Output::Table(table)) if metric.name == PAIRED => read::<Outcome>(cache, table)?,
            _ => Vec::new(),
        };
        let outcomes: Outcomes = outcomes.into_iter().map(|o| (o.problem_id, (o.num_passed, o.num_samples))).collect();
        let against = baseline.as_ref().map(|(value, before)| against(*value, before, found.value, &outcomes));
        rows.push(Row {
            stage: metric.output.stage.clone(),
            metric: metric.name.clone(),
            value: found.value,
            interval: found.lower.zip(found.upper),
            n: found.n,
            against,
        });
        if is_baseline {
            baseline = Some((found.value, outcomes));
        }
    }
    Ok(Some(Comparison { pipeline: planned.name().to_owned(), rows, note: compare.note.clone() }))
}

fn metric_of(cache: &Cache, outputs: &BTreeMap<String, Output>, metric: &MetricRef) -> Result<Metric, RunError> {
    let Some(Output::Table(table)) = outputs.get(&metric.output.port) else {
        return Err(StageError::failed(format!("{} holds no metrics", metric.output)).into());
    };
    let metrics = read::<Metric>(cache, table)?;
    let names: Vec<String> = metrics.iter().map(|found| found.name.clone()).collect();
    metrics.into_iter().find(|found| found.name == metric.name).ok_or_else(|| {
        let there = if names.is_empty() { "none: nothing was measured".to_owned() } else { names.join(", ") };
        let problem = format!("{} has no metric `{}`; it has {there}", metric.output, metric.name);
        StageError::failed(problem).into()
    })
}

fn read<T: DeserializeOwned>(cache: &Cache, table: &crate::cache::TableOutput) -> Result<Vec<T>, RunError> {
    let mut rows = Vec::new();
    for batch in cache.read_table(table, None)? {
        let batch = batch?;
        if batch.num_rows() > 0 {
            rows.extend(serde_arrow::from_record_batch::<Vec<T>>(&batch).map_err(StageError::from)?);
        }
    }
    Ok(rows)
}

fn against(before: f64, before_outcomes: &Outcomes, after: f64, after_outcomes: &Outcomes) -> Against {
    let pairs: Vec<((u32, u32), (u32, u32))> = before_outcomes
        .iter()
        .filter_map(|(problem, before)| after_outcomes.get(problem).map(|after| (*before, *after)))
        .filter(|(before, after)| before.1 > 0 && after.1 > 0)
        .collect();
    let rate = |(passed, samples): (u32, u32)| f64::from(passed) / f64::from(samples);
    let differences: Vec<f64> = pairs.iter().map(|&(before, after)| rate(after) - rate(before)).collect();
    let won = differences.iter().filter(|&&difference| difference > 0.0).count();
    let lost = differences.iter().filter(|&&difference| difference < 0.0).count();
    let is_single = pairs.iter().all(|(before, after)| before.1 == 1 && after.1 == 1);
    let test = match (differences.is_empty(), is_single) {
        (true, _) => None,
        (false, true) => Some((mcnemar(won, lost), "McNemar, exact")),
        (false, false) => Some((sign_flip(&differences), "sign flip")),
    };
    let won_lost = (!differences.is_empty()).then_some((won, lost));
    Against { difference: after - before, interval: bootstrap(&differences), won_lost, test }
}

/// The exact two-sided McNemar test: a binomial test with p = 1/2 on the discordant pairs.
fn mcnemar(won: usize, lost: usize) -> f64 {
    let (n, k) = (won + lost, won.min(lost));
    if n == 0 {
        return 1.0;
    }
    // log C(n, i), summed up from i = 0, so that thousands of pairs do not overflow.
    let mut log_choose = 0.0_f64;
    let mut tail = 0.0_f64;
    for i in 0..=k {
        if i > 0 {
            log_choose += ((n - i + 1) as f64).ln() - (i as f64).ln();
        }
        tail += (log_choose - n as f64 * std::f64::consts::LN_2).exp();
    }
    (2.0 * tail).min(1.0)
}

/// A permutation test that flips the signs of the problems' differences.
fn sign_flip(differences: &[f64]) -> f64 {
    let observed = differences.iter().sum::<f64>().abs();
    let mut random = SplitMix(Random::new(0, "compare", "sign flip", "").bits());
    let as_extreme = (0..RESAMPLES)
        .filter(|_| {
            let mut bits = 0;
            let mut sum = 0.0;
            for (i, difference) in differences.iter().enumerate() {
                if i % 64 == 0 {
                    bits = random.bits();
                }
                sum += if bits >> (i % 64) & 1 == 1 { *difference } else { -difference };
            }
            sum.abs() >= observed - 1e-12
        })
        .count();
    (as_extreme + 1) as f64 / (RESAMPLES + 1) as f64
}

/// `SplitMix64` (Steele, Lea, Flood 2014): resampling draws millions of numbers, and needs no more than this of them.
struct SplitMix(u64);

impl SplitMix {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A place among `n`; the bias is below n / 2^64.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }
}

/// The 95 % percentile interval of the mean difference, problems resampled.
fn bootstrap(differences: &[f64]) -> Option<(f64, f64)> {
    if differences.is_empty() {
        return None;
    }
    let mut random = SplitMix(Random::new(0, "compare", "bootstrap", "").bits());
    let n = differences.len();
    let mut means: Vec<f64> =
        (0..RESAMPLES).map(|_| (0..n).map(|_| differences[random.below(n)]).sum::<f64>() / n as f64).collect();
    means.sort_by(f64::total_cmp);
    Some((means[RESAMPLES / 40], means[RESAMPLES - 1 - RESAMPLES / 40]))
}

impl Comparison {
    /// For people.
    pub fn to_text(&self, planned: &Planned, limit: Option<u64>) -> String {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED);
        table.set_header(["", "metric", "value", "95 % interval", "difference", "95 % interval", "won / lost", "p"]);
        for row in &self.rows {
            let percent = |value: f64| format!("{:.1}", 100.0 * value);
            let signed = |value: f64| format!("{:+.1}", 100.0 * value);
            let interval = |words: &dyn Fn(f64) -> String, interval: Option<(f64, f64)>| {
                interval.map_or(String::new(), |(lower, upper)| format!("{} .. {}", words(lower), words(upper)))
            };
            let mut cells =
                vec![row.stage.clone(), row.metric.clone(), percent(row.value), interval(&percent, row.interval)];
            match &row.against {
                None => cells.resize(8, String::new()),
                Some(against) => cells.extend([
                    signed(against.difference),
                    interval(&signed, against.interval),
                    against.won_lost.map_or(String::new(), |(won, lost)| format!("{won} / {lost}")),
                    against.test.map_or(String::new(), |(p, _)| p_value(p)),
                ]),
            }
            table.add_row(cells);
        }
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = String::new();
        if let Some(limit) = limit {
            text.push_str(&format!("SMOKE RUN (--limit {limit}): these figures mean nothing.\n"));
        }
        text.push_str(&format!("{table}\n"));
        text.push_str("In percent");
        // Shares are over samples, and two evaluations may be over different problems.
        let mut counts = self.rows.iter().map(|row| row.metric.starts_with("pass@").then_some(row.n));
        if let Some(Some(n)) = counts.next()
            && counts.all(|other| other == Some(n))
        {
            text.push_str(&format!(", over {n} problems"));
        }
        text.push('.');
        if let (Some(baseline), Some((_, test))) = (
            planned.checked.pipeline.compare.as_ref().and_then(|compare| compare.baseline.as_ref()),
            self.rows.iter().find_map(|row| row.against.as_ref()).and_then(|against| against.test),
        ) {
            let stage = &baseline.output.stage;
            text.push_str(&format!(" Differences, problems won and lost, and p ({test}) are against `{stage}`."));
        }
        text.push('\n');
        if let Some(note) = &self.note {
            text.push_str(note.trim_end());
            text.push('\n');
        }
        text
    }
}

fn p_value(p: f64) -> String {
    if p < 1e-3 { format!("{p:.0e}") } else { format!("{p:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    // scipy.stats.binomtest(k, n, 0.5).pvalue
    #[test]
    fn mcnemar_is_the_exact_binomial_test() {
        for (won, lost, p) in [
            (0, 0, 1.0),
            (1, 0, 1.0),
            (11, 12, 1.0),
            (21, 55, 0.000_120_63),
            (92, 11, 4.453_4e-17),
            (5, 15, 0.041_389_5),
        ] {
            let found = mcnemar(won, lost);
            assert!((found - p).abs() <= 2e-3 * p, "{won} {lost}: expected {p}, got {found}");
        }
    }

    #[test]
    fn equal_outcomes_are_no_difference() {
        let outcomes = BTreeMap::from([("a".to_owned(), (1, 1)), ("b".to_owned(), (0, 1))]);
        let found = against(0.5, &outcomes, 0.5, &outcomes);
        assert_eq!((found.difference, found.won_lost), (0.0, Some((0, 0))));
        assert_eq!(found.test, Some((1.0, "McNemar, exact")));
        assert_eq!(found.interval, Some((0.0, 0.0)));
    }

    #[test]
    fn several_samples_are_compared_by_problem() {
        let before: BTreeMap<String, (u32, u32)> = (0..40).map(|i| (i.to_string(), (1, 4))).collect();
        let after = (0..40).map(|i| (i.to_string(), (if i < 30 { 3 } else { 0 }, 4))).collect();
        let found = against(0.25, &before, 0.5625, &after);
        assert_eq!(found.won_lost, Some((30, 10)));
        let (p, test) = found.test.expect("there are pairs");
        assert_eq!(test, "sign flip");
        assert!(p < 0.001, "{p}");
        let (lower, upper) = found.interval.expect("there are pairs");
        assert!(lower > 0.15 && upper < 0.45, "{lower} {upper}");
    }
    #[test]
    fn without_pairs_there_is_a_difference_and_no_more() {
        let found = against(0.25, &Outcomes::new(), 0.5, &Outcomes::new());
        assert_eq!((found.difference, found.interval, found.won_lost, found.test), (0.25, None, None, None));
    }
}
