#!/bin/sh
# Compares the language model with transformers and TRL in a virtual environment of pinned versions (.venv-interop).
# Needs what `make libtorch` fetched: Python uses the same libtorch as the Rust side.
set -eu
cd "$(dirname "$0")/../.."

torch_parent=$(dirname "$(readlink -f "${LIBTORCH:-.libtorch/torch}")")
if ! [ -e "$torch_parent/torch/version.py" ]; then
    echo "interop: $torch_parent holds no Python torch; run \`make libtorch\`, or point LIBTORCH into a torch 2.11.0 wheel" >&2
    exit 5
fi
venv=.venv-interop
stamp=$venv/requirements.stamp
if ! cmp -s tests/interop/requirements.txt "$stamp"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/interop/requirements.txt
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps accelerate==1.15.0 trl==1.16.0
    cp tests/interop/requirements.txt "$stamp"
fi
for site in "$venv"/lib/python3*/site-packages; do
    echo "$torch_parent" >"$site/libtorch.pth"
done

cargo build --quiet -p lm --examples
for check in tests/interop/*.py; do
    echo "== $check"
    "$venv/bin/python" "$check"
done
