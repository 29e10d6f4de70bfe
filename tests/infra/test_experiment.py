"""Which stages an experiment has."""

from infra.experiment import stages
from siamdiff.config import Config


def test_copies_of_the_real_pairs_are_made_without_training() -> None:
    assert list(stages(Config())) == ["ingest", "train", "generate", "evaluate"]
    copies = Config.model_validate({"generate": {"method": "copy-paste", "fold_masks": ["real"]}})
    assert list(stages(copies)) == ["ingest", "generate", "evaluate"]
