"""A run in, a folder out that answers queries without the training code.

What the folder holds is written in ``dat_rec.retrieval.exported``. On several ranks, each encodes
and writes some of the items and users; rank 0 writes what is one file, block by block.
"""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dat_rec.checkpoint.damage import rank_and_ranks
from dat_rec.data.schema import UNKNOWN, DenseFeature, Feature
from dat_rec.dist.agree import all_gather_object, broadcast_from_rank_0, together
from dat_rec.errors import UserError
from dat_rec.files import sha256, write_json
from dat_rec.model.towers import TowerFactory
from dat_rec.retrieval.approximate.tune import QUERIES, Tuned, Wanted, write_ann
from dat_rec.retrieval.delta.delta_folder import RESULT, Standing, read_standing
from dat_rec.retrieval.delta.rebuild import Files
from dat_rec.retrieval.delta.write import write_delta
from dat_rec.retrieval.divided import DividedRows, fetch
from dat_rec.retrieval.encode import encode_items
from dat_rec.retrieval.export_inputs import write_inputs
from dat_rec.retrieval.export_parts import (
    parts_of,
    write_item_vectors,
    write_own_items,
    write_users,
)
from dat_rec.retrieval.export_rows import write_items, write_seen
from dat_rec.retrieval.exported import (
    ANN,
    ANN_EQUAL,
    DELTA,
    FEW_BITS,
    FILES,
    FRESH_FILES,
    INDEX,
    ITEM_PARTS,
    ITEM_TOWER,
    MANIFEST,
    OWN_PARTS,
    SEEN_PARTS,
    TOWER,
    USER_PARTS,
    VERSION,
    WITH_DENSE,
    open_index,
    part_name,
)
from dat_rec.retrieval.feature_rows import FeatureRows
from dat_rec.retrieval.fit_blend import FittedBlend, fit_blend
from dat_rec.retrieval.golden import (
    asked_users,
    check_answers,
    check_golden,
    check_item_tower,
)
from dat_rec.retrieval.golden_queries import write_golden
from dat_rec.retrieval.item_index import write_index
from dat_rec.retrieval.query_encoder import Encoder, ItemEncoder, QueryEncoder, query_program
from dat_rec.retrieval.ranks import Threads, all_ranks, folder_of_all_ranks, one_thread_each
from dat_rec.retrieval.runtimes.runtimes import Runtime, require, write_runtimes
from dat_rec.retrieval.table_forms import Form
from dat_rec.retrieval.tower_file import MODEL_ID, QueryTower, write_tower
from dat_rec.retrieval.trained import Trained, load_model
from dat_rec.retrieval.vector_parts import read_vectors
from dat_rec.storage.address import Location
from dat_rec.storage.publish import whole_folder
from dat_rec.storage.snapshot import local_copy

FULL = "full"
"""Where the full export is made that a delta leads to; it does not stay."""
DENSE_INPUTS = (
    "; third, {dense feature: (B, width) values as they are}, float64 of numbers and float32 of "
    "vectors; NaN means unknown, and the tower itself subtracts the mean and divides by the scale"
)
NO_INDEX = Wanted()
BLOCK_BYTES = 2**20
"""Maximum bytes of a table's rows that go to rank 0 at a time."""


