"""The extractors that `evaluate.extractors` names: found with their weights, then loaded where images are.

`inception` and `clip` give features of the standard networks of FID, KID, CMMD and CLIP-I. Which those are is known by
the hash of their weights; other weights are taken too, and then named by their hash.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from siamdiff.errors import UserError
from siamdiff.evaluation.copies import BothSpaces
from siamdiff.evaluation.features import (
    CLIP,
    CLIP_PREFIX,
    EFFICIENTNET,
    INCEPTION,
    FeatureExtractor,
    FeatureSpec,
)
from siamdiff.evaluation.perceptual import Lpips
from siamdiff.evaluation.weights import Weights, download, find_file, find_folder, local_file, local_folder
from siamdiff.model.weights import LOADING_ERRORS, some
from siamdiff.sections import LPIPS_PREFIX

OPTION = "--evaluate.extractors"
STANDARD_CLIP = "openai/clip-vit-large-patch14-336"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
CLIP_SHA256 = "c6032c2e0caae3dc2d4fba35535fa6307dbb49df59c7e182b1bc4b3329b81801"  # its pytorch_model.bin
_INCEPTION_URL = (
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
)
_TORCHVISION = "https://download.pytorch.org/models"
_HEADS = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1"
# backbone -> (URL, beginning of its hash), the same of its heads
_LPIPS = {
    "squeezenet": (
        (f"{_TORCHVISION}/squeezenet1_1-b8a52dc0.pth", "b8a52dc0"),
        (f"{_HEADS}/squeeze.pth", "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76"),
    ),
    "alexnet": (
        (f"{_TORCHVISION}/alexnet-owt-7be5be79.pth", "7be5be79"),
        (f"{_HEADS}/alex.pth", "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"),
    ),
    "vgg16": (
        (
            f"{_TORCHVISION}/vgg16-397923af.pth",
            "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        ),
        (f"{_HEADS}/vgg.pth", "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"),
    ),
}


@dataclass(frozen=True)
class Extractor:
    """A network whose weights were found; small, for sending to where it is loaded."""

    kind: str  # as evaluate.extractors names it
    spec: FeatureSpec
    weights: tuple[Weights, ...] = ()

    @property
    def is_paired(self) -> bool:
        """Whether it measures pairs of images instead of giving features."""
        return self.kind.startswith(LPIPS_PREFIX)

    def identity(self) -> dict[str, Any]:
        """What its features depend on, as plain values."""
        spec: dict[str, Any] = asdict(self.spec)
        if self.weights:  # their hashes say more than the names that their files have here
            spec["weights"] = [[weights.sha256, weights.settings] for weights in self.weights]
        return {"kind": self.kind} | spec

    def load(self, device: str = "cpu") -> FeatureExtractor:
        """The network of one that is not paired, on `device`.

        That of `efficientnet-lite0` adds what copies are found by (siamdiff.evaluation.copies.BothSpaces).

        Raises:
            UserError: weights of something else.
            SiamdiffError: weights that are no more what was found.
        """
        match self.kind:
            case "inception":
                return Inception(local_file(self.weights[0]), self.spec, device)
            case "clip":
                return ClipVision(local_folder(self.weights[0]), self.spec, device)
        return BothSpaces(device)

    def load_paired(self, device: str = "cpu") -> Lpips:
        """The measure of one that is paired, on `device`; errors as of `load`."""
        features, heads = map(local_file, self.weights)
        return Lpips(self.kind.removeprefix(LPIPS_PREFIX), features, heads, device)


def find(kind: str, given: str | None) -> Extractor:
    """Looks for the weights of an extractor.

    Args:
        kind: as `evaluate.extractors` names it.
        given: where they lie; None: inside a package, else downloaded.

    Raises:
        UserError: they are missing, cannot be downloaded or are of something else; says what to give.
    """
    match kind:
        case "inception":
            return _find_inception(given)
        case "clip":
            return _find_clip(given)
        case "efficientnet-lite0":
            if given:
                raise UserError(
                    f"{OPTION} {kind}={given}: its weights come inside a package; give {kind} alone"
                )
            return EFFICIENTNET_EXTRACTOR
    return _find_lpips(kind, given)


EFFICIENTNET_EXTRACTOR = Extractor("efficientnet-lite0", EFFICIENTNET)


def _find_inception(given: str | None) -> Extractor:
    wanted = f"{OPTION} inception=FILE, the TorchScript file inception-2015-12-05.pt"
    weights = find_file(given, wanted) if given else download(_INCEPTION_URL, INCEPTION_SHA256, wanted)
    is_standard = weights.sha256 == INCEPTION_SHA256
    spec = FeatureSpec(
        label=INCEPTION if is_standard else f"inception_{weights.sha256[:8]}",
        weights=f"{weights.name}, {'the' if is_standard else 'not the'} standard file of FID",
        layer="return_features=True: last pooling",
        dimensions=0,
        resize="inside the network (standard file: bilinear without antialias to 299 x 299)",
        normalization="inside the network, from 0..255",
    )
    dimensions = _tried(Inception(local_file(weights), spec), weights, images=2)
    return Extractor("inception", replace(spec, dimensions=dimensions), (weights,))


def _tried(extract: FeatureExtractor, weights: Weights, images: int) -> int:
    """How many features it gives of an image; blank ones tell whether it gives any.

    Raises:
        UserError: it does not give as many finite ones of each image.
    """
    features = extract(np.zeros((images, 64, 64, 3), np.uint8))
    if features.ndim != 2 or len(features) != images or not features.size:
        raise UserError(
            f"{weights.uri} gives an array {features.shape} for {images} images, not ({images}, features); give "
            f"another with {OPTION}"
        )
    if not np.isfinite(features).all():
        raise UserError(f"{weights.uri} gives features that are not finite; give another with {OPTION}")
    return features.shape[1]


def _find_clip(given: str | None) -> Extractor:
    wanted = f"{OPTION} clip=FOLDER, a folder (local or s3://) or hub id such as {STANDARD_CLIP}"
    weights = find_folder(given or STANDARD_CLIP, wanted)
    folder = local_folder(weights)
    is_standard = weights.sha256 == CLIP_SHA256
    with _explained(folder, "CLIP vision model"), _quiet():
        from transformers import CLIPImageProcessorPil, CLIPVisionConfig

        dimensions = CLIPVisionConfig.from_pretrained(folder).projection_dim
        processor = CLIPImageProcessorPil.from_pretrained(folder)
        size, crop = (
            {name: value for name, value in dict(given or {}).items() if value is not None}
            for given in (processor.size, processor.crop_size)
        )
        spec = FeatureSpec(
            label=CLIP if is_standard else f"{CLIP_PREFIX}{weights.sha256[:8]}",
            weights=f"{weights.name}, {'the' if is_standard else 'not the'} standard weights of CMMD",
            layer="image projection, scaled to unit length",
            dimensions=dimensions,
            resize=f"its image processor: {size}, PIL filter {int(processor.resample)}, crop {crop}",
            normalization=f"(x - {processor.image_mean}) / {processor.image_std} on 0..1",
        )
    _tried(ClipVision(folder, spec), weights, images=1)
    return Extractor("clip", spec, (weights,))


def _find_lpips(kind: str, given: str | None) -> Extractor:
    name = kind.removeprefix(LPIPS_PREFIX)
    wanted = (
        f"{OPTION} {kind}=WEIGHTS,HEADS, the files {' and '.join(Path(url).name for url, _ in _LPIPS[name])}"
    )
    if given:
        files = given.split(",")
        if len(files) != 2:
            raise UserError(f"{kind} needs two files, not {given!r}; give {wanted}")
        found = tuple(find_file(file, wanted) for file in files)
    else:
        found = tuple(download(url, sha256, wanted) for url, sha256 in _LPIPS[name])
    features, heads = found
    spec = Lpips(name, local_file(features), local_file(heads)).spec
    return Extractor(kind, replace(spec, weights=f"{features.name}, {heads.name}"), found)


class Inception:
    """A TorchScript network called as that of FID is: features of pixels as they are, its resize inside.

    Args:
        file: of torch.jit.save.
        spec: of it.
        device: "cpu" or "cuda".
        batch_size: images that go through it at a time.

    Raises:
        UserError: no such network.
    """

    def __init__(self, file: Path, spec: FeatureSpec, device: str = "cpu", batch_size: int = 16) -> None:
        self.spec, self._device, self._batch_size = spec, device, batch_size
        self._file = file
        with _explained(file, "TorchScript network"), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # of TorchScript, in which the field keeps this file
            self._network: Any = torch.jit.load(str(file), map_location=device).eval()

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features float32 (N, D) of images uint8 (N, H, W, 3) RGB."""
        parts = []
        for start in range(0, len(images), self._batch_size):
            x = torch.from_numpy(np.ascontiguousarray(images[start : start + self._batch_size]))
            x = x.permute(0, 3, 1, 2).to(self._device)  # uint8 (n, 3, H, W)
            with _explained(self._file, "Inception network of FID, called with return_features=True"):
                parts.append(self._network(x, return_features=True).flatten(1).float().cpu().numpy())
        return np.concatenate(parts) if parts else np.empty((0, self.spec.dimensions), np.float32)


