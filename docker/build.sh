#!/bin/sh
# Builds kvfs's wheel and installs it, with the locked versions of what it needs, into a new virtual
# environment: docker/build.sh PREFIX. The environment holds no pip and nothing that only building needs.
set -eu

prefix=${1:?usage: docker/build.sh PREFIX}
python=${PYTHON:-python3}
source=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m venv "$work/build"
pip() {
    "$work/build/bin/python" -m pip --disable-pip-version-check --no-input --quiet "$@"
}

pip install --constraint "$source/requirements.lock" hatchling
pip wheel --no-deps --no-build-isolation --wheel-dir "$work" "$source"

"$python" -m venv --without-pip "$prefix"
pip --python "$prefix/bin/python" install --compile --constraint "$source/requirements.lock" "$work"/kvfs-*.whl
