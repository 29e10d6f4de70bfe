"""What the manifests run is there and takes what it is given; a pod that ends leaves time for a checkpoint."""

import runpy
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import yaml

from infra import retry
from infra.job import DEMO
from siamdiff.commandline import load
from siamdiff.config import Config
from tests.k8s.rendered import OVERLAYS, REPOSITORY, jobs, of_kind, pods, render
from tests.k8s.rules import gpus

COSTLY = {"jobs/train.py", "jobs/generate.py", "jobs/experiment.py"}  # those that know --dry-run
QUICK = ("kind", "jobs/generate.py")


@pytest.fixture
def experiment(overlay: str, tmp_path: Path) -> Path:
    """The configuration as the pods have it."""
    (text,) = [
        m["data"]["experiment.yaml"]
        for m in of_kind(render(overlay), "ConfigMap")
        if "experiment.yaml" in m["data"]
    ]
    (tmp_path / "experiment.yaml").write_text(text)
    return tmp_path / "experiment.yaml"


def _commands(overlay: str) -> dict[str, list[str]]:
    """Arguments of jobs/retry.py by the job that it runs."""
    commands = [spec["entrypoint"].split()[2:] for _, spec in jobs(render(overlay))]
    return {command[1]: command for command in commands}


def _options(command: list[str], experiment: Path) -> list[str]:
    return [option.replace("/etc/siamdiff/experiment.yaml", str(experiment)) for option in command[2:]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_entry_points_take_their_options(overlay: str, experiment: Path) -> None:
    commands = _commands(overlay)
    assert commands.keys() > COSTLY
    for command in commands.values():
        assert int(command[0]) > 1
        load(_options(command, experiment), DEMO, "")


@pytest.mark.parametrize(
    ("overlay", "job"),
    [
        QUICK,
        *(
            pytest.param(*case, marks=pytest.mark.soak)
            for case in product(["kind", "eks"], sorted(COSTLY))
            if case != QUICK
        ),
    ],
)
def test_entry_points_run_dry(
    overlay: str,
    job: str,
    experiment: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "argv", [job, *_options(_commands(overlay)[job], experiment), "--dry-run"])
    runpy.run_path(job, run_name="__main__")  # ends by itself: exit code 0
    assert "architecture: " in capsys.readouterr().out


@pytest.mark.soak
def test_a_whole_entry_point_runs_dry(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text((REPOSITORY / "k8s/overlays/kind/experiment.yaml").read_text())
    times, *command = _commands("kind")["jobs/train.py"]
    command[-1] = str(tmp_path / "experiment.yaml")
    done = subprocess.run(
        [sys.executable, "jobs/retry.py", times, *command, "--dry-run"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "architecture: " in done.stdout


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_workers_of_an_experiment_find_room(overlay: str, experiment: Path) -> None:
    config, _ = load(["--config", str(experiment)], DEMO, "")
    by_group = {pod.where: pod for pod in pods(render(overlay))}
    for where, spec in jobs(render(overlay)):
        groups = spec["rayClusterSpec"]["workerGroupSpecs"]
        have = sum(
            group["maxReplicas"] * gpus(by_group[f"{where}: {group['groupName']}"]) for group in groups
        )
        if "ingest" not in where:
            assert have >= config.cluster.gpus * max(config.train.workers, config.generate.actors)


def test_the_overlays_of_eks_differ_in_what_kueue_wants_alone() -> None:
    eks, queued = (_experiment(overlay) for overlay in ("eks", "eks-kueue"))
    elastic = {
        "train": eks.train.model_copy(update={"min_workers": queued.train.min_workers}),
        "generate": eks.generate.model_copy(update={"min_actors": queued.generate.min_actors}),
    }
    assert eks.model_copy(update=elastic) == queued


def _experiment(overlay: str) -> Config:
    return load(["--config", str(REPOSITORY / "k8s/overlays" / overlay / "experiment.yaml")], DEMO, "")[0]


# Stands in for Ray: tells that it runs, and on SIGTERM takes its time.
PROCESS = """
import signal, sys, time
from pathlib import Path
folder = Path({folder!r})
def end(number, frame):
    time.sleep(0.5)
    (folder / "ended").touch()
    sys.exit(1)
signal.signal(signal.SIGTERM, end)
(folder / "ready").touch()
signal.pause()
"""


def _in_pod(folder: Path, command: str, hook: str) -> int | None:
    """Runs a container's command in a process table of its own, and its preStop hook once the process is up.

    Returns the hook's exit code, None if the container was over before the hook.
    """
    isolate = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*isolate, "true"], capture_output=True).returncode:
        pytest.skip("no process namespaces here: `unshare --pid` needs the right to make them")
    (folder / "text").write_text(hook)  # only its own shell has it in its command line, as in a pod
    (folder / "hook").write_text(
        f"while ! test -e {folder}/ready; do sleep 0.05; done\n"
        f'/bin/sh -c "$(cat {folder}/text)"\n'
        f"code=$?; test -e {folder}/ended && echo $code >{folder}/code || echo 99 >{folder}/code\n"
    )
    script = f"sh {folder}/hook & {command}; wait"
    subprocess.run([*isolate, "/bin/bash", "-c", "--", script], cwd=folder, timeout=30)
    assert (folder / "ended").exists()
    return int((folder / "code").read_text()) if (folder / "code").exists() else None


def _hook(group: str) -> str:
    (pod,) = [pod for pod in pods(render("eks")) if pod.where == f"RayJob siamdiff-train: {group}"]
    command = pod.containers[0]["lifecycle"]["preStop"]["exec"]["command"]
    assert command[:2] == ["/bin/sh", "-c"]
    return command[2]


def test_the_heads_hook_stops_the_job_and_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "retry.py").write_text(PROCESS.format(folder=str(tmp_path)))
    (tmp_path / "python").symlink_to(shutil.which("python3") or sys.executable)
    # as Ray runs an entry point
    command = f"PATH={tmp_path}:$PATH /bin/sh -c 'python jobs/retry.py 3 jobs/train.py'"
    assert _in_pod(tmp_path, command, _hook("head")) == 0


def test_the_workers_hook_reaches_ray_and_not_itself(tmp_path: Path) -> None:
    ray = tmp_path / "ray"
    ray.write_text(f"#!{shutil.which('python3')}\n{PROCESS.format(folder=str(tmp_path))}")
    ray.chmod(0o755)
    # the container is over when Ray is; until then the hook sleeps on
    command = f"ulimit -n 1024; {ray} start --block; exit"
    assert _in_pod(tmp_path, command, _hook("spot")) is None


def test_retry_knows_the_exit_codes_of_jobs() -> None:
    assert retry.FINAL == (0, 2)


def test_experiments_are_plain_yaml_without_credentials() -> None:
    for overlay in OVERLAYS:
        text = (REPOSITORY / "k8s/overlays" / overlay / "experiment.yaml").read_text()
        assert yaml.safe_load(text)["root"].startswith("s3://")
        assert "key" not in text.lower()
