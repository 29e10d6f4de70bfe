"""The pages behind the one that is signed: what each check found, in numbers and pictures."""

from collections.abc import Mapping, Sequence

from siamdiff.data.shardset import ShardSet
from siamdiff.privacy.record import Membership, Pair, Report, Share, Spread, Verdict
from siamdiff.privacy.statistics import FALSE_POSITIVES, FEW_GROUPS, SUBSTANTIAL
from siamdiff.report import plots
from siamdiff.report.blocks import Block, Heading, Pairs, Plot, Plots, Section, Tabular, Text, note
from siamdiff.report.pictures import Tile, picture
from siamdiff.report.svg import inline
from siamdiff.report.tables import NONE, Cell, Line, Table, plain_table, words_table

NAMES = {
    "Copies of training images": "copies",
    "Membership, from the images": "membership",
    "Membership, from the model": "model",
    "Masks drawn on real images": "masks",
    "Metadata": "metadata",
    "Burned-in text": "text",
}
SHOWN, SUSPECTS = 48, 12  # pairs, and images with suspected text, that a page shows at most
_MARKS: dict[Verdict, str] = {"pass": "good", "look": "warn", "fail": "bad", "not done": ""}
_UNSEEN = (
    "Copies that were changed in other ways than those that were tried: shifted by a tenth, turned by other angles "
    "than quarters, bent, or of a part of an image. docs/privacy.md says what was tried, and how many were found.",
    "A patient's anatomy in another pose or light: the distances know likeness of pictures, not identity of people.",
    "Whether the set tells somebody who already knows much about a patient that this patient was among the training "
    "images. The attacks here are simple ones; stronger ones exist, with models trained for comparison.",
    "Anything about people who are in no set at hand.",
    "Names and dates that are too small, too soft or too faint to look like strokes.",
    "What the fields of a sample say by design: parent is a digest of the real pair that the mask came from, so who "
    "holds that pair as a file can tell that it was in the set; transform says how the mask was moved.",
)


def sections(
    report: Report, pairs: Sequence[Pair], synthetic: ShardSet, training: ShardSet | None
) -> list[Section]:
    """All of them.

    Args:
        report: what was found.
        pairs: whose pictures are shown, nearest first.
        synthetic: where their images are.
        training: where those beside them are.
    """
    share = report.edition == "shared"
    return [
        Section("copies", "Copies of training images", _copies(report, pairs, synthetic, training)),
        Section("membership", "Membership, from the images", _membership(report.membership, "memberships")),
        Section("model", "Membership, from the model", _of_model(report)),
        Section("masks", "Masks drawn on real images", [Text(report.masks.said)]),
        Section("metadata", "Metadata", _metadata(report)),
        Section("text", "Burned-in text", _text(report, None if share else synthetic)),
        Section("contains", "What this report itself contains", _contains(report)),
        Section("unseen", "What no check here can see", [Text(text) for text in _UNSEEN]),
        Section("inputs", "What it was made from", _made_from(report)),
    ]


def _copies(
    report: Report, pairs: Sequence[Pair], synthetic: ShardSet, training: ShardSet | None
) -> list[Block]:
    found = report.nearness
    blocks: list[Block] = [Text(found.said)]
    if found.over is None or found.quantile is None:
        return blocks
    nominal = f"{2 * found.quantile:.1%} at most"
    rows = [
        ["synthetic images", *_share(found.over), NONE],
        ["held-out real images", *_share(found.held_out_over), nominal],
    ]
    titles = ["", "images", "share", "95% interval", "meant"]
    blocks += [
        Text(
            "An image is over the threshold if a training image is nearer to it, in features or in pixels, than real "
            "images of different groups (patients) are to each other. Compared is every image in all 8 positions of a "
            "square, whole and with its edges cut off. The second row is how often real images of other people are "
            "taken for copies: the rate of false alarms."
        ),
        Tabular(plain_table("Images over the threshold", titles, rows), "overt"),
    ]
    blocks.append(
        note(
            f"Threshold: {found.limit_features} in features, {found.limit_pixels} in pixels (1 - cosine, 0 to 2): "
            f"{found.basis}."
        )
    )
    blocks += _spreads(found.synthetic_spread, found.real_spread, found.limit_features, found.limit_pixels)
    return [*blocks, *_pairs(report, pairs, synthetic, training)]


