"""What every test may ask for: the S3 server, the shared data, the reference numbers."""

import os
import secrets
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.s3 import S3Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

REPOSITORY = Path(__file__).resolve().parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# Before anything imports torch, Ray or DeepSpeed, and inherited by what a test starts.
os.environ.update(
    {
        "OMP_NUM_THREADS": "1",  # tests start processes of their own; two cores are shared by all of them
        "OMP_WAIT_POLICY": "passive",  # what has two threads all the same must not spin while another has the core
        "MPLBACKEND": "Agg",
        "DS_ACCELERATOR": os.environ.get("DS_ACCELERATOR", "cpu"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # otherwise Ray writes one into the home folder
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",  # Ray would end our workers for the memory that others take
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
)
# A test reaches the store that it started, never one of the user's, and no running cluster.
for _name in [name for name in os.environ if name.startswith("AWS_")] + ["RAY_ADDRESS"]:
    os.environ.pop(_name, None)
os.environ.update(
    {
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",  # missing keys are an error at once, not after asking a cloud
    }
)


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A Chromium; a test that asks for it is skipped where CHROMIUM is None."""
    from playwright.sync_api import sync_playwright

    args = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        yield found
        found.close()


class ByModule(LoadScopeScheduling):
    """Modules that start Ray go to one process, one after the other, the rest to whichever is free."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return "cluster" if _starts_ray(self.config.rootpath / module) else module


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByModule:
    """Of `make test`, with its several processes."""
    return ByModule(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First comes what takes long."""
    items.sort(key=lambda item: not _starts_ray(item.path))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Beside cluster tests, which mostly wait, the others take only what these leave: Ray's workers run at nice 15."""
    if "PYTEST_XDIST_WORKER" in os.environ and not _starts_ray(item.path):
        os.nice(19 - os.nice(0))


@cache
def _starts_ray(module: Path) -> bool:
    return "mark.cluster" in module.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights beside the checkout, or the one that SIAMDIFF_SHARED names."""
    return _folder("SIAMDIFF_SHARED", REPOSITORY.parent / "shared")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The folder of reference numbers, SIAMDIFF_GOLDEN or the shared one."""
    return _folder("SIAMDIFF_GOLDEN", REPOSITORY.parent / "shared" / "golden")


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A real S3 server, and its AWS variables in the environment for the rest of the session."""
    with S3Server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.env.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def ray(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Ray on this machine for a module; its workers have the store's variables, and a node's cache of their own.

    Not for the session: idle, it takes an eighth of a core.
    """
    import ray

    from infra import cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIAMDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        cluster.connect()
        yield ray
        ray.shutdown()


def _folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable) or default)
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing; set {variable} to a folder that holds it")
    return folder
