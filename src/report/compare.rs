//! The table of what a pipeline compares: each metric of each variant with its interval or its spread over seeds, its difference to
//! the baseline, and a paired test.
//!
//! The unit is the problem, never the sample. With one sample a problem the test is McNemar's, exact on the discordant pairs;
//! with several samples or seeds it is a sign-flip permutation test on the problems' pass rates. Intervals of differences are paired bootstraps.

use crate::cache::{Cache, Output, Record};
use crate::pipeline::resolve::{Baseline, MetricRef};
use crate::pipeline::variants::DEFAULT;
use crate::run::RunError;
use crate::run::planner::{Planned, PlannedCase};
use ablate_stages::columns::{Metric, Outcome};
use ablate_stages::random::Random;
use ablate_stages::stage::StageError;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};

/// Resamplings of a bootstrap, and flips of a permutation test.
const RESAMPLES: usize = 10_000;

/// What a pipeline compares: variants x metrics.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// The pipeline's name.
    pub pipeline: String,
    /// What the figures are held against, in words.
    pub baseline: Option<String>,
    /// What is compared, the baseline first.
    pub rows: Vec<Row>,
    /// Steps whose figures are not there yet.
    pub not_run: Vec<String>,
    /// What has run and lacks a metric that is compared, in words.
    pub lacking: Vec<String>,
    /// What whoever quotes the figures must know.
    pub note: Option<String>,
}

/// One metric of one variant.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The variant.
    pub variant: String,
    /// The stage.
    pub stage: String,
    /// The metric's name.
    pub metric: String,
    /// The figure; the mean over the seeds, where there are several.
    pub value: f64,
    /// Its 95 % interval over problems; none for a mean over seeds.
    pub interval: Option<(f64, f64)>,
    /// The standard deviation over the seeds (with n - 1), and how many seeds.
    pub spread: Option<(f64, usize)>,
    /// Units that each figure is a mean over.
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

/// A metric of one variant at every value of its seeds.
#[derive(Clone)]
struct Measured {
    stage: String,
    metric: String,
    /// The steps that it comes from: the same steps are the same figure.
    steps: Vec<usize>,
    figures: Vec<Metric>,
    /// Of all seeds together.
    outcomes: Outcomes,
}

impl Measured {
    fn mean(&self) -> f64 {
        self.figures.iter().map(|figure| figure.value).sum::<f64>() / self.figures.len() as f64
    }

    fn row(&self, variant: &str, baseline: Option<&Self>) -> Row {
        let (mean, num_seeds) = (self.mean(), self.figures.len());
        let squares: f64 = self.figures.iter().map(|figure| (figure.value - mean).powi(2)).sum();
        let interval = |figure: &Metric| figure.lower.zip(figure.upper).filter(|_| num_seeds == 1);
        Row {
            variant: variant.to_owned(),
            stage: self.stage.clone(),
            metric: self.metric.clone(),
            value: mean,
            interval: self.figures.first().and_then(interval),
            spread: (num_seeds > 1).then(|| ((squares / (num_seeds - 1) as f64).sqrt(), num_seeds)),
            n: self.figures.first().map_or(0, |figure| figure.n),
            against: baseline.map(|before| against(before.mean(), &before.outcomes, mean, &self.outcomes)),
        }
    }
}

/// Reads the metrics of a planned pipeline, and remembers what is not there.
struct Reader<'a> {
    planned: &'a Planned,
    cache: &'a Cache,
    records: Vec<Option<Record>>,
    not_run: BTreeSet<String>,
    lacking: BTreeSet<String>,
}

