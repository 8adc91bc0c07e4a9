"""A column's DuckDB type in, how the feature is read out: category, tags or number; or a refusal.

Text, integers, booleans, dates and timestamps are categories, lists of text or integers are tags,
fractions are cut into quantile buckets. (``--dense`` reads numbers and lists of them as they are:
dense_columns.py.) What holds other values inside itself, and fractions in a
list (an embedding), would become a vocabulary of numbers that mean nothing.
"""

from collections.abc import Sequence

from dat_rec.data.source import Kind
from dat_rec.data.sources.tables import INTEGERS
from dat_rec.errors import UserError

FRACTIONS = ("FLOAT", "DOUBLE", "DECIMAL")
NOTHING = '"NULL"'
"""DuckDB's type of a column that is null throughout."""
TAGS = (*INTEGERS, "VARCHAR", "UUID", NOTHING)
CATEGORIES = (*TAGS, "HUGEINT", "UHUGEINT", "BOOLEAN", "DATE", "BLOB", "JSON")


def kind_of(name: str, type_: str, numbers: Sequence[str], where: str) -> Kind:
    """How the column ``name`` of ``where`` is read.

    Args:
        name: the column's.
        type_: DuckDB's name of its type.
        numbers: columns that the user wants cut into buckets.
        where: the file or folder, for the message.

    Raises:
        UserError: as no kind at all, or it is to be a number and is none.
    """
    if name in numbers and not is_number(type_):
        raise UserError(f"--numbers {name}: the column is {type_}: name a number")
    if name in numbers or (type_.startswith(FRACTIONS) and not type_.endswith("]")):
        return "number"
    if type_ in CATEGORIES or (type_.startswith("TIMESTAMP") and not type_.endswith("]")):
        return "category"
    if type_.endswith("[]") and type_.removesuffix("[]") in TAGS:
        return "tags"
    raise UserError(f"{where}: feature {name!r} is {type_}{_cure(type_)}")


def is_number(type_: str) -> bool:
    """Whether a label can be compared, or a feature be cut into buckets."""
    number = type_ in INTEGERS or type_ == "BOOLEAN" or type_.startswith(FRACTIONS)
    return number and not type_.endswith("]")


def _cure(type_: str) -> str:
    inner = type_.rstrip("[]0123456789")
    if inner.startswith(("STRUCT", "MAP", "UNION")):
        return ": write what you need of it as columns of their own"
    if type_.endswith("]") and inner.startswith(FRACTIONS):
        return (
            ", a list of fractions, as an embedding is: name it with --dense too, or leave it out "
            "(tags are text or integers)"
        )
    if type_.endswith("]"):
        return ": tags are a list of text or integers: write it as such, or leave it out"
    return ": write it as text or a number, or leave it out"
