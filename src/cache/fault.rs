//! Where a writer can be killed: a mark before every step that changes the file system.
//!
//! In the test build, `ABLATE_TEST_ABORT_AT=n` ends the process without any clean-up at the n-th mark, so that a test
//! can try every one of them. Elsewhere it is nothing.

#[cfg(not(test))]
pub(super) fn step() {}

#[cfg(test)]
pub(super) fn step() {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ABORT_AT: LazyLock<Option<u64>> =
        LazyLock::new(|| std::env::var("ABLATE_TEST_ABORT_AT").ok().and_then(|text| text.parse().ok()));
    static STEPS: AtomicU64 = AtomicU64::new(0);

    if let Some(abort_at) = *ABORT_AT
        && STEPS.fetch_add(1, Ordering::Relaxed) + 1 == abort_at
    {
        std::process::abort();
    }
}
