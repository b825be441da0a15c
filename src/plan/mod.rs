//! From a resolved pipeline to what has to be done. Pure: no cache, no data.

pub mod explain;
pub mod key;
pub mod schema;