def export(
    run: Path,
    out: Location,
    data: Location | None = None,
    *,
    checkpoint: str = "newest",
    overwrite: bool = False,
    blend_history: bool = False,
    since: Location | None = None,
    tower: TowerFactory | None = None,
    tables: Form = "float32",
    runtimes: Sequence[Runtime] = (),
    index: str = "flat",
    min_recall: float = 0.98,
    recall_at: int = 100,
) -> dict[str, Any]:
    """Write what serving needs of a run, whole or not at all; alone, or on every rank of torchrun.

    The folder holds item vectors, an index, the towers with their tables, the users' features, and
    what raw values of others mean; see ``dat_rec.load_export`` and docs/export.md. Or, with
    ``since``, what of them has changed; see ``dat_rec.apply``.

    Args:
        run: folder that ``dat_rec.train`` made.
        out: the export's folder, which the hosts of all ranks must see, or its address in a store;
            then all ranks must be on one host.
        data: the dataset, if it is no longer where the run found it.
        checkpoint: which of the run's: the number of its steps, ``best`` (as of ``evaluate``) or
            ``newest``.
        overwrite: whether to replace an export that stands in ``out``.
        blend_history: whether ``recommend`` shall be able to blend each user's own history in: by
            the weights of ``evaluate``, which are fitted anew.
        since: an export, or its address: write a delta, which makes this run's export of that one.
            The full export is made meanwhile beside it, and needs room on the disk.
        tower: the tower that the run was trained with, if it was not dat_rec's own.
        tables: in what form the towers' tables and the item vectors are stored.
        runtimes: for which the towers are written beside torch.export's file: ``onnx``,
            ``aotinductor``.
        index: an approximate index beside the exact one, ``ivf``, ``ivf_pq`` or ``hnsw``; ``auto``
            takes the quickest, or none if none is quicker; ``flat``: none.
        min_recall: least recall of the approximate index, on users who did not tune it.
        recall_at: K of the recall.

    Returns:
        What export.json holds; for a delta, what delta.json holds.

    Raises:
        UserError: ``out`` is taken, the run cannot be loaded, there is nothing to fit a blend on,
            ``since`` is no whole export, what was written does not answer as the model does, the
            index does not reach its recall, or what a runtime needs is not installed.

    Example:
        >>> made = dat_rec.export(Path("run"), Path("export"))
        >>> made["items"], made["dim"]
        (100, 33)
    """
    # After a failure the folder is removed when the other ranks know of it.
    wanted = Wanted(index, min_recall, recall_at)
    wanted.check()
    with ExitStack() as publication, all_ranks(), one_thread_each() as threads:
        with together():
            if rank_and_ranks()[0] == 0:
                require(runtimes)
        marker = MANIFEST if since is None else DELTA
        whole = whole_folder(out, marker=marker, overwrite=overwrite)
        folder = folder_of_all_ranks(publication, whole, out)
        with together():
            base = None
            if since is not None and rank_and_ranks()[0] == 0:
                base = read_standing(publication.enter_context(local_copy(since, MANIFEST)))
        trained = load_model(run, data, checkpoint, tower)
        origin = {"run": str(run), "checkpoint": trained.step}
        try:
            fitted = fit_blend(trained, threads) if blend_history else None
            full = folder if since is None else folder / FULL
            made = write_export(
                trained,
                full,
                origin,
                threads,
                fitted,
                tables,
                wanted,
                tuple(dict.fromkeys(runtimes)),
            )
            with together():
                if since is None and rank_and_ranks()[0] == 0:
                    write_json(folder / MANIFEST, made)
                if base is not None:
                    made = _write_delta(base, full, made, folder)
            written: dict[str, Any] = broadcast_from_rank_0(made)
            with together():
                publication.close()
            return written
        except OSError as error:
            raise UserError(
                f"{out}: cannot be written ({error}): free the disk, or choose another --out"
            ) from error


