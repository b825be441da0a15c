//! What people see: progress, rows, tables of results.

pub mod compare;
pub mod difference;
pub mod progress;
pub mod rows;
pub mod timeline;
pub mod trace;
