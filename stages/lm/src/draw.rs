//! Drawing a token from logits: temperature, then top-k, then top-p, by inverse CDF with one uniform number.
//!
//! The order of the choice is fixed (most likely first, then by id), so equal logits and an equal number give an equal token.

use crate::simd;

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the most likely token, the lowest id of several.
    pub temperature: f64,
    /// Tokens are drawn from the fewest most likely ones that together have at least this probability.
    pub top_p: f64,
    /// Tokens are drawn from this many most likely ones.
    pub top_k: Option<usize>,
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_p: 1.0, top_k: None };
}

/// A token that was drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// Its id.
    pub token: i64,
    /// Its log-probability before temperature, top-k and top-p, in nats.
    pub logprob: f64,
}

/// Weights relative to the most likely token below which a token is not looked at, unless the others do not suffice.
const FIRST_CUTOFF: f32 = 1e-3;

/// Draws from a whole row of logits. `scratch` is memory to reuse.
pub fn from_row(logits: &[f32], how: &Sampling, uniform: f64, scratch: &mut Vec<f32>) -> Drawn {
    let (best, max) =
        logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |top, (id, &l)| if l > top.1 { (id, l) } else { top });
    scratch.clear();
    scratch.extend(logits.iter().map(|&l| l - max));
    let log_sum = simd::exp_sum(scratch).ln();
    let drawn = |token: usize| Drawn { token: token as i64, logprob: f64::from(logits[token] - max) - log_sum };
    if how.temperature == 0.0 {
        return drawn(best);
    }
    scratch.clear();
    let scale = (1.0 / how.temperature) as f32;
    scratch.extend(logits.iter().map(|&l| (l - max) * scale));
    let total = simd::exp_sum(scratch);
    if how.top_k.is_none() && how.top_p >= 1.0 {
        return drawn(inverse_cdf(scratch.iter().copied().enumerate(), uniform * total));
    }
    for cutoff in [FIRST_CUTOFF, 0.0] {
        let mut likely: Vec<(f32, usize)> =
            scratch.iter().enumerate().filter(|&(_, &w)| w >= cutoff).map(|(id, &w)| (w, id)).collect();
        likely.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        if let Some(token) = from_likely(&likely, total, how, uniform, likely.len() == logits.len()) {
            return drawn(token);
        }
    }
    drawn(best)
}

/// Draws from the most likely tokens, sorted, whose weights are relative to the most likely one; `total` is the weight of
/// the whole vocabulary. None if more of them are needed to know the choice; never none if they are `all`.
pub fn from_likely(likely: &[(f32, usize)], total: f64, how: &Sampling, uniform: f64, all: bool) -> Option<usize> {
    let mut kept = likely;
    let mut mass = total;
    if let Some(k) = how.top_k {
        if kept.len() < k && !all {
            return None;
        }
        kept = &kept[..k.min(kept.len())];
        mass = kept.iter().map(|&(w, _)| f64::from(w)).sum();
    }
    if how.top_p < 1.0 {
        let mut sum = 0.0;
        let enough = kept.iter().position(|&(w, _)| {
            sum += f64::from(w);
            sum >= how.top_p * mass
        });
        kept = match enough {
            Some(last) => &kept[..=last],
            None if all || how.top_k.is_some() => kept,
            None => return None,
        };
    } else if how.top_k.is_none() && !all {
        return None;
    }
    let sum: f64 = kept.iter().map(|&(w, _)| f64::from(w)).sum();
    Some(inverse_cdf(kept.iter().map(|&(w, id)| (id, w)), uniform * sum))
}

/// Returns the first id at which the running sum of weights exceeds `target`; the last one of any weight if rounding hides it.
fn inverse_cdf(weights: impl Iterator<Item = (usize, f32)>, target: f64) -> usize {
    let mut sum = 0.0;
    let mut last = 0;
    for (id, weight) in weights {
        if weight > 0.0 {
            sum += f64::from(weight);
            last = id;
            if sum > target {
                break;
            }
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ln of 0.5, 0.3, 0.15, 0.05, shifted, at ids 2, 0, 3, 1.
    fn logits() -> Vec<f32> {
        [0.3_f32, 0.05, 0.5, 0.15].iter().map(|p| p.ln() + 3.0).collect()
    }

    fn draw(how: &Sampling, uniform: f64) -> i64 {
        from_row(&logits(), how, uniform, &mut Vec::new()).token
    }

    #[test]
    fn shares_follow_the_probabilities() {
        let how = Sampling { temperature: 1.0, top_p: 1.0, top_k: None };
        let mut counts = [0; 4];
        for i in 0..1000 {
            counts[draw(&how, (f64::from(i) + 0.5) / 1000.0) as usize] += 1;
        }
        assert_eq!(counts, [300, 50, 500, 150]);
    }

    #[test]
    fn temperature_top_p_and_top_k_keep_what_they_should() {
        let kept = |how: Sampling| -> Vec<i64> {
            let mut seen: Vec<i64> = (0..400).map(|i| draw(&how, (f64::from(i) + 0.5) / 400.0)).collect();
            seen.dedup();
            seen
        };
        let base = Sampling { temperature: 1.0, top_p: 1.0, top_k: None };
        assert_eq!(kept(Sampling { top_p: 0.7, ..base }), [2, 0]);
        assert_eq!(kept(Sampling { top_p: 0.9, ..base }), [2, 0, 3]);
        assert_eq!(kept(Sampling { top_k: Some(1), ..base }), [2]);
        // top-p counts inside top-k: of 0.5 and 0.3, the first has 62.5 %
        assert_eq!(kept(Sampling { top_k: Some(2), top_p: 0.6, ..base }), [2]);
        assert_eq!(kept(Sampling::GREEDY), [2]);
        // cold: 0.5^4 : 0.3^4 = 88.5 % : 11.5 % of the two
        assert_eq!(kept(Sampling { temperature: 0.25, top_p: 0.8, ..base }), [2]);
        assert_eq!(kept(Sampling { temperature: 4.0, top_p: 0.8, ..base }), [2, 0, 3]);
    }

    #[test]
    fn log_probabilities_are_those_before_warping() {
        let how = Sampling { temperature: 0.5, top_p: 0.5, top_k: None };
        let drawn = from_row(&logits(), &how, 0.1, &mut Vec::new());
        assert!(drawn.token == 2 && (drawn.logprob - 0.5_f64.ln()).abs() < 1e-5, "{drawn:?}");
    }

    #[test]
    fn a_flat_distribution_needs_more_than_the_likely_ones() {
        let mut row = vec![0.0_f32; 3000];
        row[7] = 8.0;
        let how = Sampling { temperature: 1.0, top_p: 0.9999, top_k: None };
        // e^8 = 2981 against 2999: half of the draws fall on the flat rest, which is below the first cutoff.
        let token = from_row(&row, &how, 0.9, &mut Vec::new()).token;
        assert_ne!(token, 7);
        assert_eq!(from_likely(&[(1.0, 7)], 2.0, &how, 0.9, false), None);
    }
}
