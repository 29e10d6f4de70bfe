"""The settings of an experiment: the configuration alone, or one configuration for each setting of a sweep."""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from siamdiff import storage
from siamdiff.commandline import explain
from siamdiff.config import Config
from siamdiff.errors import UserError
from siamdiff.presets import PRESETS, merge, sections_of
from siamdiff.sections.experiment import FOLDS, TABLE_5, TABLE_6
from siamdiff.sections.segment import REAL

ALONE = "as configured"
_ROWS = {
    TABLE_5: ["table5-1", "table5-2", "table5-3", "table5-4", "table5-5", "table5-6", "table5-7", "ours"],
    TABLE_6: ["table6-0", "table6-0.5", "table6-1", "table6-1.5", "table6-2"],
}
_MASKS = {
    "real masks": ("each fold has the real masks", "real"),
    "transformed masks": ("each fold has transformed masks (the paper's Random)", "random"),
}


@dataclass(frozen=True)
class Planned:
    """A setting and the resolved configuration that it comes to."""

    name: str
    meaning: str
    fields: dict[str, Any]  # dotted field -> value, over the experiment's configuration
    config: Config


def planned(config: Config) -> list[Planned]:
    """The settings of a resolved configuration, in order; what two of them share is made once.

    Raises:
        UserError: an output that all of them would write to, or a setting that does not go with the configuration.
    """
    if not config.experiment.sweep:
        return [Planned(ALONE, "one setting", {}, config)]
    for name in ("generate", "evaluate", "segment"):
        if getattr(config, name).output:
            raise UserError(
                f"experiment.sweep has several settings, {name}.output is one place: leave it out, and each goes to "
                "its own under root"
            )
    settings = [one for name in config.experiment.sweep for one in _settings(name, config)]
    return [
        Planned(name, meaning, fields, _with(config, name, fields))
        for name, (meaning, fields) in dict(settings).items()
    ]


def _settings(sweep: str, config: Config) -> list[tuple[str, tuple[str, dict[str, Any]]]]:
    if sweep == FOLDS:
        arms = [REAL, *(f"{REAL}+{folds}" for folds in range(1, config.generate.folds + 1))]
        return [
            (name, (meaning, {"generate.fold_masks": [masks], "segment.arms": arms}))
            for name, (meaning, masks) in _MASKS.items()
        ]
    return [(name, PRESETS[name]) for name in _ROWS.get(sweep, [sweep])]


def _with(config: Config, name: str, fields: dict[str, Any]) -> Config:
    """The configuration with other values in some fields, and the URIs that depend on them."""
    given = config.model_dump(mode="json") | {"preset": None, "experiment": {}}
    run = config.train.run
    given["train"]["run"] = None if run == config.derived_run() else f"{run}-{name.replace(' ', '-')}"
    if config.generate.model == storage.join(config.run_uri(), "model"):
        given["generate"]["model"] = None
    try:
        return Config.model_validate(merge(given, sections_of(fields))).resolve()
    except ValidationError as error:
        raise UserError(f"experiment.sweep, setting {name!r}: {explain(error)}") from None