def _spreads(
    synthetic: Spread | None, real: Spread | None, features: float | None, pixels: float | None
) -> list[Block]:
    if synthetic is None or real is None:
        return []
    drawn = []
    for name, limit in (("features", features), ("pixels", pixels)):
        rows = {"synthetic": getattr(synthetic, name), "real": getattr(real, name)}
        bars: Mapping[str, Sequence[float]] = {of: [values[0], *values[2:]] for of, values in rows.items()}
        title = f"Distances to the nearest training image in {name}; the table below has the numbers"
        table = plain_table(
            f"Distance in {name} to the nearest training image: percentiles",
            ["", "1", "5", "25", "50", "75", "95"],
            [
                [said, *(f"{value:.3f}" for value in rows[of])]
                for of, said in (
                    ("synthetic", "synthetic images"),
                    ("real", "training images, to another group"),
                )
            ],
        )
        svg = inline(plots.ranges(bars, f"distance in {name}", limit), title, f"plot{name}")
        caption = (
            f"In {name}: thin bar 1% to 95% of images, thick 25% to 75%, mark the middle one; dashed: the threshold. "
            "Real are training images to the nearest of another group."
        )
        drawn.append(Plot(svg, caption, Tabular(table, f"spread{name}", "The numbers")))
    return [Heading("Nearest training neighbours"), Plots(drawn)]


def _pairs(
    report: Report, pairs: Sequence[Pair], synthetic: ShardSet, training: ShardSet | None
) -> list[Block]:
    if report.edition == "shared":
        return [note("This edition shows no images: those over the threshold look like real ones.")]
    if training is None or not pairs:
        return []
    over = [pair for pair in pairs if pair.over]
    shown = (over or list(pairs))[:SHOWN]
    said = (
        f"{len(shown)} of {len(over)} images over the threshold, nearest first."
        if over
        else f"No image is over the threshold; these {len(shown)} come nearest."
    )
    tiles = [_pair(pair, synthetic, training) for pair in shown]
    return [Heading("Pairs"), Text(said), Pairs(tiles, "Synthetic images beside the nearest training images")]


def _pair(pair: Pair, synthetic: ShardSet, training: ShardSet) -> tuple[Tile, Tile]:
    assert pair.training is not None, "only the shared edition leaves it out, which shows no pairs"
    distances = f"features {pair.features:.3f}, pixels {pair.pixels:.3f}"
    verdict = "over the threshold" if pair.over else "below the threshold"
    left = picture(
        synthetic.read(pair.key).image, None, f"Synthetic image {pair.key}, {verdict}: {distances}"
    )
    right = picture(training.read(pair.training).image, None, f"Real training image {pair.training}")
    return (
        Tile(left, "synthetic", (pair.key, distances, verdict)),
        Tile(right, "nearest real", (pair.training,)),
    )


def _membership(found: Membership, name: str) -> list[Block]:
    blocks: list[Block] = [Text(found.said)]
    if not found.attacks:
        return blocks
    rows = [
        [
            one.name,
            f"{one.auc:.3f}",
            f"{one.low:.3f} to {one.high:.3f}",
            NONE if one.true_positive_rate is None else f"{one.true_positive_rate:.1%}",
            f"{one.members:,} / {one.others:,}",
            f"{one.member_groups:,} / {one.other_groups:,}",
        ]
        for one in found.attacks
    ]
    titles = [
        "score",
        "AUC",
        "95% interval",
        f"named at {FALSE_POSITIVES:.0%} false alarms",
        "training / held out",
        "groups of these",
    ]
    table = plain_table("How well training images are told from held-out ones", titles, rows)
    bars = {one.name: (one.auc, (one.low, one.high)) for one in found.attacks}
    svg = inline(
        plots.settings_plot(bars, "AUC", 0.5),
        "AUC of each attack with its interval; the table has the numbers",
        f"{name}p",
    )
    caption = f"0.5 (dashed) is chance; above {SUBSTANTIAL} with the whole interval fails."
    blocks.append(Plots([Plot(svg, caption, Tabular(table, f"{name}t", "The numbers"))]))
    blocks.append(
        note(
            f"Intervals from resamples of groups (patients, videos), of which the real set has {found.groups:,} to "
            f"train on and {found.held_out_groups:,} held out; with fewer than {FEW_GROUPS} a side none passes or "
            "fails. An AUC near 0.5 is evidence that there is no leak on average; single images may still leak. By "
            "chance 1% of training images are named at 1% of false alarms."
        )
    )
    return blocks


