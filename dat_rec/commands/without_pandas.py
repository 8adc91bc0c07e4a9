"""Keep pyarrow from importing pandas, which it does at the first value that it converts.

Where pandas is installed, that takes a good part of a second, and a command that is done in one
gains nothing by it.
"""

import sys
from importlib.abc import MetaPathFinder


class _NoPandas(MetaPathFinder):
    def find_spec(self, name: str, *_: object) -> None:
        """Say that there is no pandas; of other modules, nothing."""
        if name == "pandas":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def leave_pandas_out() -> None:
    """Let this process find no pandas, unless it has imported it already."""
    sys.meta_path.insert(0, _NoPandas())
