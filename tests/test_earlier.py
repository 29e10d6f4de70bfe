"""What earlier versions left is read, gone on with and used: each archive of tests/earlier is of one of them."""

import json
import tarfile
from pathlib import Path

import pytest
import yaml

from infra.train import train
from siamdiff import __version__, storage
from siamdiff.__main__ import main
from siamdiff.data.shardset import ShardSet
from siamdiff.model.folder import load_model
from tests.earlier import make

ARCHIVES = sorted(make.FOLDER.glob("*.tar.xz"))


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def earlier(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The root of an earlier version, as if it had been made here: a run is bound to the URIs of its inputs."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    (root,) = tmp_path.iterdir()
    made_at = yaml.safe_load((root / "runs" / "half" / "config.yaml").read_text())["root"]
    for pinned in root.glob("runs/*/pinned.json"):
        pinned.write_text(pinned.read_text().replace(made_at, str(root)))
    return root


def losses(root: Path, run: str) -> list[float]:
    lines = storage.read_bytes(f"{root}/runs/{run}/metrics.jsonl").splitlines()
    return [json.loads(line)["L"] for line in lines]


def test_this_version_is_kept() -> None:
    assert __version__ in [path.name.removesuffix(".tar.xz") for path in ARCHIVES]


def test_sets_of_an_earlier_version_are_whole_and_read(
    earlier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", f"{earlier}/data"]) == 0
    made = Path(storage.read_json(f"{earlier}/synthetic/latest.json")["uri"]).name
    synthetic = f"{earlier}/synthetic/{made}"
    assert len(ShardSet.open(synthetic)) == 8
    assert main(["verify", synthetic]) == 0, capsys.readouterr().out
    target = earlier / "exported"
    assert main(["export", synthetic, "--format", "folder", "--to", str(target)]) == 0
    assert len(list(target.rglob("*.png"))) == 16


def test_a_run_of_an_earlier_version_goes_on_where_it_stopped(
    earlier: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["status", f"{earlier}/runs/half"]) == 0
    assert "run the same command again" in capsys.readouterr().out
    with caplog.at_level("INFO"):
        train(make.configure(earlier, "half"), False)
    assert "resuming after step 1" in caplog.text
    assert losses(earlier, "half") == pytest.approx(losses(earlier, "done"), rel=1e-3)


def test_a_model_of_an_earlier_version_is_used(earlier: Path) -> None:
    uri = f"{earlier}/runs/done/model"
    assert load_model(uri).info == storage.read_json(f"{uri}/siamdiff.json")
