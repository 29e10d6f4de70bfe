"""How it was made: losses of each training, and provenance - digests, settings, versions, licences, time and cost."""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any, get_args

from siamdiff.report import plots
from siamdiff.report.blocks import Block, Heading, Plot, Plots, Section, Tabular, Text, note
from siamdiff.report.record import Stage
from siamdiff.report.scope import Scope
from siamdiff.report.stages import Outcome, Run, SetInfo
from siamdiff.report.svg import inline, short_id
from siamdiff.report.tables import NONE, Cell, Line, Table, number, plain_table, words_table
from siamdiff.run import readable_seconds
from siamdiff.terms import Terms, sources_of

LOSSES = {
    "L_m": "L_m",
    "L_i": "L_i",
    "L_c": "L_c",
    "L_m_prime": "L_m'",
    "L": "L",
    "validation_loss": "validation",
}
MEANING = (
    "L_m: mask branch (Eq. 7). L_i: image branch (Eq. 8). L_c: noise consistency (Eq. 9), its weight in it. "
    "L_m': Online-Augmentation (Eq. 12), 0 until it begins. L: their sum (Eq. 6). Values of 0 are not drawn."
)
HOUR = 3600.0


def training_section(scope: Scope) -> Section:
    """The losses of each run."""
    parts: list[Block] = []
    drawn = []
    seen = set()
    for outcome in scope.outcomes:
        run, label = outcome.run, scope.label(outcome)
        if run is None:
            parts.append(note(f"Training{' of ' + label if label else ''} {outcome.missing['train']}."))
        elif run.uri not in seen:
            seen.add(run.uri)
            if run.rows:
                drawn.append(_loss_plot(run, label))
            else:
                parts.append(note(f"The run{' of ' + label if label else ''} has not recorded a loss yet."))
    intro = [Text(MEANING), Plots(drawn)] if drawn else []
    return Section("training", "Training", [*intro, *parts])


def _loss_plot(run: Run, label: str) -> Plot:
    series = {
        title: [(row["step"], row[name]) for row in run.rows if name in row]
        for name, title in LOSSES.items()
        if any(row.get(name, 0) > 0 for row in run.rows)
    }
    ends = {title: points[-1][1] for title, points in series.items()}
    rows = [
        [title, number(points[0][1]), number(min(value for _, value in points)), number(ends[title])]
        for title, points in series.items()
    ]
    table = plain_table(f"Losses{' of ' + label if label else ''}", ["loss", "first", "least", "last"], rows)
    last = run.rows[-1]["step"]
    said = ", ".join(f"{title} {number(value)}" for title, value in ends.items())
    name = short_id("loss", run.uri)
    of = f"{label}: " if label else ""
    svg = inline(
        plots.loss_curves(series), f"{of}losses by training step; after {last} steps {said}", f"{name}p"
    )
    return Plot(
        svg,
        f"{label + ': a' if label else 'A'}fter {last:,} steps {said}.",
        Tabular(table, f"{name}n", "The numbers"),
    )


def provenance_section(scope: Scope) -> Section:
    """Where everything comes from, and what it took."""
    parts: list[Block] = [Heading("Sets"), _sets_table(scope)]
    models = _models_table(scope)
    if models:
        parts += [Heading("Models"), models]
    parts += [Heading("Time and cost"), *_time(scope)]
    parts += [Heading("Settings"), *_settings(scope)]
    parts += [Heading("Versions"), _versions_table(scope)]
    return Section("provenance", "Provenance", parts)


def _sets_table(scope: Scope) -> Tabular:
    lines = []
    seen = set()
    for name, kind, info in _all_sets(scope):
        if info.digest in seen:
            continue
        seen.add(info.digest)
        splits = ", ".join(f"{split} {count:,}" for split, count in info.splits.items())
        cells = [
            Cell(f"{info.count:,}", (splits,)),
            Cell(info.license, _terms_notes(info)),
            Cell(info.digest, mark="code"),
        ]
        cells += [] if scope.share else [Cell(info.uri, mark="code")]
        lines.append(Line(Cell(name, (kind, f"{info.resolution} x {info.resolution} pixels")), cells))
    titles = ["set", "samples", "licence", "digest (SHA-256)"] + ([] if scope.share else ["place"])
    caption = "The sets, with licence and permitted use as their owners gave them"
    return Tabular(Table(caption, titles, lines, is_prose=True), "sets")


def _terms_notes(info: SetInfo) -> tuple[str, ...]:
    """What is permitted, what the licences ask for, what only a person understands, and the terms behind it."""
    terms = Terms(info.license, info.permitted_use)
    sources = sources_of(info.made_from).items()
    others = [f"from its {name}: {of.license}, {of.permitted_use}" for name, of in sources if of != terms]
    unread = (f"a person must read: {', '.join(terms.unread)}",) if terms.unread else ()
    return (f"permitted: {info.permitted_use}", *terms.obligations, *unread, *others)


