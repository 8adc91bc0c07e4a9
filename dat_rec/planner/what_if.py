"""What would be if the request for a plan were another: more hosts, float16, offloading, types.

Every alternative is really planned.
"""

from dataclasses import replace

from dat_rec.errors import UserError
from dat_rec.planner.hardware import MOST_RANKS
from dat_rec.planner.plan_request import PlanRequest, PlanResult, find_plan
from dat_rec.sharding_rules import SHARDING_TYPES

OFFLOADS = (0.2, 0.1, 0.05, 0.02)
"""Cache load factors that are tried, in this order, where nothing fits."""
MAX_TIMES = 16
"""Maximum number of hosts that are tried, in times of those that could hold the bytes."""


def offloaded(request: PlanRequest, share: float) -> PlanRequest:
    """Return the request with all tables that no rule names in host memory.

    Args:
        request: for GPUs.
        share: of these tables' rows, in (0, 1], that the GPUs' caches hold.
    """
    pin = f"*=fused_uvm_caching,cache_load_factor:{share:g}"
    options = replace(request.options, pins=(*request.options.pins, pin))
    return replace(request, options=options)


def in_float16(request: PlanRequest) -> PlanRequest:
    """Return the request with all tables in float16."""
    return replace(request, fp16_tables=("*",))


def smallest_cluster(result: PlanResult) -> PlanResult | None:
    """Return the result for the fewest hosts of the same kind that fit; None if none is found.

    Doubles, then bisects, from as many hosts as could hold the bytes, to ``MAX_TIMES`` as many: a
    step's outputs grow with the ranks, so that more of them do not help for ever.
    """
    request, shortfall = result.request, result.shortfall
    if shortfall is None:
        return result
    cluster = request.cluster
    needed = -(-shortfall.device_bytes // (request.share_bytes * cluster.ranks_per_host))
    if cluster.on_gpu:
        host_bytes = cluster.host_bytes * cluster.ranks_per_host
        needed = max(needed, -(-shortfall.host_bytes // host_bytes))
    # Fewer than these cannot.
    low = max(cluster.hosts, needed - 1)
    high, found = low + 1, None
    most = min(MOST_RANKS // cluster.ranks_per_host, MAX_TIMES * high)
    while high <= most:
        found = _on_hosts(request, high)
        if found is not None:
            break
        low, high = high, 2 * high
    if found is None:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        smaller = _on_hosts(request, middle)
        low, high = (low, middle) if smaller else (middle, high)
        found = smaller or found
    return found


def _on_hosts(request: PlanRequest, hosts: int) -> PlanResult | None:
    """Return the result for so many hosts; None if it does not fit."""
    result = _possible(replace(request, cluster=replace(request.cluster, hosts=hosts)))
    return result if result and result.fits else None


def what_would_fit(request: PlanRequest) -> dict[str, PlanResult]:
    """Return what would fit on the same cluster, by the change in words."""
    requests = {"": request}
    if request.fp16_tables != ("*",):
        requests["float16 tables (--fp16-tables '*')"] = in_float16(request)
    found: dict[str, PlanResult] = {}
    for name, one in requests.items():
        if name and (result := _possible(one)) and result.fits:
            found[name] = result
        for share in OFFLOADS if request.cluster.on_gpu else ():
            result = _possible(offloaded(one, share))
            if result and result.fits:
                text = f"{share:.0%} of rows in the GPUs' caches (--offload {share:g})"
                found[f"{name} and {text}" if name else text] = result
            # A smaller cache saves nothing of the hosts' memory.
            if result is None or result.fits or result.lacks_host_memory:
                break
    return found


def _possible(request: PlanRequest) -> PlanResult | None:
    """Return the result; None where a table's rule does not go with what was changed."""
    try:
        return find_plan(request)
    except UserError:
        return None


def compare(request: PlanRequest) -> dict[str, PlanResult | str]:
    """Return alternatives by name: a result each, or the reason why it cannot be."""
    requests = {"as asked": request}
    for kind in SHARDING_TYPES:
        options = replace(request.options, sharding_types=(kind,))
        requests[f"{kind} alone"] = replace(request, options=options)
    everything = replace(request.options, sharding_types=SHARDING_TYPES)
    requests["free choice of types"] = replace(request, options=everything)
    requests["float16 tables"] = in_float16(request)
    if request.cluster.on_gpu:
        requests |= {f"offload {share:g}": offloaded(request, share) for share in (0.1, 0.2)}
    found: dict[str, PlanResult | str] = {}
    for name, one in requests.items():
        try:
            found[name] = find_plan(one)
        except UserError as error:
            found[name] = str(error)
    return found
