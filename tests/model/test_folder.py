"""A trained model at rest: what of its base comes along."""

from pathlib import Path

from siamdiff import storage
from siamdiff.model.folder import load_model
from tests.tiny_model import write_masks, write_model


def test_of_the_base_only_what_is_read_comes_along(tmp_path: Path) -> None:
    base, model = tmp_path / "base", tmp_path / "model"
    variants = [
        "vae/diffusion_pytorch_model.bin",  # a pickle
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/.cache/half",
    ]
    for name in variants:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(b"not looked at")
    write_model(str(model), base, write_masks(str(tmp_path / "masks"), count=1))

    assert not set(variants) & storage.list_files(str(model)).keys()
    load_model(str(model))
