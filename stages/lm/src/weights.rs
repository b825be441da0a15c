//! Weights as safetensors, in one file or in shards listed by `model.safetensors.index.json`, read by mapping the files
//! into memory and written the way `transformers` reads them. Pickles are never read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::json;
use tch::{Device, Kind, Tensor};

use crate::config::ModelConfig;
use crate::error::{ModelError, Result, read_json};

/// The file of a model that is not sharded.
pub const SINGLE_FILE: &str = "model.safetensors";
/// The list of shards: which tensor lies in which file.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// Largest file that [`write()`] makes, in bytes, unless one tensor alone is larger.
pub const MAX_SHARD_BYTES: usize = 5_000_000_000;

/// Reads all parameters of a model, converted to `kind`, onto `device`.
///
/// A head that is stored although the configuration ties it to the embedding is left out, as `transformers` does.
///
/// # Errors
/// `Weights` if a parameter is missing, has another shape than `config` says or a type that is not bf16, fp16 or fp32.
pub fn read(folder: &Path, config: &ModelConfig, kind: Kind, device: Device) -> Result<BTreeMap<String, Tensor>> {
    let mut wanted = config.parameter_shapes();
    let mut found = BTreeMap::new();
    for path in files(folder)? {
        let map = map(&path)?;
        let tensors = SafeTensors::deserialize(&map)
            .map_err(|error| ModelError::weights(&path, format!("not valid safetensors: {error}")))?;
        for name in tensors.names() {
            let Some(shape) = wanted.remove(name) else { continue };
            let view = tensors.tensor(name).map_err(|error| ModelError::weights(&path, error.to_string()))?;
            found.insert(name.to_string(), tensor(&path, name, &view, &shape, kind, device)?);
        }
    }
    if let Some((name, shape)) = wanted.first_key_value() {
        return Err(ModelError::weights(
            folder,
            format!("{} parameters are missing, the first is {name} {shape:?}", wanted.len()),
        ));
    }
    Ok(found)
}

/// Returns the safetensors files of a folder, in a stable order.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let index = folder.join(INDEX_FILE);
    if index.exists() {
        let value = read_json(&index)?;
        let map = value.get("weight_map").and_then(serde_json::Value::as_object);
        let map = map.ok_or_else(|| ModelError::weights(&index, "weight_map is missing"))?;
        let names: BTreeSet<&str> = map.values().filter_map(serde_json::Value::as_str).collect();
        if let Some(name) = names.iter().find(|name| name.contains(['/', '\\'])) {
            return Err(ModelError::weights(&index, format!("expected file names beside the index, got {name}")));
        }
        return Ok(names.into_iter().map(|name| folder.join(name)).collect());
    }
    let single = folder.join(SINGLE_FILE);
    if single.exists() {
        return Ok(vec![single]);
    }
    let hint = if folder.join("pytorch_model.bin").exists() {
        " (pickled weights are not read: convert them to safetensors)"
    } else {
        ""
    };
    Err(ModelError::weights(folder, format!("neither {SINGLE_FILE} nor {INDEX_FILE} is there{hint}")))
}

#[expect(unsafe_code, reason = "a memory map is only safe while nobody truncates the file")]
fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(ModelError::io(path))?;
    // SAFETY: the map lives for the reading of one file; model files are written once and renamed into place, never truncated.
    unsafe { Mmap::map(&file) }.map_err(ModelError::io(path))
}

fn tensor(path: &Path, name: &str, view: &TensorView<'_>, shape: &[i64], kind: Kind, device: Device) -> Result<Tensor> {
    let size: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
    if size != shape {
        return Err(ModelError::weights(
            path,
            format!("{name}: config.json asks for {shape:?}, the file holds {size:?}"),
        ));
    }
    let stored = match view.dtype() {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        other => return Err(ModelError::weights(path, format!("{name}: expected bf16, fp16 or fp32, got {other:?}"))),
    };
    Ok(Tensor::f_from_data_size(view.data(), &size, stored)?.f_to_device(device)?.f_to_kind(kind)?)
}

/// A tensor's bytes on the host, as safetensors wants them.
struct Bytes {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl safetensors::View for &Bytes {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.data.as_slice().into()
    }
    fn data_len(&self) -> usize {
        self.data.len()
    }
}