def write_export(
    trained: Trained,
    folder: Path,
    origin: dict[str, Any],
    threads: Threads,
    fitted: FittedBlend | None = None,
    tables: Form = "float32",
    wanted: Wanted = NO_INDEX,
    runtimes: Sequence[Runtime] = (),
) -> dict[str, Any]:
    """Fill the ``folder`` from a trained model, but for export.json. Collective.

    That comes last, when what was written has been read back and asked.

    Args:
        trained: the model, with its dataset.
        folder: to be filled, and made if it is not there; all ranks see it.
        origin: what the manifest says of the run.
        threads: that compute side by side.
        fitted: how own history is blended in, if it can be.
        tables: in what form the towers' tables and the item vectors are stored.
        wanted: the approximate index, of ``Wanted.check``.
        runtimes: different ones, of ``require``.

    Returns:
        What export.json is to hold.

    Raises:
        UserError: an item vector is not finite, the dataset is malformed, what was written does
            not answer as the model does, or the index does not reach its recall.
    """
    model, dataset = trained.model, trained.dataset
    schema = dataset.schema
    rank, ranks = rank_and_ranks()
    whole = tables == "float32"
    items = encode_items(model, dataset, threads)
    more: list[str] = []
    with together():
        if rank == 0:
            for part in (ITEM_PARTS, USER_PARTS, SEEN_PARTS, *([OWN_PARTS] if fitted else [])):
                (folder / part).mkdir(parents=True)
            write_items(dataset, folder, compact=not whole)
            more += write_inputs(dataset, folder)
    model_id = hashlib.sha256(f"{trained.digest} {tables}".encode()).hexdigest()
    popularity = model.popularity_R is not None
    digests, off = write_item_vectors(
        dataset, items, folder, model_id, tables, popularity=popularity
    )
    item_encoder = ItemEncoder(model, schema.side("item"), tables)
    features, dense = schema.side("item"), schema.dense_side("item")
    more += _write_tower(item_encoder, features, dense, folder / ITEM_TOWER, model_id, runtimes)
    largest = check_item_tower(folder, trained, threads, tables, runtimes)
    query_features = {feature.name for feature in schema.side("query")}
    for collection in (model.embeddings, model.augmented):
        if collection is not None:
            collection.keep(query_features)
    without = write_users(dataset, folder, compact=not whole)
    write_seen(dataset, folder, compact=not whole)
    if fitted is not None:
        write_own_items(dataset, fitted.blend, folder, compact=not whole)
    with together():
        if rank == 0 and whole:
            vectors = _vectors(folder, schema.items)
            write_index(vectors, schema.items, items.rows.dim, folder / INDEX)
    features, dense = schema.side("query"), schema.dense_side("query")
    encoder = QueryEncoder(model, features, tables)
    more += _write_tower(encoder, features, dense, folder / TOWER, model_id, runtimes)
    largest |= check_answers(folder, trained, digests, without.values(), threads, tables, runtimes)
    with together():
        if rank == 0:
            write_golden(dataset, asked_users(schema.users, without.values()), folder)
            check_golden(folder)
    with together():
        tuned = _approximate(trained, folder, wanted) if rank == 0 else None
    tuned = broadcast_from_rank_0(tuned)
    parts = {ITEM_PARTS: schema.items, USER_PARTS: schema.users, SEEN_PARTS: schema.users}
    if fitted is not None:
        parts[OWN_PARTS] = schema.users
    of_parts = (part_name(part, n) for part, rows in parts.items() for n in range(parts_of(rows)))
    more = broadcast_from_rank_0(more)
    index = (INDEX,) if whole else ()
    approximate = (ANN, ANN_EQUAL) if tuned.facts is not None else ()
    names = sorted([*FILES, *index, *FRESH_FILES, *approximate, *more, *of_parts])
    own = {name: sha256(folder / name) for name in names[rank::ranks]}
    found = {name: digest for part in all_gather_object(own) for name, digest in part.items()}
    return {
        "version": FEW_BITS if not whole else WITH_DENSE if dense else VERSION,
        MODEL_ID: model_id,
        "dim": items.rows.dim,
        "items": schema.items,
        "users": schema.users,
        "features": [asdict(feature) for feature in features],
        "query_tower": "call with {feature: row numbers} and {feature: (B + 1,) offsets}, int64; "
        f"row {UNKNOWN} and an empty list mean unknown" + (DENSE_INPUTS if dense else ""),
        **({"dense": [asdict(feature) for feature in dense]} if dense else {}),
        **({} if fitted is None else {"blend": fitted.facts()["settings"]}),
        "tables": _form_facts(tables, largest.pop(TOWER, 0.0)),
        **({} if whole else {"item_vectors": _form_facts(tables, off)}),
        **({"runtimes": {name: _off(one) for name, one in largest.items()}} if runtimes else {}),
        **({} if tuned.facts is None else {"ann": asdict(tuned.facts)}),
        **({"ann_tried": tuned.tried} if tuned.tried else {}),
        "source": {"dataset": schema.source, **origin},
        "versions": {"torch": torch.__version__, "faiss": faiss.__version__},
        "sha256": {name: found[name] for name in names},
    }


