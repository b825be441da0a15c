//! The kinds that `ablate-lm` serves: declared in `ablate-stages`, opened here.

mod complete;
pub mod fim_generate;
pub mod generate;
pub mod new_model;
pub mod reference;
pub mod train;

use std::path::PathBuf;

use ablate_stages::job::{Device, Job, OpenContext};
use ablate_stages::stage::{BoundStage, Stage, StageError};
use ablate_stages::train::Dtype;
use serde::de::DeserializeOwned;
use tch::Kind;

use crate::device;
use crate::error::ModelError;

/// Opens the job of a kind in place `Torch`.
///
/// # Errors
/// Where this worker does not serve the kind, or its model or device cannot be had.
pub fn open(stage: &dyn BoundStage, cx: &OpenContext) -> Result<Job, StageError> {
    match stage.kind().name() {
        ablate_stages::fim_generate::FimGenerate::NAME => fim_generate::open(params(stage)?, cx),
        ablate_stages::generate::Generate::NAME => generate::open(params(stage)?, cx),
        ablate_stages::new_model::NewModel::NAME => new_model::open(params(stage)?, cx),
        ablate_stages::reference::Reference::NAME => reference::open(params(stage)?, cx),
        ablate_stages::train::Train::NAME => train::open(params(stage)?, cx),
        other => {
            Err(StageError::failed(format!("ablate-lm does not serve the kind `{other}`; `ablate` runs it itself")))
        }
    }
}

/// Returns a kind's parameters as its own type.
fn params<P: DeserializeOwned>(stage: &dyn BoundStage) -> Result<P, StageError> {
    serde_json::from_value(stage.params()).map_err(|error| StageError::failed(format!("parameters: {error}")))
}

/// Returns the folder of the port `model`.
fn model_folder(cx: &OpenContext) -> Result<PathBuf, StageError> {
    cx.models.get("model").cloned().ok_or_else(|| StageError::input("model", "not connected"))
}

/// Returns the device that the run asks for.
fn tch_device(cx: &OpenContext) -> Result<tch::Device, StageError> {
    let name = match cx.device {
        Device::Auto => "auto",
        Device::Cpu => "cpu",
        Device::Cuda => "cuda",
    };
    device::device(name).map_err(|error| match error {
        ModelError::Device { device, problem } => {
            StageError::Missing { what: format!("device {device}"), fix: problem }
        }
        other => failed(other),
    })
}

/// Returns the device that the run will use, for its record: `cpu` or `cuda:0`.
///
/// # Errors
/// Where the device that is asked for is not there.
pub fn device_name(cx: &OpenContext) -> Result<String, StageError> {
    Ok(match tch_device(cx)? {
        tch::Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    })
}

/// Returns libtorch's name for a number type.
fn kind_of(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::Float32 => Kind::Float,
        Dtype::Bfloat16 => Kind::BFloat16,
    }
}

/// Turns a model's error into a stage's.
fn failed(error: ModelError) -> StageError {
    match error {
        ModelError::Io { path, source } => StageError::file(path, source.to_string()),
        other => StageError::failed(other.to_string()),
    }
}

#[cfg(test)]
mod complete_tests;
#[cfg(test)]
mod tests;
