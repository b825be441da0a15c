//! Learning-rate schedules: linear warm-up, then a decay over the steps that are left.
//!
//! Step `k` counts from 0. Over `warmup` steps the rate is `(k + 1) / warmup` of its peak, so no step is lost at a rate of zero
//! (the usual `k / warmup` wastes the first), and the last warm-up step is at the peak. Afterwards progress
//! `p = (k - warmup) / (total - warmup)` runs from 0 to just under 1.

use ablate_stages::train::Schedule;

/// The learning rate as a fraction of its peak, over a run of known length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRate {
    schedule: Schedule,
    total: u64,
    warmup: u64,
}

impl LearningRate {
    /// Plans a run of `total` steps; `warmup_steps` wins over `warmup_ratio` (rounded up to whole steps).
    pub fn new(schedule: Schedule, total: u64, warmup_ratio: f64, warmup_steps: Option<u64>) -> Self {
        let warmup = warmup_steps.unwrap_or((total as f64 * warmup_ratio).ceil() as u64);
        Self { schedule, total, warmup: warmup.min(total) }
    }

    /// Returns the factor for step `step` (from 0), in `0 ..= 1`.
    pub fn factor(&self, step: u64) -> f64 {
        if step < self.warmup {
            return (step + 1) as f64 / self.warmup as f64;
        }
        let left = (self.total - self.warmup).max(1);
        let progress = ((step - self.warmup) as f64 / left as f64).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Linear => 1.0 - progress,
            Schedule::Cosine => cosine,
            Schedule::CosineWithMinLr { min_ratio } => min_ratio + (1.0 - min_ratio) * cosine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(schedule: Schedule, total: u64, ratio: f64, steps: Option<u64>) -> Vec<f64> {
        let rate = LearningRate::new(schedule, total, ratio, steps);
        (0..total).map(|step| rate.factor(step)).collect()
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-6, "expected {expected:?}, got {found:?}");
        }
    }

    #[test]
    fn warm_up_climbs_by_equal_parts_to_the_peak() {
        assert_close(&factors(Schedule::Constant, 6, 0.0, Some(4)), &[0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn a_warm_up_ratio_is_rounded_up_to_whole_steps() {
        assert_close(&factors(Schedule::Constant, 30, 0.05, None)[..3], &[0.5, 1.0, 1.0]);
    }

    #[test]
    fn linear_falls_evenly() {
        assert_close(&factors(Schedule::Linear, 4, 0.0, None), &[1.0, 0.75, 0.5, 0.25]);
    }

    #[test]
    fn cosine_falls_to_its_floor() {
        assert_close(&factors(Schedule::Cosine, 4, 0.0, None), &[1.0, 0.853_553_4, 0.5, 0.146_446_6]);
        assert_close(&factors(Schedule::CosineWithMinLr { min_ratio: 0.1 }, 2, 0.0, None), &[1.0, 0.55]);
        let rate = LearningRate::new(Schedule::CosineWithMinLr { min_ratio: 0.1 }, 8, 0.0, None);
        assert!((rate.factor(8) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn a_warm_up_longer_than_the_run_never_reaches_past_it() {
        assert_close(&factors(Schedule::Cosine, 2, 0.0, Some(10)), &[0.5, 1.0]);
    }
}
