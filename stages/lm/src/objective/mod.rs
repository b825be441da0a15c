//! Objectives: pure functions from log-probabilities to a loss and its gradient.
//!
//! Every objective maps (policy log-probs `l_t`, reference log-probs `r_t`, span weights `w_t`, grouping into sequences and
//! pairs) to (loss, `g_t = dLoss/dl_t`, metrics), in closed form, on the host. The trainer then needs one backward pass for all
//! of them: that of `sum_t g_t * l_t` with `g_t` held constant. A new objective is a new file here and an arm in [`build`]; the
//! trainer never changes.
//!
//! Log-probabilities are in nats. The loss and the gradient are those of the whole batch that makes one optimizer step: a
//! micro-batch divides by [`Totals`], so its contributions add up to the same value whatever the cut into micro-batches.
//!
//! Each file is tested three ways: against finite differences, against libtorch's autograd, and (in `tests/interop`) against TRL.

pub mod dpo;
pub mod sft;

use std::collections::BTreeMap;
use std::ops::Range;

use ablate_stages::train::Objective as ObjectiveParams;

/// The scored tokens of one micro-batch, and what the whole batch sums to.
///
/// All slices over tokens have the same length: one entry for every token that carries weight, sequence after sequence.
#[derive(Debug, Clone, Copy)]
pub struct Scored<'a> {
    /// `l_t`: log-probability of each weighted token under the model that is trained, nats.
    pub policy: &'a [f32],
    /// `r_t`: the same under the frozen reference model; `None` where the objective needs none.
    pub reference: Option<&'a [f32]>,
    /// `w_t`: weight of each token.
    pub weights: &'a [f32],
    /// Which tokens make up each sequence.
    pub sequences: &'a [Range<usize>],
    /// Which sequences make up each example.
    pub groups: &'a [Group],
    /// Sums over the whole batch, of which this micro-batch is a part.
    pub totals: Totals,
}

/// One example, as indices into [`Scored::sequences`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// One response.
    Single(usize),
    /// A preferred and a dispreferred response to one prompt.
    Pair {
        /// The preferred one.
        chosen: usize,
        /// The dispreferred one.
        rejected: usize,
    },
}

impl Group {
    /// Returns the sequence that is to be made likelier.
    pub fn chosen(self) -> usize {
        match self {
            Self::Single(sequence) => sequence,
            Self::Pair { chosen, .. } => chosen,
        }
    }
}

/// What the whole batch sums to: the denominators of a loss that does not depend on the micro-batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Totals {
    /// Examples (pairs, or single responses) in the batch.
    pub groups: usize,
    /// Sum of `w_t` over the chosen (or single) responses of the batch.
    pub chosen_weight: f64,
}

/// What an objective says of a micro-batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// This micro-batch's part of the batch's loss.
    pub loss: f64,
    /// `g_t = dLoss/dl_t`, one entry for each weighted token.
    pub gradient: Vec<f32>,
    /// Means over the examples; add those of the micro-batches with [`Metrics::merge`].
    pub metrics: Metrics,
}

/// Running means by metric name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics(BTreeMap<&'static str, (f64, f64)>);

impl Metrics {
    /// Counts one value of the metric `name`.
    pub fn add(&mut self, name: &'static str, value: f64) {
        let (sum, count) = self.0.entry(name).or_default();
        *sum += value;
        *count += 1.0;
    }

    /// Adds what `other` has counted.
    pub fn merge(&mut self, other: &Self) {
        for (&name, &(sum, count)) in &other.0 {
            let mine = self.0.entry(name).or_default();
            mine.0 += sum;
            mine.1 += count;
        }
    }

    /// Returns (name, mean), by name.
    pub fn means(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        self.0.iter().map(|(&name, &(sum, count))| (name, sum / count))
    }
}

