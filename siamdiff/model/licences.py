"""Under which terms a base is given: those that its folder names, else those of a model that the hub is known for."""

from pathlib import Path

import yaml
from huggingface_hub import metadata_load

from siamdiff import storage
from siamdiff.config import Config
from siamdiff.errors import SiamdiffError
from siamdiff.model.sources import INFO, TINY, is_hub_id
from siamdiff.terms import Terms, combine

CARD = "README.md"
_OPENRAIL = "creativeml-openrail-m"
# of repositories, in small letters; diffusers does not download their cards
_ON_THE_HUB = {
    "compvis/stable-diffusion-v1-4": _OPENRAIL,
    "runwayml/stable-diffusion-v1-5": _OPENRAIL,
    "sd-legacy/stable-diffusion-v1-5": _OPENRAIL,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": _OPENRAIL,
}


def base_terms(config: Config, folder: Path | None = None) -> Terms | None:
    """Terms of a configuration's base, and of what supplies its missing parts; None: it is made of the data alone.

    Args:
        config: resolved.
        folder: local, with the base as it was fetched; None: only what lies on this machine is looked at.
    """
    model = config.model
    if model.base == TINY:
        return None
    given = [_terms(model.base, folder)] + ([_terms(model.parts, None)] if model.parts else [])
    return combine(given)


def _terms(base: str, fetched: Path | None) -> Terms:
    repository = base.partition("@")[0].lower()
    if is_hub_id(base) and repository in _ON_THE_HUB:
        return Terms.of_licence(_ON_THE_HUB[repository])
    folder = Path(base) if Path(base).is_dir() else fetched
    return (folder and (_of_info(folder / INFO) or _of_card(folder / CARD))) or Terms()


def _of_info(file: Path) -> Terms | None:
    """What `siamdiff.json` says, where it says anything of terms."""
    try:
        info = storage.read_json(str(file))
    except (FileNotFoundError, SiamdiffError):  # a damaged one is told of by whoever loads the base
        return None
    if not isinstance(info, dict) or not isinstance(info.get("license"), str):
        return None
    use = info.get("permitted_use")
    return Terms(info["license"], use) if isinstance(use, str) else Terms.of_licence(info["license"])


def _of_card(file: Path) -> Terms | None:
    """What the hub's card says."""
    try:
        about = metadata_load(file) if file.is_file() else None
    except (OSError, ValueError, yaml.YAMLError):
        return None
    licence = (about or {}).get("license_name") or (about or {}).get("license")
    return Terms.of_licence(licence) if isinstance(licence, str) else None
