"""Rows of trials in, Markdown out: what the search found, means, paired tests, the sweep."""

import json
from collections.abc import Sequence

from benchmarks.quality.arms import ARMS, BASELINES, DEFAULTS
from benchmarks.quality.means import Difference, Mean, difference, mean
from benchmarks.quality.records import Row

PAIRS = {
    "new HR@50": "new_pairs/HR@50",
    "new HR@100": "new_pairs/HR@100",
    "new MRR": "new_pairs/MRR",
    "all HR@50": "all/HR@50",
    "all HR@100": "all/HR@100",
    "all MRR": "all/MRR",
}
OTHERS = {
    "user Recall@20": "per_user/Recall@20",
    "user NDCG@20": "per_user/NDCG@20",
    "largest category HR@100": "largest/HR@100",
    "other categories HR@100": "others/HR@100",
    "warm HR@100": "warm/HR@100",
    "cold HR@100": "cold/HR@100",
}
BLENDED = {f"all {name}": f"blend/{name}" for name in ("HR@50", "HR@100", "MRR")}
"""All pairs, with own history blended in."""
TESTED = {
    name: (PAIRS | OTHERS)[name]
    for name in (*PAIRS, *list(OTHERS)[:4])
    if name not in ("all HR@50", "all MRR")
}
"""Figures that arms are compared in."""
REFERENCE = "two-tower"
ORDER = (*BASELINES, DEFAULTS, *ARMS)


def text(rows: Sequence[Row]) -> str:
    """All tables, log by log. Of several trials of one arm and seed on a test the newest counts."""
    parts = []
    for digest in dict.fromkeys(row["data"] for row in rows):
        parts.append(_of_log(digest, [row for row in rows if row["data"] == digest]))
    return "\n\n".join(parts)


def _of_log(name: str, rows: list[Row]) -> str:
    searched = [row for row in rows if row["stage"] == "search"]
    swept = [row for row in rows if row["stage"] == "sweep"]
    tested = _newest([row for row in rows if row["stage"] in ("test", "baselines")])
    best = best_arm(searched)
    parts = [f"## {name}"]
    if searched:
        parts.append(f"Search, judged on validation; the best arm is {best}.")
        parts.append(_search(searched))
    if swept:
        parts.append(_sweep(swept))
    if tested:
        parts += [_means(tested, best, PAIRS), _means(tested, best, OTHERS)]
        if blended := [row for row in tested if row["test/blend/HR@100"] is not None]:
            parts.append("All pairs, with each user's own history blended in:")
            parts.append(_means(blended, best, BLENDED))
        parts.append(_paired(tested, best))
        seen = max((row["test_read"] or 1 for row in tested), default=1)
        if seen > 1:
            parts.append(f"The test was read up to {seen} times for an arm and seed.")
    return "\n\n".join(parts)


def best_arm(searched: Sequence[Row]) -> str | None:
    """The arm of the trial with the highest score."""
    scored = [row for row in searched if row["score"] is not None]
    return max(scored, key=lambda row: float(row["score"]))["arm"] if scored else None


def _newest(rows: list[Row]) -> list[Row]:
    by_date = sorted(rows, key=lambda row: str(row["date"]))
    return list({(row["arm"], row["seed"]): row for row in by_date}.values())


def _arms(rows: Sequence[Row]) -> list[str]:
    there = {row["arm"] for row in rows}
    return [arm for arm in ORDER if arm in there]


def _by_seed(rows: Sequence[Row], arm: str, figure: str) -> dict[int, float]:
    return {
        row["seed"]: row[figure] for row in rows if row["arm"] == arm and row[figure] is not None
    }


