//! Tests of the training loop on models of two layers.

use super::*;
use crate::order::{Place, order};
use crate::render::Tokens;
use crate::testing;
use ablate_stages::train::Repeat;
use serde_json::json;
use tch::Device;

fn model() -> Transformer {
    Transformer::random(testing::tiny_config(), 5, Kind::Float, Device::Cpu).unwrap()
}

fn params(with: serde_json::Value) -> Params {
    serde_json::from_value(with).unwrap()
}

fn dpo() -> serde_json::Value {
    json!({ "objective": { "dpo": { "beta": 0.2, "nll": 0.1 } }, "learning_rate": 1e-3, "batch_size": 4, "epochs": 4 })
}

fn ids(stream: u32, len: usize) -> Vec<i64> {
    (0..len).map(|i| (crate::random::uniform(11, stream, i as u32) * 260.0) as i64).collect()
}

fn tokens(stream: u32, len: usize, weight: f32) -> Tokens {
    Tokens { ids: ids(stream, len), weights: vec![weight; len] }
}

/// Twenty pairs; every third shares its prompt with the one before.
fn pairs(num: u32) -> Vec<Rendered> {
    (0..num)
        .map(|i| {
            let prompt = if i % 3 == 2 { i - 1 } else { i };
            Rendered {
                id: format!("pair-{i:02}"),
                prompt: tokens(prompt, 5 + prompt as usize % 7, 0.0),
                responses: vec![tokens(100 + i, 3 + i as usize % 4, 1.0), tokens(200 + i, 2 + i as usize % 5, 1.0)],
            }
        })
        .collect()
}

fn data(model: &Transformer, examples: Vec<Rendered>, params: &Params) -> Data {
    let places: Vec<_> =
        examples.iter().map(|example| Place { id: &example.id, bucket: None, position: None }).collect();
    let order = order(&places, Repeat::Sweep, params.epochs, params.shuffle, params.seed);
    let reference = params
        .objective
        .needs_reference()
        .then(|| examples.iter().map(|example| log_probs(model, example).unwrap().concat()).collect());
    Data { examples, reference, order }
}

fn weights(model: &Transformer) -> BTreeMap<String, Vec<u32>> {
    let bits = |tensor: &Tensor| -> Vec<u32> {
        let flat = Vec::<f32>::try_from(tensor.detach().flatten(0, -1)).unwrap();
        flat.into_iter().map(f32::to_bits).collect()
    };
    model.parameters().iter().map(|(name, tensor)| (name.clone(), bits(tensor))).collect()
}

fn run(model: &Transformer, data: &Data, params: &Params) -> Vec<TrainStep> {
    train(model, data, params, 1, None, &Cancel::default(), |_, _| {}).unwrap().metrics
}

#[test]
fn dpo_learns_to_prefer_the_chosen_side() {
    let (model, params) = (model(), params(dpo()));
    let data = data(&model, pairs(20), &params);
    let rows = run(&model, &data, &params);
    assert_eq!(rows.len(), 20);
    // The reference is the start model: the first step has margin 0.
    assert!(rows[0].rewards_margins.unwrap().abs() < 1e-4);
    let last = rows.last().unwrap();
    assert!(last.rewards_margins.unwrap() > 0.5, "{last:?}");
    assert!(last.rewards_accuracies.unwrap() > 0.9, "{last:?}");
    assert!((last.epoch - 4.0).abs() < 1e-12);
}

#[test]
fn sft_lowers_the_loss_and_needs_no_reference() {
    let model = model();
    let params = params(json!({
        "objective": { "sft": {} }, "optimizer": { "adamw": {} }, "learning_rate": 1e-2, "schedule": "constant", "batch_size": 5, "epochs": 10
    }));
    let mut examples = pairs(10);
    examples.iter_mut().for_each(|example| example.responses.truncate(1));
    let data = data(&model, examples, &params);
    let rows = run(&model, &data, &params);
    assert!(rows.last().unwrap().loss.unwrap() < 0.7 * rows[0].loss.unwrap());
    assert!(rows[0].rewards_chosen.is_none() && rows[0].logps_chosen.is_some());
}

