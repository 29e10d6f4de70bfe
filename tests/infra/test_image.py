"""The image as it is written; test_image_install.py does what its build does."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from infra import cluster
from tests import dockerfile
from tests.dockerfile import REPOSITORY

VARIANTS = ("cpu", "cuda")
FOLDER = REPOSITORY / "infra" / "image"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE))
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
COPIED = {"dependencies": "/opt/venv", "checkout": "/opt/siamdiff"}  # by stage, to the same place

every_variant = pytest.mark.parametrize("variant", VARIANTS)


def linted(tool: str, *files: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([Path(sys.executable).parent / tool, *files], capture_output=True, text=True)


def let_in() -> list[str]:
    """Names that .dockerignore lets into a build."""
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    return [line[1:] for line in lines if line.startswith("!")]


@pytest.mark.parametrize(("tool", "files"), [("hadolint", [dockerfile.DOCKERFILE]), ("shellcheck", SCRIPTS)])
def test_the_linters_find_nothing(tool: str, files: list[Path]):
    done = linted(tool, *files)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_linter_finds_what_is_wrong(tmp_path: Path):
    wrong = tmp_path / "Dockerfile"
    wrong.write_text(dockerfile.DOCKERFILE.read_text().replace("# hadolint ignore=DL3008\n", ""))
    assert "DL3008" in linted("hadolint", wrong).stdout


@every_variant
def test_what_the_image_is_a_pile_of_installs_what_runs_and_no_build_tools(variant: str):
    pile = dockerfile.last(variant)
    assert [stage.name for stage in pile] == ["siamdiff", f"runtime-{variant}", "runtime", "base"]
    commands = [rest for stage in pile for rest in stage.of("RUN")]
    installed = re.findall(r"apt-get install (?:--?\S+ )*([^&]*)", " ".join(commands))
    assert [packages.split() for packages in installed] == [["procps", "rsync", "wget"]]
    assert not [command for command in commands if re.search(r"\bpip\b|\bcurl\b|\bmake\b", command)]
    copied = [rest for stage in pile for rest in stage.of("COPY") + stage.of("ADD")]
    assert copied == [f"--from={name} {path} {path}" for name, path in COPIED.items()]


@every_variant
def test_it_ends_as_a_user_without_rights_in_the_checkout_and_in_its_environment(variant: str):
    top, *_, runtime, _ = dockerfile.last(variant)
    assert top.of("USER") == ["1000:1000"]
    assert [word for word, _ in top.instructions if word in ("USER", "RUN", "COPY")][-1] == "USER"
    assert top.of("WORKDIR") == ["/opt/siamdiff"]
    assert "useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash ray" in runtime.of("RUN")[0]
    found = dockerfile.environment(variant)
    assert (found["PATH"], found["HOME"]) == ("/opt/venv/bin:${PATH}", "/home/ray")


@every_variant
def test_rays_own_processes_find_what_the_jobs_set_for_themselves(variant: str):
    found = dockerfile.environment(variant)
    assert {name: found.get(name) for name in cluster.DEFAULTS} == cluster.DEFAULTS


def test_it_names_no_secret():
    named = [rest for word, rest in dockerfile.instructions() if word in ("ARG", "ENV", "LABEL")]
    words = set(re.findall(r"(\w*(?:TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY)\w*)", " ".join(named)))
    assert words == set()


def test_its_versions_are_the_projects():
    defaults = dockerfile.defaults()
    assert defaults["VERSION"] == PROJECT["version"]
    python = re.fullmatch(r"python:(3\.\d+)\.\d+-slim-bookworm", defaults["PYTHON_IMAGE"])
    assert python
    comment = (REPOSITORY / "constraints.txt").read_text().split("\nabsl-py")[0]
    assert f"on Python {python[1]} " in comment.replace("\n# ", " ")


@pytest.mark.parametrize("file", ["build.txt", "cuda.txt"])
def test_what_is_pinned_beside_the_tests_environment_contradicts_no_other_pin(file: str):
    comment, *lines = [line for line in (FOLDER / file).read_text().splitlines() if line]
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pins.keys() & PINS.keys() == set()
    assert {"build.txt": "hatchling", "cuda.txt": "triton"}[file] in pins
    assert file != "cuda.txt" or f"torch=={PINS['torch']}" in comment


def test_the_page_names_the_versions_that_are_pinned():
    page = (REPOSITORY / "docs" / "image.md").read_text()
    rows = dict(re.findall(r"^\| `([\w-]+)` \| ([\w.]+) \|", page, re.MULTILINE))
    assert {"torch", "ray", "deepspeed"} <= rows.keys()
    assert rows == {name: PINS[name] for name in rows}


def test_a_build_gets_what_it_copies_and_nothing_else():
    """Everything is kept out but what is let in by name, and of that what Git ignores."""
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert rules[1 : 1 + len(let_in())] == [f"!{name}" for name in let_in()]  # later rules win
    copied = {
        source.split("/")[0]
        for stage in dockerfile.stages("cpu").values()
        for rest in stage.of("COPY")
        if not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied == set(let_in())
    assert not [name for name in copied if not (REPOSITORY / name).exists()]
    assert copied.isdisjoint({"tests", "docs", "benchmarks", "shared", ".git"})

    ignored = [line.rstrip("/") for line in (REPOSITORY / ".gitignore").read_text().splitlines()]
    inside = [line for line in ignored if line and line[0] not in "#/"]
    assert set(rules[1 + len(let_in()) :]) >= {f"**/{pattern}" for pattern in inside}
    assert copied.isdisjoint(line.removeprefix("/") for line in ignored)
