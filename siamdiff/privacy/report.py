"""Writes the report of a synthetic set: privacy.html and privacy.json, and both for people who may not see data."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from siamdiff import storage
from siamdiff.errors import UserError
from siamdiff.privacy.annex import SHOWN, SUSPECTS
from siamdiff.privacy.examine import Examined, Settings, examine
from siamdiff.privacy.inputs import Inputs, find_inputs
from siamdiff.privacy.page import Sets, page_of, render
from siamdiff.privacy.record import About, Pair, Report, to_bytes
from siamdiff.privacy.removal import refuse_target, write_without

FOLDER = "privacy"  # beside the sets
PAGE, DATA = "privacy.html", "privacy.json"
SHARED_PAGE, SHARED_DATA = "privacy-share.html", "privacy-share.json"


@dataclass(frozen=True)
class Written:
    """What became of a set's report."""

    report: Report
    folder: str  # URI
    removed: int | None  # samples that the new set lacks; None: no new set was asked for


def write_report(
    uri: str,
    settings: Settings,
    now: datetime,
    *,
    training: str | None = None,
    model: str | None = None,
    output: str | None = None,
    share: bool = False,
    without: str | None = None,
) -> Written:
    """Makes and writes the report of a synthetic set.

    Args:
        uri: of the set.
        settings: of the checks.
        now: with its time zone.
        training: URI of the set that the model was trained on [what the set names].
        model: URI of the model [what the set names].
        output: folder that is written [privacy/DIGEST beside the set].
        share: the edition without images and keys of real samples too.
        without: URI of a new set without the samples over the threshold; None: none is written.

    Raises:
        UserError: a mistake in what was given.
        SiamdiffError: something is damaged.
    """
    inputs = find_inputs(uri, training, model)
    folder = (
        storage.normalize(output) if output else default_folder(inputs.synthetic.uri, inputs.synthetic.digest)
    )
    if f"{folder}/".startswith(f"{inputs.synthetic.uri}/"):
        raise UserError(
            f"{folder} lies in the set, which would no longer be whole; name another with --output"
        )
    if without is not None:
        refuse_target(inputs.synthetic, without)
    examined = examine(inputs, settings, now)
    report = examined.report.model_copy(update={"contains": _contains(examined)})
    _write(folder, (PAGE, DATA), report, examined.pairs, inputs)
    if share:
        _write(folder, (SHARED_PAGE, SHARED_DATA), shared(report), [], inputs)
    removed = None if without is None else write_without(inputs.synthetic, report, without)
    return Written(report, folder, removed)


def default_folder(set_uri: str, digest: str) -> str:
    """Where the report of a set lies: beside the set, since what lies in it travels with it.

    Raises:
        UserError: the set is a whole bucket or disk, beside which nothing can lie.
    """
    parent, _, name = set_uri.rpartition("/")
    if not name or parent.endswith(":/"):
        raise UserError(f"{set_uri} is the top of its store, beside which nothing lies; give --output FOLDER")
    return storage.join(parent, FOLDER, digest[:16])


def shared(report: Report) -> Report:
    """The edition without keys of real samples, places, and names of files."""
    nearness, metadata = report.nearness, report.metadata
    pairs = [pair.model_copy(update={"training": None}) for pair in nearness.nearest]
    found = [one.model_copy(update={"places": []}) for one in metadata.found]
    return report.model_copy(
        update={
            "edition": "shared",
            "synthetic": _placeless(report.synthetic),
            "training": _placeless(report.training),
            "model": _placeless(report.model),
            "nearness": nearness.model_copy(update={"nearest": pairs}),
            "metadata": metadata.model_copy(update={"found": found}),
            "contains": [
                "No image, no key of a real sample, no name of a file, no place in a store.",
                "Numbers about the training set: how many images and groups it has, how far they are apart. Digests of "
                "the sets and the model, by which whoever has them knows them again.",
                "Keys of synthetic samples. The licence and permitted use as they were written by a person.",
            ],
        }
    )


def _placeless(about: About | None) -> About | None:
    return about.model_copy(update={"uri": None}) if about else None


def _contains(examined: Examined) -> list[str]:
    """The personal data that the internal edition holds."""
    report, over = examined.report, examined.report.nearness.over
    pairs = min(SHOWN, sum(pair.over for pair in examined.pairs) or len(examined.pairs))
    suspects = min(SUSPECTS, len(report.text.keys))
    told = []
    if pairs:
        told.append(
            f"{pairs} pictures of real training images, as small as the set has them, and their keys, by which whoever "
            "has the training set finds the patient."
        )
    if over and over.count:
        told.append(
            f"{min(pairs, over.count)} synthetic images over the threshold, which look like real ones."
        )
    if suspects:
        told.append(f"{suspects} synthetic images in which text is suspected, which may be a name or a date.")
    if report.metadata.found:
        told.append(
            "Places of what was found in files: keys of samples and names of files in the set's folder, which may be "
            "names of people. What was found there is not repeated."
        )
    told.append(
        "The places of sets and model, which may name people and machines. The licence and permitted use as they were "
        "written by a person."
    )
    told.append(
        "No name of a source file, group or patient. privacy.json holds the same but for the pictures. Keep both where "
        "the originals are kept; --share makes an edition to be handed on."
    )
    return told


def _write(
    folder: str, names: tuple[str, str], report: Report, pairs: Sequence[Pair], inputs: Inputs
) -> None:
    """The page, then the data, which says that both are whole and whose digest the page names."""
    page, data = (storage.join(folder, name) for name in names)
    content = to_bytes(report)
    sets = Sets(inputs.synthetic, inputs.training)
    html = render(page_of(report, hashlib.sha256(content).hexdigest(), pairs, sets))
    storage.delete(data)
    storage.write_bytes(page, html.encode())
    storage.write_bytes(data, content)
