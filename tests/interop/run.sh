#!/bin/sh
# Compares the language model with transformers and TRL, and tables with pyarrow and DuckDB, in a virtual environment of pinned versions (.venv-interop, or the
# one that INTEROP_VENV names). Logits, greedy text, token ids, chat templates; loss and gradients of DPO.
set -eu
cd "$(dirname "$0")/../.."

venv=${INTEROP_VENV:-.venv-interop}
if [ -z "${INTEROP_VENV:-}" ] && ! cmp -s tests/interop/requirements.txt "$venv/requirements.stamp"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/interop/requirements.txt
    cp tests/interop/requirements.txt "$venv/requirements.stamp"
fi
target=${CARGO_TARGET_DIR:-target}
cargo build --quiet --workspace --example probe --example dpo_gradients
cargo build --quiet --workspace --bins
"$venv/bin/python" tests/interop/tables.py "$target/debug/ablate"
"$venv/bin/python" tests/interop/lm.py "$target/debug/examples/probe"
"$venv/bin/python" tests/interop/trl_dpo.py "$target/debug/examples/dpo_gradients"
