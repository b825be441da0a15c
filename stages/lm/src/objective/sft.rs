//! Supervised fine-tuning: the weighted mean negative log-likelihood of the chosen (or only) responses.
//!
//! `L = -sum_t w_t l_t / sum_t w_t`, both sums over the whole batch, as the token mean of the usual cross-entropy is when all
//! weights are 1. `g_t = -w_t / sum w`. Rejected responses are not scored.

use super::{Metrics, Objective, ObjectiveError, Outcome, Scored};

/// Weighted cross-entropy.
#[derive(Debug, Clone, Copy)]
pub struct Sft;

impl Objective for Sft {
    fn name(&self) -> &'static str {
        "sft"
    }

    fn scores_rejected(&self) -> bool {
        false
    }

    fn needs_reference(&self) -> bool {
        false
    }

    fn evaluate(&self, scored: &Scored<'_>) -> Result<Outcome, ObjectiveError> {
        scored.check()?;
        let mut outcome = Outcome { loss: 0.0, gradient: vec![0.0; scored.policy.len()], metrics: Metrics::default() };
        for group in scored.groups {
            let logp = scored.weighted_sum(scored.policy, group.chosen());
            outcome.loss -= logp / scored.totals.chosen_weight;
            for t in scored.sequences[group.chosen()].clone() {
                outcome.gradient[t] = (-f64::from(scored.weights[t]) / scored.totals.chosen_weight) as f32;
            }
            outcome.metrics.add("logps/chosen", logp);
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{Batch, gradient_matches_autograd, gradient_matches_finite_differences};
    use super::*;

    #[test]
    fn closed_form_gradient_matches_finite_differences() {
        gradient_matches_finite_differences(&Sft, &Batch::pairs());
    }

    #[test]
    fn closed_form_gradient_matches_autograd() {
        gradient_matches_autograd(&Sft, &Batch::pairs(), |policy, _, weights| {
            let weighted = policy * weights;
            -(weighted.slice(0, 0, 2, 1).sum(None) + weighted.slice(0, 5, 6, 1).sum(None)) / 4.0
        });
    }
}
