"""A Parquet file's metadata in, its row groups with ids to refuse out; no value is read.

So a bad id in the last of a thousand files is found before a run takes its folder. What metadata
do not tell is found when it is read: nulls inside of lists, and all in files without statistics.
"""

from collections.abc import Sequence

import pyarrow.parquet as pq

from dat_rec.data.schema import Feature


def suspect_groups(
    metadata: pq.FileMetaData, features: Sequence[Feature], *, nulls_only: Sequence[str] = ()
) -> list[int]:
    """The row groups that hold an id outside its table, or a null where one value is wanted.

    Args:
        metadata: the metadata of a file whose columns have the features' types.
        features: columns to look at.
        nulls_only: names of features whose ids may lie outside their table.
    """
    by_name = {feature.name: feature for feature in features}
    found = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for position in range(group.num_columns):
            column = group.column(position)
            feature = by_name.get(column.path_in_schema.split(".")[0])
            if feature is not None and _is_suspect(
                column.statistics, feature, nulls_only=feature.name in nulls_only
            ):
                found.append(number)
                break
    return found


def _is_suspect(statistics: pq.Statistics | None, feature: Feature, *, nulls_only: bool) -> bool:
    if statistics is None:
        return False
    # An empty list counts as a null, too.
    if not feature.multi_valued and statistics.has_null_count and statistics.null_count:
        return True
    if nulls_only or not statistics.has_min_max:
        return False
    return bool(statistics.min < 0 or statistics.max >= feature.rows)
