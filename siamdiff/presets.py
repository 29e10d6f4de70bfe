"""Named settings: the method, its ablations (the paper's Tables 5 and 6), and a baseline.

A preset names every switch that tells it from the others and nothing else, so that it means the same over any
configuration, and all of them train on one schedule. Of Table 5, the paper's Sec. 5.3.1 names the settings 1 to 4;
5 to 7 are inferred from what it says of them, as the table's ticks do not survive in the paper's text. Online-
Augmentation and L_c use the image branch's prediction, so L_i comes with either.
"""

from typing import Any

from siamdiff.errors import UserError, nearest


def _setting(control: str, *, online_augmentation: bool = False, w_c: float = 0.0) -> dict[str, Any]:
    """A row of Table 5 or 6: DHI or not, Online-Augmentation or not, the weight of L_c."""
    return {
        "model.control": control,
        "train.trained_unet": "decoder",
        "train.image_branch": online_augmentation or w_c > 0,
        "train.online_augmentation": online_augmentation,
        "train.consistency_weight": w_c,
    }


CONTROLNET = _setting("plain")
OURS = _setting("dhi", online_augmentation=True, w_c=1.0)

SWITCHES = tuple(OURS)  # the dotted fields that tell the methods from each other

# name -> (what it is, {dotted field: value})
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "ours": ("Siamese-Diffusion as the paper has it", OURS),
    "table5-1": ("ControlNet, the baseline", CONTROLNET),
    "table5-2": ("DHI", _setting("dhi")),
    "table5-3": ("Online-Augmentation", _setting("plain", online_augmentation=True)),
    "table5-4": ("L_c", _setting("plain", w_c=1.0)),
    "table5-5": ("Online-Augmentation and L_c", _setting("plain", online_augmentation=True, w_c=1.0)),
    "table5-6": ("DHI and Online-Augmentation", _setting("dhi", online_augmentation=True)),
    "table5-7": ("DHI and L_c", _setting("dhi", w_c=1.0)),
    # Sec. 5.3.2: "wc = 0.0 corresponds to ControlNet"; the row's figures are those of Table 5, setting 1.
    "table6-0": ("w_c = 0, in the paper ControlNet again", CONTROLNET),
    "table6-0.5": ("ours with w_c = 0.5", OURS | {"train.consistency_weight": 0.5}),
    "table6-1": ("ours", OURS),
    "table6-1.5": ("ours with w_c = 1.5", OURS | {"train.consistency_weight": 1.5}),
    "table6-2": ("ours with w_c = 2", OURS | {"train.consistency_weight": 2.0}),
    "t2i-adapter": (
        "T2I-Adapter, a baseline: a frozen UNet, L_m alone",
        _setting("t2i-adapter") | {"train.trained_unet": "none"},
    ),
}


def expand(fields: dict[str, Any]) -> dict[str, Any]:
    """A configuration's fields, section by section, over those of the preset that they name, if they name one.

    Raises:
        UserError: there is no such preset; names the nearest and lists all.
    """
    name = fields.get("preset")
    if name is None:
        return fields
    if not isinstance(name, str) or name not in PRESETS:
        raise UserError(
            f"unknown preset {str(name)!r}{nearest(str(name), list(PRESETS))} (there are {', '.join(PRESETS)})"
        )
    return merge(sections_of(PRESETS[name][1]), fields)


def sections_of(fields: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{section: {field: value}} of {"section.field": value}."""
    sections: dict[str, dict[str, Any]] = {}
    for field, value in fields.items():
        section, _, key = field.partition(".")
        sections.setdefault(section, {})[key] = value
    return sections


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` over `below`, section by section; lists and the split's shares are replaced whole."""
    merged = dict(below)
    for name, value in above.items():
        inner = merged.get(name)
        merged[name] = (
            merge(inner, value)
            if isinstance(inner, dict) and isinstance(value, dict) and name != "split"
            else value
        )
    return merged


def table() -> str:
    """One line per preset, for --help."""
    return "\n".join(f"  {name:<12} {meaning}" for name, (meaning, _) in PRESETS.items())
