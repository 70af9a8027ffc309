#!/bin/sh
# Makes .venv with everything that the workspace needs: the pinned dependencies by their hashes, then our own packages.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "setup: $1" >&2
    exit 1
}

# The first that is new enough; PYTHON names another.
python=""
for candidate in ${PYTHON:-python3.11 python3 python3.12 python3.13}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "needs Python 3.11 or newer, and found none; install it, or say where it is: make setup PYTHON=/path/to/python3.11"

"$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
    fail "$("$python" -c 'import sys; print(sys.executable)') has no ensurepip, so it can't make an environment; on Debian: apt install python3-venv, or name another: make setup PYTHON=/path/to/python3.11"

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c 'import pip' >/dev/null 2>&1; then
    echo "setup: making .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv || fail ".venv could not be made"
fi

pip() {
    .venv/bin/python -m pip --disable-pip-version-check --no-input "$@"
}

echo "setup: installing the pinned dependencies (a minute or two the first time)"
pip install --quiet --require-hashes --requirement requirements.lock || fail "the dependencies could not be installed; the lines above say why"

echo "setup: installing Cairn's packages"
packages=""
for folder in libs/* services/*; do
    [ -f "$folder/pyproject.toml" ] && packages="$packages --editable ./$folder"
done
# shellcheck disable=SC2086  # one word for each package
pip install --quiet --no-deps --no-build-isolation $packages || fail "Cairn's packages could not be installed; the lines above say why"

touch .venv/ready
echo "setup: done"
