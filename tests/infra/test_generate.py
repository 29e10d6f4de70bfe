"""Bulk generation on a real local Ray: every planned sample once, the same bytes whatever happens on the way."""

import dataclasses
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from infra import cluster
from infra.cluster import MAX_ATTEMPTS
from infra.gates import inputs_of
from infra.generate import generate
from infra.sampler import SamplerActor, load_sampler, model_on_this_node
from infra.synthetic import prepare
from siamdiff import storage, transfer
from siamdiff.__main__ import main
from siamdiff.config import Config
from siamdiff.data.shards import finished_shards, marker_uri, read_marker, tar_uri
from siamdiff.data.shardset import ShardSet, verify
from siamdiff.errors import AlreadyRunningError, SiamdiffError, StoppedError, UserError
from siamdiff.model.base import folder_digest
from siamdiff.model.folder import read_info
from siamdiff.run import lease
from siamdiff.sampling.conditions import read_conditions
from siamdiff.sampling.plan import Plan
from tests.tiny_model import write_masks, write_model

REPOSITORY = Path(__file__).resolve().parents[2]
SHARDS = [f"fold{fold}-{number:06d}" for fold in (0, 1) for number in (0, 1, 2)]


def configure(root, gpus=0, **settings):
    chosen = {"folds": 2, "fold_masks": ["real", "random"], "steps": 12, "batch_size": 3, "shard_size": 4}
    fields = {"root": root, "data": {"source": "polyps"}, "train": {"run": "a"}, "cluster": {"gpus": gpus}}
    return Config(**fields, generate={**chosen, **settings}).resolve()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A root with a mask set of 10 and a model."""
    folder = tmp_path_factory.mktemp("generate")
    config = configure(str(folder / "root"))
    masks = write_masks(config.generate.masks, 10, splits=("train", "val"))
    write_model(config.generate.model, folder / "base", masks)
    return folder


@pytest.fixture(scope="module")
def root(workplace):
    return str(workplace / "root")


@pytest.fixture(scope="module")
def ray(s3):
    import ray

    cluster.connect()
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def undisturbed(ray, root):
    """The set as one actor makes it, and the hashes of its shards."""
    config = configure(root)
    generate(config, demo=False)
    latest = storage.read_json(storage.join(root, "synthetic", "latest.json"))
    return latest["uri"], hashes(latest["uri"])


def hashes(uri):
    return {shard.name: shard.sha256 for shard in ShardSet.open(uri).manifest.shards}


def sampler_processes():
    """Process ids of the sampler actors that this process's Ray has started."""
    parents, titles = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
            titles[int(stat.parent.name)] = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile

    def is_ours(pid):
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return [pid for pid, title in titles.items() if b"SamplerActor" in title and is_ours(pid)]


def kill_samplers(output, times=1):
    """Kills a sampler actor as soon as the first shard is there, and again after each further one."""

    def run():
        for round in range(times):
            while len(finished_shards(output)) <= round or not sampler_processes():
                time.sleep(0.05)
            pid = sampler_processes()[0]
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            time.sleep(0.5)

    killed: list[int] = []
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return killed, thread


@pytest.mark.cluster
def test_every_planned_sample_is_made_once(undisturbed, root, workplace, caplog):
    uri, made = undisturbed
    synthetic = ShardSet.open(uri)
    assert list(made) == SHARDS and synthetic.manifest.count == len(synthetic) == 20
    assert verify(uri) == []
    real = ShardSet.open(configure(root).generate.masks)
    pairs = {(row["parent"], row["fold"]) for row in synthetic.index.to_pylist()}
    assert pairs == {(key, fold) for key in real.keys("train") for fold in (0, 1)}
    assert synthetic.manifest.splits == {"train": 20}
    assert (synthetic.manifest.license, synthetic.manifest.demo) == ("CC-BY-4.0", False)
    assert synthetic.manifest.made_from["masks"]["digest"] == real.digest
    assert storage.name_of(uri) == synthetic.manifest.made_from["plan"]["digest"]
    assert read_marker(uri, SHARDS[0]).made_by["precision"] == "float32"
    gates = synthetic.manifest.made_from["gates"]
    assert gates["counts"]["samples"] == 20 <= gates["counts"]["draws"]
    assert (
        gates["copies"]["training"]["digest"] == real.digest
        and "5 groups are too few" in gates["copies"]["limits"]["basis"]
    )
    assert all(
        "copy_distance" in synthetic.read(key).meta.synthetic.scores
        for key in synthetic.index["key"].to_pylist()
    )
    assert storage.read_json(storage.join(uri, "status.json"))["phase"] == "finished"
    card = storage.read_bytes(storage.join(uri, "README.md")).decode()
    assert "ot for diagnosis" in card and "CC-BY-4.0" in card and str(workplace) not in card

    before = storage.list_files(uri), Path(uri, "dataset.json").stat().st_mtime_ns
    with caplog.at_level("INFO"):
        generate(configure(root, actors=2), demo=False)
    assert "nothing to do" in caplog.text
    assert (storage.list_files(uri), Path(uri, "dataset.json").stat().st_mtime_ns) == before


