"""``dat-rec prepare``: turn a log of interactions into a dataset."""

from dat_rec.commands.parse import Arguments, parse, refuse_repeated

LISTS = (
    "--interactions",
    "--items",
    "--users",
    "--user-features",
    "--item-features",
    "--numbers",
    "--separator",
    "--positive-labels",
    "--label-weights",
)
"""Options of ``parquet`` that take several values."""


def run(arguments: Arguments) -> None:
    """Prepare the dataset of the source that the first argument names."""
    from dat_rec.data.prepare.pipeline import prepare
    from dat_rec.data.prepare.remote import path_or_address
    from dat_rec.data.sources import SOURCES

    if arguments[:1] and arguments[0] == "parquet":
        refuse_repeated(arguments, LISTS)
    prepare(parse("prepare", SOURCES, arguments, read=path_or_address))