impl Reader<'_> {
    /// What a metric is held against: the metric of the same name where the baseline lies; the one that is named where one
    /// metric is compared, whatever its name.
    fn before(
        &mut self,
        cases: &[&PlannedCase],
        baseline: &MetricRef,
        metric: &MetricRef,
        is_only: bool,
    ) -> Result<Option<Measured>, RunError> {
        let name = if is_only { &baseline.name } else { &metric.name };
        self.measured(cases, &MetricRef { name: name.clone(), ..baseline.clone() })
    }

    /// A metric over some cases; none where no case has it yet.
    fn measured(&mut self, cases: &[&PlannedCase], metric: &MetricRef) -> Result<Option<Measured>, RunError> {
        let (stage, name) = (metric.output.stage.clone(), metric.name.clone());
        let mut found =
            Measured { stage, metric: name, steps: Vec::new(), figures: Vec::new(), outcomes: Outcomes::new() };
        for case in cases {
            let Some(&step) = case.steps.get(&metric.output.stage) else { continue };
            if found.steps.contains(&step) {
                continue;
            }
            let Some(record) = &self.records[step] else {
                self.not_run.insert(self.planned.steps[step].name.clone());
                continue;
            };
            match metric_of(self.cache, &record.outputs, metric)? {
                Ok(figure) => found.figures.push(figure),
                Err(there) => {
                    let name = &self.planned.steps[step].name;
                    self.lacking.insert(format!("`{name}` has no metric `{}`; it has {there}", metric.name));
                    continue;
                }
            }
            found.steps.push(step);
            // What is known of each problem is whether its samples passed: pairs can be made of that metric alone.
            if let Some(Output::Table(table)) = record.outputs.get("outcomes").filter(|_| metric.name == PAIRED) {
                for outcome in read::<Outcome>(self.cache, table)? {
                    let sum = found.outcomes.entry(outcome.problem_id).or_default();
                    *sum = (sum.0 + outcome.num_passed, sum.1 + outcome.num_samples);
                }
            }
        }
        Ok((!found.figures.is_empty()).then_some(found))
    }
}

/// The comparison that a pipeline asks for, over the variants that are planned; none if it asks for none, or if nothing of it has run.
///
/// # Errors
/// Where an output cannot be read, or has no metric of that name.
pub fn of_pipeline(planned: &Planned, cache: &Cache) -> Result<Option<Comparison>, RunError> {
    let Some(asked) = planned.cases.iter().find_map(|case| case.checked.pipeline.compare.as_ref()) else {
        return Ok(None);
    };
    let mut variants: Vec<(&str, Vec<&PlannedCase>)> = Vec::new();
    for case in &planned.cases {
        let name = case.checked.variant.as_deref().unwrap_or(DEFAULT);
        match variants.last_mut() {
            Some((last, cases)) if *last == name => cases.push(case),
            _ => variants.push((name, vec![case])),
        }
    }
    let mut reader =
        Reader { planned, cache, records: planned.lookup(cache)?, not_run: BTreeSet::new(), lacking: BTreeSet::new() };
    // Variants of a pipeline that names no baseline are held against the pipeline as written.
    let against_variant = match &asked.baseline {
        Some(Baseline::Variant(name)) => Some(name.as_str()),
        None if variants.len() > 1 => Some(DEFAULT),
        _ => None,
    };
    variants.sort_by_key(|(name, _)| Some(*name) != against_variant);
    let mut rows = Vec::new();
    let mut shown: BTreeSet<(Vec<usize>, String)> = BTreeSet::new();
    let mut baselines: Vec<Option<Measured>> = Vec::new();
    let mut words = against_variant.map(|name| format!("variant `{name}`"));
    for (name, cases) in &variants {
        let Some(compare) = &cases[0].checked.pipeline.compare else { continue };
        for (place, metric) in compare.metrics.iter().enumerate() {
            let mut baseline = baselines.get(place).cloned().flatten();
            if let Some(Baseline::Metric(before)) = &compare.baseline {
                words = Some(format!("`{}`", before.output.stage));
                baseline = reader.before(cases, before, metric, compare.metrics.len() == 1)?;
                let is_new = |found: &&Measured| shown.insert((found.steps.clone(), found.metric.clone()));
                rows.extend(baseline.as_ref().filter(is_new).map(|found| found.row(name, None)));
            }
            let found = reader.measured(cases, metric)?;
            rows.extend(found.as_ref().map(|found| found.row(name, baseline.as_ref())));
            if against_variant == Some(*name) {
                baselines.push(found);
            }
        }
    }
    let (not_run, lacking) = (reader.not_run.into_iter().collect(), reader.lacking.into_iter().collect());
    let (pipeline, note) = (planned.name().to_owned(), asked.note.clone());
    Ok((!rows.is_empty()).then_some(Comparison { pipeline, baseline: words, rows, not_run, lacking, note }))
}