@pytest.mark.cluster
def test_two_actors_on_s3_one_killed_give_the_same_bytes(undisturbed, root, s3, monkeypatch, tmp_path):
    monkeypatch.setenv("SIAMDIFF_CACHE", str(tmp_path))
    there = s3.new_root()
    transfer.upload_folder(there, Path(root))
    output = storage.join(there, "named")
    killed, thread = kill_samplers(output)
    generate(configure(there, actors=2, output=output), demo=False)
    thread.join(timeout=10)
    assert killed and hashes(output) == undisturbed[1]
    assert storage.read_json(storage.join(there, "synthetic", "latest.json"))["uri"] == output


@pytest.mark.cluster
def test_what_could_not_be_made_is_an_error_and_the_next_run_makes_just_that(undisturbed, workplace, root):
    output = str(workplace / "again")
    transfer.upload_folder(output, Path(undisturbed[0]))
    storage.delete(storage.join(output, "dataset.json"))
    broken, lost = SHARDS[1], SHARDS[4]
    for name in (broken, lost):
        storage.delete(marker_uri(output, name))
        storage.delete(tar_uri(output, name))
    storage.write_bytes(tar_uri(output, broken), b"no tar")
    with pytest.raises(
        SiamdiffError, match=rf"1 of 6 shards could not be made \({broken}\): .*damaged"
    ) as error:
        generate(configure(root, output=output), demo=False)
    assert error.value.exit_code == 1
    assert finished_shards(output) == set(SHARDS) - {broken}
    assert not storage.exists(storage.join(output, "dataset.json"))
    assert storage.read_json(storage.join(output, "status.json"))["exit_code"] == 1

    storage.delete(tar_uri(output, broken))
    others = {name: os.stat(tar_uri(output, name)).st_mtime_ns for name in SHARDS if name != broken}
    generate(configure(root, output=output), demo=False)
    assert hashes(output) == undisturbed[1]
    assert {name: os.stat(tar_uri(output, name)).st_mtime_ns for name in others} == others


@pytest.mark.cluster
def test_more_actors_than_fit_are_refused_at_once(ray, root):
    with pytest.raises(UserError, match=r"generate\.actors"):
        generate(configure(root, actors=500, shard_size=1, folds=60), demo=False)


@pytest.mark.cluster
def test_a_driver_killed_after_the_last_shard_is_finished_by_the_same_command(undisturbed, workplace, root):
    output = str(workplace / "unfinished")
    transfer.upload_folder(output, Path(undisturbed[0]))
    storage.delete(storage.join(output, "dataset.json"))
    generate(configure(root, output=output), demo=True)
    assert hashes(output) == undisturbed[1] and ShardSet.open(output).manifest.demo
    assert storage.read_json(storage.join(root, "synthetic", "latest.json"))["uri"] == output


