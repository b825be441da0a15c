#!/bin/sh
# The units that every sort of edit costs, over 5,000 problems; each result is held against a run from nothing (tests/reuse.rs).
# Takes about ten minutes on two cores:  bench/reuse/run.sh
set -e
cd "$(dirname "$0")/../.."
ABLATE_REUSE_PROBLEMS="${PROBLEMS:-5000}" ABLATE_REUSE_RESULT="$PWD/bench/reuse/result.json" \
    cargo test --workspace --test ablate reuse::every_edit -- --nocapture
