//! Language models on libtorch: generation and training.
//!
//! Model families: the Qwen2 and Llama decoders, read from and written to Hugging Face folders. The only crate that names
//! `tch`; its binary `ablate-lm` is the worker for the kinds that need a model, which are declared in `ablate-stages`.

mod cache;
pub mod chat;
pub mod checkpoint;
pub mod config;
pub mod device;
pub mod draw;
pub mod error;
pub mod fresh;
pub mod head;
pub mod kinds;
pub mod objective;
pub mod optimizer;
pub mod order;
pub mod pack;
pub mod random;
pub mod render;
pub mod sampler;
pub mod schedule;
mod simd;
pub mod testing;
pub mod tokenizer;
pub mod trainer;
pub mod transformer;
pub mod weights;