@pytest.mark.cluster
def test_too_many_rejected_samples_keep_a_set_from_being_declared(undisturbed, workplace, root, caplog):
    output = str(workplace / "rejected")
    gates = {"min_deviation": 127, "redraws": 1}
    latest = storage.join(root, "synthetic", "latest.json")
    before = storage.read_json(latest)
    with pytest.raises(
        SiamdiffError, match=r"^20 of 20 samples passed the gates in none .*\(20 blank.*max_rejected 0\.05"
    ):
        generate(configure(root, output=output, gates=gates), demo=False)
    assert not storage.exists(storage.join(output, "dataset.json")) and storage.read_json(latest) == before
    made = {name: os.stat(tar_uri(output, name)).st_mtime_ns for name in SHARDS}
    with caplog.at_level("INFO"):
        generate(configure(root, output=output, gates=gates, max_rejected=1), demo=False)
    assert {name: os.stat(tar_uri(output, name)).st_mtime_ns for name in SHARDS} == made
    assert "20 of 20 samples drawn again, 20 rejected to the last (20 blank" in caplog.text
    declared = ShardSet.open(output)
    assert declared.manifest.made_from["gates"]["counts"]["rejected"] == 20
    origins = [declared.read(key).meta.synthetic for key in declared.index["key"].to_pylist()]
    assert all(origin.draw == 1 and "blank" in origin.rejected for origin in origins)
    assert main(["verify", output]) == 0
    judged_by = Path(output, "gates.json")
    for damage in (lambda: judged_by.write_text("[]"), judged_by.unlink):
        Path(output, "dataset.json").unlink(missing_ok=True)
        damage()
        with pytest.raises(SiamdiffError, match=r"gates\.json is (damaged|gone)"):
            generate(configure(root, output=output, gates=gates, max_rejected=1), demo=False)
        assert not storage.exists(storage.join(output, "dataset.json"))


@pytest.fixture
def model_of(workplace, root):
    """A copy of the model that tells something else of the set that it was trained on."""

    def copied(name, **told):
        uri, model = str(workplace / name), configure(root).generate.model
        transfer.upload_folder(uri, Path(model))
        storage.write_json(storage.join(uri, "siamdiff.json"), read_info(model) | told)
        return uri

    return copied


def test_copies_are_looked_for_among_the_images_that_the_model_was_trained_on(
    workplace, root, model_of, caplog
):
    other = write_masks(str(workplace / "other"), 3, splits=("train",))
    real = ShardSet.open(configure(root).generate.masks)
    of = {"masks": other.uri, "output": str(workplace / "of-other")}
    job = prepare(configure(root, **of))
    assert (job.training.uri, job.plan.training) == (real.uri, real.digest)
    gone = prepare(configure(root, **of, model=model_of("moved", data_uri=str(workplace / "gone"))))
    assert gone.plan.digest == job.plan.digest, "where the set lies is no matter until it is read"
    assert not caplog.records
    named = prepare(configure(root, **of | {"output": str(workplace / "of-named")}, training=other.uri))
    assert named.plan.training == other.digest
    unknown = model_of("imported", data_digest=None, data_uri=None)
    of["output"] = str(workplace / "of-unknown")
    assert prepare(configure(root, **of, model=unknown)).plan.training == other.digest
    assert "does not tell what it was trained on" in caplog.text


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"data_uri": "/gone", "data_digest": "0" * 64}, "is not at '/gone'"),
        ({"data_uri": None, "data_digest": "0" * 64}, "is not at ''"),
        ({"data_digest": "0" * 64}, "is another set by now"),
    ],
    ids=["gone", "nowhere", "replaced"],
)
def test_a_training_set_that_cannot_be_had_is_one_line_before_anything_is_drawn(
    workplace, root, model_of, told, why
):
    config = configure(root, model=model_of(f"lost-{why[-5:-1]}", **told))
    job = prepare(config)
    with pytest.raises(
        UserError, match=rf"{why}.*--generate\.training, or give --generate\.gates\.copies false"
    ):
        inputs_of(config, job)
    assert not finished_shards(job.output)


def test_a_set_without_training_images_and_a_missing_segmenter_are_refused(workplace, root, model_of):
    alone = write_masks(str(workplace / "tests-alone"), 3, splits=("test",))
    config = configure(root, model=model_of("unknown", data_digest=None), masks=alone.uri, split="test")
    with pytest.raises(UserError, match=r"no image in split 'train'.*--generate\.gates\.copies false"):
        inputs_of(config, prepare(config))
    for uri in (str(workplace / "none.safetensors"), str(workplace)):
        with pytest.raises(UserError, match=r"no segmenter at .*--generate\.gates\.segmenter"):
            prepare(configure(root, gates={"segmenter": uri}))


