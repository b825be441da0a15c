//! What can go wrong with a language model, told so that the reader knows what to change.

use std::path::{Path, PathBuf};

/// A language model cannot be read, run or written.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file of the model folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A JSON file of the model folder does not parse.
    #[error("{}: not valid JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said, with line and column.
        source: serde_json::Error,
    },
    /// `config.json` describes something this program does not run.
    #[error("{}: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What was found and what is supported.
        problem: String,
    },
    /// The weights are not what `config.json` describes.
    #[error("{}: {problem}", path.display())]
    Weights {
        /// The file or the folder.
        path: PathBuf,
        /// The tensor, what was expected and what was found.
        problem: String,
    },
    /// The tokenizer cannot be read, or lacks what was asked of it.
    #[error("{}: {problem}", path.display())]
    Tokenizer {
        /// The file or the folder.
        path: PathBuf,
        /// What is missing and what would mend it.
        problem: String,
    },
    /// A chat template cannot be compiled or rendered.
    #[error("chat template: {problem}")]
    Template {
        /// What the template engine said.
        problem: String,
    },
    /// The device that was asked for is not there.
    #[error("device {device}: {problem}")]
    Device {
        /// The device as asked for.
        device: String,
        /// Why it cannot be used and what to do.
        problem: String,
    },
    /// A call that no model could serve: shapes, lengths, ids.
    #[error("{0}")]
    Invalid(String),
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}

/// The result of everything that touches a model.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;

impl From<ModelError> for ablate_stages::stage::StageError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Io { path, source } => Self::file(path, source.to_string()),
            other => Self::failed(other.to_string()),
        }
    }
}

impl ModelError {
    /// Returns a closure that adds the path to an I/O error.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_path_buf(), source }
    }

    /// Returns a configuration error about `path`.
    pub(crate) fn config(path: &Path, problem: impl Into<String>) -> Self {
        Self::Config { path: path.to_path_buf(), problem: problem.into() }
    }

    /// Returns an error about the weights in `path`.
    pub(crate) fn weights(path: &Path, problem: impl Into<String>) -> Self {
        Self::Weights { path: path.to_path_buf(), problem: problem.into() }
    }

    /// Returns an error about the tokenizer in `path`.
    pub(crate) fn tokenizer(path: &Path, problem: impl Into<String>) -> Self {
        Self::Tokenizer { path: path.to_path_buf(), problem: problem.into() }
    }
}

/// Reads a JSON file.
///
/// # Errors
/// `Io` if it cannot be read, `Json` if it does not parse.
pub(crate) fn read_json(path: &Path) -> Result<serde_json::Value> {
    let text = std::fs::read_to_string(path).map_err(ModelError::io(path))?;
    serde_json::from_str(&text).map_err(|source| ModelError::Json { path: path.to_path_buf(), source })
}
