"""Networks by name: the shapes they promise, and where their weights come from."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from transformers import SegformerConfig, SegformerForImageClassification

from siamdiff.errors import UserError
from siamdiff.sections.segment import NETWORK_NAMES
from siamdiff.segmentation.networks import ARCHITECTURES, build_network, is_segformer
from siamdiff.segmentation.pairs import parameter_count
from siamdiff.segmentation.segformer import Segformer

LARGE = {f"segformer-b{size}" for size in range(1, 6)}


def test_every_name_of_the_configuration_is_a_network() -> None:
    assert tuple(ARCHITECTURES) == NETWORK_NAMES


@pytest.mark.parametrize("name", [name for name in NETWORK_NAMES if name not in LARGE])
def test_a_network_gives_one_logit_per_pixel_down_to_its_smallest_side(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name)
    side = max(ARCHITECTURES[name].multiple, 16)  # data.resolution is at least 16
    for size in (side, 2 * side):
        logits = network(torch.rand(2, 3, size, size) * 2 - 1)
        assert logits.shape == (2, 1, size, size)
    logits.mean().backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    "name, millions", [("segformer-b1", 13.7), ("segformer-b2", 27.3), ("segformer-b5", 84.6)]
)
def test_segformers_have_the_published_sizes(name: str, millions: float) -> None:
    with torch.device("meta"):
        network = build_network(name)
    assert parameter_count(network) / 1e6 == pytest.approx(millions, abs=0.05)


def test_a_segformer_sees_imagenets_normalisation() -> None:
    network = build_network("segformer-b0").eval()
    assert isinstance(network, Segformer)
    image = torch.rand(1, 3, 32, 32)  # in [0, 1]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    by_hand = network.network((image - mean.view(3, 1, 1)) / std.view(3, 1, 1)).logits
    whole = torch.nn.functional.interpolate(by_hand, scale_factor=4, mode="bilinear")
    assert torch.allclose(network(image * 2 - 1), whole, atol=1e-5)


def test_a_pretrained_encoder_is_taken_and_its_head_is_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    classifier = SegformerForImageClassification(SegformerConfig())
    classifier.save_pretrained(tmp_path)
    capfd.readouterr()
    network = build_network("segformer-b0", tmp_path)
    assert isinstance(network, Segformer)
    theirs, ours = classifier.segformer.state_dict(), network.network.segformer.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    assert not capfd.readouterr().err
    with torch.device("meta"):
        larger = build_network("segformer-b1")
    assert isinstance(larger, Segformer)
    with pytest.raises(UserError, match="no encoder of this size") as caught:
        larger.load_encoder(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no encoder of this size"):
        network.load_encoder(tmp_path / "nothing")
    weights = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load_file(weights)
    del tensors["segformer.encoder.block.0.0.layer_norm_1.weight"]
    safetensors.torch.save_file(tensors, weights)
    with pytest.raises(UserError, match="1 tensors are missing"):
        network.load_encoder(tmp_path)
    weights.write_bytes(b"nothing")
    with pytest.raises(UserError, match="no encoder of this size"):
        network.load_encoder(tmp_path)


def test_only_segformers_take_an_encoder() -> None:
    assert {name for name in NETWORK_NAMES if is_segformer(name)} == LARGE | {"segformer-b0"}
