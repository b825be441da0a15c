//! `model`: a model folder in the Hugging Face layout, as an input of other stages.
//!
//! The folder stays where it is: it is referenced by path and digest, never copied. Deterministic; costs one digest of the files,
//! which is kept as long as they do not change.

use crate::job::{Job, OpenContext, WholeInputs, WholeJob, WholeOutputs};
use crate::stage::{Declaration, InputPath, InputSchemas, OutputPort, SchemaError, Stage, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The kind.
pub struct Model;

/// Parameters of `model`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The folder: `config.json`, `*.safetensors`, `tokenizer.json`, as `huggingface-cli download --local-dir` writes it.
    pub path: InputPath,
}

/// The architectures that the worker for language models runs.
const ARCHITECTURES: [&str; 2] = ["Qwen2ForCausalLM", "LlamaForCausalLM"];

impl Stage for Model {
    type Params = Params;
    const NAME: &'static str = "model";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "A model folder in the Hugging Face layout (Qwen2 or Llama architecture), referenced where it lies.";
    const EXAMPLE: &'static str = "\
base: { use: model, with: { path: ../examples/models/tiny } }
";

    fn declare(_params: &Params, _inputs: &InputSchemas) -> Result<Declaration, SchemaError> {
        Ok(Declaration::whole(Vec::new(), vec![OutputPort::model("model", "the folder")]))
    }

    fn open(params: &Params, _cx: &OpenContext) -> Result<Job, StageError> {
        Ok(Job::Whole(Box::new(Refer { folder: params.path.as_path().to_owned() })))
    }
}

struct Refer {
    folder: PathBuf,
}

impl WholeJob for Refer {
    fn run(&mut self, _inputs: &mut WholeInputs<'_>, out: &mut WholeOutputs<'_>) -> Result<(), StageError> {
        check(&self.folder)?;
        out.model_in_place("model", self.folder.clone())
    }
}

/// A folder that lacks something is told here, before a worker loads gigabytes.
fn check(folder: &Path) -> Result<(), StageError> {
    let names: Vec<String> = std::fs::read_dir(folder)
        .map_err(|error| StageError::file(folder, format!("expected a model folder: {error}")))?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    let has = |name: &str| names.iter().any(|found| found == name);
    let mut missing = Vec::new();
    for name in ["config.json", "tokenizer.json"] {
        if !has(name) {
            missing.push(name);
        }
    }
    if !names.iter().any(|name| Path::new(name).extension().is_some_and(|extension| extension == "safetensors")) {
        missing.push("*.safetensors (weights in other formats are not read)");
    }
    if !missing.is_empty() {
        return Err(StageError::file(folder, format!("the model folder lacks {}", missing.join(", "))));
    }
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(|error| StageError::file(&path, error.to_string()))?;
    let config: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| StageError::file(&path, format!("expected JSON: {error}")))?;
    let architecture = config["architectures"][0].as_str().unwrap_or("none");
    if ARCHITECTURES.contains(&architecture) {
        Ok(())
    } else {
        let problem = format!("expected an architecture among {}, found {architecture}", ARCHITECTURES.join(", "));
        Err(StageError::file(path, problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(files: &[(&str, &str)]) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        check(folder.path()).map_or_else(|error| error.to_string(), |()| "none".into())
    }

    #[test]
    fn a_folder_that_lacks_files_or_holds_another_architecture_is_refused() {
        let qwen = r#"{"architectures": ["Qwen2ForCausalLM"]}"#;
        let whole = [("config.json", qwen), ("tokenizer.json", "{}"), ("model.safetensors", "")];
        assert_eq!(problem(&whole), "none");
        assert!(
            problem(&whole[..1])
                .ends_with("lacks tokenizer.json, *.safetensors (weights in other formats are not read)")
        );
        let gpt = [("config.json", r#"{"architectures": ["GPT2LMHeadModel"]}"#), whole[1], whole[2]];
        assert!(
            problem(&gpt)
                .ends_with("expected an architecture among Qwen2ForCausalLM, LlamaForCausalLM, found GPT2LMHeadModel")
        );
        let broken = [("config.json", "{"), whole[1], whole[2]];
        assert!(problem(&broken).contains("config.json: expected JSON"));
    }
}
