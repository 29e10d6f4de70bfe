"""Which images are in the t-SNE of an evaluation, and by which features."""

import numpy as np
import pytest

from infra.measure import Measured
from infra.named_sets import NamedSet
from infra.tsne import Plane, plane_of
from siamdiff.config import Config
from siamdiff.evaluation.extractors import EFFICIENTNET_EXTRACTOR, Extractor
from siamdiff.evaluation.features import EFFICIENTNET
from tests.segmentation.sets import real_set, synthetic_set

LITE = EFFICIENTNET_EXTRACTOR
OTHER = Extractor("inception", EFFICIENTNET)
PAIRED = Extractor("lpips-squeezenet", EFFICIENTNET)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    real = real_set(str(folder / "real"))
    return real, synthetic_set(str(folder / "synthetic"), real)


def plane(sets, extractors, names=("ours",), seed=0, **settings) -> Plane:
    """With features of their own for every set and extractor."""
    real, synthetic = sets
    config = Config(root="/unused", data={"source": "polyps"}, evaluate={"seed": seed, **settings}).resolve()
    kinds = {extractor.kind: i for i, extractor in enumerate(extractors) if not extractor.is_paired}
    n_real = len(real.keys("train"))

    def features(count: int) -> dict[str, np.ndarray]:
        return {kind: np.random.default_rng([i, count]).normal(size=(count, 5)) for kind, i in kinds.items()}

    measured = Measured(
        features(n_real), {name: features(len(synthetic)) for name in names}, {}, {}, {}, {}, {}, [], n_real
    )
    named = [NamedSet(name, synthetic) for name in names]
    return plane_of(config, real, named, extractors, measured)


def test_all_images_of_small_sets_are_in_it_and_the_same_each_time(sets) -> None:
    real, synthetic = sets
    made = plane(sets, [PAIRED, OTHER, LITE])
    assert made.about and made.about["extractor"] == "efficientnet-lite0"
    assert made.about["counts"] == {"real": len(real.keys("train")), "ours": len(synthetic)}
    assert [at["key"] for at in made.points] == [*real.keys("train"), *synthetic.keys()]
    assert made == plane(sets, [PAIRED, OTHER, LITE])
    assert plane(sets, [PAIRED, OTHER]).about == made.about | {"extractor": "inception"}


def test_images_of_large_sets_are_drawn_by_each_set_for_itself(sets) -> None:
    made = plane(sets, [LITE], tsne=3)
    assert made.about and made.about["counts"] == {"real": 3, "ours": 3}
    assert made.about["perplexity"] == pytest.approx(5 / 3)
    keys = [at["key"] for at in made.points]
    beside_another = plane(sets, [LITE], names=("another", "ours"), tsne=3).points
    assert [at["key"] for at in beside_another if at["set"] in ("real", "ours")] == keys
    assert [at["key"] for at in plane(sets, [LITE], seed=1, tsne=3).points] != keys


def test_without_features_or_images_there_is_none(sets) -> None:
    assert plane(sets, [LITE], tsne=0) == Plane()
    (warning,) = plane(sets, [PAIRED]).warnings
    assert "no t-SNE: LPIPS alone gives no features" in warning
    (warning,) = plane(sets, [LITE], tsne=1).warnings
    assert "fewer than 4 different images" in warning and "evaluate.tsne 1" in warning
