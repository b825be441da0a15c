//! What kinds share that work on Python source: blocks, comments, prompts, cuts, and pairs of near-identical programs.
//!
//! Everything here is pure. Tree-sitter only *locates* things; whether a program is valid Python is decided by CPython in the sandbox.

pub mod blocks;
pub mod comments;
pub mod cut;
pub mod distance;
mod lexer;
pub mod literal;
pub mod prompts;
pub mod request;
