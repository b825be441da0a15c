//! The full state of a training run, saved so that a killed run goes on from it and ends with the same bits.
//!
//! A state is one safetensors file: fp32 weights and optimizer averages as tensors, everything else as JSON in its metadata.
//! Two generations alternate in a folder; each is written under another name, flushed to the disk and then renamed, so at any
//! moment at least one complete state lies there. A file that does not read is passed over for the other generation.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use ablate_stages::train::TrainStep;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::error::{ModelError, Result};

/// The two generations.
const FILES: [&str; 2] = ["state-0.safetensors", "state-1.safetensors"];
/// The metadata key that holds the JSON.
const KEY: &str = "ablate";

/// How far a run is, apart from its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Layout of this state; raised when it changes.
    pub format: u32,
    /// Steps done.
    pub step: u64,
    /// Steps that the optimizer took: those done less those skipped.
    pub optimizer_steps: u64,
    /// Steps of the whole run; a state of another run is not taken up.
    pub total_steps: u64,
    /// Examples trained on; as `total_steps`.
    pub num_examples: u64,
    /// Threads a libtorch operation uses: sums depend on it, so the run goes on with as many.
    pub threads: usize,
    /// The rows of metrics so far.
    pub metrics: Vec<TrainStep>,
}

/// A state read back.
#[derive(Debug)]
pub struct Saved {
    /// How far the run was.
    pub progress: Progress,
    /// Weights and optimizer averages, on the CPU, by name.
    pub tensors: BTreeMap<String, Tensor>,
}

/// Writes a state over the older generation.
///
/// # Errors
/// `Io` where the folder cannot be written or the disk is full; the newer generation is then untouched.
pub fn save(folder: &Path, progress: &Progress, tensors: &[(String, Tensor)]) -> Result<()> {
    let path = folder.join(FILES[older(folder)]);
    let temporary = path.with_extension("part");
    let mut bytes = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let host = tensor.f_detach()?.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?.f_contiguous()?;
        let mut data = vec![0; host.numel() * 4];
        host.f_copy_data_u8(&mut data, host.numel())?;
        let shape: Vec<usize> = host.size().iter().map(|&n| n as usize).collect();
        bytes.push((name, shape, data));
    }
    let refuse = |problem: String| ModelError::Invalid(format!("{}: {problem}", temporary.display()));
    let views = bytes
        .iter()
        .map(|(name, shape, data)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), data).map_err(|error| refuse(error.to_string()))?;
            Ok((name.as_str(), view))
        })
        .collect::<Result<Vec<_>>>()?;
    let json = serde_json::to_string(progress).map_err(|error| refuse(error.to_string()))?;
    let metadata = HashMap::from([(KEY.to_owned(), json)]);
    safetensors::serialize_to_file(views, Some(metadata), &temporary).map_err(|error| match error {
        safetensors::SafeTensorError::IoError(source) => ModelError::Io { path: temporary.clone(), source },
        other => refuse(other.to_string()),
    })?;
    let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all()).map_err(ModelError::io(path));
    sync(&temporary)?;
    std::fs::rename(&temporary, &path).map_err(ModelError::io(&path))?;
    sync(folder)
}

/// Returns the newest state in the folder that reads, if any.
pub fn load(folder: &Path) -> Option<Saved> {
    let mut states: Vec<Saved> = FILES.iter().filter_map(|name| read(&folder.join(name))).collect();
    states.sort_by_key(|state| state.progress.step);
    states.pop()
}

/// Returns the index of the generation to write over: one that does not read, else the one less far.
fn older(folder: &Path) -> usize {
    let step = |index: usize| read_progress(&folder.join(FILES[index])).map(|progress| progress.step);
    usize::from(step(1) < step(0))
}

fn read_progress(path: &PathBuf) -> Option<Progress> {
    let bytes = std::fs::read(path).ok()?;
    progress_of(&bytes)
}

fn progress_of(bytes: &[u8]) -> Option<Progress> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).ok()?;
    let progress: Progress = serde_json::from_str(metadata.metadata().as_ref()?.get(KEY)?).ok()?;
    (progress.format == FORMAT).then_some(progress)
}

/// The layout that this program writes and reads.
pub const FORMAT: u32 = 1;

fn read(path: &Path) -> Option<Saved> {
    let bytes = std::fs::read(path).ok()?;
    let progress = progress_of(&bytes)?;
    let tensors = SafeTensors::deserialize(&bytes).ok()?;
    let tensors = tensors
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
            Some((name, Tensor::f_from_data_size(view.data(), &shape, Kind::Float).ok()?))
        })
        .collect::<Option<BTreeMap<_, _>>>()?;
    Some(Saved { progress, tensors })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(step: u64) -> Progress {
        let row = TrainStep { step, loss: Some(0.1 + step as f64), learning_rate: 1.0 / 3.0, ..TrainStep::default() };
        Progress {
            format: FORMAT,
            step,
            optimizer_steps: step,
            total_steps: 9,
            num_examples: 4,
            threads: 1,
            metrics: vec![row],
        }
    }

    fn tensor(value: f32) -> Vec<(String, Tensor)> {
        vec![("w".to_owned(), Tensor::from_slice(&[value, 2.0]))]
    }

    #[test]
    fn the_newest_state_comes_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load(folder.path()).is_none());
        for step in 1..=3 {
            save(folder.path(), &progress(step), &tensor(step as f32 / 3.0)).unwrap();
            let saved = load(folder.path()).unwrap();
            assert_eq!(saved.progress, progress(step));
            assert!(saved.tensors["w"].equal(&tensor(step as f32 / 3.0)[0].1));
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_torn_generation_is_passed_over_for_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        for step in 1..=2 {
            save(folder.path(), &progress(step), &tensor(1.0)).unwrap();
        }
        let newest = folder.path().join(FILES[1]);
        let bytes = std::fs::read(&newest).unwrap();
        std::fs::write(&newest, &bytes[..bytes.len() - 3]).unwrap();
        assert_eq!(load(folder.path()).unwrap().progress.step, 1);
    }
}
