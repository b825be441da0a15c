//! Pipeline runner.
