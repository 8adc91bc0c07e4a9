"""A dataset's users or items in, the mean length of their lists out, by the file's metadata.

The metadata count each column's values, and the lists that have none, so that the lists themselves,
gigabytes of millions of users, stay where they are. Row groups of which they do not, and those that
they make suspect, are read, one at a time.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from dat_rec.data.columns import BadIds, read_columns
from dat_rec.data.schema import Feature
from dat_rec.data.stream.statistics import suspect_groups
from dat_rec.errors import UserError
from dat_rec.storage.address import Location
from dat_rec.storage.read import open_parquet


def mean_list_lengths(
    path: Location, features: Sequence[Feature], rows: int, bad_ids: BadIds
) -> dict[str, float]:
    """The mean number of values in a row, of each feature with lists.

    Args:
        path: users.parquet or items.parquet.
        features: all features of its side.
        rows: number of rows that it must have.
        bad_ids: what becomes of ids outside their table.

    Raises:
        UserError: the file cannot be read, lacks a column, has another number of rows, or its
            metadata betray an id that is refused.
    """
    names = [feature.name for feature in features]
    counts = {feature.name: 0 for feature in features if feature.multi_valued}
    try:
        with open_parquet(path) as file:
            metadata = file.metadata
            for name in names:
                if (times := file.schema_arrow.names.count(name)) != 1:
                    found = "stands there twice" if times else "is missing"
                    raise UserError(f"{path}: column {name!r} {found}: write the file anew")
            if metadata.num_rows != rows:
                raise UserError(
                    f"{path}: {metadata.num_rows} rows, schema.json says {rows}: "
                    "prepare the dataset anew"
                )
            # The types alone.
            read_columns(file.schema_arrow.empty_table(), features, str(path))
            may_lie_outside = () if bad_ids.refuses else names
            suspect = set(suspect_groups(metadata, features, nulls_only=may_lie_outside))
            for group in range(metadata.num_row_groups):
                told = None if group in suspect else _told(metadata.row_group(group), set(counts))
                for name, count in (told or _read(file, group, features, path, bad_ids)).items():
                    counts[name] += count
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as Parquet ({reason}): write it anew") from error
    return {name: count / max(1, rows) for name, count in counts.items()}


def _told(group: pq.RowGroupMetaData, names: set[str]) -> dict[str, int] | None:
    """How many values the lists of a row group have; None where its metadata do not tell."""
    found = {}
    for position in range(group.num_columns):
        column = group.column(position)
        name = column.path_in_schema.split(".")[0]
        if name in names:
            statistics = column.statistics
            if statistics is None or not statistics.has_null_count:
                return None
            # A list without values counts as one that is null.
            found[name] = column.num_values - statistics.null_count
    return found


def _read(
    file: pq.ParquetFile, group: int, features: Sequence[Feature], path: Location, bad_ids: BadIds
) -> dict[str, int]:
    table = file.read_row_group(group, columns=[feature.name for feature in features])
    where = f"{path} (row group {group})" if file.num_row_groups > 1 else str(path)
    columns = read_columns(table, features, where, bad_ids)
    return {one.name: len(columns[one.name].values) for one in features if one.multi_valued}
