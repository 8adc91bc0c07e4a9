"""A dataset in, its baselines' figures out: computed once, kept with the dataset, and used again.

``.baselines.json`` stands in the dataset's folder (``validate`` and the digests pass over hidden
files). Where that cannot be written, and for a dataset in a store, it is ``baselines.json`` in the
run's folder. It holds the settings that were chosen, all trials, and the figures, each with the
SHA-256 of what it was made of; what has changed is made anew. Figures for a run that was trained on
another dataset stand beside those for runs of this one: its warm and cold queries are others.

ItemCF and iALS are fitted and ranked on one rank, while the others wait. Where that would take
long they are left out, with a line that says so.
"""

import hashlib
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from dat_rec.data.dataset import Dataset
from dat_rec.errors import UserError
from dat_rec.files import read_json, sha256, write_json
from dat_rec.retrieval.baselines import Settings, of_baseline, rules
from dat_rec.retrieval.feature_rows import RowGroups
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.ranks import Threads
from dat_rec.retrieval.top_lists import TopLists

WITH_DATASET, WITH_RUN = ".baselines.json", "baselines.json"
MATCHED = "matched"
"""Field with the figures for the last run of another dataset."""
VERSION = 1
"""Rises when the same dataset would give other settings or figures."""
MOST_PAIRS = 10_000_000
"""Maximum number of training pairs to which ItemCF and iALS are fitted."""
MOST_SCORES = 20_000_000_000
"""Maximum number of scores of asked users, one for each trained item, that are ranked for each."""
MOST_NEIGHBOURS = 2_000_000_000
"""Maximum number of pairs of items that some user has both of, counted for each user: what ItemCF
adds up."""
MADE_OF = ("validation", "test", "items")
"""Tables of a dataset that decide settings and figures, beside the pairs; the test, by the users
who are asked."""


class Found(NamedTuple):
    """The baselines of an evaluation."""

    figures: dict[str, dict[str, Any]]
    """By name: the blocks of ``of_baseline``; of those that are fitted also ``settings``."""
    left_out: dict[str, str]
    """Why a baseline is missing, by name."""


def baselines(
    run: Path, dataset: Dataset, settings: Settings, threads: Threads, *, fitted: bool
) -> Found:
    """Rank every query by every baseline, or read what was found before. In this process.

    Args:
        run: the run's folder, in which the figures are kept where the dataset cannot keep them.
        dataset: a prepared dataset.
        settings: its protocol, and the cutoffs.
        threads: that fit, and count side by side.
        fitted: whether ItemCF and iALS are wanted, which take the time.

    Raises:
        UserError: a table cannot be read.
    """
    if not fitted:
        return Found(rules(settings), dict.fromkeys(("ItemCF", "iALS"), "not asked for"))
    tuned_on, ranked_for = _digests(dataset, settings)
    kept = _read(run, dataset)
    own = settings.protocol.known is None
    ranked = kept if own else kept.get(MATCHED, {})
    if ranked.get("ranked_for") == ranked_for:
        return Found(ranked["figures"], ranked["left_out"])
    figures, left_out = rules(settings), _too_large(dataset, settings.protocol)
    tuned = kept.get("tuned", {}) if kept.get("tuned_on") == tuned_on else {}
    if len(left_out) < 2:
        tuned = _add_fitted(figures, left_out, tuned, dataset, settings, threads)
    ranked = {"ranked_for": ranked_for, "figures": figures, "left_out": left_out}
    settled = {"tuned_on": tuned_on, "tuned": tuned}
    _write(run, dataset, {**kept, **settled, **(ranked if own else {MATCHED: ranked})})
    return Found(figures, left_out)


def _add_fitted(
    figures: dict[str, dict[str, Any]],
    left_out: dict[str, str],
    tuned: dict[str, Any],
    dataset: Dataset,
    settings: Settings,
    threads: Threads,
) -> dict[str, Any]:
    """Add the figures of the baselines that are fitted; return how they were tuned."""
    from implicit.recommender_base import ModelFitError

    from dat_rec.retrieval.fitted import FITTED, read_training, score_ranks
    from dat_rec.retrieval.tuning import tune, validation_of

    protocol, cutoffs = settings
    training = read_training(dataset, protocol, threads)
    both = float((np.diff(training.pairs.indptr).astype(np.float64) ** 2).sum())
    if both > MOST_NEIGHBOURS:
        left_out["ItemCF"] = f"{both:,.0f} pairs of items to compare, over {MOST_NEIGHBOURS:,}"
    names = [name for name in FITTED if name not in left_out]
    if any(name not in tuned for name in names):
        tuned = tune(validation_of(dataset, protocol, training), threads, names)
    for name in tqdm(names, "rank baselines", unit="baseline", delay=1.0):
        lists = TopLists(protocol, cutoffs)
        try:
            scores = FITTED[name](training, tuned[name]["settings"])
        except ModelFitError:
            left_out[name] = "its factors are not finite"
            continue
        ranks = score_ranks(protocol, scores, threads, lists)
        figures[name] = {
            "settings": tuned[name]["settings"],
            **of_baseline(settings, ranks, lists),
        }
    return tuned


def _too_large(dataset: Dataset, protocol: Protocol) -> dict[str, str]:
    """Why ItemCF and iALS would take too long on this dataset, by name; nothing if they do not."""
    pairs = sum(
        int(RowGroups(dataset.folder / path, ["user_row"]).bounds[-1])
        for path in dataset.schema.seen_paths
    )
    scores = len(protocol.users) * protocol.trained_items
    why = ""
    if pairs > MOST_PAIRS:
        why = f"{pairs:,} training pairs, over {MOST_PAIRS:,}"
    elif scores > MOST_SCORES:
        why = f"{scores:,} scores of asked users, over {MOST_SCORES:,}"
    return dict.fromkeys(("ItemCF", "iALS"), why) if why else {}


def _digests(dataset: Dataset, settings: Settings) -> tuple[str, str]:
    """SHA-256 of what decides the settings, and the figures."""
    parts = [str(VERSION), metadata.version("implicit"), dataset.versions()]
    if isinstance(dataset.folder, Path):
        names = [*dataset.schema.seen_paths, *(f"{name}.parquet" for name in MADE_OF)]
        paths = [dataset.folder / name for name in names]
        parts += [f"{path.name} {sha256(path)}" for path in paths if path.exists()]
    parts.append(f"{len(settings.protocol.user_row)} queries")

    def digest(*more: str) -> str:
        return hashlib.sha256("\n".join([*parts, *more]).encode()).hexdigest()

    known = settings.protocol.known
    split = [] if known is None else [hashlib.sha256(one.tobytes()).hexdigest() for one in known]
    return digest(), digest(repr(settings.cutoffs), *split)


def _places(run: Path, dataset: Dataset) -> list[Path]:
    """Where the file may stand, the best place first."""
    own = [dataset.folder / WITH_DATASET] if isinstance(dataset.folder, Path) else []
    return [*own, run / WITH_RUN]


def _read(run: Path, dataset: Dataset) -> dict[str, Any]:
    """What was kept; nothing where there is no file, or it is no such file."""
    for path in _places(run, dataset):
        if path.is_file():
            try:
                found = read_json(path, "the baselines")
            except UserError:
                continue
            if isinstance(found, dict):
                return found
    return {}


def _write(run: Path, dataset: Dataset, kept: dict[str, Any]) -> None:
    """Keep it where that is possible: it saves time, and is no result."""
    for path in _places(run, dataset):
        try:
            write_json(path, kept)
        except OSError:
            continue
        return
