"""The result of a plan as text for a terminal: whether the tables fit, and if not, what would."""

from dat_rec.planner.plan_request import MemoryShortfall, PlanResult
from dat_rec.planner.report_sections import memory_lines, size_text, table_lines, time_lines


def headline(result: PlanResult) -> str:
    """Return the answer in one sentence: whether the tables fit, and how well."""
    cluster, share = result.request.cluster, result.request.share_bytes
    if result.shortfall is not None:
        return f"{cluster}: does not fit: {_what_is_missing(result, result.shortfall)}"
    full, slow = max(result.main_bytes().values()), max(result.times_ms().values())
    return (
        f"{cluster}: fits, {size_text(full)} of {size_text(share)} on the fullest rank; a step of "
        f"the slowest rank's tables takes {slow:.3g} ms"
    )


def _what_is_missing(result: PlanResult, shortfall: MemoryShortfall) -> str:
    cluster, share = result.request.cluster, result.request.share_bytes
    there, needed = share * cluster.world_size, shortfall.device_bytes
    if needed > there:
        return (
            f"the tables need {size_text(needed)} and {size_text(there)} are there, "
            f"{size_text(needed - there)} too little"
        )
    if result.lacks_host_memory:
        there, needed = cluster.host_bytes * cluster.world_size, shortfall.host_bytes
        return (
            f"the tables need {size_text(needed)} of host memory and {size_text(there)} are "
            f"there, {size_text(needed - there)} too little"
        )
    return (
        f"{size_text(needed)} of {size_text(there)} are needed, but not in parts that fill ranks "
        f"of {size_text(share)} (the largest: {size_text(shortfall.largest_bytes)} of "
        f"{shortfall.largest_table})"
    )


def report(result: PlanResult) -> str:
    """Return all of a result, as text for a terminal."""
    lines = [headline(result)]
    if result.fits:
        sections = (table_lines(result), memory_lines(result), time_lines(result))
        lines += [line for section in sections for line in ("", *section)]
    return "\n".join(lines)


def cures(smallest: PlanResult | None, changes: dict[str, PlanResult]) -> str:
    """Return what would fit, as text.

    Args:
        smallest: result for the fewest hosts that fit, or None.
        changes: results on the same cluster, by what was changed.
    """
    lines = ["what would fit, planned:"]
    if smallest is None:
        lines.append("  more of such hosts: none found")
    else:
        lines.append(f"  the fewest hosts: {headline(smallest)}")
    lines += [f"  {name}: {headline(one).split(': ', 1)[1]}" for name, one in changes.items()]
    if not changes:
        lines.append("  here, by float16 tables or rows in host memory: none found")
    return "\n".join(lines)


def comparison(found: dict[str, PlanResult | str]) -> str:
    """Return alternatives side by side, as text.

    Args:
        found: by name, a result or the reason why it cannot be.
    """
    width = max(map(len, found))
    lines = [f"{'':<{width}}  {'step ms':>8}  {'fullest rank':>12}  fits"]
    for name, one in found.items():
        if isinstance(one, str):
            lines.append(f"{name:<{width}}  {'':>8}  {'':>12}  cannot be: {one}")
        elif one.shortfall is not None:
            text = headline(one).split("does not fit: ", 1)[1]
            lines.append(f"{name:<{width}}  {'':>8}  {'':>12}  no: {text}")
        else:
            full, slow = max(one.main_bytes().values()), max(one.times_ms().values())
            lines.append(f"{name:<{width}}  {slow:>8.3g}  {size_text(full):>12}  yes")
    return "\n".join(lines)
