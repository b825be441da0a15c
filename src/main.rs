//! The command `ablate`.
fn main() {}