@pytest.mark.cluster
def test_copy_paste_needs_neither_model_nor_gpu(ray, root, workplace):
    output, settings = str(workplace / "copies"), {"method": "copy-paste", "fold_masks": ["real"]}
    config = configure(root, gpus=1, model=str(workplace / "none"), output=output, **settings)
    generate(config, demo=False)
    copies, real = ShardSet.open(output), ShardSet.open(config.generate.masks)
    assert verify(output) == [] and len(copies) == 20
    assert (copies.manifest.license, copies.manifest.permitted_use) == ("CC-BY-4.0", "research")
    assert copies.manifest.made_from.keys() == {"masks", "plan"}
    assert copies.manifest.made_from["plan"]["model"] == "copy-paste"
    for row in copies.index.to_pylist():
        assert copies.read_encoded(row["key"]).image == real.read_encoded(row["parent"]).image


@pytest.mark.cluster
@pytest.mark.soak
def test_actors_killed_again_and_again_give_the_same_bytes(undisturbed, workplace, root):
    output = str(workplace / "soaked")
    killed, thread = kill_samplers(output, times=4)
    generate(configure(root, output=output, actors=2), demo=False)
    thread.join(timeout=10)
    assert len(killed) == 4 and hashes(output) == undisturbed[1]


@pytest.mark.cluster
@pytest.mark.soak
def test_a_shard_that_kills_its_sampler_every_time_is_given_up(ray, workplace, root):
    attempts = cluster.Attempts.start()
    assert ray.get([attempts.begin.remote(SHARDS[0]) for _ in range(MAX_ATTEMPTS)])[-1] == MAX_ATTEMPTS
    config = configure(root).generate
    actor = ray.remote(num_cpus=0.5)(SamplerActor).remote(
        partial(load_sampler, plan_of(root), config.model, "cpu"),
        str(workplace / "given-up"),
        "cpu",
        1,
        attempts,
    )
    result = ray.get(actor.__call__.remote({"name": SHARDS[0], "conditions": pickle.dumps([]), "error": ""}))
    assert result["count"] == 0 and "died 4 times" in result["error"]


@pytest.mark.cluster
@pytest.mark.soak
def test_a_fleet_grows_while_there_is_work_for_more_actors(workplace, root, caplog):
    settings = {"folds": 8, "steps": 100, "shard_size": 1, "actors": 2, "min_actors": 1}
    with caplog.at_level("INFO"):
        generate(configure(root, output=str(workplace / "grown"), **settings), demo=False)
    assert re.search(r"made \d+ images in .* by 2 actors", caplog.text)


@pytest.mark.cluster
@pytest.mark.soak
def test_a_fault_of_pytorch_ends_the_sampler_and_not_the_shard_alone(ray, workplace, root):
    attempts = cluster.Attempts.start()
    config, plan = configure(root).generate, plan_of(root)
    actor = ray.remote(num_cpus=0.5)(SamplerActor).remote(
        partial(load_sampler, plan, config.model, "cpu"), str(workplace / "faulty"), "cpu", 1, attempts
    )
    (first, *_) = read_conditions(
        ShardSet.open(config.masks), plan, next(iter(plan.shards(real_keys(config))))
    )
    wrong = [
        dataclasses.replace(first, mask=np.zeros((64, 64), np.uint8))
    ]  # the model's inputs no longer add up
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(actor.__call__.remote({"name": SHARDS[0], "conditions": pickle.dumps(wrong), "error": ""}))


@pytest.mark.cluster
@pytest.mark.soak
def test_a_killed_driver_and_the_same_command_again_give_the_same_bytes(undisturbed, workplace, root):
    """The job as a person starts it, killed twice: after the first shard and after the third."""
    output = str(workplace / "driver")
    command = command_for(workplace, root, output=output)
    for shards in (1, 3):
        job = subprocess.Popen(command, cwd=REPOSITORY)
        while len(finished_shards(output)) < shards:
            assert job.poll() is None
            time.sleep(0.05)
        job.kill()
        job.wait()
        assert not storage.exists(storage.join(output, "dataset.json"))
    subprocess.run(command, cwd=REPOSITORY, check=True)
    assert hashes(output) == undisturbed[1]


