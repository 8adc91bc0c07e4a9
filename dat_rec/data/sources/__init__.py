"""The sources that `dat-rec prepare` reads, one file each, and the command's choice of them.

A new source derives from ``dat_rec.data.prepare.options.Options``, implements ``register``, and is
listed here.
"""

from typing import Annotated

from tyro.conf import subcommand

from dat_rec.data.sources.amazon import Amazon
from dat_rec.data.sources.complete_journey import CompleteJourney
from dat_rec.data.sources.kuairand import KuaiRand
from dat_rec.data.sources.movielens import MovieLens
from dat_rec.data.sources.parquet_log import ParquetLog
from dat_rec.data.sources.synthetic import Synthetic

__all__ = [
    "SOURCES",
    "Amazon",
    "CompleteJourney",
    "KuaiRand",
    "MovieLens",
    "ParquetLog",
    "Synthetic",
]

SOURCES = (
    Annotated[CompleteJourney, subcommand("complete-journey")]
    | Annotated[KuaiRand, subcommand("kuairand")]
    | Annotated[MovieLens, subcommand("movielens")]
    | Annotated[Amazon, subcommand("amazon")]
    | Annotated[ParquetLog, subcommand("parquet")]
    | Annotated[Synthetic, subcommand("synthetic")]
)
