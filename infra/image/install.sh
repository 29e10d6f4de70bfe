#!/usr/bin/env bash
# Makes a virtual environment of a wheelhouse and of nothing else, each file checked against its hash, that also finds
# the packages of a folder which need not be there yet.
#
#   infra/image/install.sh WHEELHOUSE VENV CHECKOUT
#
# PYTHON is the interpreter. The environment has no pip of its own.
set -euo pipefail

if [[ $# -ne 3 ]]; then
    echo "install.sh takes three folders; it was given $#: infra/image/install.sh WHEELHOUSE VENV CHECKOUT" >&2
    exit 2
fi
wheelhouse=$1 venv=$2 checkout=$3
python=${PYTHON:-python3}

export PIP_CONFIG_FILE=/dev/null # with --isolated: none of the settings of the machine, which may name other wheels
"$python" -m venv --without-pip "$venv"
"$python" -m pip --isolated --python "$venv/bin/python" install --quiet --disable-pip-version-check --no-cache-dir \
    --no-index --find-links "$wheelhouse" --require-hashes --requirement "$wheelhouse/requirements.txt"
echo "$checkout" >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/siamdiff.pth"