#[test]
fn loss_and_gradients_do_not_depend_on_the_micro_batch() {
    let model = model();
    let whole = params(dpo());
    let mut small = whole.clone();
    small.micro_batch_tokens = 12;
    let data = data(&model, pairs(8), &whole);
    let data = Data { order: (0..8).collect(), ..data };
    let (loss, gradients) = loss_and_gradients(&model, &data, &whole).unwrap();
    let (loss_small, gradients_small) = loss_and_gradients(&model, &data, &small).unwrap();
    assert!((loss - loss_small).abs() < 1e-6, "{loss} {loss_small}");
    for (name, gradient) in &gradients {
        let difference = (gradient - &gradients_small[name]).abs().max().double_value(&[]);
        assert!(difference < 1e-6, "{name}: {difference}");
    }
}

#[test]
fn gradients_equal_autograd_on_whole_sequences_run_alone() {
    let model = model();
    let params = params(dpo());
    let data = data(&model, pairs(3), &params);
    let data = Data { order: vec![0, 1, 2], ..data };
    let (loss, gradients) = loss_and_gradients(&model, &data, &params).unwrap();

    // The same batch by autograd alone: no shared prompt, every token run, the head on every position.
    model.set_trainable(true).unwrap();
    for parameter in model.parameters().values() {
        parameter.shallow_clone().zero_grad();
    }
    let mut total = Tensor::from(0.0);
    let num_chosen: usize = data.examples.iter().map(|example| example.responses[0].ids.len()).sum();
    for (example, reference) in data.examples.iter().zip(data.reference.as_ref().unwrap()) {
        let logp = |side: usize| {
            let mut sequence = example.prompt.ids.clone();
            sequence.extend(&example.responses[side].ids);
            let pack = crate::transformer::Pack { prompt: sequence.clone(), responses: vec![] };
            let batch = crate::transformer::Batch::new(&[pack], Device::Cpu).unwrap();
            let logits = model.logits(&model.hidden(&batch).unwrap()).unwrap().log_softmax(-1, Kind::Float);
            let start = example.prompt.ids.len();
            let targets = Tensor::from_slice(&sequence[start..]);
            let rows = logits.narrow(0, start as i64 - 1, (sequence.len() - start) as i64);
            rows.gather(1, &targets.unsqueeze(1), false).sum(Kind::Float)
        };
        let split = example.responses[0].ids.len();
        let sum = |values: &[f32]| values.iter().map(|&v| f64::from(v)).sum::<f64>();
        let chosen = logp(0);
        let delta = (&chosen - sum(&reference[..split])) - (logp(1) - sum(&reference[split..]));
        total = total - (delta * 0.2).log_sigmoid() / 3.0 - chosen * 0.1 / num_chosen as f64;
    }
    total.backward();
    assert!((loss - total.double_value(&[])).abs() < 1e-5);
    for (name, parameter) in model.parameters() {
        let expected = parameter.grad();
        let difference = (&gradients[name] - &expected).abs().max().double_value(&[]);
        let scale = expected.abs().max().double_value(&[]);
        assert!(difference <= 1e-4 * scale + 1e-7, "{name}: {difference} of {scale}");
    }
}