def _search(rows: Sequence[Row]) -> str:
    lines = ["| arm | trials | failed | best | settings of the best |", "|---" * 5 + "|"]
    for arm in _arms(rows):
        mine = [row for row in rows if row["arm"] == arm]
        scored = [row for row in mine if row["score"] is not None]
        failed = len(mine) - len(scored)
        if not scored:
            lines.append(f"| {arm} | {len(mine)} | {failed} | | |")
            continue
        best = max(scored, key=lambda row: float(row["score"]))
        setting = json.loads(best["setting"]) | {"epochs": best["chosen_epochs"]}
        words = ", ".join(f"{name} {value}" for name, value in sorted(setting.items()))
        lines.append(f"| {arm} | {len(mine)} | {failed} | {short(best['score'])} | {words} |")
    return "\n".join(lines)


def _sweep(rows: Sequence[Row]) -> str:
    dims = sorted({row["number"] for row in rows})
    head = " | ".join(f"{dim} dimensions" for dim in dims)
    lines = ["Outputs and augmented vectors of other dimensions, judged on validation.", ""]
    lines += [f"| arm | {head} |", "|---" * (1 + len(dims)) + "|"]
    for arm in _arms(rows):
        cells = []
        for dim in dims:
            mine = [row for row in rows if row["arm"] == arm and row["number"] == dim]
            scores = [row["score"] for row in mine if row["score"] is not None]
            cells.append(_cell(mean(scores)) if scores else "")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _means(rows: Sequence[Row], best: str | None, figures: dict[str, str]) -> str:
    lines = [f"| arm | seeds | {' | '.join(figures)} |", "|---" * (2 + len(figures)) + "|"]
    for arm in _arms(rows):
        found = [list(_by_seed(rows, arm, f"test/{one}").values()) for one in figures.values()]
        if not any(found):
            why = next(row["failure"] for row in rows if row["arm"] == arm)
            lines.append(f"| {arm} | 0 | {why} |" + " |" * (len(figures) - 1))
            continue
        seeds = "" if arm in BASELINES else str(max(map(len, found)))
        label = f"**{arm}** (best)" if arm == best else arm
        cells = [_cell(mean(values)) if values else "" for values in found]
        lines.append(f"| {label} | {seeds} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _paired(rows: Sequence[Row], best: str | None) -> str:
    """Every arm against the two-tower, and the best arm against every baseline and defaults."""
    there = _arms(rows)
    models = [arm for arm in there if arm in ARMS]
    pairs = [(arm, REFERENCE) for arm in models if REFERENCE in models and arm != REFERENCE]
    if best in models:
        pairs += [(best, arm) for arm in there if arm not in ARMS]
    if not pairs:
        return "No two arms to compare."
    lines = [
        "Differences, paired by seed: mean [95 % interval], p of the paired t test, not corrected "
        f"for the {len(pairs)} × {len(TESTED)} comparisons.",
        "",
        f"| difference | {' | '.join(TESTED)} |",
        "|---" * (1 + len(TESTED)) + "|",
    ]
    for ours, theirs in pairs:
        cells = [_compared(rows, ours, theirs, f"test/{figure}") for figure in TESTED.values()]
        lines.append(f"| {ours} − {theirs} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _compared(rows: Sequence[Row], ours: str, theirs: str, figure: str) -> str:
    mine, other = _by_seed(rows, ours, figure), _by_seed(rows, theirs, figure)
    if theirs in BASELINES:
        return _difference(difference(mine, next(iter(other.values())))) if other else ""
    return _difference(difference(mine, other))


def short(value: float, *, signed: bool = False) -> str:
    """Four digits, without the zero before the point."""
    text = f"{value:{'+' if signed else ''}.4f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def _cell(found: Mean) -> str:
    return short(found.value) + (
        "" if found.half_width is None else f" ± {short(found.half_width)}"
    )


def _difference(found: Difference | None) -> str:
    if found is None:
        return ""
    words = short(found.value, signed=True)
    if found.low is not None and found.high is not None:
        words += f" [{short(found.low, signed=True)}, {short(found.high, signed=True)}]"
    if found.p is not None:
        words += f", p {found.p:.2g}"
    return words