@pytest.mark.cluster
@pytest.mark.soak
def test_of_two_jobs_at_once_on_one_output_one_makes_it_and_the_other_says_so(undisturbed, workplace, root):
    output = str(workplace / "both")
    command = command_for(workplace, root, output=output)
    both = [subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [job.communicate()[1] for job in both]
    assert [job.returncode for job in both] == [0, 0]
    assert sum("already running" in text for text in said) == 1
    assert hashes(output) == undisturbed[1] and verify(output) == []


@pytest.mark.cluster
@pytest.mark.soak
def test_a_job_that_stood_still_gives_way_to_the_one_that_took_over(undisturbed, workplace, root):
    """As on a machine that was suspended: its lease ran out, and both write at once when it wakes."""
    output = str(workplace / "suspended")
    command = command_for(workplace, root, output=output)
    first = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    while not finished_shards(output):
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGSTOP)
    second = subprocess.Popen(command, cwd=REPOSITORY)
    while second.poll() is None and len(finished_shards(output)) < 3:
        time.sleep(0.05)
    first.send_signal(signal.SIGCONT)
    assert second.wait() == 0
    said = first.communicate()[1]
    assert first.returncode == 1 and "another job took over" in said.splitlines()[-1]
    assert hashes(output) == undisturbed[1] and verify(output) == []


def command_for(workplace, root, **settings):
    """The command line of a job with these settings."""
    file = workplace / "job.yaml"
    file.write_text(configure(root, **settings).to_yaml())
    return [sys.executable, "jobs/generate.py", "--config", str(file)]


def test_a_set_that_another_job_makes_is_left_to_it(workplace, root, caplog):
    output = str(workplace / "busy")
    status = storage.join(root, "synthetic", "status.json")
    storage.write_json(status, {"phase": "generating", "done": 3, "exit_code": None})
    with (
        lease(output, renew_seconds=0.1),
        pytest.raises(AlreadyRunningError, match="already running") as error,
    ):
        storage.write_json(
            storage.join(output, "plan.json"), plan_of(root, output=output).model_dump(mode="json")
        )
        generate(configure(root, output=output), demo=False)
    assert error.value.exit_code == 0
    assert storage.read_json(status)["phase"] == "generating", "the other's state is left alone"
    assert finished_shards(output) == set()


@pytest.mark.cluster
@pytest.mark.soak
def test_a_budget_ends_a_command_after_the_shards_at_work_and_the_next_one_goes_on(
    undisturbed, workplace, root
):
    output = str(workplace / "budget")
    with pytest.raises(StoppedError, match=r"stopped by its budget .*generate\.budget_hours") as error:
        generate(configure(root, output=output, budget_hours=1e-6), demo=False)
    done = finished_shards(output)
    assert error.value.exit_code == 1 and 0 < len(done) < len(SHARDS)
    assert storage.read_json(storage.join(output, "status.json"))["phase"] == "stopped"
    generate(configure(root, output=output), demo=False)
    assert hashes(output) == undisturbed[1]


@pytest.mark.cluster
def test_a_finished_set_that_was_repaired_is_made_whole_as_its_next_revision(undisturbed, workplace, root):
    output = str(workplace / "repaired")
    transfer.upload_folder(output, Path(undisturbed[0]))
    flip(Path(tar_uri(output, SHARDS[2])))
    assert main(["verify", output, "--repair"]) == 0
    assert finished_shards(output) == set(SHARDS) - {SHARDS[2]}
    generate(configure(root, output=output), demo=False)
    manifest = ShardSet.open(output).manifest
    assert hashes(output) == undisturbed[1] and verify(output) == []
    assert (manifest.revision, manifest.previous) == (2, ShardSet.open(undisturbed[0]).digest)


@pytest.mark.cluster
def test_a_shard_damaged_while_the_job_runs_is_found_before_the_set_is_declared(undisturbed, workplace, root):
    output = str(workplace / "damaged")
    transfer.upload_folder(output, Path(undisturbed[0]))
    storage.delete(storage.join(output, "dataset.json"))
    flip(Path(tar_uri(output, SHARDS[5])))
    with pytest.raises(SiamdiffError, match=rf"is not whole: shard {SHARDS[5]} .*verify --repair"):
        generate(configure(root, output=output), demo=False)
    assert not storage.exists(storage.join(output, "dataset.json"))


def flip(tar):
    data = bytearray(tar.read_bytes())
    data[3000] ^= 1
    tar.write_bytes(data)


def test_an_output_with_another_plan_is_refused_naming_the_fields(workplace, root):
    output = str(workplace / "taken")
    storage.write_json(
        storage.join(output, "plan.json"),
        plan_of(root, steps=9, guidance=2.0).model_dump(mode="json"),
    )
    with pytest.raises(UserError, match=r"guidance was 2\.0, is now 9\.0; steps was 9, is now 12"):
        generate(configure(root, output=output), demo=False)


