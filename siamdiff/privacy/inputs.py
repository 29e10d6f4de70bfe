"""What a synthetic set came from: the set that its model was trained on, and the model, where they can still be had."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from siamdiff import storage
from siamdiff.data.sample import MAX_SIDE
from siamdiff.data.shardset import ShardSet
from siamdiff.errors import SiamdiffError, UserError
from siamdiff.model.about import read_info

TRAIN = "train"  # the split that models are trained on; all others are held out


@dataclass(frozen=True)
class Inputs:
    """A synthetic set, and what it came from."""

    synthetic: ShardSet
    training: ShardSet | None
    model: str | None  # URI
    model_digest: str | None
    no_training: str = ""  # why there is none
    no_model: str = ""
    doubt: str = ""  # why the training set may not be the right one

    @property
    def origin(self) -> str:
        """In words, how the set was made."""
        made_from = self.synthetic.manifest.made_from
        if foreign := part(made_from, "origin"):
            return f"images of another method, {foreign.get('method', 'unnamed')}"
        told = f"drawn by model {self.model_digest[:16]}" if self.model_digest else "real pairs copied"
        dropped = made_from.get("dropped")
        if "filtered_from" in made_from and isinstance(dropped, list):
            told += f"; {len(dropped)} samples were removed from it after an earlier report"
        return told


def part(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """What lies under a path of names in plain values, which come from anywhere; {} where that is no object."""
    found: Any = values
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


def find_inputs(uri: str, training: str | None = None, model: str | None = None) -> Inputs:
    """What a synthetic set came from.

    Args:
        uri: of the set.
        training: URI of the set that its model was trained on [what the set names].
        model: URI of the model [what the set names].

    Raises:
        UserError: not a complete synthetic set; a training set or model that was given and is none, or of another size.
        SiamdiffError: something is damaged.
    """
    synthetic = ShardSet.open(uri)
    if synthetic.manifest.kind != "synthetic":
        raise UserError(f"{synthetic.uri} is a real set; give a synthetic one, such as ROOT/synthetic/PLAN")
    digest = part(synthetic.manifest.made_from, "model").get("digest")
    digest = digest if isinstance(digest, str) else None
    found_model, no_model = _model(synthetic, model, digest)
    if digest is None and found_model is not None:
        digest = str(read_info(found_model).get("model_digest", ""))
    named_uri, named_digest = _named(synthetic, found_model)
    real, why, doubt = _training(training, named_uri, named_digest)
    if real is not None:
        _check_size(synthetic, real)
    return Inputs(synthetic, real, found_model, digest, why, no_model, doubt)


def _model(synthetic: ShardSet, given: str | None, digest: str | None) -> tuple[str | None, str]:
    """URI of the model, and why there is none."""
    named = part(synthetic.manifest.made_from, "model").get("uri")
    if given is None and not isinstance(named, str):
        return None, "the set names no model"
    uri = storage.normalize(given if given is not None else str(named))
    try:
        there = read_info(uri).get("model_digest")
    except UserError as error:
        if given is not None:
            raise UserError(f"no model at {uri}; give another with --model, or leave it out") from error
        return None, "the model is no longer where the set says; name it with --model"
    if digest is not None and there != digest:
        if given is not None:
            raise UserError(
                f"the model at {uri} ({str(there)[:16]}) did not draw {synthetic.uri}, which names {digest[:16]}; "
                "give that one with --model, or leave it out"
            )
        return None, "another model lies where the set says by now; name the right one with --model"
    return uri, ""


def _named(synthetic: ShardSet, model: str | None) -> tuple[str | None, str | None]:
    """URI and digest of the training set as set and model name it; None: not named."""
    made_from = synthetic.manifest.made_from
    while "filtered_from" in made_from:
        # Its own `training` is what somebody compared it with, right or wrong.
        made_from = part(made_from, "filtered_from", "made_from")
    told = [part(made_from, "training"), part(made_from, "gates", "copies", "training")]
    if model is not None:
        info = read_info(model)
        told.append({"uri": info.get("data_uri"), "digest": info.get("data_digest")})
    if not part(made_from, "model") and not part(made_from, "origin"):
        told.append(part(made_from, "masks"))  # copied pairs: what was copied
    told.append({"digest": part(made_from, "model").get("data_digest")})
    named = [one for one in told if isinstance(one.get("digest"), str)]
    uri = next((one["uri"] for one in named if isinstance(one.get("uri"), str)), None)
    return uri, named[0]["digest"] if named else None


def _training(
    given: str | None, named_uri: str | None, named_digest: str | None
) -> tuple[ShardSet | None, str, str]:
    """The training set, why there is none, and why it may be the wrong one."""
    if given is not None:
        real = ShardSet.open(given)
        if real.manifest.kind != "real":
            raise UserError(f"{real.uri} is a synthetic set; give the real one with --training")
        if not real.keys(TRAIN):
            raise UserError(
                f"{real.uri} has no image in split {TRAIN!r} (it has {real.manifest.splits}); give another with "
                "--training"
            )
        if named_digest is None:
            return real, "", "Neither the set nor its model says which set it was trained on."
        if named_digest != real.digest:
            return real, "", "It is not the set that the model says it was trained on: another digest."
        return real, "", ""
    if named_uri is None:
        return None, "neither the set nor its model names a training set; name it with --training", ""
    try:
        real = ShardSet.open(named_uri)
    except SiamdiffError:
        return None, "the training set cannot be read where it is said to be; name it with --training", ""
    if real.digest != named_digest:
        return None, "another set lies where the training set was; name the right one with --training", ""
    if not real.keys(TRAIN):
        return None, f"the training set has no image in split {TRAIN!r}; name it with --training", ""
    return real, "", ""


def _check_size(synthetic: ShardSet, real: ShardSet) -> None:
    """Images of other sizes can be compared; of none, nothing can."""
    for of in (synthetic, real):
        if not len(of) or not 8 <= of.manifest.resolution <= MAX_SIDE:
            raise UserError(
                f"{of.uri} has {len(of)} images of {of.manifest.resolution} pixels a side; give a set with images of "
                f"8 to {MAX_SIDE}"
            )
