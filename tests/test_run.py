"""A run's folder: pinned configuration, status, one writer."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from siamdiff import storage
from siamdiff.config import Config
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.run import Status, lease, pin


def config(root: Path, **train: object) -> Config:
    return Config.model_validate({"root": str(root), "train": {"run": "r", **train}}).resolve()


def test_the_same_name_with_another_configuration_is_refused_naming_the_fields(tmp_path: Path):
    uri = str(tmp_path / "run")
    pin(uri, config(tmp_path, steps=10), {"data": "abc"})
    pin(uri, config(tmp_path, steps=10, workers=2, log_steps=3), {"data": "abc"})
    with pytest.raises(UserError, match=r"train\.steps was 10, is now 20"):
        pin(uri, config(tmp_path, steps=20), {"data": "abc"})
    with pytest.raises(UserError, match="digest of data was 'abc'"):
        pin(uri, config(tmp_path, steps=10), {"data": "other"})


def test_status_says_how_it_ended(tmp_path: Path):
    uri = str(tmp_path)
    with Status(uri, total=5).reporting() as status:
        status.write(phase="training", done=2)
        assert storage.read_json(f"{uri}/status.json")["left"] == 3
    assert storage.read_json(f"{uri}/status.json")["exit_code"] == 0
    with pytest.raises(UserError), Status(uri).reporting():
        raise UserError("a mistake in calling it again")
    assert storage.read_json(f"{uri}/status.json")["exit_code"] == 0


@pytest.mark.parametrize(("error", "code"), [(UserError("a mistake"), 2), (KeyError("a fault"), 1)])
def test_status_says_what_failed_and_how_far_it_was(tmp_path: Path, error: Exception, code: int):
    uri = str(tmp_path)
    with pytest.raises(type(error)), Status(uri, total=5).reporting():
        Status(uri, total=5).write(phase="training", done=3)  # as a worker does
        raise error
    ended = storage.read_json(f"{uri}/status.json")
    assert (ended["phase"], ended["exit_code"], ended["done"], ended["left"]) == ("failed", code, 3, 2)
    assert ended["error"] == str(error)


def test_a_lease_that_is_renewed_is_respected(tmp_path: Path):
    newcomer = lease(str(tmp_path), renew_seconds=0.1, takeover_seconds=2)
    with (
        lease(str(tmp_path), renew_seconds=0.1),
        pytest.raises(UserError, match="in use by process"),
        newcomer,
    ):
        pass
    assert not (tmp_path / "lease.json").exists()


def test_a_lease_that_is_not_renewed_is_taken_over(tmp_path: Path):
    other = {"token": "t", "count": 3, "renewed": "2026-01-01T00:00:00+00:00", "host": "elsewhere", "pid": 1}
    (tmp_path / "lease.json").write_text(json.dumps(other))
    started = time.monotonic()
    with lease(str(tmp_path), renew_seconds=0.1, takeover_seconds=0.5) as held:
        held.check()
    assert 0.5 <= time.monotonic() - started < 5


def test_the_lease_of_a_dead_process_is_taken_over_at_once(tmp_path: Path):
    code = "import os, sys; from siamdiff.run import lease\nwith lease(sys.argv[1]): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / "lease.json").exists()
    started = time.monotonic()
    with lease(str(tmp_path)):
        pass
    assert time.monotonic() - started < 5


def test_whoever_lost_the_lease_may_not_write(tmp_path: Path):
    with lease(str(tmp_path), renew_seconds=0.05) as held:
        other = {"token": "t", "count": 0, "renewed": "", "host": "elsewhere", "pid": 1}
        storage.write_json(str(tmp_path / "lease.json"), other)
        time.sleep(0.5)
        with pytest.raises(SiamdiffError, match="took over"):
            held.check()
    assert json.loads((tmp_path / "lease.json").read_text())["token"] == "t"


def test_of_two_newcomers_one_gets_in(tmp_path: Path):
    inside, refused, gate = [], [], threading.Barrier(2)

    def come(i: int) -> None:
        gate.wait()
        try:
            with lease(str(tmp_path), renew_seconds=0.1, takeover_seconds=1):
                inside.append(i)
                time.sleep(1.5)
        except UserError:
            refused.append(i)

    threads = [threading.Thread(target=come, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(inside), len(refused)) == (1, 1)
