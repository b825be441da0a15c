//! Optimizers on fp32 master weights: `RMSProp` and `AdamW`, step for step those of `torch.optim`.
//!
//! libtorch's own keep their state in the parameter's type and give no access to it; here it is a list of named tensors that a
//! checkpoint can hold, and the masters stay fp32 whatever the model computes in (at the learning rates of preference training a
//! bf16 weight swallows every update). A model in fp32 is its own master: no copy.
//!
//! `RMSProp` has no bias correction, so its first step moves every weight by `lr / sqrt(1 - alpha)`, ten times the rate at the
//! default: warm up.

use ablate_stages::train::Optimizer as OptimizerParams;
use tch::{Kind, TchError, Tensor};

/// One parameter: its fp32 master, and what the rule remembers of it.
#[derive(Debug)]
struct Slot {
    name: String,
    /// The tensor that the model computes with.
    weight: Tensor,
    /// The same tensor where it is fp32, else a copy that is.
    master: Tensor,
    /// Running averages, in the order of [`state_names`].
    state: Vec<Tensor>,
}

/// An optimizer over a model's parameters.
#[derive(Debug)]
pub struct Optimizer {
    rule: OptimizerParams,
    /// Steps taken; `AdamW` corrects its bias by it.
    steps: u64,
    slots: Vec<Slot>,
}

/// Names, as `torch.optim` calls them, of what a rule remembers of each parameter.
fn state_names(rule: &OptimizerParams) -> &'static [&'static str] {
    match rule {
        OptimizerParams::Rmsprop { .. } => &["square_avg"],
        OptimizerParams::Adamw { .. } => &["exp_avg", "exp_avg_sq"],
    }
}

impl Optimizer {
    /// Starts with empty state over `parameters`, which the steps will change in place.
    ///
    /// # Errors
    /// Where libtorch refuses (out of memory).
    pub fn new(
        rule: OptimizerParams,
        parameters: impl IntoIterator<Item = (String, Tensor)>,
    ) -> Result<Self, TchError> {
        let _guard = tch::no_grad_guard();
        let slots = parameters
            .into_iter()
            .map(|(name, weight)| {
                let master = if weight.f_kind()? == Kind::Float {
                    weight.f_detach()?
                } else {
                    weight.f_detach()?.f_to_kind(Kind::Float)?
                };
                let state = state_names(&rule).iter().map(|_| master.f_zeros_like()).collect::<Result<_, _>>()?;
                Ok(Slot { name, weight, master, state })
            })
            .collect::<Result<_, TchError>>()?;
        Ok(Self { rule, steps: 0, slots })
    }

    /// Moves every parameter against its gradient (fp32, in the order the parameters were given).
    ///
    /// # Errors
    /// Where a gradient's shape is not its parameter's.
    pub fn step(&mut self, gradients: &[Tensor], learning_rate: f64) -> Result<(), TchError> {
        let _guard = tch::no_grad_guard();
        if gradients.len() != self.slots.len() {
            return Err(TchError::Shape(format!(
                "expected {} gradients, one for each parameter, got {}",
                self.slots.len(),
                gradients.len()
            )));
        }
        self.steps += 1;
        for (slot, gradient) in self.slots.iter_mut().zip(gradients) {
            match self.rule {
                OptimizerParams::Rmsprop { alpha, eps } => {
                    rmsprop(slot, gradient, learning_rate, alpha, eps)?;
                }
                OptimizerParams::Adamw { beta1, beta2, eps, weight_decay } => {
                    if slot.master.dim() > 1 {
                        let _ = slot.master.f_mul_scalar_(1.0 - learning_rate * weight_decay)?;
                    }
                    adamw(slot, gradient, learning_rate, (beta1, beta2), eps, self.steps)?;
                }
            }
            if slot.weight.data_ptr() != slot.master.data_ptr() {
                slot.weight.f_copy_(&slot.master)?;
            }
        }
        Ok(())
    }

    /// Returns the steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Returns the fp32 weights, by name.
    pub fn masters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.slots.iter().map(|slot| (slot.name.as_str(), &slot.master))
    }

    /// Returns everything that a later run needs to go on from here: masters and running averages, by name.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut tensors = Vec::new();
        for slot in &self.slots {
            tensors.push((format!("master.{}", slot.name), slot.master.shallow_clone()));
            for (kind, tensor) in state_names(&self.rule).iter().zip(&slot.state) {
                tensors.push((format!("{kind}.{}", slot.name), tensor.shallow_clone()));
            }
        }
        tensors
    }

    /// Takes over a state that [`Self::state`] gave after `steps` steps.
    ///
    /// # Errors
    /// Where a tensor is missing or has another shape; the optimizer is then in no usable state.
    pub fn restore(&mut self, steps: u64, mut find: impl FnMut(&str) -> Option<Tensor>) -> Result<(), TchError> {
        let _guard = tch::no_grad_guard();
        let mut fill = |target: &mut Tensor, name: String| match find(&name) {
            Some(found) if found.size() == target.size() => target.f_copy_(&found),
            Some(found) => {
                Err(TchError::Shape(format!("state `{name}`: expected {:?}, got {:?}", target.size(), found.size())))
            }
            None => Err(TchError::FileFormat(format!("state `{name}` is missing"))),
        };
        for slot in &mut self.slots {
            fill(&mut slot.master, format!("master.{}", slot.name))?;
            for (kind, tensor) in state_names(&self.rule).iter().zip(&mut slot.state) {
                fill(tensor, format!("{kind}.{}", slot.name))?;
            }
            if slot.weight.data_ptr() != slot.master.data_ptr() {
                slot.weight.f_copy_(&slot.master)?;
            }
        }
        self.steps = steps;
        Ok(())
    }
}

