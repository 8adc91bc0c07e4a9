"""An export's folder in, its tower, index, vectors and users out: read back, and checked.

::

    export.json                what is in the folder, versions, SHA-256 of every other file
    item_vectors/part-*.parquet  item_id, item_index and vector, D float32, or fewer bits
                               (``vector_parts.py``), of some items each
    items.parquet              item_id, title, category_name, train_count, and what the features
                               stand for, as text, numbers as they are; row = item_index
    index.faiss                exact inner-product index of the vectors; position = item_index (of
                               few bits there is none: it is made of the vectors when it is opened)
    users/part-*.parquet       user_id and the query features, of some users each
    seen/part-*.parquet        user_id and item_index, the items that the user had in training
    own_items/part-*.parquet   what own history adds to the scores of own items (optional)
    ann.faiss                  a quicker, approximate index of the different vectors, ids being
                               item_index (optional; ``dat_rec.retrieval.approximate``)
    ann_equal.parquet          item_index of the items that are not in it, and same_as, the one with
                               the same vector that is
    query_tower.pt2            torch.export program: query features in, (B, D) unit vectors out
    item_tower.pt2             the same of items that training never saw
    query_tower.onnx, …        both towers for other runtimes (optional; ``runtimes/``)
    golden.parquet             some users as questions, with their answers
    inputs.json                what raw values the features are made of (``raw_inputs.py``)
    vocabularies/TABLE.parquet  the value that each row of a table stands for

Items and users stand in the parts in the order of their numbers. How they are cut into parts does
not depend on the number of ranks that wrote them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.data.columns import Column
from dat_rec.data.dataset import read_parquet
from dat_rec.data.dense import AnyColumn, DenseColumn, read_all
from dat_rec.data.schema import UNKNOWN, DenseFeature, Feature
from dat_rec.errors import UserError
from dat_rec.files import STRICT, checked, read_json, sha256
from dat_rec.retrieval.approximate.ann_index import Ann, AnnFacts
from dat_rec.retrieval.distinct import Distinct, kinds, row_hashes
from dat_rec.retrieval.few_queries import FewQueries
from dat_rec.retrieval.id_rows import IdRows
from dat_rec.retrieval.item_index import INDEX_NAME, index_in_memory, read_index
from dat_rec.retrieval.own_items import OwnItems
from dat_rec.retrieval.raw_inputs import INPUTS, VOCABULARIES, Inputs
from dat_rec.retrieval.tower_file import MODEL_ID, QueryTower
from dat_rec.retrieval.vector_parts import dim_of, read_vectors
from dat_rec.storage.address import Location
from dat_rec.storage.snapshot import local_copy

VERSION, WITH_DENSE, FEW_BITS = 2, 3, 4
"""Of an export without dense features, of one with some, and of one whose item vectors are stored
in few bits, without an index: who knows of none must refuse it."""
VERSIONS = (VERSION, WITH_DENSE, FEW_BITS)
MANIFEST = "export.json"
DELTA = "delta.json"
"""Stands in the folder of a delta, which is no export (``dat_rec.retrieval.delta``)."""
ITEMS, INDEX, TOWER = "items.parquet", INDEX_NAME, "query_tower.pt2"
ITEM_TOWER, GOLDEN = "item_tower.pt2", "golden.parquet"
FILES = (ITEMS, TOWER)
"""What an export holds beside its parts; and ``INDEX``, where its vectors are float32."""
FRESH_FILES = (ITEM_TOWER, INPUTS, GOLDEN)
"""What it holds beside them; older ones do not."""
ANN, ANN_EQUAL = "ann.faiss", "ann_equal.parquet"
"""What an export with an approximate index holds, too."""
RUNTIME_FILES = tuple(
    f"{tower}_tower{end}"
    for tower in ("query", "item")
    for end in (".onnx", ".onnx.data", ".aoti.pt2")
)
"""What it may hold for runtimes beside torch.export's. Whoever reads an export opens none of them:
an AOTInductor package is code."""
ITEM_PARTS, USER_PARTS, OWN_PARTS = "item_vectors", "users", "own_items"
SEEN_PARTS = "seen"
"""Folders of parts."""
PART_ROWS = 2**16
"""Maximum number of items, or users, in a part."""


@dataclass(frozen=True)
class Manifest:
    """What an export's reader needs of ``export.json``."""

    version: int
    features: tuple[Feature, ...]
    """The query features."""
    sha256: dict[str, str]
    """Digest of each file, in hexadecimal."""
    dense: tuple[DenseFeature, ...] = ()
    """The dense query features, with mean and scale, which the tower applies itself."""
    model_id: str | None = None
    """Id of the model that vectors and towers come from; None in an older export."""
    ann: AnnFacts | None = None
    """Of the approximate index, if there is one."""

    __pydantic_config__ = STRICT | {"extra": "ignore"}