def test_an_output_with_foreign_files_is_refused(workplace, root):
    output = str(workplace / "foreign")
    storage.write_bytes(storage.join(output, "notes.txt"), b"mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        generate(configure(root, output=output), demo=False)
    assert list(storage.list_files(output)) == ["notes.txt"]
    assert storage.read_json(storage.join(root, "synthetic", "status.json"))["exit_code"] == 2


def test_missing_inputs_are_the_users_mistake(workplace, root, tmp_path):
    with pytest.raises(UserError, match=r"no model at .*jobs/train\.py"):
        generate(configure(root, model=str(tmp_path / "none")), demo=False)
    with pytest.raises(UserError, match="not a complete set"):
        generate(configure(root, masks=str(tmp_path / "none")), demo=False)
    with pytest.raises(UserError, match=r"no samples in split 'test' .*'val': 10"):
        generate(configure(root, split="test"), demo=False)


def test_without_a_name_the_run_that_finished_last_is_taken(root):
    unnamed = Config(root=root, data={"source": "polyps"}, generate={"limit": 2, "shard_size": 2}).resolve()
    with pytest.raises(UserError, match=f"no model at {unnamed.run_uri()}/model"):
        prepare(unnamed)
    storage.write_json(storage.join(root, "runs", "latest.json"), {"run": "a"})
    assert prepare(unnamed).model.uri == configure(root).generate.model
    swept = Config(root=root, preset="table5-7", data={"source": "polyps"}).resolve()
    with pytest.raises(
        UserError, match=r"of another method: train\.online_augmentation is True there, False here"
    ):
        prepare(swept)
    storage.delete(storage.join(root, "runs", "latest.json"))


def test_masks_of_another_size_than_the_models_are_refused(root, tmp_path):
    write_masks(str(tmp_path / "large"), 1, resolution=64)
    with pytest.raises(UserError, match=r"have 64 pixels a side, .* trained with 32"):
        generate(configure(root, masks=str(tmp_path / "large")), demo=False)


def test_an_adapter_takes_no_images(root, workplace):
    folder = workplace / "adapter"
    masks = ShardSet.open(configure(root).generate.masks)
    write_model(str(folder / "model"), folder / "base", masks, control="t2i-adapter")
    settings = {"model": str(folder / "model"), "fold_masks": ["real"]}
    assert prepare(configure(root, **settings)).model.info["control"] == "t2i-adapter"
    with pytest.raises(UserError, match=r"T2I-Adapter, which was trained on masks alone"):
        generate(configure(root, **settings, guide="mask+image"), demo=False)


def test_a_base_is_not_taken_for_a_trained_model(root, tmp_path):
    storage.write_json(str(tmp_path / "siamdiff.json"), {"hint_channels": [4, 4, 8, 16, 32]})
    with pytest.raises(UserError, match="not a trained model"):
        generate(configure(root, model=str(tmp_path)), demo=False)


def test_a_damaged_copy_of_the_model_is_fetched_again(root, s3, monkeypatch, tmp_path):
    monkeypatch.setenv("SIAMDIFF_CACHE", str(tmp_path))
    local, uri = configure(root).generate.model, storage.join(s3.new_root(), "model")
    transfer.upload_folder(uri, Path(local))
    digest = read_info(local)["model_digest"]
    copy = model_on_this_node(uri, digest)
    assert copy.is_relative_to(tmp_path) and folder_digest(copy) == digest
    weights = next(copy.glob("unet/*.safetensors"))
    before = copy.stat().st_ino
    assert model_on_this_node(uri, digest).stat().st_ino == before, "a whole copy is kept"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert folder_digest(model_on_this_node(uri, digest)) == digest
    with pytest.raises(SiamdiffError, match="was replaced"):
        model_on_this_node(uri, "0" * 64)
    assert not list(tmp_path.glob("models/*.*[!k]")), "no half copy is left"


def test_readers_start_without_pytorch():
    program = "import sys, infra.masks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY).returncode == 0


def real_keys(generate_config):
    return ShardSet.open(generate_config.masks).keys(generate_config.split)


def plan_of(root, **settings):
    config = configure(root, **settings).generate
    masks, info = ShardSet.open(config.masks), read_info(config.model)
    return Plan.of(
        config, masks=masks.digest, model=info["model_digest"], resolution=32, training=masks.digest
    )
