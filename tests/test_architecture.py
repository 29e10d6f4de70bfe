"""The rules of docs/architecture.md that a machine can hold: directions of import, sizes, silence."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("siamdiff", "infra", "jobs")

# The method knows no cluster, the cluster knows no job; s3fs is found by fsspec, at run time.
FORBIDDEN = {
    "siamdiff": {"infra", "jobs", "ray", "deepspeed", "prometheus_client", "s3fs", "torchvision"},
    "infra": {"jobs", "torchvision"},
    "jobs": {"torchvision"},
}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80
MAX_JOB_LINES = 80

SOURCES = [path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))]

SPEAKING = (REPOSITORY / "jobs", REPOSITORY / "siamdiff" / "commands")
COMMANDS = [path for path in SOURCES if path.parent in SPEAKING or path.name == "__main__.py"]


def _name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import, inside functions too; by name through importlib too."""
    package = path.relative_to(REPOSITORY).parts[0]
    for node in ast.walk(_tree(path)):
        match node:
            case ast.Import():
                yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
            case ast.ImportFrom():
                yield node.lineno, package if node.level else (node.module or "").split(".")[0]
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                yield node.lineno, name.split(".")[0]


def test_imports_go_from_jobs_to_infra_to_siamdiff() -> None:
    assert [
        (_name(path), line, name)
        for path in SOURCES
        for line, name in _imported(path)
        if name in FORBIDDEN[path.relative_to(REPOSITORY).parts[0]]
    ] == []


@pytest.mark.soak  # what is imported by name is held to above
def test_siamdiff_is_importable_without_ray_and_deepspeed() -> None:
    modules = [
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        for path in SOURCES
        if path.relative_to(REPOSITORY).parts[0] == "siamdiff"
        and path.name not in {"__init__.py", "__main__.py"}
    ]
    program = "\n".join(
        [
            "import importlib, sys",
            f"blocked = {sorted(FORBIDDEN['siamdiff'])!r}",
            "sys.modules.update(dict.fromkeys(blocked))  # None: importing it is an ImportError",
            f"for name in {modules!r}:",
            "    importlib.import_module(name)",
        ]
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_jobs_start_without_the_libraries_of_their_networks() -> None:
    libraries = {"deepspeed", "diffusers", "matplotlib", "monai", "ray", "sklearn", "transformers"}
    program = (
        "import sys, infra.evaluate, infra.ingest, infra.segment, infra.train\n"
        f"print(sorted({libraries!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_files_and_functions_are_short_enough_to_read() -> None:
    long = []
    for path in SOURCES:
        limit = MAX_JOB_LINES if path.parent == REPOSITORY / "jobs" else MAX_FILE_LINES
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > limit:
            long.append((_name(path), lines))
        functions = (
            n for n in ast.walk(_tree(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
        )
        lengths = {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno}
        long += [(f"{_name(path)}: {name}", n) for name, n in lengths.items() if n > MAX_FUNCTION_LINES]
    assert long == []


def test_libraries_log_and_do_not_print() -> None:
    assert [
        (_name(path), node.lineno)
        for path in SOURCES
        if path not in COMMANDS
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ] == []


def test_sources_are_ascii() -> None:
    assert [str(path) for path in SOURCES if not path.read_bytes().isascii()] == []
