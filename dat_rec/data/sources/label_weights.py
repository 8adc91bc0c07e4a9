"""``--label-weights click=1,cart=3`` in; out: which rows are positives, and what each weighs."""

from dataclasses import dataclass

from dat_rec.data.source import named, quoted
from dat_rec.data.sources.labels import Positives, labels_among
from dat_rec.data.sources.tables import Relation
from dat_rec.errors import UserError

OPTION = "--label-weights"
LEAST, MOST = 1e-6, 1e6
"""Bounds of a weight: beyond them a batch's sums lose digits."""


@dataclass(frozen=True)
class Weighted:
    """What the labels of a log come to."""

    positives: Positives
    weights: dict[str, float]
    """By label, as text."""
    weight: str
    """SQL: a row's weight, FLOAT; NULL where its label is not named."""
    note: str
    """How many rows of each label there are, and how many are left out."""


def read_weights(text: str) -> dict[str, float]:
    """The weights by label.

    Args:
        text: ``LABEL=WEIGHT``, several of them with a comma between.

    Raises:
        UserError: names the part that is no label and weight, or a label that stands twice.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        label, equals, number = (word.strip() for word in part.rpartition("="))
        if not equals or not label:
            raise UserError(f"{OPTION} {text}: {part!r} is no LABEL=WEIGHT: write click=1,cart=3")
        if label in weights:
            raise UserError(f"{OPTION} {text}: {label!r} stands there twice: keep one")
        weights[label] = _weight(number, part.strip())
    return weights


def _weight(number: str, part: str) -> float:
    try:
        weight = float(number)
    except ValueError as error:
        raise UserError(f"{OPTION} {part}: {number!r} is no number: write e.g. cart=3") from error
    if not weight > 0:
        raise UserError(
            f"{OPTION} {part}: must be above 0: leave a label out whose rows are no positives"
        )
    if not LEAST <= weight <= MOST:
        raise UserError(
            f"{OPTION} {part}: must lie between {LEAST:g} and {MOST:g}: scale all weights alike"
        )
    return weight


def labels_weighted(
    table: Relation, column: str, weights: dict[str, float], *, may_lack: bool
) -> Weighted:
    """Positives are the labels that are named, and weigh what is said.

    Args:
        table: of ``tables.parquet``.
        column: that of the labels.
        weights: by label.
        may_lack: whether no row need have a label that is named.

    Raises:
        UserError: the column holds neither text nor integers, or no row has one of the labels and
            that is not allowed.
    """
    is_boolean = table.types[column] == "BOOLEAN"
    given = {label.lower() if is_boolean else label: weight for label, weight in weights.items()}
    if len(given) < len(weights):
        raise UserError(f"{OPTION}: {column!r} is true or false: name each once")
    positives = labels_among(table, column, tuple(weights), option=OPTION, may_lack=may_lack)
    text = f"{named(column)}::VARCHAR"
    # Read as text, a number becomes the float next to it.
    cases = (f"WHEN {quoted(label)} THEN '{weight!r}'::FLOAT" for label, weight in given.items())
    weight = f"CASE {text} {' '.join(cases)} END"
    return Weighted(positives, given, weight, _note(table, column, text, given))


def _note(table: Relation, column: str, text: str, weights: dict[str, float]) -> str:
    label = f"CASE WHEN {text} IN ({', '.join(map(quoted, weights))}) THEN {text} END"
    rows = table.database.execute(
        f"SELECT {label}, count(*) FROM {table} WHERE coalesce({text}, '') <> '' GROUP BY 1"
    ).fetchall()
    counts = {row[0]: int(row[1]) for row in rows}
    words = (
        f"{name} (weight {weight:g}, {counts.get(name, 0)} rows)"
        for name, weight in weights.items()
    )
    left_out = counts.get(None, 0)
    return f"positives: {column} is {' or '.join(words)}; {left_out} rows of others are left out"
