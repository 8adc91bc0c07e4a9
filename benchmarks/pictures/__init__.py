"""One module a picture: ``draw(rows)`` takes the lines of results/<module>.jsonl, gives a figure.

``python -m benchmarks.plot`` draws them all.
"""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine


def figure(title: str, rows: list[dict[str, Any]]) -> Figure:
    """An empty figure with its title, and below it where and when ``rows`` were measured."""
    made = Figure(figsize=(9, 5), layout=ConstrainedLayoutEngine())
    made.suptitle(title, x=0.01, ha="left", fontsize=12)
    made.supxlabel(circumstances(rows), x=0.99, ha="right", fontsize=8, color="0.4")
    return made


def circumstances(rows: list[dict[str, Any]]) -> str:
    """Hardware, versions and days of all ``rows``."""
    parts = [sorted({row[name] for row in rows}) for name in ("hardware", "torch", "torchrec")]
    hardware, torch, torchrec = (", ".join(part) for part in parts)
    days = sorted({row["date"][:10] for row in rows})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"{hardware}; torch {torch}, torchrec {torchrec}; {when}"
