"""The card of a set: terms, content, origin and how to open it, as Markdown below the YAML that the hub reads."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from huggingface_hub import DatasetCardData

import siamdiff
from siamdiff.data.manifest import Manifest
from siamdiff.export.recipes import RECIPES
from siamdiff.terms import NAMES, UNKNOWN, Terms, combine, sources_of

Layout = Literal["shards", "folder", "nnunet", "hf"]

_FOLD = re.compile(r"fold(\d+)-")
# licences that the hub knows by the names which sets give them
_KNOWN_LICENSES = {
    "apache-2.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-sa-4.0", "cc0-1.0", "mit",
}  # fmt: skip
_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)


@dataclass(frozen=True)
class Described:
    """A set as its card tells of it."""

    manifest: Manifest
    versions: Mapping[str, str] = field(default_factory=dict)  # of the code that made it, by package


def card(
    sets: Sequence[Described], layout: Layout = "shards", counts: Mapping[str, int] | None = None
) -> str:
    """The text of README.md.

    URIs of what a set was made from are left out: they name machines and buckets, and say nothing to others.

    Args:
        sets: what the folder holds, at least one.
        layout: how the folder holds it.
        counts: samples by what the layout divides them into; None: the splits of the only set.
    """
    manifests = [one.manifest for one in sets]
    if counts is None:
        counts = manifests[0].splits
    parts = [
        f"---\n{_front_matter(manifests, layout, counts)}\n---",
        f"# {_title(manifests)}",
        _warnings(manifests),
        "## Terms\n\n" + _terms(manifests),
        "## Content\n\n" + _content(manifests, counts),
        "## Origin\n\n" + "\n\n".join(map(_origin, sets)),
        f"## Opening it\n\n{RECIPES[layout]}",
        f"Written by siamdiff {siamdiff.__version__}.",
    ]
    return "\n\n".join(parts) + "\n"


def joined(manifests: Iterable[Manifest]) -> Terms:
    """The terms of several sets, which all hold."""
    return combine(Terms(manifest.license, manifest.permitted_use) for manifest in manifests)


def without_uris(made_from: Mapping[str, Any]) -> dict[str, Any]:
    """What a set was made from, without the places where it lay."""
    return {
        name: without_uris(value) if isinstance(value, Mapping) else value
        for name, value in made_from.items()
        if name != "uri"
    }


def _front_matter(manifests: Sequence[Manifest], layout: Layout, counts: Mapping[str, int]) -> str:
    license_name = joined(manifests).license
    is_known = license_name.lower() in _KNOWN_LICENSES
    more: dict[str, Any] = {} if is_known else {"license_name": license_name}
    if layout == "hf":
        files = [{"split": name, "path": f"data/{name}-*.parquet"} for name in counts]
        more["configs"] = [{"config_name": "default", "data_files": files}]
    number = sum(manifest.count for manifest in manifests)
    tags = ["medical", "not-for-diagnosis"]
    if any(manifest.kind == "synthetic" for manifest in manifests):
        tags.append("synthetic")
    data = DatasetCardData(
        pretty_name=_title(manifests),
        license=license_name.lower() if is_known else "other",
        task_categories=["image-segmentation", "text-to-image"],
        size_categories=next((name for limit, name in _SIZES if number < limit), "n>10M"),
        tags=tags,
        **more,
    )
    return data.to_yaml()


def _title(manifests: Sequence[Manifest]) -> str:
    kinds = " and ".join(sorted({manifest.kind for manifest in manifests}))
    return f"{kinds} images and lesion masks".capitalize()


def _warnings(manifests: Sequence[Manifest]) -> str:
    lines = ["**Not for diagnosis.** For training and studying models."]
    if any(manifest.kind == "synthetic" for manifest in manifests):
        lines.append(
            "It holds synthetic images: a model painted them for given masks. They show no patient, and what they "
            "show need not be anatomy. Do not measure a model on them."
        )
    if any(manifest.demo for manifest in manifests):
        lines.append("**Demo.** Made by the default experiment, for looking at; of no scientific use.")
    return "\n\n".join(lines)


def _terms(manifests: Sequence[Manifest]) -> str:
    """Terms of each set with where they come from, then what all of it together asks for."""
    rows: list[tuple[str, str, str, str]] = []
    for manifest in manifests:
        rows.append(
            (_short(manifest), manifest.kind, manifest.license or UNKNOWN, manifest.permitted_use or UNKNOWN)
        )
        for name, terms in sources_of(manifest.made_from).items():
            rows.append(("", f"from its {name}", terms.license, terms.permitted_use))
    together = joined(manifests)
    asked = [("permitted", NAMES[together.use]), *(("obligation", told) for told in together.obligations)]
    asked += [("to be read by a person", text) for text in together.unread]
    each = _table(("set", "kind", "licence", "permitted use"), rows)
    return f"{each}\n\nAll of these hold, and the strictest use wins:\n\n{_table(('what', 'is'), asked)}"


def _content(manifests: Sequence[Manifest], counts: Mapping[str, int]) -> str:
    rows = []
    for manifest in manifests:
        folds: Counter[str] = Counter()
        for shard in manifest.shards:
            if match := _FOLD.match(shard.name):
                folds[match[1]] += shard.count
        side = f"{manifest.resolution} x {manifest.resolution}"
        rows.append((_short(manifest), manifest.count, _listed(manifest.splits), _listed(folds) or "-", side))
    sets = _table(("set", "samples", "splits", "folds", "pixels"), rows)
    return f"{sets}\n\n{_table(('here', 'samples'), counts.items())}"


def _origin(described: Described) -> str:
    manifest = described.manifest
    rows = [("digest", manifest.digest), *_flat(without_uris(manifest.made_from))]
    rows += [(f"version of {name}", version) for name, version in sorted(described.versions.items())]
    return f"### {_short(manifest)}, {manifest.kind}\n\n{_table(('of', 'is'), rows)}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """Nested values by dotted name."""
    flat: list[tuple[str, object]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat += _flat(value, f"{prefix}{name}.")
        else:
            flat.append((prefix + name, value))
    return flat


def _short(manifest: Manifest) -> str:
    return manifest.digest[:16]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
