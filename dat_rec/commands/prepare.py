"""``dat-rec prepare``: turn a log of interactions into a dataset."""

from dat_rec.commands.parse import Arguments, parse


def run(arguments: Arguments) -> None:
    """Prepare the dataset of the source that the first argument names."""
    from dat_rec.data.prepare.pipeline import prepare
    from dat_rec.data.prepare.remote import path_or_address
    from dat_rec.data.sources import SOURCES

    prepare(parse("prepare", SOURCES, arguments, read=path_or_address))
