//! Direct preference optimization. Rafailov et al. 2023, eq. 7, <https://arxiv.org/abs/2305.18290>
//!
//! For a pair, with sums over the weighted tokens of a response (not length-normalised):
//! `z = beta * [sum_c w (l - r) - sum_r w (l - r)]`, `L = -(1 - e) ln sigmoid(z) - e ln sigmoid(-z)` with label smoothing `e`
//! (0 is plain DPO; the smoothed form is the conservative DPO of Mitchell 2023), averaged over the pairs of the batch. So
//! `g_t = beta * w_t * [e sigmoid(z) - (1 - e) sigmoid(-z)] / n` on chosen tokens and its negative on rejected ones.
//!
//! With `nll > 0` the negative log-likelihood of the chosen responses is added, `nll * (-sum_c w l / sum_c w)`, sums over the
//! whole batch (RPO; Pang et al. 2024, with the token mean that TRL takes).

use super::{Group, Metrics, Objective, ObjectiveError, Outcome, Scored, log_sigmoid, sigmoid};

/// Sigmoid DPO, with optional label smoothing and NLL term.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dpo {
    /// Strength of the pull towards the reference model.
    pub beta: f64,
    /// Probability that a preference is the wrong way round, in `0 .. 0.5`.
    pub label_smoothing: f64,
    /// Coefficient of the chosen responses' token-mean negative log-likelihood.
    pub nll: f64,
}

impl Objective for Dpo {
    fn name(&self) -> &'static str {
        "dpo"
    }

    fn scores_rejected(&self) -> bool {
        true
    }

    fn needs_reference(&self) -> bool {
        true
    }

    fn evaluate(&self, scored: &Scored<'_>) -> Result<Outcome, ObjectiveError> {
        scored.check()?;
        let reference = scored.reference.ok_or(ObjectiveError::MissingReference("dpo"))?;
        let pairs = scored.totals.groups as f64;
        let mut outcome = Outcome { loss: 0.0, gradient: vec![0.0; scored.policy.len()], metrics: Metrics::default() };
        for &group in scored.groups {
            let Group::Pair { chosen, rejected } = group else {
                return Err(ObjectiveError::Unpaired("dpo"));
            };
            let logp_chosen = scored.weighted_sum(scored.policy, chosen);
            let logp_rejected = scored.weighted_sum(scored.policy, rejected);
            let reward_chosen = self.beta * (logp_chosen - scored.weighted_sum(reference, chosen));
            let reward_rejected = self.beta * (logp_rejected - scored.weighted_sum(reference, rejected));
            let z = reward_chosen - reward_rejected;
            let smoothing = self.label_smoothing;

            let loss = -(1.0 - smoothing) * log_sigmoid(z) - smoothing * log_sigmoid(-z);
            outcome.loss += loss / pairs;
            let slope = self.beta * (smoothing * sigmoid(z) - (1.0 - smoothing) * sigmoid(-z)) / pairs;
            let nll = self.nll / scored.totals.chosen_weight;
            if self.nll != 0.0 {
                outcome.loss -= nll * logp_chosen;
            }
            for t in scored.sequences[chosen].clone() {
                let slope = if self.nll == 0.0 { slope } else { slope - nll };
                outcome.gradient[t] = (slope * f64::from(scored.weights[t])) as f32;
            }
            for t in scored.sequences[rejected].clone() {
                outcome.gradient[t] = (-slope * f64::from(scored.weights[t])) as f32;
            }

            let metrics = &mut outcome.metrics;
            metrics.add("rewards/chosen", reward_chosen);
            metrics.add("rewards/rejected", reward_rejected);
            metrics.add("rewards/margins", z);
            metrics.add("rewards/accuracies", f64::from(u8::from(z > 0.0)));
            metrics.add("logps/chosen", logp_chosen);
            metrics.add("logps/rejected", logp_rejected);
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{Batch, gradient_matches_autograd, gradient_matches_finite_differences};
    use super::*;
    use std::collections::BTreeMap;

    const PLAIN: Dpo = Dpo { beta: 0.3, label_smoothing: 0.0, nll: 0.0 };
    const SMOOTHED_WITH_NLL: Dpo = Dpo { beta: 0.5, label_smoothing: 0.1, nll: 0.7 };

    #[test]
    fn closed_form_gradient_matches_finite_differences() {
        gradient_matches_finite_differences(&PLAIN, &Batch::pairs());
        gradient_matches_finite_differences(&SMOOTHED_WITH_NLL, &Batch::pairs());
    }

    #[test]
    fn closed_form_gradient_matches_autograd() {
        for dpo in [PLAIN, SMOOTHED_WITH_NLL] {
            gradient_matches_autograd(&dpo, &Batch::pairs(), |policy, reference, weights| {
                let ratio = (policy - reference) * weights;
                let sum = |values: &tch::Tensor, from, to| values.slice(0, from, to, 1).sum(None);
                let logits = tch::Tensor::stack(
                    &[sum(&ratio, 0, 2) - sum(&ratio, 2, 5), sum(&ratio, 5, 6) - sum(&ratio, 6, 9)],
                    0,
                ) * dpo.beta;
                let preference =
                    logits.log_sigmoid() * (dpo.label_smoothing - 1.0) - (-&logits).log_sigmoid() * dpo.label_smoothing;
                let weighted = policy * weights;
                let nll = -(sum(&weighted, 0, 2) + sum(&weighted, 5, 6)) / 4.0;
                preference.sum(None) / 3.0 + nll * dpo.nll
            });
        }
    }

    // The values are those of
    //     import torch, torch.nn.functional as F
    //     l = torch.tensor([-.5,-1.25,-2.,-.75,-3.,-.1,-.9,-1.7,-.4]); r = torch.tensor([-.7,-1.,-2.5,-.5,-2.,-.3,-1.1,-1.5,-.6])
    //     w = torch.tensor([1.,.5,1.,1.,2.,1.,1.,.25,1.]); d = .3 * w * (l - r)
    //     c, j = torch.stack([d[0:2].sum(), d[5:6].sum()]), torch.stack([d[2:5].sum(), d[6:9].sum()])
    //     print(-F.logsigmoid(c - j).sum() / 3, c.mean(), j.mean(), (c - j).mean())
    #[test]
    fn loss_and_rewards_equal_the_published_formula() {
        let outcome = PLAIN.evaluate(&Batch::pairs().scored()).unwrap();
        assert!((outcome.loss - 0.390_769_4).abs() < 1e-6, "{}", outcome.loss);
        let metrics: BTreeMap<_, _> = outcome.metrics.means().collect();
        assert!((metrics["rewards/chosen"] - 0.041_25).abs() < 1e-6);
        assert!((metrics["rewards/rejected"] + 0.21).abs() < 1e-6);
        assert!((metrics["rewards/margins"] - 0.251_25).abs() < 1e-6);
        assert!((metrics["rewards/accuracies"] - 0.5).abs() < 1e-12);
    }

    #[test]
    fn a_single_response_or_a_missing_reference_is_refused() {
        let batch = Batch::pairs();
        let unpaired = Scored { groups: &[Group::Single(0)], ..batch.scored() };
        assert_eq!(PLAIN.evaluate(&unpaired), Err(ObjectiveError::Unpaired("dpo")));
        let alone = Scored { reference: None, ..batch.scored() };
        assert_eq!(PLAIN.evaluate(&alone), Err(ObjectiveError::MissingReference("dpo")));
    }
}
