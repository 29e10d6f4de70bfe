"""Small generation jobs for the tests of what may happen to them: their inputs, their start, what they leave."""

import subprocess
from pathlib import Path

from siamdiff.config import Config
from siamdiff.data.shards import finished_shards
from siamdiff.data.shardset import ShardSet, verify
from siamdiff.sampling.audit import audit_of
from tests import jobs
from tests.tiny_model import write_masks, write_model

MASKS = 10


def configure(root: str, output: str | None, **settings: object) -> Config:
    chosen = {"folds": 4, "fold_masks": ["real", "random"], "steps": 40, "batch_size": 2, "shard_size": 2}
    fields = {"root": root, "data": {"source": "polyps"}, "train": {"run": "a"}}
    generate = {**chosen, "output": output, **settings}
    return Config.model_validate({**fields, "generate": generate}).resolve()


def output_of(config: Config) -> str:
    assert config.generate.output
    return config.generate.output


def make_root(folder: Path) -> str:
    """A root with a mask set and a model."""
    masks = write_masks(f"{folder}/root/data", MASKS)
    write_model(f"{folder}/root/runs/a/model", folder / "base", masks)
    return f"{folder}/root"


def hashes(uri: str) -> dict[str, str]:
    return {shard.name: shard.sha256 for shard in ShardSet.open(uri).manifest.shards}


def started(config: Config, folder: Path, shards: int = 2) -> subprocess.Popen[bytes]:
    """The job, once it has made some shards."""
    process = jobs.start("generate", "--config", jobs.config_file(config, folder), log=folder / "log")
    jobs.wait_for(lambda: len(finished_shards(output_of(config))) >= shards, process)
    return process


def last_line(folder: Path) -> str:
    text = (folder / "log").read_text()
    assert "Traceback" not in text, text[-3000:]
    return text.strip().splitlines()[-1]


def ends_well(config: Config, folder: Path) -> str:
    """The same command's log; it ends with exit code 0."""
    result = jobs.run("generate", "--config", jobs.config_file(config, folder))
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stderr


def is_as(whole: str, output: str) -> None:
    """The set at `output` has the bytes of the other one, and is as planned."""
    assert hashes(output) == hashes(whole)
    assert verify(output, audit_of) == []
