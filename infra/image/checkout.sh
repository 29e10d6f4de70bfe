#!/usr/bin/env bash
# Copies what runs of this checkout into a folder: siamdiff/ with the metadata by which Python knows its version and
# what it needs, infra/ and jobs/, compiled ahead, since who runs it may not be allowed to write there.
#
#   infra/image/checkout.sh WHEELHOUSE FOLDER
#
# PYTHON is the interpreter.
set -euo pipefail

if [[ $# -ne 2 ]]; then
    echo "checkout.sh takes two folders; it was given $#: infra/image/checkout.sh WHEELHOUSE FOLDER" >&2
    exit 2
fi
wheelhouse=$1 folder=$2
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python3}

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
export PIP_CONFIG_FILE=/dev/null # with --isolated: none of the settings of the machine, which may name other wheels
install=("$python" -m pip --isolated install --quiet --disable-pip-version-check --no-cache-dir --no-index
    --root-user-action ignore)
"${install[@]}" --target "$tools" --find-links "$wheelhouse/build" \
    --require-hashes --requirement "$wheelhouse/build/requirements.txt"
PYTHONPATH=$tools "${install[@]}" --target "$folder" --no-deps --no-build-isolation "$checkout"
cp -R "$checkout/infra" "$checkout/jobs" "$folder/"
# by content: copying files into a layer may change their times, by which Python would take them for stale
"$python" -m compileall -q -f --invalidation-mode unchecked-hash "$folder"