class ClipVision:
    """CLIP's image embeddings, of unit length, through transformers.

    Args:
        folder: in transformers' layout: config.json, preprocessor_config.json, weights.
        spec: of it.
        device: "cpu" or "cuda".
        batch_size: images that go through it at a time.

    Raises:
        UserError: a folder of something else.
    """

    def __init__(self, folder: Path, spec: FeatureSpec, device: str = "cpu", batch_size: int = 16) -> None:
        self.spec, self._device, self._batch_size = spec, device, batch_size
        with _explained(folder, "CLIP vision model"), _quiet():
            from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

            self._processor: Any = CLIPImageProcessorPil.from_pretrained(folder)
            loaded: Any = CLIPVisionModelWithProjection.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True
            )
            network, report = loaded
            if missing := report["missing_keys"]:  # they would be random
                raise ValueError(f"{len(missing)} tensors are missing: {some(missing)}")
        self._network, self._folder = network.eval().to(device), folder

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Embeddings float32 (N, D) of images uint8 (N, H, W, 3) RGB."""
        parts = []
        for start in range(0, len(images), self._batch_size):
            batch = list(images[start : start + self._batch_size])
            with _explained(self._folder, "CLIP vision model with the image processor that belongs to it"):
                x = self._processor(images=batch, return_tensors="pt", input_data_format="channels_last")
                embedded = self._network(x["pixel_values"].to(self._device)).image_embeds  # (n, D)
            parts.append(torch.nn.functional.normalize(embedded, dim=1).cpu().numpy())
        return np.concatenate(parts) if parts else np.empty((0, self.spec.dimensions), np.float32)


@contextmanager
def _explained(place: Path, what: str) -> Iterator[None]:
    """Tells in one line what libraries say of weights of something else."""
    try:
        yield
    except LOADING_ERRORS as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"{place} holds no {what} ({reason}); give another with {OPTION}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' remarks on torchvision, and on the text encoder that is left out."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
