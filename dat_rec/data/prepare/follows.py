"""Whether a source's rows can follow a dataset (``--after``): else what differs, and the cure."""

from dat_rec.data.prepare.base import Base
from dat_rec.data.prepare.dense import is_dense
from dat_rec.data.schema import HISTORY, HISTORY_CATEGORY, ITEM, USER, Feature, Schema, Side
from dat_rec.data.source import POSITIVES, Source
from dat_rec.errors import UserError


def check_source(base: Base, source: Source, *, sequence: bool) -> None:
    """Refuse a source whose rows cannot follow the dataset's.

    Args:
        base: the dataset.
        source: of the new interactions.
        sequence: whether a sequence orders those of one time.

    Raises:
        UserError: names what differs, and the cure.
    """
    said, schema = f"--after {base.folder}", base.schema
    if source.name != schema.source:
        raise UserError(
            f"{said}: was made of the source {schema.source}, this is {source.name}: use that one"
        )
    if source.minimum > 1:
        raise UserError(
            f"{said} and --minimum {source.minimum}: who is frequent only the whole log tells: "
            "pass --minimum 0, or prepare all days at once"
        )
    split = source.split
    if split.kind != "time" or split.group is not None or split.parts_equals:
        raise UserError(
            f"{said}: needs a test that is the last of the log by time, or none, and this one is "
            f"not ({split.words})"
        )
    if sequence != base.sequence:
        has, lacks = ("the log", "that dataset") if sequence else ("that dataset", "the log")
        raise UserError(
            f"{said}: {has} has a sequence, and {lacks} has none: pass the same --sequence"
        )
    _check_weights(said, schema.example_weights, source.example_weights)
    _check_positives(said, schema, source)
    wanted, given = _inputs(schema), _inputs_of(source)
    if given != wanted:
        first = next((one for one in wanted if one not in given), None)
        what = f"lack {_words(first)}, which it has" if first else "are more, or in another order"
        raise UserError(
            f"{said}: its features are other ones: those of this log {what}: pass the same "
            "columns as for that dataset, in the same order"
        )


def _check_weights(
    said: str, wanted: dict[str, float] | None, given: dict[str, float] | None
) -> None:
    """Refuse weights of examples that are others than the dataset's.

    Raises:
        UserError: names both.
    """
    if wanted == given:
        return
    if not wanted:
        what = "no weights" if wanted is None else "weights that no label tells"
        cure = "leave --label-weights out, or" if wanted is None else "to have others,"
        raise UserError(f"{said}: its examples have {what}: {cure} prepare all days at once")
    text = ",".join(f"{label}={weight!r}".removesuffix(".0") for label, weight in wanted.items())
    raise UserError(f"{said}: its examples have other weights: pass --label-weights {text}")


def _check_positives(said: str, schema: Schema, source: Source) -> None:
    """Refuse a source whose positives are made by another rule than the dataset's.

    Raises:
        UserError: names both.
    """
    if source.example_weights is not None:  # what weighs is a positive, and their notes count rows
        return
    there, here = (
        next((note for note in notes if note.startswith(POSITIVES)), None)
        for notes in (schema.notes, source.notes)
    )
    if there is not None and here is not None and _rule(there) != _rule(here):
        raise UserError(
            f"{said}: its {there}, and those of this log: {here.removeprefix(POSITIVES)}: pass the "
            "same options"
        )


def _rule(note: str) -> tuple[str, frozenset[str]]:
    """A note on positives: what comes before its labels, and these, in whatever order."""
    before, _, labels = note.partition(" is ")
    return before, frozenset(labels.split(" or "))


Input = tuple[str, Side, str]
"""A feature's name, its side, and what it holds."""
ONE, SEVERAL = "one value", "several values"


def _inputs(schema: Schema) -> list[Input]:
    own = {HISTORY, HISTORY_CATEGORY, USER, ITEM}
    found = [_input(one) for one in schema.features if one.name not in own]
    found += [(one.name, one.side, _dense(one.kind == "vector", one.width)) for one in schema.dense]
    # The category's place is the first: two datasets of one category have it in one place.
    return [(schema.category, "item", ONE), *found]


def _input(feature: Feature) -> Input:
    return feature.name, feature.side, SEVERAL if feature.multi_valued else ONE


def _dense(vector: bool, width: int | None) -> str:
    return f"a vector of {width} numbers" if vector else "a number, --dense"


def _inputs_of(source: Source) -> list[Input]:
    query = [one for one in source.attributes if one.side == "query"]
    item = [one for one in source.attributes if one.side == "item"]
    item.sort(key=lambda one: one.name != source.category)
    found = [
        (one.name, one.side, SEVERAL if one.kind == "tags" else ONE)
        for one in (*query, *item)
        if not is_dense(one)
    ]
    found += [
        (one.name, one.side, _dense(one.width is not None, one.width))
        for one in (*query, *item)
        if is_dense(one)
    ]
    return [(source.category, "item", ONE), *found]


def _words(one: Input) -> str:
    return f"{one[0]!r} ({one[1]}, {one[2]})"
