//! How fast training runs on one thread: tokens per CPU second of supervised training and pairs per second of DPO, on the
//! shape of the tiny model and synthetic token ids. Printed as JSON.
//!
//! usage: `train_speed [cpu|cuda] [threads]`

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Instant;

use ablate_stages::job::Cancel;
use ablate_stages::train::Params;
use lm::config::{Architecture, ModelConfig, RopeScaling};
use lm::render::{Rendered, Tokens};
use lm::trainer::{self, Data};
use lm::transformer::Transformer;
use lm::{device, random};
use serde_json::json;
use tch::{Device, Kind};

fn config() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Qwen2,
        vocab_size: 768,
        hidden_size: 128,
        intermediate_size: 384,
        num_layers: 4,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 32,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        max_positions: 512,
        tie_embeddings: true,
        qkv_bias: true,
        output_bias: false,
        mlp_bias: false,
        eos_token_ids: vec![1],
        bos_token_id: None,
    }
}

fn tokens(stream: u32, len: usize, weight: f32) -> Tokens {
    let ids = (0..len).map(|i| (random::uniform(1, stream, i as u32) * 768.0) as i64).collect();
    Tokens { ids, weights: vec![weight; len] }
}

/// CPU seconds of this process so far.
fn cpu_s() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let on = device::device(arguments.first().map_or("cpu", String::as_str))?;
    let threads = arguments.get(1).map_or(Ok(1), |text| text.parse())?;
    let report = measure(on, threads)?;
    #[expect(clippy::print_stdout, reason = "the figures are this program's output")]
    {
        println!("{}", json!(report));
    }
    Ok(())
}

/// Returns the figures by name.
fn measure(on: Device, threads: usize) -> Result<BTreeMap<&'static str, f64>, Box<dyn Error>> {
    device::set_threads(threads);
    let mut report = BTreeMap::new();

    // question of 46 tokens without loss, solution of 93 with it
    let examples: Vec<Rendered> = (0..480)
        .map(|i| Rendered {
            id: i.to_string(),
            prompt: tokens(i, 30 + i as usize % 33, 0.0),
            responses: vec![tokens(1000 + i, 60 + i as usize % 67, 1.0)],
        })
        .collect();
    let params: Params = serde_json::from_value(json!({
        "objective": { "sft": {} }, "optimizer": { "adamw": {} }, "learning_rate": 1e-3, "batch_size": 16, "epochs": 1
    }))?;
    let model = Transformer::random(config(), 1, Kind::Float, on)?;
    let data = Data { order: (0..examples.len()).collect(), examples, reference: None };
    let (started, cpu) = (Instant::now(), cpu_s());
    let rows = trainer::train(&model, &data, &params, threads, None, &Cancel::default(), |_, _| {})?.metrics;
    let tokens_run = rows.last().map_or(0, |row| row.num_tokens) as f64;
    report.insert("sft_tokens_per_wall_s", tokens_run / started.elapsed().as_secs_f64());
    report.insert("sft_tokens_per_cpu_s", tokens_run / (cpu_s() - cpu));

    // prompts of about 150 tokens shared by two responses of about 25
    let examples: Vec<Rendered> = (0..320)
        .map(|i| Rendered {
            id: i.to_string(),
            prompt: tokens(i, 100 + i as usize % 101, 0.0),
            responses: vec![tokens(1000 + i, 10 + i as usize % 31, 1.0), tokens(2000 + i, 10 + i as usize % 29, 1.0)],
        })
        .collect();
    let params: Params = serde_json::from_value(
        json!({ "objective": { "dpo": {} }, "learning_rate": 2e-5, "batch_size": 16, "epochs": 1 }),
    )?;
    let started = Instant::now();
    let reference = examples
        .iter()
        .map(|example| Ok(trainer::log_probs(&model, example)?.concat()))
        .collect::<lm::error::Result<_>>()?;
    report.insert("reference_pairs_per_s", examples.len() as f64 / started.elapsed().as_secs_f64());
    let data = Data { order: (0..examples.len()).collect(), examples, reference: Some(reference) };
    let (started, cpu) = (Instant::now(), cpu_s());
    trainer::train(&model, &data, &params, threads, None, &Cancel::default(), |_, _| {})?;
    report.insert("dpo_pairs_per_wall_s", data.examples.len() as f64 / started.elapsed().as_secs_f64());
    report.insert("dpo_pairs_per_cpu_s", data.examples.len() as f64 / (cpu_s() - cpu));
    Ok(report)
}
