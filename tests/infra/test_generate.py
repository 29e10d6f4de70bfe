"""Bulk generation on a real local Ray: every planned sample once, the same bytes whatever happens on the way."""

import dataclasses
import json
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
from infra.generate import generate
from infra.sampler import SamplerActor, load_sampler
from siamdiff import storage, transfer
from siamdiff.__main__ import main
from siamdiff.data.shards import finished_shards, marker_uri, read_marker, tar_uri
from siamdiff.data.shardset import ShardSet, verify
from siamdiff.errors import SiamdiffError, StoppedError, UserError
from siamdiff.sampling.conditions import read_conditions
from tests.two_folds import configure, plan_of, write_inputs

REPOSITORY = Path(__file__).resolve().parents[2]
SHARDS = [f"fold{fold}-{number:06d}" for fold in (0, 1) for number in (0, 1, 2)]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def root(workplace):
    return str(workplace / "root")


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


@pytest.mark.soak
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


@pytest.mark.soak
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


@pytest.mark.cluster
def test_copy_paste_needs_neither_model_nor_gpu(ray, root, workplace):
    output, settings = str(workplace / "copies"), {"method": "copy-paste", "fold_masks": ["real"]}
    config = configure(root, gpus=1, model=str(workplace / "none"), output=output, **settings)
    generate(config, demo=False)
    copies, real = ShardSet.open(output), ShardSet.open(config.generate.masks)
    assert verify(output) == [] and len(copies) == 20
    assert (copies.manifest.license, copies.manifest.permitted_use) == ("CC-BY-4.0", "research")
    assert copies.manifest.made_from.keys() == {"masks", "plan", "terms"}
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
        str(workplace / "logs"),
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
        partial(load_sampler, plan, config.model, "cpu"),
        str(workplace / "faulty"),
        "cpu",
        1,
        attempts,
        str(workplace / "logs"),
    )
    (first, *_) = read_conditions(
        ShardSet.open(config.masks), plan, next(iter(plan.shards(real_keys(config))))
    )
    wrong = [
        dataclasses.replace(first, mask=np.zeros((64, 64), np.uint8))
    ]  # the model's inputs no longer add up
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(actor.__call__.remote({"name": SHARDS[0], "conditions": pickle.dumps(wrong), "error": ""}))
    (file,) = (workplace / "logs").glob("sampler-*.jsonl")
    last = json.loads(file.read_bytes().splitlines()[-1])
    assert last["shard"] == SHARDS[0] and "RuntimeError" in last["traceback"], "its last words outlive it"


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


def real_keys(generate_config):
    return ShardSet.open(generate_config.masks).keys(generate_config.split)