/// `v = alpha v + (1 - alpha) g^2`, `w -= lr g / (sqrt(v) + eps)`.
fn rmsprop(slot: &mut Slot, gradient: &Tensor, learning_rate: f64, alpha: f64, eps: f64) -> Result<(), TchError> {
    accumulate_square(&mut slot.state[0], gradient, alpha)?;
    let mut denominator = slot.state[0].f_sqrt()?;
    let _ = denominator.f_add_scalar_(eps)?;
    let mut scaled = gradient.f_mul_scalar(-learning_rate)?;
    let _ = scaled.f_div_(&denominator)?;
    let _ = slot.master.f_add_(&scaled)?;
    Ok(())
}

/// `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`, `w -= lr m^ / (sqrt(v^) + eps)`, hats for bias-corrected averages.
fn adamw(
    slot: &mut Slot,
    gradient: &Tensor,
    learning_rate: f64,
    (beta1, beta2): (f64, f64),
    eps: f64,
    steps: u64,
) -> Result<(), TchError> {
    let _ = slot.state[0].f_lerp_(gradient, 1.0 - beta1)?;
    accumulate_square(&mut slot.state[1], gradient, beta2)?;
    let steps = steps as f64;
    let correction1 = 1.0 - beta1.powf(steps);
    let correction2 = 1.0 - beta2.powf(steps);
    let mut denominator = slot.state[1].f_sqrt()?;
    let _ = denominator.f_mul_scalar_(1.0 / correction2.sqrt())?;
    let _ = denominator.f_add_scalar_(eps)?;
    let mut scaled = slot.state[0].f_mul_scalar(-learning_rate / correction1)?;
    let _ = scaled.f_div_(&denominator)?;
    let _ = slot.master.f_add_(&scaled)?;
    Ok(())
}

/// `average = decay average + (1 - decay) g^2`, in place.
fn accumulate_square(average: &mut Tensor, gradient: &Tensor, decay: f64) -> Result<(), TchError> {
    let mut square = gradient.f_square()?;
    let _ = square.f_mul_scalar_(1.0 - decay)?;
    let _ = average.f_mul_scalar_(decay)?;
    let _ = average.f_add_(&square)?;
    Ok(())
}

/// Returns the Euclidean norm of all gradients together; not finite where one of them is not.
///
/// # Errors
/// Where libtorch refuses.
pub fn global_norm(gradients: &[Tensor]) -> Result<f64, TchError> {
    let _guard = tch::no_grad_guard();
    let norms = gradients.iter().map(Tensor::f_norm).collect::<Result<Vec<_>, _>>()?;
    if norms.is_empty() {
        return Ok(0.0);
    }
    Tensor::f_stack(&norms, 0)?.f_norm()?.f_double_value(&[])
}