def _of_model(report: Report) -> list[Block]:
    found = report.model_membership
    blocks = _membership(found, "models")
    if found.attacks:
        blocks.append(
            note(
                "This is about the model, which stays in the building unless it is given away too: a set tells less "
                "than the model that drew it."
            )
        )
    return blocks


def _metadata(report: Report) -> list[Block]:
    found = report.metadata
    blocks: list[Block] = [Text(found.said)]
    if found.found:
        lines = [
            Line(
                Cell(one.kind),
                [
                    Cell(one.verdict, mark=_MARKS[one.verdict]),
                    Cell(f"{one.count:,}"),
                    Cell(", ".join(one.places) + (" ..." if one.count > len(one.places) else "")),
                ],
            )
            for one in found.found
        ]
        table = Table(
            "What does not belong into a set; what it says is not repeated here",
            ["kind", "verdict", "places", "the first of them"],
            lines,
            is_prose=True,
        )
        blocks.append(Tabular(table, "metadatat"))
    blocks.append(
        note(
            "Looked at: every image and mask (EXIF, XMP, IPTC, text, comments, colour profiles, thumbnails, bytes "
            "after the end), every description (names of files and people, dates, long numbers, e-mail addresses, "
            "DICOM identifiers), the archives' headers, and all other files in the set's folder."
        )
    )
    return blocks


def _text(report: Report, synthetic: ShardSet | None) -> list[Block]:
    found = report.text
    rows = [
        ["synthetic images", *_share(found.suspected)],
        ["training images", *_share(found.training)],
    ]
    blocks: list[Block] = [
        Text(found.said),
        Tabular(plain_table("Suspected text", ["", "images", "share", "95% interval"], rows), "textt"),
        note(
            f"Suspected are images with {found.threshold} or more strokes in a row, as letters have. Nothing is read. "
            "Where training images bear text, a model may learn to draw it."
        ),
    ]
    if synthetic is not None and found.keys:
        tiles = [
            (
                Tile(
                    picture(
                        synthetic.read(key).image, None, f"Synthetic image {key}, in which text is suspected"
                    ),
                    "suspected",
                    (key,),
                ),
            )
            for key in found.keys[:SUSPECTS]
        ]
        blocks.append(Pairs(tiles, "Synthetic images in which text is suspected"))
    return blocks


def _contains(report: Report) -> list[Block]:
    return [Text(text) for text in report.contains]


def _made_from(report: Report) -> list[Block]:
    rows = [["synthetic set", report.synthetic.digest]]
    for name, of in (("training set", report.training), ("model", report.model)):
        rows.append([name, of.digest if of else "unknown"])
    places = (("synthetic set", report.synthetic), ("training set", report.training), ("model", report.model))
    rows += [[f"{name} lies at", of.uri] for name, of in places if of and of.uri]
    rows += [
        ["inputs of this report", report.inputs_digest],
        ["made on", f"{report.date}, siamdiff {report.siamdiff}, {report.device}, seed {report.seed}"],
    ]
    return [Tabular(words_table("Digests and places", ["of", "is"], rows), "inputst")]


def _share(share: Share | None) -> list[str]:
    if share is None:
        return [NONE, NONE, NONE]
    value = share.count / max(share.of, 1)
    return [f"{share.count:,} of {share.of:,}", f"{value:.1%}", f"{share.low:.1%} to {share.high:.1%}"]
