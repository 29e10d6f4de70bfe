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
from siamdiff.sections.named import NEWEST
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
    settings = dict(one for name in config.experiment.sweep for one in _settings(name, config))
    _refuse_shared(
        config, trains=any(_is_trained(field) for _, fields in settings.values() for field in fields)
    )
    return [
        Planned(name, meaning, fields, _with(config, name, fields))
        for name, (meaning, fields) in settings.items()
    ]


def _is_trained(field: str) -> bool:
    """Whether another value of a dotted field means another model."""
    return field.startswith(("model.", "train."))


def _refuse_shared(config: Config, trains: bool) -> None:
    """Refuses what all settings would share although it is what they are compared by.

    Raises:
        UserError: see there.
    """
    for name in ("generate", "evaluate", "segment"):
        if getattr(config, name).output:
            raise UserError(
                f"experiment.sweep has several settings, {name}.output is one place: leave it out, and each goes to "
                "its own under root"
            )
    for name in ("evaluate", "segment"):
        if NEWEST not in (getattr(config, name).synthetic or {}).values():
            raise UserError(
                f"{name}.synthetic names no set of a setting's own, so all settings of experiment.sweep would be "
                f"judged by the same: leave it out, or give one more, --{name}.synthetic synthetic={NEWEST}"
            )
    if not trains:
        return
    if config.generate.method != "model":
        raise UserError(
            f"generate.method {config.generate.method} needs no model, so the settings of experiment.sweep would "
            "differ in nothing: leave it out; segment.arms has copy-paste as an arm"
        )
    if config.generate.model != _own_model(config):
        raise UserError(
            f"generate.model {config.generate.model} would make the images of every setting of experiment.sweep: leave "
            "it out, and each has the model that it trained"
        )


def _own_model(config: Config) -> str:
    return storage.join(config.run_uri(), "model")


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
    given["train"]["run"] = None
    if config.generate.model == _own_model(config):
        given["generate"]["model"] = None
    try:
        found = Config.model_validate(merge(given, sections_of(fields)))
        run = found.resolve().train.run
        assert run, "resolve() derives it"
        if config.train.run != config.derived_run():  # it has a name; what is the same run has the same name
            run = f"{config.train.run}-{run.removeprefix('run-')}"
        train = found.train.model_copy(update={"run": run})
        return found.model_copy(update={"train": train}).resolve()
    except ValidationError as error:
        raise UserError(f"experiment.sweep, setting {name!r}: {explain(error)}") from None