/// Scales the gradients down, in place, so that their global norm is at most `max_norm`, as `clip_grad_norm_` does.
///
/// # Errors
/// Where libtorch refuses.
pub fn clip(gradients: &mut [Tensor], norm: f64, max_norm: f64) -> Result<(), TchError> {
    let _guard = tch::no_grad_guard();
    let factor = max_norm / (norm + 1e-6);
    if factor < 1.0 {
        for gradient in gradients {
            let _ = gradient.f_mul_scalar_(factor)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RMSPROP: OptimizerParams = OptimizerParams::Rmsprop { alpha: 0.99, eps: 1e-8 };
    const ADAMW: OptimizerParams = OptimizerParams::Adamw { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };

    fn parameters(kind: Kind) -> Vec<(String, Tensor)> {
        let weight = Tensor::from_slice(&[0.5f32, -1.0, 2.0, 0.25]).view([2, 2]);
        let bias = Tensor::from_slice(&[0.1f32, -0.2]);
        [("weight", weight), ("bias", bias)]
            .map(|(name, tensor)| {
                let tensor = tensor.to_kind(kind).set_requires_grad(true);
                (name.to_owned(), tensor)
            })
            .into()
    }

    fn gradients(step: f64) -> [Tensor; 2] {
        let weight = Tensor::from_slice(&[0.1f32, -0.2, 0.3, 0.05]).view([2, 2]);
        [weight * step, Tensor::from_slice(&[1.0f32, -0.5]) / step]
    }

    fn values(parameters: &[(String, Tensor)]) -> Vec<f32> {
        parameters
            .iter()
            .flat_map(|(_, tensor)| Vec::<f32>::try_from(tensor.detach().to_kind(Kind::Float).flatten(0, -1)).unwrap())
            .collect()
    }

    fn after_three_steps(rule: OptimizerParams) -> Vec<f32> {
        let parameters = parameters(Kind::Float);
        let mut optimizer =
            Optimizer::new(rule, parameters.iter().map(|(n, t)| (n.clone(), t.shallow_clone()))).unwrap();
        for step in 1..=3 {
            optimizer.step(&gradients(f64::from(step)), 0.01).unwrap();
        }
        values(&parameters)
    }

    fn assert_close(found: &[f32], expected: &[f32]) {
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 2e-7, "expected {expected:?}, got {found:?}");
        }
    }

    // The expected values are those of (torch 2.11.0)
    //     p = torch.tensor([[.5, -1.], [2., .25]], requires_grad=True); b = torch.tensor([.1, -.2], requires_grad=True)
    //     opt = torch.optim.RMSprop([p, b], lr=0.01)
    //     # or: torch.optim.AdamW([{'params': [p], 'weight_decay': .1}, {'params': [b], 'weight_decay': 0}], lr=.01, betas=(.9, .95))
    //     for k in (1, 2, 3):
    //         p.grad = torch.tensor([[.1, -.2], [.3, .05]]) * k; b.grad = torch.tensor([1., -.5]) / k; opt.step()
    #[test]
    fn rmsprop_equals_torch() {
        assert_close(
            &after_three_steps(RMSPROP),
            &[0.230_117_41, -0.730_117_3, 1.730_117_4, -0.019_882_44, -0.073_710_78, -0.026_289_245],
        );
    }

    #[test]
    fn adamw_equals_torch_and_does_not_decay_biases() {
        assert_close(
            &after_three_steps(ADAMW),
            &[0.469_506_1, -0.968_007_74, 1.965_010_8, 0.220_255_38, 0.071_729_33, -0.171_729_33],
        );
    }

    #[test]
    fn restored_state_goes_on_bit_for_bit() {
        for rule in [RMSPROP, ADAMW] {
            let straight = after_three_steps(rule);
            let first = parameters(Kind::Float);
            let mut optimizer = Optimizer::new(rule, first).unwrap();
            optimizer.step(&gradients(1.0), 0.01).unwrap();
            let saved: Vec<(String, Tensor)> =
                optimizer.state().into_iter().map(|(name, tensor)| (name, tensor.copy())).collect();

            let second = parameters(Kind::Float);
            let mut resumed = Optimizer::new(rule, second.iter().map(|(n, t)| (n.clone(), t.shallow_clone()))).unwrap();
            resumed
                .restore(1, |name| {
                    let found = saved.iter().find(|(saved, _)| saved == name)?;
                    Some(found.1.shallow_clone())
                })
                .unwrap();
            for step in 2..=3 {
                resumed.step(&gradients(f64::from(step)), 0.01).unwrap();
            }
            let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(values(&second)), bits(straight));
        }
    }

    #[test]
    fn a_state_that_lacks_a_tensor_is_refused_by_name() {
        let mut optimizer = Optimizer::new(RMSPROP, parameters(Kind::Float)).unwrap();
        let error = optimizer.restore(1, |_| None).unwrap_err();
        assert!(error.to_string().contains("master.weight"), "{error}");
    }

    #[test]
    fn a_bf16_model_moves_at_rates_that_bf16_swallows() {
        let parameters = parameters(Kind::BFloat16);
        let before = values(&parameters);
        let mut optimizer =
            Optimizer::new(RMSPROP, parameters.iter().map(|(n, t)| (n.clone(), t.shallow_clone()))).unwrap();
        // one bf16 step at 2.0 is 0.0156: a single update of about 1e-3 is lost in bf16, thirty of them are not
        for _ in 0..30 {
            optimizer.step(&gradients(1.0), 1e-3).unwrap();
        }
        let after = values(&parameters);
        assert!(after[2] < before[2], "{before:?} {after:?}");
    }

    #[test]
    fn clipping_scales_to_the_norm_and_leaves_small_gradients_alone() {
        let mut gradients = [Tensor::from_slice(&[3.0f32]), Tensor::from_slice(&[4.0f32])];
        let norm = global_norm(&gradients).unwrap();
        assert!((norm - 5.0).abs() < 1e-6);
        clip(&mut gradients, norm, 1.0).unwrap();
        assert!((gradients[0].double_value(&[0]) - 0.6).abs() < 1e-6);
        assert!((gradients[1].double_value(&[0]) - 0.8).abs() < 1e-6);
        let norm = global_norm(&gradients).unwrap();
        clip(&mut gradients, norm, 2.0).unwrap();
        assert!((gradients[1].double_value(&[0]) - 0.8).abs() < 1e-6);
    }

    #[test]
    fn a_gradient_that_is_not_a_number_shows_in_the_norm() {
        let gradients = [Tensor::from_slice(&[1.0f32]), Tensor::from_slice(&[f32::NAN])];
        assert!(!global_norm(&gradients).unwrap().is_finite());
    }
}