#[test]
fn a_run_stopped_and_resumed_ends_with_the_same_bits() {
    for optimizer in [json!({ "rmsprop": {} }), json!({ "adamw": {} })] {
        let mut with = dpo();
        with["optimizer"] = optimizer;
        with["shuffle"] = json!(true);
        let params = params(with);
        let straight = model();
        let data = data(&straight, pairs(20), &params);
        let expected = run(&straight, &data, &params);
        assert_eq!(expected.len(), 20);

        let folder = tempfile::tempdir().unwrap();
        let saving = Saving { folder: folder.path().into(), every: Duration::from_hours(1) };
        let cancel = Cancel::default();
        let stopped = train(&model(), &data, &params, 1, Some(&saving), &cancel, |row, _| {
            if row.step == 9 {
                cancel.cancel();
            }
        });
        assert!(matches!(stopped, Err(TrainError::Cancelled)));
        let resumed = model();
        let mut first = None;
        let rows = train(&resumed, &data, &params, 1, Some(&saving), &Cancel::default(), |row, _| {
            first.get_or_insert(row.step);
        })
        .unwrap()
        .metrics;
        assert_eq!(first, Some(10), "the nine steps before are not run again");
        assert_eq!(weights(&resumed), weights(&straight));
        let losses = |rows: &[TrainStep]| rows.iter().map(|row| row.loss.map(f64::to_bits)).collect::<Vec<_>>();
        assert_eq!(losses(&rows), losses(&expected));
    }
}

#[test]
fn a_run_killed_while_saving_goes_on_from_the_generation_before() {
    let params = params(dpo());
    let straight = model();
    let data = data(&straight, pairs(8), &params);
    run(&straight, &data, &params);
    let folder = tempfile::tempdir().unwrap();
    let saving = Saving { folder: folder.path().into(), every: Duration::ZERO };
    let cancel = Cancel::default();
    let stopped = train(&model(), &data, &params, 1, Some(&saving), &cancel, |row, _| {
        if row.step == 5 {
            cancel.cancel();
        }
    });
    assert!(stopped.is_err());
    // Every step was saved; tear the newest.
    let newest = checkpoint::load(folder.path()).unwrap().progress.step;
    for name in ["state-0.safetensors", "state-1.safetensors"] {
        let path = folder.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        let text = format!("\\\"step\\\":{newest},\\\"optimizer");
        if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
            bytes.truncate(bytes.len() / 2);
            std::fs::write(&path, bytes).unwrap();
        }
    }
    assert!(checkpoint::load(folder.path()).unwrap().progress.step < newest);
    let resumed = model();
    train(&resumed, &data, &params, 1, Some(&saving), &Cancel::default(), |_, _| {}).unwrap();
    assert_eq!(weights(&resumed), weights(&straight));
}

#[test]
fn a_loss_that_is_not_finite_stops_with_the_step_and_its_examples() {
    let params = params(dpo());
    let model = model();
    let mut data = data(&model, pairs(8), &params);
    data.reference.as_mut().unwrap()[5][0] = f32::NAN;
    let error = train(&model, &data, &params, 1, None, &Cancel::default(), |_, _| {}).unwrap_err();
    let message = error.to_string();
    assert!(
        message.starts_with("step 2: the loss is NaN; its examples are pair-04, pair-05, pair-06, pair-07"),
        "{message}"
    );
}

#[test]
fn skipping_leaves_the_step_out_and_goes_on() {
    let mut with = dpo();
    with["on_nonfinite"] = json!("skip");
    with["epochs"] = json!(1);
    let params = params(with);
    let model = model();
    let mut data = data(&model, pairs(8), &params);
    data.reference.as_mut().unwrap()[1][0] = f32::NAN;
    let rows = run(&model, &data, &params);
    assert_eq!(rows.iter().map(|row| row.skipped).collect::<Vec<_>>(), [true, false]);
    assert!(rows[0].loss.is_none() && rows[1].loss.is_some());
    assert!(weights(&model)["model.norm.weight"].iter().all(|&bits| f32::from_bits(bits).is_finite()));
}

#[test]
fn max_steps_ends_the_run_early() {
    let mut with = dpo();
    with["max_steps"] = json!(3);
    let params = params(with);
    let model = model();
    let data = data(&model, pairs(8), &params);
    assert_eq!(run(&model, &data, &params).len(), 3);
}