def _all_sets(scope: Scope) -> Iterator[tuple[str, str, SetInfo]]:
    for outcome in scope.outcomes:
        for shards in (outcome.real, outcome.synthetic):
            if shards is not None:
                values: dict[str, Any] = shards.manifest.model_dump() | {"uri": shards.uri}
                kind = shards.manifest.kind
                label = scope.label(outcome)
                yield (
                    kind if kind == "real" or not label else f"{label}, {kind}",
                    kind,
                    SetInfo.model_validate(values),
                )
        for metrics in (outcome.evaluation, outcome.segmentation):
            if metrics is not None:
                yield "real", "real", metrics.sets.real
                for kind, sets in (("synthetic", metrics.sets.synthetic), ("real", metrics.sets.tests)):
                    yield from ((name, kind, info) for name, info in sets.items())


def _models_table(scope: Scope) -> Tabular | None:
    rows = []
    seen = set()
    for outcome in scope.outcomes:
        run = outcome.run
        if run is None or run.uri in seen:
            continue
        seen.add(run.uri)
        model, pinned = run.model, run.pinned
        steps = f"{run.rows[-1]['step']:,} of {pinned.get('train.steps', 0):,}" if run.rows else NONE
        digest = model.get("model_digest", "not finished")
        rows.append(
            [
                outcome.setting.name,
                pinned.get("model.base", NONE),
                pinned.get("model.control", NONE),
                steps,
                str(model.get("license", NONE)),
                str(model.get("permitted_use", NONE)),
                digest,
            ]
        )
    titles = ["setting", "base", "control", "steps", "licence", "permitted use", "digest (SHA-256)"]
    return Tabular(words_table("The models that were trained", titles, rows), "models") if rows else None


def _time(scope: Scope) -> list[Block]:
    stages = get_args(Stage)
    costs = [_cost(outcome) for outcome in scope.outcomes]
    rows = []
    for outcome, cost in zip(scope.outcomes, costs, strict=True):
        spent = outcome.setting.seconds
        of = [readable_seconds(spent[stage]) if stage in spent else NONE for stage in stages]
        row = [outcome.setting.name, *of, readable_seconds(sum(spent.values()))]
        rows.append(row + ([] if not any(costs) else [NONE if cost is None else f"${cost:,.2f}"]))
    titles = ["setting", *stages, "all"] + (["training and generation"] if any(costs) else [])
    table = Tabular(
        plain_table("Time that the experiment's commands spent (h:min:s), by stage", titles, rows), "time"
    )
    if not any(costs):
        return [table, Text("What it cost is not known: no cluster.price was given, or no GPU was used.")]
    return [
        table,
        Text("Cost, at the most: cluster.price for every GPU of a stage, as long as its commands took."),
    ]


def _cost(outcome: Outcome) -> float | None:
    """Dollars of training and generation at the most, all GPUs all the time; None without a price or GPUs."""
    config = outcome.run.config if outcome.run else {}
    cluster = config.get("cluster") or {}
    if not cluster.get("price") or not cluster.get("gpus"):
        return None
    seconds = outcome.setting.seconds
    workers: dict[Stage, int] = {
        "train": (config.get("train") or {}).get("workers", 1),
        "generate": (config.get("generate") or {}).get("actors", 1),
    }
    gpu_seconds = sum(cluster["gpus"] * count * seconds.get(stage, 0.0) for stage, count in workers.items())
    return cluster["price"] * gpu_seconds / HOUR


def _settings(scope: Scope) -> list[Block]:
    """What each setting changes, and everything that the trainings are pinned to."""
    parts: list[Block] = []
    changed = [[o.setting.name, o.setting.meaning, _fields(o.setting.fields)] for o in scope.outcomes]
    parts.append(
        Tabular(words_table("The settings", ["setting", "meaning", "what it changes"], changed), "changed")
    )
    pinned = {o.setting.name: o.run.pinned for o in scope.outcomes if o.run is not None}
    if pinned:
        fields = sorted({name for of in pinned.values() for name in of})
        rows = [[name, *(_value(of.get(name)) for of in pinned.values())] for name in fields]
        table = words_table("Fields that the trainings depend on", ["field", *pinned], rows)
        parts.append(Tabular(table, "pinned", "Every field that the trainings depend on"))
    return parts


def _fields(fields: Mapping[str, Any]) -> str:
    return (
        ", ".join(f"{name}: {_value(value)}" for name, value in fields.items())
        or "nothing: the configuration as it is"
    )


def _value(value: Any) -> str:
    return NONE if value is None else str(value)


def _versions_table(scope: Scope) -> Tabular:
    found: dict[str, str] = {}
    for outcome in scope.outcomes:
        for of in (outcome.evaluation, outcome.segmentation):
            found |= of.versions if of is not None else {}
        found |= (outcome.run.model.get("versions") or {}) if outcome.run is not None else {}
    rows = [["siamdiff (this page)", version("siamdiff")], *([name, found[name]] for name in sorted(found))]
    return Tabular(words_table("Versions of the code that made it", ["package", "version"], rows), "versions")
