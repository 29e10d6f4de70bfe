"""What `python -m siamdiff doctor` finds, on a real store and a real disk."""

import os
from pathlib import Path

import pytest
import s3fs
from huggingface_hub import constants

from siamdiff import storage
from siamdiff.__main__ import main
from siamdiff.model import tiny
from tests.data.raw_folders import make_folder
from tests.model import tiny_sd
from tests.s3 import S3Server
from tests.sets import write_phantoms

# small, so that what it takes is soon reckoned
TINY = ("--data.resolution", "32", "--train.batch_size", "2", "--preset", "table5-1")


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "experiment.yaml"
    file.write_text("model: {base: tiny}\n")
    return str(file)


def doctor(capsys: pytest.CaptureFixture[str], config: str, *options: str) -> tuple[int, dict[str, str], str]:
    """Exit code, lines by check ("level message", the last one of each check), and stderr."""
    code = main(["doctor", "--config", config, *TINY, *options])
    out, err = capsys.readouterr()
    lines = {}
    for line in out.splitlines():
        level, check, message = line.split(maxsplit=2)
        lines[check] = f"{level} {message}"
    return code, lines, err


def test_a_sound_store_passes_and_nothing_is_left_behind(
    s3: S3Server, config: str, capsys: pytest.CaptureFixture[str]
):
    root = s3.new_root()
    code, lines, _ = doctor(capsys, config, "--root", root)
    assert (code, {line.split()[0] for line in lines.values()}) == (0, {"ok"})
    assert lines.keys() == {
        "store",
        "versions",
        "estimate",
        "memory",
        "disk",
        "gpu",
        "weights",
        "data",
        "terms",
    }
    assert "put if absent" in lines["store"]
    assert storage.list_files(root) == {}


def test_a_new_local_root_is_not_made(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, lines, _ = doctor(capsys, config, "--root", str(tmp_path / "new" / "root"))
    assert (code, lines["store"][:2]) == (0, "ok")
    assert not (tmp_path / "new").exists()


def test_credentials_that_may_only_read_are_the_users_mistake(
    s3: S3Server,
    config: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fresh_clients: None,
):
    for name, value in s3.read_only_env.items():
        monkeypatch.setenv(name, value)
    code, lines, err = doctor(capsys, config, "--root", s3.new_root())
    assert (code, lines["store"][:14]) == (2, "FAIL no access")
    assert lines["data"].startswith("warn")
    assert err.startswith("error: 1 of 9 checks fail")


def test_a_store_that_does_not_answer_is_not(
    s3: S3Server,
    config: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fresh_clients: None,
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    code, lines, _ = doctor(capsys, config, "--root", s3.new_root())
    assert (code, "cannot be reached" in lines["store"]) == (1, True)


@pytest.fixture
def fresh_clients():
    """s3fs keeps its clients, with the credentials that they were made with."""
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


def test_data_and_weights_that_are_missing_are_all_told(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "base").mkdir()
    for part, network in (("unet", tiny.make_unet(4)), ("vae", tiny.make_vae(32))):
        network.save_config(tmp_path / "base" / part)
    tiny.make_text_encoder().config.save_pretrained(tmp_path / "base" / "text_encoder")
    root = str(tmp_path / "root")
    given = ("--root", root, "--data.source", str(tmp_path / "none"), "--model.base", str(tmp_path / "base"))
    code, lines, err = doctor(capsys, config, *given)
    assert (code, err.split(" checks")[0]) == (2, "error: 2 of 11")
    assert "does not exist or is empty" in lines["data"]
    assert lines["weights"].startswith("FAIL base")


@pytest.mark.parametrize(
    ("broken", "code", "start"),
    [(0, 0, "ok "), (1, 0, "warn "), (2, 1, "FAIL "), (21, 2, "FAIL no usable pair")],
)
def test_pairs_that_ingest_would_leave_out_are_counted(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: int, code: int, start: str
):
    raw = make_folder(tmp_path / "raw", [str(number) for number in range(21)])
    for number in range(broken):
        (raw / "masks" / f"{number}.png").rename(raw / "masks" / f"other-{number}.png")
    found, lines, _ = doctor(capsys, config, "--root", str(tmp_path / "root"), "--data.source", str(raw))
    assert (found, lines["data"].startswith(start)) == (code, True)
    assert ("image without mask" in lines["data"]) == bool(broken)


def test_a_base_that_is_nowhere_is_told(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("nowhere", "nowhere.ckpt"):
        given = ("--root", str(tmp_path / "root"), "--model.base", str(tmp_path / name))
        code, lines, _ = doctor(capsys, config, *given)
        assert (code, lines["weights"].startswith(f"FAIL no base at {tmp_path / name}")) == (2, True)


@pytest.mark.soak
def test_a_hub_id_is_looked_for_in_the_cache_and_not_fetched(
    s3: S3Server,
    config: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    saved = tiny_sd.save_folder(tmp_path / "sd", tiny_sd.networks())
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tiny_sd.fill_hub_cache(tmp_path / "hub", saved, "somebody/tiny-sd", 40 * "a")
    # on S3, so that checkpoints, of Stable Diffusion's size for all that is known, need not fit on this disk
    given = ("--root", s3.new_root(), "--model.base", "somebody/tiny-sd")
    code, lines, _ = doctor(capsys, config, *given)
    assert (code, lines["weights"][:23]) == (0, "ok somebody/tiny-sd@aaa")
    (snapshot / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    code, lines, _ = doctor(capsys, config, *given)
    assert (code, lines["weights"].endswith("complete it: hf download somebody/tiny-sd")) == (2, True)
    for part in ("vae", "unet", "text_encoder"):
        (snapshot / part / "config.json").unlink()
    code, lines, _ = doctor(capsys, config, *given)
    assert (code, lines["weights"][:4]) == (0, "warn")


def test_a_set_of_another_resolution_is_named(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_phantoms(str(tmp_path / "root" / "data"), count=4, size=64)
    code, lines, _ = doctor(capsys, config, "--root", str(tmp_path / "root"))
    assert (code, "give --data.resolution 64" in lines["data"]) == (2, True)


@pytest.mark.skipif("RAY_ADDRESS" in os.environ, reason="a cluster's nodes are not looked at")
def test_gpus_that_are_not_there_are_asked_for_in_vain(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code, lines, _ = doctor(capsys, config, "--root", str(tmp_path / "root"), "--cluster.gpus", "64")
    assert (code, lines["gpu"][:27]) == (2, "FAIL 64 are asked for, 0 ar")


def test_a_misspelt_field_is_told_as_by_the_jobs(config: str, capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", "--config", config, "--train.stepz", "3"]) == 2
    assert "did you mean '--train.steps'" in capsys.readouterr().err