@dataclass(frozen=True)
class Export:
    """An export, read back and checked: N items, U known users."""

    tower: QueryTower
    index: faiss.Index
    item_vectors: NDArray[np.float32]
    """(N, D), which the index searches: mapped from its file, or in memory where there is none"""
    items: pa.Table
    """item_id and title of each"""
    user_ids: pa.Array
    """(U,)"""
    user_columns: dict[str, AnyColumn]
    """Query features of U + 1 users: row U is the unknown one."""
    own: OwnItems | None
    """None for an export without own items"""
    item_tower: QueryTower | None = None
    """None for an export of before"""
    inputs: Inputs | None = None
    """None for an export of before"""
    golden: NDArray[np.float32] | None = None
    """(Q, D) the vectors of the golden queries; None for an export of before"""
    model_ids: Mapping[str, str | None] = field(default_factory=dict)
    """What the files say that hold vectors, or make them, by their names."""

    @property
    def model_id(self) -> str | None:
        """The id of the model; None in an older export."""
        return self.tower.model_id

    def check_model(self, manifest: Manifest, folder: Location) -> None:
        """Refuse files of two models in one folder.

        Raises:
            UserError: names the file.
        """
        for name, found in self.model_ids.items():
            if found != manifest.model_id:
                raise UserError(
                    f"{folder}: {name} is of the model {found}, and {MANIFEST} of "
                    f"{manifest.model_id}: vectors of two models have nothing in common: export "
                    "anew"
                )

    @cached_property
    def few(self) -> FewQueries:
        """The index, quick for a few queries; it copies the item vectors."""
        return FewQueries(self.index, self.item_vectors, self.golden)

    @cached_property
    def alike(self) -> Distinct:
        """The U + 1 users of ``user_columns``, sorted into kinds of equal ones."""
        return kinds(row_hashes(self.user_columns))

    @cached_property
    def rows_of_users(self) -> IdRows:
        """The rows of ``user_ids``."""
        return IdRows(self.user_ids)

    @cached_property
    def rows_of_items(self) -> IdRows:
        """The rows of the items' ids."""
        return IdRows(self.items.column("item_id").combine_chunks())

    ann: Ann | None = None
    """None for an export without an approximate index"""

    @staticmethod
    def open(folder: Location) -> "Export":
        """Read an export; of one in a store, its files are copied to TMPDIR meanwhile.

        Raises:
            UserError: no export, one of another version, or a file that is missing or is
                not the one that was written.
        """
        with local_copy(folder, MANIFEST) as local:
            manifest = read_manifest(local)
            check_files(local, manifest)
            export = Export.read(local, manifest.features, manifest.dense, manifest.ann)
            export.check_model(manifest, local)
            return export

    @staticmethod
    def read(
        folder: Path,
        features: Sequence[Feature],
        dense: Sequence[DenseFeature] = (),
        ann: AnnFacts | None = None,
        *,
        trusted: bool = True,
    ) -> "Export":
        """Read an export's files, without a look at its manifest.

        Args:
            folder: holds ``FILES`` and the parts.
            features: the query features.
            dense: the dense ones, of all users in memory: users · width · 4 bytes for a vector.
            ann: what is known of the approximate index, if there is one.
            trusted: as of ``QueryTower``.

        Raises:
            UserError: a table cannot be read, or does not hold the features.
        """
        names = ["user_id", *(one.name for one in features), *(one.name for one in dense)]
        paths = sorted((folder / USER_PARTS).glob("part-*.parquet"))
        users = pa.concat_tables([read_parquet(path, names) for path in paths])
        columns = read_all(users, features, dense, str(folder / USER_PARTS))
        own = sorted((folder / OWN_PARTS).glob("part-*.parquet"))
        index, item_vectors = open_index(folder)
        towers = {
            name: QueryTower(folder / name, trusted=trusted)
            for name in (TOWER, ITEM_TOWER)
            if name == TOWER or (folder / name).exists()
        }
        parts = sorted((folder / ITEM_PARTS).glob("part-*.parquet"))
        paths_of_ann = (folder / ANN, folder / ANN_EQUAL)
        return Export(
            tower=towers[TOWER],
            index=index,
            item_vectors=item_vectors,
            items=read_parquet(folder / ITEMS, ["item_id", "title"]),
            user_ids=users.column("user_id").combine_chunks(),
            user_columns=with_unknown(columns),
            own=OwnItems.read(own) if own else None,
            item_tower=towers.get(ITEM_TOWER),
            inputs=Inputs.load(folder) if (folder / INPUTS).exists() else None,
            golden=read_vectors(folder / GOLDEN) if (folder / GOLDEN).exists() else None,
            model_ids={
                **{name: tower.model_id for name, tower in towers.items()},
                **{f"{ITEM_PARTS}/{path.name}": _model_id(path) for path in parts},
            },
            ann=None if ann is None else Ann.read(*paths_of_ann, ann, index, item_vectors),
        )


