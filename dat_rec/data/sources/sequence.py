"""The column that orders interactions of equal time in, its values as BIGINT out, exactly."""

from dat_rec.data.source import named
from dat_rec.data.sources.ids import INT64_MAX, in_words
from dat_rec.data.sources.tables import INTEGERS, Relation
from dat_rec.errors import UserError


def sequence_sql(table: Relation, column: str) -> str:
    """SQL: the column's values as BIGINT, in their order; NULL where there is none.

    Args:
        table: holds the column.
        column: the column's name.

    Raises:
        UserError: values that BIGINT does not hold in their order: text, fractions, or beyond
            int64.
    """
    name, type_ = named(column), table.types[column]
    if type_.startswith("TIMESTAMP"):
        return f"epoch_ns({name})" if type_.endswith("_NS") else f"epoch_us({name})"
    if type_ not in INTEGERS:
        raise UserError(
            f"{table.where}: --sequence {column}: is {in_words(type_)}: name integers or timestamps"
        )
    beyond = table.first(f"{name} > {INT64_MAX}", name) if type_ == "UBIGINT" else None
    if beyond is not None:
        raise UserError(f"{beyond[0]}: {column} {beyond[1]} is over {INT64_MAX}: write it as int64")
    return f"{name}::BIGINT"
