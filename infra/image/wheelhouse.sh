#!/usr/bin/env bash
# Fills a folder with all wheels that the project needs to run (extras cluster and export), in the versions of
# constraints.txt, for this machine's platform and Python; what comes as source is built.
#
#   infra/image/wheelhouse.sh FOLDER
#
# FOLDER/requirements.txt names each wheel with its hash; FOLDER/build/ holds, likewise, what builds the project itself.
# PYTHON is the interpreter. TORCH_INDEX is the index that torch alone is taken from, such as PyTorch's own for CPUs;
# without it torch comes from the index in use, like everything else.
set -euo pipefail
export LC_ALL=C # one order of files on every machine

if [[ $# -ne 1 ]]; then
    echo "wheelhouse.sh takes one folder; it was given $#: infra/image/wheelhouse.sh FOLDER" >&2
    exit 2
fi
folder=$(realpath -m "$1")
if [[ -e $folder && -n $(find "$folder" -type f ! -name '*.whl' ! -name requirements.txt -print -quit) ]]; then
    echo "$folder holds more than wheels, which this would remove; name a folder that does not exist yet" >&2
    exit 2
fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-python3}

mkdir -p "$(dirname "$folder")"
new=$(mktemp -d "$(dirname "$folder")/.wheelhouse.XXXXXX")
trap 'rm -rf "$new"' EXIT
chmod 755 "$new" # mktemp's own is for its owner alone
mkdir "$new/build"

# Sources are built in environments of their own, whose tools are pinned too: by the first of these names until pip
# 25.2, by the second since. DeepSpeed's operators are left out, since infra/zero.py uses none of them.
export PIP_CONSTRAINT="constraints.txt infra/image/cuda.txt" PIP_BUILD_CONSTRAINT=constraints.txt DS_BUILD_OPS=0
wheel=("$python" -m pip wheel --quiet --disable-pip-version-check)

# A line for each wheel of a folder: what pip calls hash-checking mode takes these files and no others.
hashed() {
    local file name project version
    for file in "$1"/*.whl; do
        name=${file##*/}
        IFS=- read -r project version _ <<<"$name"
        printf '%s==%s --hash=sha256:%s\n' "$project" "$version" "$(sha256sum "$file" | cut -d ' ' -f 1)"
    done
}

if [[ -n ${TORCH_INDEX:-} ]]; then
    torch=$(grep '^torch==' constraints.txt)
    "${wheel[@]}" --no-deps --index-url "$TORCH_INDEX" --wheel-dir "$new" "$torch"
fi
# Of two builds of one version pip takes the one with a suffix (+cpu, +cu130), so what was just fetched stays.
"$python" - >"$new/wanted" <<'END'
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
print(*project["dependencies"], *extras["cluster"], *extras["export"], sep="\n")
END
"${wheel[@]}" --find-links "$new" --wheel-dir "$new" --requirement "$new/wanted"
"${wheel[@]}" --wheel-dir "$new/build" --requirement infra/image/build.txt
rm "$new/wanted"

platform=$("$python" -c 'import sys, sysconfig; print("Python %d.%d" % sys.version_info[:2], sysconfig.get_platform())')
for each in "$new" "$new/build"; do
    { echo "# $platform"; hashed "$each"; } >"$each/requirements.txt"
done

rm -rf "$folder"
mv "$new" "$folder"
echo "$folder: $(find "$folder" -name '*.whl' | wc -l) wheels, $(du -sh "$folder" | cut -f 1)"