/// Writes parameters as `kind` (`Float` or `BFloat16`) into `folder`: one file, or shards of at most `max_shard_bytes` with
/// their index. The files carry the metadata that `transformers` asks for. Returns the names of the files.
///
/// # Errors
/// `Io` if a file cannot be written, `Invalid` for another kind.
pub fn write(
    folder: &Path,
    parameters: &BTreeMap<String, Tensor>,
    kind: Kind,
    max_shard_bytes: usize,
) -> Result<Vec<String>> {
    let dtype = match kind {
        Kind::Float => Dtype::F32,
        Kind::BFloat16 => Dtype::BF16,
        other => {
            return Err(ModelError::Invalid(format!("weights are written as float32 or bfloat16, not as {other:?}")));
        }
    };
    let mut shards: Vec<Vec<&String>> = vec![Vec::new()];
    let (mut total, mut filled) = (0, 0);
    for (name, tensor) in parameters {
        let bytes = tensor.numel() * kind.elt_size_in_bytes();
        if filled > 0 && filled + bytes > max_shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        shards.last_mut().expect("there is always a last shard").push(name);
        filled += bytes;
        total += bytes;
    }
    let count = shards.len();
    let mut weight_map = BTreeMap::new();
    let mut written = Vec::new();
    for (index, names) in shards.into_iter().enumerate() {
        let file = if count == 1 {
            SINGLE_FILE.to_string()
        } else {
            format!("model-{:05}-of-{count:05}.safetensors", index + 1)
        };
        let mut tensors = Vec::with_capacity(names.len());
        for name in names {
            let host = parameters[name].f_detach()?.f_to_kind(kind)?.f_to_device(Device::Cpu)?.f_contiguous()?;
            let mut data = vec![0; host.numel() * kind.elt_size_in_bytes()];
            host.f_copy_data_u8(&mut data, host.numel())?;
            tensors
                .push((name.as_str(), Bytes { dtype, shape: host.size().iter().map(|&n| n as usize).collect(), data }));
            weight_map.insert(name.clone(), file.clone());
        }
        let path = folder.join(&file);
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        safetensors::serialize_to_file(tensors.iter().map(|(name, bytes)| (*name, bytes)), Some(metadata), &path)
            .map_err(|error| match error {
                safetensors::SafeTensorError::IoError(source) => ModelError::Io { path: path.clone(), source },
                other => ModelError::weights(&path, other.to_string()),
            })?;
        readable(&path)?;
        written.push(file);
    }
    if count > 1 {
        let path = folder.join(INDEX_FILE);
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        std::fs::write(&path, format!("{index:#}\n")).map_err(ModelError::io(&path))?;
        written.push(INDEX_FILE.to_string());
    }
    Ok(written)
}

/// Gives a file the usual permissions: the safetensors crate makes it readable by its owner alone.
fn readable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).map_err(ModelError::io(path))
}

/// The files of a model folder that are not weights and travel unchanged with a model trained from it.
const COMPANIONS: [&str; 11] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "LICENSE",
];

/// Writes a model that was trained from the one in `source`: its configuration with the new number type, its tokenizer
/// and settings as they are, and the parameters. `folder` must exist.
///
/// # Errors
/// `Io` if a file cannot be read or written, `Json` if `config.json` does not parse.
pub fn export(folder: &Path, source: &Path, parameters: &BTreeMap<String, Tensor>, kind: Kind) -> Result<()> {
    let path = source.join("config.json");
    let mut config = read_json(&path)?;
    let map = config.as_object_mut().ok_or_else(|| ModelError::config(&path, "expected a JSON object"))?;
    let key = if map.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    map.insert(key.into(), json!(dtype_name(kind)));
    let target = folder.join("config.json");
    std::fs::write(&target, format!("{config:#}\n")).map_err(ModelError::io(&target))?;
    for name in COMPANIONS {
        let from = source.join(name);
        if from.exists() {
            // Bytes, not `fs::copy`: the source may be read-only in a cache, its copy must not be.
            let bytes = std::fs::read(&from).map_err(ModelError::io(&from))?;
            let to = folder.join(name);
            std::fs::write(&to, bytes).map_err(ModelError::io(&to))?;
        }
    }
    write(folder, parameters, kind, MAX_SHARD_BYTES)?;
    Ok(())
}

/// Returns the name of a number kind in `config.json`.
pub fn dtype_name(kind: Kind) -> &'static str {
    if kind == Kind::BFloat16 { "bfloat16" } else { "float32" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn weights_come_back_bit_for_bit_from_one_file_and_from_shards() {
        let config = testing::tiny_config();
        let model = crate::transformer::Transformer::random(config.clone(), 1, Kind::Float, Device::Cpu).unwrap();
        for (limit, files) in [(MAX_SHARD_BYTES, 1), (20_000, 4)] {
            let folder = tempfile::tempdir().unwrap();
            let written = write(folder.path(), model.parameters(), Kind::Float, limit).unwrap();
            assert!(written.len() >= files, "{written:?}");
            let back = read(folder.path(), &config, Kind::Float, Device::Cpu).unwrap();
            for (name, tensor) in model.parameters() {
                assert!(tensor.equal(&back[name]), "{name}");
            }
            assert!(!back.contains_key("lm_head.weight"));
        }
    }

    #[test]
    fn a_missing_or_misshapen_parameter_is_named() {
        let config = testing::tiny_config();
        let model = crate::transformer::Transformer::random(config.clone(), 1, Kind::Float, Device::Cpu).unwrap();
        let mut parameters =
            model.parameters().iter().map(|(name, t)| (name.clone(), t.shallow_clone())).collect::<BTreeMap<_, _>>();
        let folder = tempfile::tempdir().unwrap();
        let norm = parameters.remove("model.norm.weight").unwrap();
        write(folder.path(), &parameters, Kind::BFloat16, MAX_SHARD_BYTES).unwrap();
        let message = read(folder.path(), &config, Kind::Float, Device::Cpu).unwrap_err().to_string();
        assert!(message.ends_with("1 parameters are missing, the first is model.norm.weight [32]"), "{message}");
        parameters.insert("model.norm.weight".into(), norm.narrow(0, 0, 8));
        write(folder.path(), &parameters, Kind::BFloat16, MAX_SHARD_BYTES).unwrap();
        let message = read(folder.path(), &config, Kind::Float, Device::Cpu).unwrap_err().to_string();
        assert!(message.ends_with("model.norm.weight: config.json asks for [32], the file holds [8]"), "{message}");
        let empty = tempfile::tempdir().unwrap();
        let message = read(empty.path(), &config, Kind::Float, Device::Cpu).unwrap_err().to_string();
        assert!(message.ends_with("neither model.safetensors nor model.safetensors.index.json is there"), "{message}");
    }
}
