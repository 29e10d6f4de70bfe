"""What the actors that sample find on their node."""

import subprocess
import sys
from pathlib import Path

import pytest

from infra.sampler import model_on_this_node
from siamdiff import storage, transfer
from siamdiff.errors import SiamdiffError
from siamdiff.model.about import folder_digest, read_info
from tests.two_folds import configure, write_inputs

REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_damaged_copy_of_the_model_is_fetched_again(s3, monkeypatch, tmp_path):
    write_inputs(tmp_path)
    cache = tmp_path / "cache"
    monkeypatch.setenv("SIAMDIFF_CACHE", str(cache))
    local, uri = configure(str(tmp_path / "root")).generate.model, storage.join(s3.new_root(), "model")
    transfer.upload_folder(uri, Path(local))
    digest = read_info(local)["model_digest"]
    copy = model_on_this_node(uri, digest)
    assert copy.is_relative_to(cache) and folder_digest(copy) == digest
    weights = next(copy.glob("unet/*.safetensors"))
    before = copy.stat().st_ino
    assert model_on_this_node(uri, digest).stat().st_ino == before, "a whole copy is kept"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert folder_digest(model_on_this_node(uri, digest)) == digest
    with pytest.raises(SiamdiffError, match="was replaced"):
        model_on_this_node(uri, "0" * 64)
    assert not list(cache.glob("models/*.*[!k]")), "no half copy is left"


def test_readers_start_without_pytorch():
    program = "import sys, infra.masks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY).returncode == 0
