"""Two machines with a network between them, one of which is cut off and comes back: the results are the same."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from siamdiff import transfer
from siamdiff.config import Config
from siamdiff.data.shards import finished_shards
from siamdiff.training import bases
from tests import jobs
from tests.generation import configure, ends_well, is_as, make_root, output_of, started
from tests.infra.test_preemption import losses, steps_of, world_size
from tests.namespaces import Link, cannot_be_made
from tests.raylets import Cluster, Node
from tests.s3 import S3Server
from tests.sets import small_config, write_phantoms

pytestmark = [pytest.mark.soak, pytest.mark.cluster, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def link() -> Iterator[Link]:
    if why := cannot_be_made():
        pytest.skip(why)
    with Link() as link:
        yield link


@pytest.fixture(scope="module")
def store(link: Link) -> Iterator[S3Server]:
    """A store that both machines reach, and whoever is cut off does not."""
    with S3Server(link.here) as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.env.items():
            patch.setenv(name, value)
        yield store


@pytest.fixture
def machines(
    link: Link, store: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    """A cluster with a node here and one there, each with a core; jobs of the test join it."""
    monkeypatch.setenv("SIAMDIFF_CACHE", str(tmp_path / "cache"))
    with Cluster(link) as cluster:
        cluster.add()
        cluster.add(there=True)
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        yield cluster


def works(node: Node, title: str) -> bool:
    """Whether a node has a process of that title."""
    return any(title in " ".join(process.cmdline()) for process in node.processes())


def comes_back(cluster: Cluster) -> None:
    """The cable is whole again. The node was given up and ends itself, as whoever looks after it starts another."""
    assert cluster.link
    cluster.link.mend()
    lost = cluster.nodes[-1]
    below = lost.processes()
    lost.process.wait(timeout=180)
    psutil.wait_procs(below, timeout=60)
    cluster.add(there=True)


def test_a_training_across_both_gives_the_losses_of_one_process(
    machines: Cluster, store: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machines.link
    root = store.new_root()
    write_phantoms(f"{root}/data")
    bases.prepare_base(small_config(root))
    # test_preemption.py says why not a larger rate
    settings = {"steps": 400, "learning_rate": 1e-4, "checkpoint_steps": 20}
    parallel = {"engine": "deepspeed", "workers": 2, "min_workers": 1}
    config = small_config(root, train={"run": "both", **parallel, **settings})
    alone = small_config(root, train={"run": "alone", "engine": "torch", "workers": 1, **settings})
    log = tmp_path / "log"

    process = jobs.start("train", "--config", jobs.config_file(config, tmp_path), log=log)
    jobs.wait_for(lambda: 40 in steps_of(config), process)
    assert all(works(node, "RayTrainWorker") for node in machines.nodes[1:])
    machines.link.cut()
    jobs.wait_for(lambda: any(world_size(config, step) == 1 for step in steps_of(config)), process, 400)
    comes_back(machines)
    jobs.wait_for(lambda: "room for more workers" in log.read_text(), process)
    assert process.wait(timeout=600) == 0, log.read_text()[-3000:]
    assert world_size(config, 400) == 2

    for name in ("RAY_ADDRESS", "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(name)
    assert jobs.run("train", "--config", jobs.config_file(alone, tmp_path)).returncode == 0
    assert losses(config) == pytest.approx(losses(alone), rel=1e-4)


def test_a_generation_across_both_gives_the_bytes_of_one_process(
    machines: Cluster, store: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machines.link
    root = store.new_root()
    transfer.upload_folder(root, Path(make_root(tmp_path)))
    settings = {"folds": 40, "shard_size": 4, "steps": 120}
    sections = configure(root, f"{root}/both", actors=2, min_actors=1, **settings).model_dump(mode="json")
    config = Config.model_validate(sections | {"cluster": {"actor_cpus": 0.6}}).resolve()

    process = started(config, tmp_path, shards=4)
    assert all(works(node, "SamplerActor") for node in machines.nodes[1:])
    machines.link.cut()
    jobs.wait_for(
        lambda: len(machines.cpus_by_id()) == 2, process
    )  # head and node here; a shorter cut costs nothing
    made = len(finished_shards(output_of(config)))
    jobs.wait_for(lambda: len(finished_shards(output_of(config))) >= made + 2, process)
    comes_back(machines)
    jobs.wait_for(lambda: works(machines.nodes[-1], "SamplerActor"), process)
    assert process.wait(timeout=900) == 0, (tmp_path / "log").read_text()[-3000:]

    for name in ("RAY_ADDRESS", "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(name)
    whole = configure(root, f"{root}/whole", actors=2, **settings)
    ends_well(whole, tmp_path)
    is_as(output_of(whole), output_of(config))
    assert "1 shards retried" in (tmp_path / "log").read_text()