/// A metric; where the table has none of this name, the names that it has.
fn metric_of(
    cache: &Cache,
    outputs: &BTreeMap<String, Output>,
    metric: &MetricRef,
) -> Result<Result<Metric, String>, RunError> {
    let Some(Output::Table(table)) = outputs.get(&metric.output.port) else {
        return Err(StageError::failed(format!("{} holds no metrics", metric.output)).into());
    };
    let metrics = read::<Metric>(cache, table)?;
    let names: Vec<String> = metrics.iter().map(|found| found.name.clone()).collect();
    let found = metrics.into_iter().find(|found| found.name == metric.name);
    Ok(found.ok_or_else(|| if names.is_empty() { "none: nothing was measured".to_owned() } else { names.join(", ") }))
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
    pub fn to_text(&self, limit: Option<u64>) -> String {
        let has_variants = self.rows.iter().any(|row| row.variant != DEFAULT);
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED);
        let head = ["", "metric", "value", "95 % interval", "difference", "95 % interval", "won / lost", "p"];
        table.set_header(has_variants.then_some("variant").into_iter().chain(head));
        for row in &self.rows {
            table.add_row(has_variants.then(|| row.variant.clone()).into_iter().chain(row.cells()));
        }
        for column in table.column_iter_mut().skip(2 + usize::from(has_variants)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = String::new();
        if let Some(limit) = limit {
            text.push_str(&format!("SMOKE RUN (--limit {limit}): these figures mean nothing.\n"));
        }
        text.push_str(&format!("{table}\nIn percent{}.", self.over()));
        if self.rows.iter().any(|row| row.spread.is_some()) {
            text.push_str(" A value with ± is the mean and standard deviation over seeds (how many in brackets).");
        }
        let tests: BTreeSet<&str> = self.tests().map(|(_, test)| test).collect();
        if let (Some(baseline), false) = (&self.baseline, tests.is_empty()) {
            let tests = tests.into_iter().collect::<Vec<_>>().join("; ");
            text.push_str(&format!(
                " Differences (bootstrap over problems), problems won and lost, and p ({tests}) are against {baseline}."
            ));
        }
        if self.tests().any(|(p, _)| !stars(p).is_empty()) {
            text.push_str(" * p < 0.05, ** p < 0.01, *** p < 0.001, not corrected for the number of rows.");
        }
        text.push('\n');
        if !self.not_run.is_empty() {
            text.push_str(&format!("Not run yet: {}\n", self.not_run.join("  ")));
        }
        for lacking in &self.lacking {
            text.push_str(&format!("Not compared: {lacking}\n"));
        }
        if let Some(note) = &self.note {
            text.push_str(note.trim_end());
            text.push('\n');
        }
        text
    }

    fn tests(&self) -> impl Iterator<Item = (f64, &'static str)> {
        self.rows.iter().filter_map(|row| row.against.as_ref()?.test)
    }

    /// Over how many problems, where that is the same for all: shares are over samples, and two evaluations may be over different problems.
    fn over(&self) -> String {
        let mut counts = self.rows.iter().map(|row| row.metric.starts_with("pass@").then_some(row.n));
        match counts.next() {
            Some(Some(n)) if counts.all(|other| other == Some(n)) => format!(", over {n} problems"),
            _ => String::new(),
        }
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let percent = |value: f64| format!("{:.1}", 100.0 * value);
        let signed = |value: f64| format!("{:+.1}", 100.0 * value);
        let interval = |words: &dyn Fn(f64) -> String, interval: Option<(f64, f64)>| {
            interval.map_or(String::new(), |(lower, upper)| format!("{} .. {}", words(lower), words(upper)))
        };
        let value = match self.spread {
            None => percent(self.value),
            Some((deviation, num_seeds)) => format!("{} ± {} ({num_seeds})", percent(self.value), percent(deviation)),
        };
        let mut cells = vec![self.stage.clone(), self.metric.clone(), value, interval(&percent, self.interval)];
        match &self.against {
            None => cells.resize(8, String::new()),
            Some(against) => cells.extend([
                signed(against.difference),
                interval(&signed, against.interval),
                against.won_lost.map_or(String::new(), |(won, lost)| format!("{won} / {lost}")),
                against
                    .test
                    .map_or(String::new(), |(p, _)| format!("{} {}", p_value(p), stars(p)).trim_end().to_owned()),
            ]),
        }
        cells
    }
}

fn stars(p: f64) -> &'static str {
    match p {
        p if p < 0.001 => "***",
        p if p < 0.01 => "**",
        p if p < 0.05 => "*",
        _ => "",
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
