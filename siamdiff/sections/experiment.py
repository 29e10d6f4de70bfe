"""All stages in one command, for one setting or for several that are compared."""

from pydantic import Field, field_validator

from siamdiff.errors import nearest
from siamdiff.presets import PRESETS
from siamdiff.sections.common import Section

TABLE_5, TABLE_6, FOLDS = "table5", "table6", "folds"  # the paper's Tables 5 and 6, and its Fig. 7
SWEEPS = (TABLE_5, TABLE_6, FOLDS)


class Experiment(Section):
    """What jobs/experiment.py compares."""

    sweep: list[str] = Field(
        default=[],
        description="train, generate, evaluate and segment for each setting: table5 or table6 (the paper's ablations), "
        "folds (its Fig. 7: real against transformed masks, fold after fold), presets by name [the configuration "
        "alone]",
    )

    @field_validator("sweep")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in SWEEPS and name not in PRESETS:
                raise ValueError(
                    f"{name!r} is neither a sweep nor a preset{nearest(name, [*SWEEPS, *PRESETS])}; give any of "
                    f"{', '.join([*SWEEPS, *PRESETS])}"
                )
        if len(set(names)) < len(names):
            raise ValueError("a sweep is named twice; give each once")
        return names