def open_index(folder: Path) -> tuple[faiss.Index, NDArray[np.float32]]:
    """The exact index of an export, and its (N, D) vectors, in the same memory.

    They are mapped from the index's file; or made of the vectors, where these are of few bits.

    Raises:
        UserError: a part cannot be read.
    """
    if (folder / INDEX).exists():
        return read_index(folder / INDEX)
    parts = sorted((folder / ITEM_PARTS).glob("part-*.parquet"))
    try:
        files = [pq.ParquetFile(path) for path in parts]
        rows = sum(file.metadata.num_rows for file in files)
        return index_in_memory(map(read_vectors, parts), rows, dim_of(files[0].schema_arrow))
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder / ITEM_PARTS}: cannot be read ({reason}): export anew") from error


def _model_id(path: Path) -> str | None:
    """What a part of item vectors says of its model."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as Parquet ({reason}): export anew") from error
    found = metadata.get(MODEL_ID.encode())
    return None if found is None else found.decode()


def part_name(folder: str, number: int) -> str:
    """The path of a part, in the export."""
    return f"{folder}/part-{number:05}.parquet"


def read_manifest(folder: Path, name: str = MANIFEST) -> Manifest:
    """Read the manifest of an export.

    Args:
        folder: the export's.
        name: of the manifest, in the folder.

    Raises:
        UserError: no export, or one of another version.
    """
    path = folder / name
    if not path.exists() and (folder / DELTA).exists():
        raise UserError(f"{folder} is a delta: make a full export of it with `dat-rec apply`")
    if not path.exists():
        raise UserError(
            f"{folder} is not an export (no {MANIFEST}): make one with `dat-rec export`"
        )
    value = read_json(path, "the export's manifest")
    version = value.get("version") if isinstance(value, dict) else None
    if version not in (None, *VERSIONS):
        *others, last = map(str, VERSIONS)
        raise UserError(
            f"{path}: version {version}, this program reads {', '.join(others)} and {last}: "
            "export anew"
        )
    manifest = checked(Manifest, value, str(path), "export anew")
    approximate = () if manifest.ann is None else (ANN, ANN_EQUAL)
    index = () if version == FEW_BITS else (INDEX,)
    parts = (part_name(ITEM_PARTS, 0), part_name(USER_PARTS, 0))
    for needed in (*FILES, *index, *approximate, *parts):
        if needed not in manifest.sha256:
            raise UserError(f"{path}: sha256 has no {needed}: export anew")
    return manifest


def check_files(folder: Path, manifest: Manifest, first: int = 0, step: int = 1) -> None:
    """Compare the files with the manifest.

    Args:
        folder: of the export.
        manifest: the export's.
        first: number of the first file to look at.
        step: of how many files to look at one: ranks divide the work.

    Raises:
        UserError: a file is missing, is not the one that was written, or belongs to nothing.
    """
    for name in sorted(manifest.sha256)[first::step]:
        try:
            digest = sha256(folder / name)
        except OSError as error:
            raise UserError(f"{folder / name}: {error.strerror}: export anew") from error
        if digest != manifest.sha256[name]:
            raise UserError(
                f"{folder / name}: damaged (SHA-256 differs from {MANIFEST}): export anew"
            )
    parts = (ITEM_PARTS, USER_PARTS, SEEN_PARTS, OWN_PARTS)
    there = [path for part in parts for path in (folder / part).glob("part-*.parquet")]
    there += (folder / VOCABULARIES).glob("*.parquet")
    alone = (folder / name for name in (INDEX, *FRESH_FILES, *RUNTIME_FILES))
    for path in (*there, *(path for path in alone if path.exists())):
        if path.relative_to(folder).as_posix() not in manifest.sha256:
            raise UserError(f"{path}: {MANIFEST} does not name it: remove it, or export anew")


def with_unknown(columns: Mapping[str, AnyColumn]) -> dict[str, AnyColumn]:
    """The columns with one row more: of unknown row numbers, empty lists and missing values."""
    return {name: _one_more(column) for name, column in columns.items()}


def _one_more(column: AnyColumn) -> AnyColumn:
    if isinstance(column, DenseColumn):
        return column.with_missing(1)
    if column.offsets is None:
        return Column(np.append(column.values, UNKNOWN), None)
    return Column(column.values, np.append(column.offsets, column.offsets[-1]))
