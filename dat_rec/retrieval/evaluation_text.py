"""What metrics.json holds in, the text that ``dat-rec evaluate`` prints out.

Tables of the figures, the model's row first and the baselines' beneath it; and a line for each set
of queries in which a baseline is ahead of the model.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from dat_rec.runs.figures import CUTOFFS, figure

MODEL, BLEND = "model", "model + history"


class Row(NamedTuple):
    """A set of queries or users, as the tables have it."""

    words: str
    path: tuple[str, ...]
    """Where metrics.json, or a baseline's part of it, has the block."""


ROWS = (
    Row("all pairs", ("all",)),
    Row("new pairs", ("new_pairs",)),
    Row("largest category", ("largest_category", "largest")),
    Row("other categories", ("largest_category", "others")),
    Row("warm, whole catalogue", ("warm",)),
    Row("cold, whole catalogue", ("cold",)),
    Row("cold, unseen users", ("cold", "new_users")),
    Row("cold, unseen items", ("cold", "new_items")),
)
USERS = Row("users, new pairs", ("per_user",))
LISTS = Row("lists", ("lists",))


def text(metrics: dict[str, Any]) -> str:
    """The figures as aligned tables, and what a reader should know of them, in lines."""
    names = [name for name in metrics["per_user"] if "@" in name]
    of_lists = [name for name in metrics["lists"] if "@" in name]
    tables = [
        _table(metrics, ROWS, CUTOFFS, "queries"),
        _table(metrics, (USERS,), names, "users"),
        _table(metrics, (LISTS,), of_lists, "users"),
    ]
    lines = [
        f"model: step {metrics['checkpoint']:,}; largest category: "
        f"{metrics['largest_category']['name']}",
        *_unseen(metrics),
        *_asked(metrics),
        *_blend(metrics),
        *_settings(metrics),
        *(f"{name} is left out: {why}." for name, why in metrics["baselines_left_out"].items()),
        *ahead(metrics),
    ]
    return "\n\n".join([*tables, "\n".join(lines)])


def _unseen(metrics: dict[str, Any]) -> list[str]:
    """What stands in some rows alone; and on which dataset, if it is not the training's."""
    unanswerable = f"{metrics['all']['unanswerable']:,} test interactions of"
    if "matched" not in metrics:
        return [f"{unanswerable} unseen users or items are in the cold rows only."]
    matched = metrics["matched"]
    counted = {name: matched[name] for name in ("users", "items")}
    counted |= {f"values of {table}": found for table, found in matched["values"].items()}
    known = ", ".join(
        f"{found['known']:,} of {found['known'] + found['unknown']:,} {name}"
        for name, found in counted.items()
    )
    return [
        f"on {matched['data']}, its rows matched by id: the run knows {known}; warm rows hold the "
        "test interactions whose user and item it knows, cold rows the others.",
        f"{unanswerable} users or items that it has not trained are in the rows of the whole "
        "catalogue only.",
    ]


def _asked(metrics: dict[str, Any]) -> list[str]:
    """A line, if a sample was asked."""
    if metrics["asked"] == metrics["tests"]:
        return []
    return [
        f"{metrics['asked']:,} of {metrics['tests']:,} test interactions were asked (--queries)."
    ]


def ahead(metrics: dict[str, Any]) -> list[str]:
    """A line for each row in which a baseline is better than the model by some figure.

    A figure is compared with the best baseline's.
    """
    names = [name for name in metrics["per_user"] if "@" in name]
    return [
        line
        for row, of_row in [*((row, CUTOFFS) for row in ROWS), (USERS, names)]
        for line in _ahead(metrics, row, of_row)
    ]


def _ahead(metrics: dict[str, Any], row: Row, names: Sequence[str]) -> Iterator[str]:
    better: dict[str, list[str]] = {}
    models = _block(metrics, row)
    for name in names:
        of_each = {who: _block(found, row)[name] for who, found in metrics["baselines"].items()}
        known = {who: value for who, value in of_each.items() if value is not None}
        if not known or models[name] is None:
            continue
        best = max(known, key=lambda who: known[who])
        if known[best] > models[name]:
            words = f"{name} {figure(known[best], '.4f')} against {figure(models[name], '.4f')}"
            better.setdefault(best, []).append(words)
    for who, found in better.items():
        yield f"{who} is ahead on {row.words}: {', '.join(found)}."


def _blend(metrics: dict[str, Any]) -> Iterator[str]:
    """Lines on the model with own history blended in, if there is one."""
    if "blend" not in metrics:
        return
    chosen = metrics["blend"]["settings"]
    aging = "no half-life"
    if chosen["half_life"] is not None:
        aging = f"half-life {chosen['half_life']:g} of training's time"
    yield (
        f"{BLEND}, fitted on {chosen['fitted_on']}: weight {chosen['weight']:g}, {aging}. In new "
        "pairs and lists, which leave own items out, it is the model."
    )


def _settings(metrics: dict[str, Any]) -> Iterator[str]:
    for name, found in metrics["baselines"].items():
        if "settings" in found:
            chosen = ", ".join(f"{key} {value}" for key, value in found["settings"].items())
            yield f"{name}, tuned on validation: {chosen}."


def _table(metrics: dict[str, Any], rows: Sequence[Row], names: Sequence[str], counted: str) -> str:
    """A line for the model and each baseline in every row; the row's words in the first."""
    blend = {BLEND: metrics["blend"]} if "blend" in metrics else {}
    ranked = {MODEL: metrics, **blend, **metrics["baselines"]}
    words = max(len(row.words) for row in ROWS)
    who = max(map(len, ranked))
    widths = [max(len(name), 6) for name in names]
    head = "".join(f"  {name:>{width}}" for name, width in zip(names, widths, strict=True))
    lines = [f"{'':{words}}  {'':{who}}  {counted:>9}{head}"]
    for row in rows:
        for name, found in ranked.items():
            block = _block(found, row)
            first = name == MODEL
            cells = [_cell(block[one], one) for one in names]
            lines.append(
                f"{row.words if first else '':{words}}  {name:{who}}  "
                + (f"{block[counted]:>9,}" if first else f"{'':9}")
                + "".join(f"  {cell:>{w}}" for cell, w in zip(cells, widths, strict=True))
            )
    return "\n".join(lines)


def _cell(value: float | None, name: str) -> str:
    return figure(value, ",.1f" if name.startswith("ARP") else ".4f")


def _block(found: dict[str, Any], row: Row) -> dict[str, Any]:
    for name in row.path:
        found = found[name]
    return found
