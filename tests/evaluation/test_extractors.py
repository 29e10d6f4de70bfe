"""Extractors from files and folders: a small CLIP through transformers' own loading, a small script for Inception."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionModelWithProjection

from siamdiff import storage, transfer
from siamdiff.data.phantom import render_phantom
from siamdiff.errors import UserError
from siamdiff.evaluation import extractors
from siamdiff.evaluation.distances import cmmd, paired_cosine
from siamdiff.evaluation.extractors import find
from siamdiff.evaluation.features import CLIP, INCEPTION
from siamdiff.evaluation.figures import Recipe, compare
from tests.evaluation.small_networks import Other, Script, save_clip, save_lpips, save_script


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_script(Script(), tmp_path_factory.mktemp("inception") / "inception-2015-12-05.pt")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.stack([render_phantom(0, index, 64)[0] for index in range(24)])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIAMDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_inception_file_is_called_as_its_users_call_it(inception: Path, images: np.ndarray) -> None:
    found = find("inception", str(inception))
    assert found.spec.dimensions == 12
    features = found.load()(images)
    network = torch.jit.load(str(inception))
    with torch.inference_mode():
        by_hand = network(torch.from_numpy(images).permute(0, 3, 1, 2), return_features=True).numpy()
    np.testing.assert_allclose(features, by_hand, rtol=1e-5, atol=1e-6)
    assert found.load()(images[:0]).shape == (0, 12)


def test_fid_alone_is_printed_for_the_standard_file_only(
    inception: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names() -> list[str]:
        found = find("inception", str(inception))
        features = found.load()(images)
        return [
            f.name for f in compare(features[:12], features[12:], found.spec, "train", Recipe(resamples=0))[0]
        ]

    sha256 = storage.file_sha256(inception)
    assert names()[0] == f"frechet_inception_{sha256[:8]}"
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", sha256)
    assert (names()[0], names()[2]) == ("fid", "kid")
    assert find("inception", str(inception)).spec.label == INCEPTION


def test_clip_embeds_as_transformers_does(clip: Path, images: np.ndarray) -> None:
    found = find("clip", str(clip))
    assert found.spec.dimensions == 24 and found.spec.is_clip and found.spec.label.startswith("clip_")
    assert "'shortest_edge': 56" in found.spec.resize and "None" not in found.spec.resize
    embedded = found.load()(images)
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, rtol=1e-5)
    resized = np.asarray(Image.fromarray(images[3]).resize((56, 56), Image.Resampling.BICUBIC)) / 255
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    x = torch.from_numpy((resized - mean) / std).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        by_hand = CLIPVisionModelWithProjection.from_pretrained(clip).eval()(x).image_embeds[0].numpy()
    np.testing.assert_allclose(embedded[3], by_hand / np.linalg.norm(by_hand), rtol=1e-3, atol=1e-4)


def test_cmmd_and_clip_i_run_on_a_folder_of_clip(
    clip: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = storage.file_sha256(clip / "model.safetensors")
    monkeypatch.setattr(extractors, "CLIP_SHA256", weights)
    found = find("clip", str(clip))
    assert found.spec.label == CLIP
    embedded = found.load()(images)
    figures, _ = compare(embedded[:12], embedded[12:], found.spec, "train", Recipe(resamples=0))
    assert {f.name: f.value for f in figures}["cmmd"] == pytest.approx(cmmd(embedded[:12], embedded[12:]))
    assert paired_cosine(embedded, embedded) == pytest.approx(np.ones(24))
    assert (paired_cosine(embedded, np.roll(embedded, 1, 0)) < 1).all()


def test_weights_in_a_store_are_fetched_once_per_node(s3, inception: Path, clip: Path, cache: Path) -> None:
    root = s3.new_root()
    storage.upload_file(storage.join(root, "i.pt"), inception)
    transfer.upload_folder(storage.join(root, "clip"), clip)
    one, other = find("inception", storage.join(root, "i.pt")), find("clip", storage.join(root, "clip"))
    assert one.identity() == find("inception", str(inception)).identity()  # whatever the files are called
    assert other.identity() == find("clip", str(clip)).identity()
    assert len(list((cache / "weights").glob("*.pt"))) == 1
    storage.delete_folder(root)
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    assert one.load()(pixels).shape == (1, 12)
    with pytest.raises(UserError, match="no model at"):
        other.load()
    with pytest.raises(UserError, match=r"i.pt is missing; give --evaluate.extractors inception=FILE"):
        find("inception", storage.join(root, "i.pt"))


def test_lpips_takes_two_files(tmp_path: Path, images: np.ndarray) -> None:
    found = find("lpips-squeezenet", save_lpips(tmp_path))
    assert found.is_paired and storage.file_sha256(tmp_path / "heads.pth")[:16] in found.spec.weights
    assert found.load_paired()(images[:2], images[2:4]).shape == (2,)


def test_a_missing_extractor_is_told_with_the_file_to_give(
    tmp_path: Path, inception: Path, clip: Path
) -> None:
    (tmp_path / "text.pt").write_text("no script")
    save_script(Other(), tmp_path / "other.pt")
    (tmp_path / "empty").mkdir()
    for kind, given, message in (
        (
            "inception",
            None,
            r"HF_HUB_OFFLINE.*inception=FILE.*inception-2015-12-05.pt, to be had at https://nvlabs",
        ),
        (
            "inception",
            str(tmp_path / "none.pt"),
            r"none.pt is missing; give --evaluate.extractors inception=FILE",
        ),
        ("inception", str(tmp_path / "text.pt"), "text.pt holds no TorchScript network"),
        ("inception", str(tmp_path / "other.pt"), "other.pt holds no Inception network of FID"),
        ("clip", None, "no folder openai/clip-vit-large-patch14-336 here.*clip=FOLDER"),
        ("clip", str(tmp_path / "none"), "no folder .*none; give --evaluate.extractors clip=FOLDER"),
        ("clip", str(tmp_path / "empty"), "empty lacks one of config.json"),
        ("lpips-vgg16", None, r"HF_HUB_OFFLINE.*lpips-vgg16=WEIGHTS,HEADS.*vgg16-397923af.pth and vgg.pth"),
        ("lpips-vgg16", str(inception), "needs two files"),
        (
            "lpips-alexnet",
            f"{inception},{inception}",
            "holds no alexnet|no weights that can be read|no state dict",
        ),
        ("efficientnet-lite0", str(clip), "inside a package"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            find(kind, given)
        assert "\n" not in str(caught.value)


class Odd(torch.nn.Module):
    """Called as FID's network is, gives something else."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        x = img.to(torch.float32).mean((2, 3))
        if self.what == "one row":
            return x[:1]
        return x[:, :0] if self.what == "nothing" else x.mean() if self.what == "number" else x / 0


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("one row", r"gives an array \(1, 3\) for 2 images"),
        ("nothing", r"gives an array \(2, 0\) for 2 images"),
        ("number", "holds no Inception network of FID"),
        ("nan", "gives features that are not finite"),
    ],
)
def test_a_script_that_gives_no_features_is_found_before_the_first_image(
    tmp_path: Path, what: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        find("inception", str(save_script(Odd(what), tmp_path / "odd.pt")))


def changed(name: str, **fields: object) -> Callable[[Path], None]:
    """Overwrites fields of a folder's JSON file."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | fields))

    return change


def written(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (written(WEIGHTS, b""), "header too small"),
        (written(WEIGHTS, b"garbage " * 99), "header too large"),
        (written(CONFIG, b"[]"), "must be a mapping"),
        (written(PROCESSOR, b"[]"), "'list' object"),
        (changed(CONFIG, hidden_size="big"), "expected int, got str"),
        (changed(CONFIG, num_attention_heads=0), "modulo by zero"),
        (changed(CONFIG, num_hidden_layers=3), "16 tensors are missing: vision_model"),
        (changed(PROCESSOR, crop_size={"height": 28, "width": 28}), "image processor that belongs to it"),
        (changed(PROCESSOR, crop_size=None), "image processor that belongs to it"),
        (changed(PROCESSOR, image_mean=[0.5]), "image processor that belongs to it"),
    ],
)
def test_a_damaged_folder_of_clip_is_found_before_the_first_image(
    tmp_path: Path, clip: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(clip, folder)
    damage(folder)
    with pytest.raises(UserError, match=f"{folder} holds no CLIP vision model.*{message}") as caught:
        find("clip", str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["empty.pth", "empty.npz", "empty.safetensors", "texts.npz", "nan.pth"])
def test_damaged_files_of_lpips_are_told_in_one_line(tmp_path: Path, name: str) -> None:
    features, heads = save_lpips(tmp_path).split(",")
    file = tmp_path / name
    file.write_bytes(b"")
    if name == "texts.npz":
        np.savez(file, **{"features.0.weight": np.array(["text"])})
    if name == "nan.pth":
        torch.save({key: of / 0 for key, of in torch.load(features, weights_only=True).items()}, file)
    for given in (f"{file},{heads}", f"{features},{file}"):
        with pytest.raises(UserError, match=f"{file} holds no ") as caught:
            find("lpips-squeezenet", given)
        assert "\n" not in str(caught.value)


def test_extractors_are_small_enough_to_send(inception: Path) -> None:
    import pickle

    found = find("inception", str(inception))
    sent = io.BytesIO(pickle.dumps(found))
    assert len(sent.getvalue()) < 4096 and pickle.load(sent) == found