def _form_facts(form: Form, largest: float) -> dict[str, Any]:
    """How numbers are stored; and, where they are rounded, what that does to vectors."""
    if form == "float32":
        return {"form": form}
    return {"form": form, **_off(largest)}


def _off(largest: float) -> dict[str, float]:
    """By how much a number of a vector differs from the model's at most."""
    return {"largest_difference": float(f"{largest:.2g}")}


def _approximate(trained: Trained, folder: Path, wanted: Wanted) -> Tuned:
    """Write the approximate index, tuned on the vectors of users of the export."""
    if wanted.kind == "flat":
        return Tuned(None, {})
    users = FeatureRows(trained.dataset, "users")
    drawn = np.random.default_rng(0)
    rows = np.sort(drawn.permutation(users.rows)[:QUERIES])
    query_BD = QueryTower(folder / TOWER).encode(users.take(rows))
    # In any order, so that those by which it is tuned are as those by which it is measured.
    query_BD = query_BD[np.resize(drawn.permutation(len(rows)), max(2, len(rows)))]
    exact, item_ND = open_index(folder)
    popularity = trained.model.popularity_R is not None
    paths = (folder / ANN, folder / ANN_EQUAL)
    return write_ann(exact, item_ND, query_BD, wanted, paths, popularity=popularity)


def _write_delta(base: Standing, full: Path, made: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write the delta from a base to a full export, which is removed; return its manifest."""
    write_json(folder / RESULT, made)
    delta = write_delta(base, Files(full, made["sha256"]), folder)
    shutil.rmtree(full)
    return asdict(delta)


def _vectors(folder: Path, items: int) -> Iterator[NDArray[np.float32]]:
    """The item vectors of one part after the other."""
    for number in range(parts_of(items)):
        yield read_vectors(folder / part_name(ITEM_PARTS, number))


def _write_tower(
    encoder: Encoder,
    features: Sequence[Feature],
    dense: Sequence[DenseFeature],
    path: Path,
    model_id: str,
    runtimes: Sequence[Runtime],
) -> list[str]:
    """Write a tower with its tables, which come to rank 0 block by block. Collective.

    Returns:
        On rank 0, the names of its files for other runtimes.
    """

    def trace() -> torch.export.ExportedProgram:
        return query_program(encoder, features, dense)

    if rank_and_ranks()[0] == 0:
        write_tower(trace(), encoder.contents, _called_up, path, model_id)
        broadcast_from_rank_0("")
        with together():
            return write_runtimes(path, trace, runtimes, model_id)
    while name := broadcast_from_rank_0(""):
        for _ in _blocks(encoder.contents[name], here=False):
            pass
    with together():
        return []


def _called_up(name: str, rows: DividedRows) -> Iterator[Tensor]:
    """The rows of a table on rank 0, block by block, when the others know that it is the next."""
    broadcast_from_rank_0(name)
    return _blocks(rows, here=True)


def _blocks(rows: DividedRows, *, here: bool) -> Iterator[Tensor]:
    """The rows of a table, block by block, on the rank that wants them ``here``."""
    count, step = int(rows.bounds[-1]), max(1, BLOCK_BYTES // (4 * rows.dim))
    for start in range(0, count, step):
        wanted = torch.arange(start, min(count, start + step) if here else start)
        yield fetch([(rows, wanted)])[0]
        rows.let_go()
