"""Ids that several columns make together, as store,customer: each is one text, a JSON array.

``["north",17]`` is customer 17 of the store north: the columns' values in the order in which they
are named, integers and texts as they are, without spaces. So any JSON parser has the values back,
``user_id ->> 0`` in DuckDB, and no two ids are one. ``prepare`` writes it in ``user_id`` or
``item_id``, and every file after it has it there.
"""

import json
import re
from collections.abc import Callable, Sequence

from dat_rec.errors import UserError

Part = int | str
ESCAPE = re.compile(r"\\(?:u([0-9a-f]{4})|.)")


def columns_of_id(option: str, text: str, has: Callable[[str], bool]) -> tuple[str, ...]:
    """The columns that an option names: ``store,customer`` is two, unless one is called that.

    Args:
        option: its name, for messages.
        text: its value.
        has: whether there is a column of a name.

    Raises:
        UserError: a name is empty, or stands twice.
    """
    if "," not in text or has(text):
        return (text,)
    names = tuple(name.strip() for name in text.split(","))
    if "" in names:
        raise UserError(f"{option} {text}: a name is empty: write COLUMN,COLUMN")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{option} {text}: {twice[0]!r} stands there twice: leave one out")
    return names


def array_sql(values: Sequence[str]) -> str:
    """SQL: the id of these values, SQL of BIGINT or VARCHAR each; null for one that is NULL."""
    return f"json_array({', '.join(values)})::VARCHAR"


def encode(values: Sequence[Part]) -> str:
    """The id of these values, to the letter as ``array_sql`` makes it."""
    text = json.dumps(list(values), separators=(",", ":"), ensure_ascii=False)
    if "\\u" not in text:
        return text
    # Python writes control characters as \u001f, DuckDB as \u001F.
    return ESCAPE.sub(lambda found: f"\\u{found[1].upper()}" if found[1] else found[0], text)


def decode(text: str) -> tuple[Part, ...] | None:
    """The values of an id; None where the text is no id of several columns."""
    try:
        values = json.loads(text)
    except ValueError:
        return None
    if not isinstance(values, list) or len(values) < 2:
        return None
    alike = all(isinstance(one, (int, str)) and not isinstance(one, bool) for one in values)
    return tuple(values) if alike and encode(values) == text else None