/// An objective was given what it cannot work on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectiveError {
    /// The objective compares with a reference model, and there are no reference log-probs.
    #[error("the objective `{0}` needs reference log-probs, and none were given")]
    MissingReference(&'static str),
    /// The objective wants pairs and met a single response.
    #[error("the objective `{0}` needs pairs (chosen and rejected), and an example has one response")]
    Unpaired(&'static str),
    /// Token slices of different lengths.
    #[error("expected {expected} {what}, one for each weighted token, got {found}")]
    Shape {
        /// Which slice.
        what: &'static str,
        /// Number of policy log-probs.
        expected: usize,
        /// Its own length.
        found: usize,
    },
}

/// A loss in closed form.
pub trait Objective: std::fmt::Debug {
    /// Returns the name by which a pipeline file calls the objective.
    fn name(&self) -> &'static str;

    /// Says whether the rejected response of a pair is to be scored.
    fn scores_rejected(&self) -> bool;

    /// Says whether the objective compares with a reference model.
    fn needs_reference(&self) -> bool;

    /// Computes loss, gradient and metrics of one micro-batch.
    ///
    /// # Errors
    /// Where `scored` lacks what the objective needs, or its slices differ in length.
    fn evaluate(&self, scored: &Scored<'_>) -> Result<Outcome, ObjectiveError>;
}

/// Returns the objective that the parameters name.
pub fn build(params: &ObjectiveParams) -> Box<dyn Objective + Send> {
    match *params {
        ObjectiveParams::Sft {} => Box::new(sft::Sft),
        ObjectiveParams::Dpo { beta, label_smoothing, nll } => Box::new(dpo::Dpo { beta, label_smoothing, nll }),
    }
}

impl Scored<'_> {
    /// Checks that every slice over tokens has the length of `policy`.
    fn check(&self) -> Result<(), ObjectiveError> {
        let expected = self.policy.len();
        let lengths = [
            ("weights", self.weights.len()),
            ("reference log-probs", self.reference.map_or(expected, <[f32]>::len)),
            ("tokens in sequences", self.sequences.iter().map(ExactSizeIterator::len).sum()),
        ];
        match lengths.into_iter().find(|&(_, found)| found != expected) {
            Some((what, found)) => Err(ObjectiveError::Shape { what, expected, found }),
            None => Ok(()),
        }
    }

    /// Returns `sum_t w_t * values_t` over one sequence.
    fn weighted_sum(&self, values: &[f32], sequence: usize) -> f64 {
        self.sequences[sequence].clone().map(|t| f64::from(self.weights[t]) * f64::from(values[t])).sum()
    }
}

/// Returns `ln(sigmoid(x))` without overflow at either end.
fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// Returns `1 / (1 + exp(-x))` without overflow at either end.
fn sigmoid(x: f64) -> f64 {
    log_sigmoid(x).exp()
}

/// What the tests of all objectives share: a small batch and the two gradient checks.
#[cfg(test)]
pub(crate) mod check {
    use super::{Group, Objective, Scored, Totals};
    use std::ops::Range;
    use tch::{Kind, Tensor};

    /// Two pairs with uneven weights, as part of a batch of three.
    pub(crate) struct Batch {
        pub(crate) policy: Vec<f32>,
        pub(crate) reference: Vec<f32>,
        pub(crate) weights: Vec<f32>,
        pub(crate) sequences: Vec<Range<usize>>,
        pub(crate) groups: Vec<Group>,
    }

    impl Batch {
        pub(crate) fn pairs() -> Self {
            Self {
                policy: vec![-0.5, -1.25, -2.0, -0.75, -3.0, -0.1, -0.9, -1.7, -0.4],
                reference: vec![-0.7, -1.0, -2.5, -0.5, -2.0, -0.3, -1.1, -1.5, -0.6],
                weights: vec![1.0, 0.5, 1.0, 1.0, 2.0, 1.0, 1.0, 0.25, 1.0],
                sequences: vec![0..2, 2..5, 5..6, 6..9],
                groups: vec![Group::Pair { chosen: 0, rejected: 1 }, Group::Pair { chosen: 2, rejected: 3 }],
            }
        }

        pub(crate) fn scored(&self) -> Scored<'_> {
            Scored {
                policy: &self.policy,
                reference: Some(&self.reference),
                weights: &self.weights,
                sequences: &self.sequences,
                groups: &self.groups,
                totals: Totals { groups: 3, chosen_weight: 4.0 },
            }
        }
    }

    /// Compares `g_t` with central differences of the loss.
    pub(crate) fn gradient_matches_finite_differences(objective: &dyn Objective, batch: &Batch) {
        let gradient = objective.evaluate(&batch.scored()).unwrap().gradient;
        for t in 0..batch.policy.len() {
            let loss = |step: f32| {
                let mut policy = batch.policy.clone();
                policy[t] += step;
                let scored = Scored { policy: &policy, ..batch.scored() };
                (objective.evaluate(&scored).unwrap().loss, policy[t])
            };
            let ((up, x_up), (down, x_down)) = (loss(1e-3), loss(-1e-3));
            let numeric = (up - down) / (f64::from(x_up) - f64::from(x_down));
            assert!(
                (numeric - f64::from(gradient[t])).abs() < 1e-5,
                "token {t}: closed form {}, finite difference {numeric}",
                gradient[t]
            );
        }
    }

    /// Compares loss and `g_t` with libtorch's autograd of `loss(policy, reference, weights)`, written in tensor operations.
    pub(crate) fn gradient_matches_autograd(
        objective: &dyn Objective,
        batch: &Batch,
        loss: impl Fn(&Tensor, &Tensor, &Tensor) -> Tensor,
    ) {
        let double = |values: &[f32]| Tensor::from_slice(values).to_kind(Kind::Double);
        let policy = double(&batch.policy).set_requires_grad(true);
        let value = loss(&policy, &double(&batch.reference), &double(&batch.weights));
        value.backward();
        let expected = Vec::<f64>::try_from(policy.grad()).unwrap();
        let outcome = objective.evaluate(&batch.scored()).unwrap();
        assert!((outcome.loss - value.double_value(&[])).abs() < 1e-9);
        for (t, (found, expected)) in outcome.gradient.iter().zip(expected).enumerate() {
            assert!((f64::from(*found) - expected).abs() < 1e-7, "token {t}: closed form {found}, autograd {expected}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_sigmoid_is_finite_and_exact_at_both_ends() {
        assert!((log_sigmoid(0.0) + std::f64::consts::LN_2).abs() < 1e-15);
        assert!((log_sigmoid(-800.0) + 800.0).abs() < 1e-12);
        assert!(log_sigmoid(800.0).abs() < 1e-12);
        assert!((sigmoid(2.0) + sigmoid(-2.0) - 1.0).abs() < 1e-15);
    }

    #[test]
    fn slices_of_other_lengths_are_refused_by_name() {
        let batch = check::Batch::pairs();
        let scored = Scored { weights: &batch.weights[1..], ..batch.scored() };
        let error = sft::Sft.evaluate(&scored).unwrap_err();
        assert_eq!(error.to_string(), "expected 9 weights, one for each weighted token, got 8");
    }

    #[test]
    fn merged_metrics_are_means_over_all_values() {
        let (mut left, mut right) = (Metrics::default(), Metrics::default());
        left.add("loss", 1.0);
        right.add("loss", 2.0);
        right.add("loss", 6.0);
        left.merge(&right);
        assert_eq!(left.means().collect::<Vec<_>>(), [("loss", 3.0)]);
    }
}
