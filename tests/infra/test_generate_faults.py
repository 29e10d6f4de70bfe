"""What surrounds bulk generation breaks: after it the same command makes the set that nothing happened to."""

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from siamdiff import storage, transfer
from siamdiff.__main__ import main
from siamdiff.config import Config
from siamdiff.data.shards import finished_shards, marker_uri, tar_uri
from siamdiff.data.shardset import ShardSet, verify
from siamdiff.sampling.audit import audit_of
from tests import jobs
from tests.generation import configure, ends_well, hashes, is_as, last_line, make_root, output_of, started
from tests.raylets import Cluster, Node
from tests.s3 import S3Server

pytestmark = [pytest.mark.soak, pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_root(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def there(root: str, s3: S3Server) -> str:
    """The same in the store."""
    uri = s3.new_root()
    transfer.upload_folder(uri, Path(root))
    return uri


@pytest.fixture(scope="module")
def whole(root: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The set that nothing happened to: 20 shards."""
    config = configure(root, f"{root}-whole")
    ends_well(config, tmp_path_factory.mktemp("whole"))
    return output_of(config)


def test_a_store_that_is_away_for_20_seconds_costs_nothing(
    there: str, whole: str, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIAMDIFF_CACHE", str(tmp_path / "cache"))
    config = configure(there, f"{there}/away", actors=2)
    process = started(config, tmp_path)
    s3.stop()
    time.sleep(20)
    s3.start()
    assert process.wait(timeout=400) == 0, (tmp_path / "log").read_text()[-3000:]
    is_as(whole, output_of(config))


def test_revoked_credentials_end_the_job_with_one_line_and_restored_ones_let_it_go_on(
    there: str, whole: str, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIAMDIFF_CACHE", str(tmp_path / "cache"))
    config = configure(there, f"{there}/revoked", actors=2)
    process = started(config, tmp_path)
    with s3.revoked():
        assert process.wait(timeout=400) == 2, (tmp_path / "log").read_text()[-3000:]
    line = last_line(tmp_path)
    assert line.startswith(f"error: no access to {there}") and "check the credentials" in line
    before = finished_shards(output_of(config))
    assert 2 <= len(before) < len(hashes(whole))
    first = {name: storage.read_bytes(tar_uri(output_of(config), name)) for name in before}
    ends_well(config, tmp_path)
    is_as(whole, output_of(config))
    assert {name: storage.read_bytes(tar_uri(output_of(config), name)) for name in before} == first


def test_a_full_disk_ends_the_job_with_one_line_and_the_next_one_goes_on(
    root: str, whole: str, tmp_path: Path
) -> None:
    config = configure(root, f"{tmp_path}/full")
    process = started(config, tmp_path)
    limit = 8000  # bytes a file may have: less than a shard's, more than a marker's
    for sampler in jobs.descendants(process, "SamplerActor"):
        resource.prlimit(sampler.pid, resource.RLIMIT_FSIZE, (limit, limit))
    assert process.wait(timeout=300) == 1
    line = last_line(tmp_path)
    assert "shards could not be made" in line and "run the same command again" in line
    assert 2 <= len(finished_shards(output_of(config))) < len(hashes(whole))
    assert not list(Path(output_of(config)).rglob(".partial-*")), "no half file is left"
    ends_well(config, tmp_path)
    is_as(whole, output_of(config))


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster that jobs of the test join."""
    with Cluster() as cluster:
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        yield cluster


def runs(node: Node, title: str) -> bool:
    """Whether a process of the node has `title` in its own (Ray names its workers after what they run)."""
    for process in node.processes():
        try:
            if title in " ".join(process.cmdline()):
                return True
        except psutil.NoSuchProcess:
            continue
    return False


def test_a_node_that_dies_while_it_samples_costs_time_only(
    root: str, whole: str, joined: Cluster, tmp_path: Path
) -> None:
    """The one that is left has no room for a second sampler: what the lost one had at hand waits for the first."""
    nodes = [joined.add(), joined.add()]
    sections = configure(root, f"{tmp_path}/set", actors=2).model_dump(mode="json")
    config = Config.model_validate(sections | {"cluster": {"actor_cpus": 0.6}}).resolve()
    process = started(config, tmp_path, shards=4)
    assert all(runs(node, "SamplerActor") for node in nodes)
    assert not any(runs(node, "Attempts") for node in nodes), "attempts are counted where the driver is"
    nodes[-1].kill()
    assert process.wait(timeout=600) == 0, (tmp_path / "log").read_text()[-3000:]
    is_as(whole, output_of(config))


def damage(output: str, kind: str) -> str:
    """Damages one shard; its name."""
    name = sorted(finished_shards(output))[7]
    if kind == "marker without tar":
        storage.delete(tar_uri(output, name))
    elif kind == "tar without marker":
        storage.delete(marker_uri(output, name))
    else:
        tar = Path(tar_uri(output, name))
        tar.write_bytes(tar.read_bytes()[:-4000])
    return name


@pytest.fixture
def copy(root: str, whole: str, tmp_path: Path) -> Config:
    """A copy of the undisturbed set, and the command that makes it."""
    config = configure(root, f"{tmp_path}/set")
    transfer.upload_folder(output_of(config), Path(whole))
    return config


@pytest.mark.parametrize("file", ["status.json", "dataset.json"])
def test_a_driver_killed_after_the_last_shard_changes_no_bit(
    whole: str, copy: Config, tmp_path: Path, file: str
) -> None:
    """While it verifies; and when the set is just declared."""
    output = output_of(copy)
    storage.delete(f"{output}/dataset.json")
    storage.delete(f"{output}/status.json")
    process = jobs.start("generate", "--config", jobs.config_file(copy, tmp_path), log=tmp_path / "log")
    jobs.wait_for(lambda: storage.exists(f"{output}/{file}"), process)
    jobs.kill_tree(process)
    ends_well(copy, tmp_path)
    is_as(whole, output)


@pytest.mark.parametrize("kind", ["marker without tar", "tar without marker", "truncated tar"])
def test_what_repair_drops_the_same_command_makes_again(
    whole: str, copy: Config, tmp_path: Path, kind: str
) -> None:
    output = output_of(copy)
    name = damage(output, kind)
    assert any(name in problem for problem in verify(output, audit_of))
    assert main(["verify", output, "--repair"]) == 0
    ends_well(copy, tmp_path)
    is_as(whole, output)
    assert ShardSet.open(output).manifest.revision == 2


@pytest.mark.parametrize("kind", ["marker without tar", "tar without marker"])
def test_half_a_shard_is_made_whole_by_the_same_command_alone(
    whole: str, copy: Config, tmp_path: Path, kind: str
) -> None:
    output = output_of(copy)
    damage(output, kind)
    ends_well(copy, tmp_path)
    is_as(whole, output)
    assert ShardSet.open(output).manifest.revision == 1, "its content never was another one"


def test_a_truncated_tar_is_never_declared_and_nothing_is_written_over_it(
    whole: str, copy: Config, tmp_path: Path
) -> None:
    """With its marker it passes for finished until it is read again; without, it is somebody's until it is removed."""
    output = output_of(copy)
    name = damage(output, "truncated tar")
    storage.delete(f"{output}/dataset.json")
    result = jobs.run("generate", "--config", jobs.config_file(copy, tmp_path))
    assert result.returncode == 1 and "is not whole: " in jobs.last_line(result), result.stderr[-3000:]
    assert name in jobs.last_line(result)

    storage.delete(marker_uri(output, name))
    result = jobs.run("generate", "--config", jobs.config_file(copy, tmp_path))
    assert result.returncode == 1 and tar_uri(output, name) in jobs.last_line(result), result.stderr[-3000:]
    assert name not in finished_shards(output) and not storage.exists(f"{output}/dataset.json")

    assert main(["gc", output]) == 0
    ends_well(copy, tmp_path)
    is_as(whole, output)
