"""A table's columns in, how Parquet writes them in few bytes out.

Numbers of rows, counts and ids go as differences of the one before, in as many bits as these need.
Parquet has no integers of 8 bits: they go as numbers of a dictionary's entries, which have as many.
Numbers of float16 go byte by byte, as the first bytes of many are alike. All is compressed by zstd.
"""

from typing import Any

import pyarrow as pa


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Arguments of ``pq.write_table`` and ``pq.ParquetWriter``.

    Args:
        schema: of the table: numbers, text, and lists of them.
    """
    dictionaries, encodings = [], {}
    types = pa.types
    for field in schema:
        leaf, kind = field.name, field.type
        if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            leaf, kind = f"{leaf}.list.element", kind.value_type
        if kind == pa.int8() or not types.is_primitive(kind):
            dictionaries.append(leaf)
        elif types.is_integer(kind):
            encodings[leaf] = "DELTA_BINARY_PACKED"
        elif types.is_float16(kind):
            encodings[leaf] = "BYTE_STREAM_SPLIT"
    return {
        "compression": "zstd",
        "use_dictionary": dictionaries or False,
        "column_encoding": encodings or None,
    }
