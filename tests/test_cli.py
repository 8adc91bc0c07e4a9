"""What all commands have in common: an option that is a local path alone refuses addresses."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest

from dat_rec import cli
from dat_rec.cli import COMMANDS, main, run_command
from dat_rec.commands.publish import STORES
from dat_rec.data.sources import SOURCES
from dat_rec.errors import DiskError, StoreError, UserError, shared

PATH_OPTION = re.compile(
    r"(--[\w.-]+) (?:\{None\}\|)?\[*PATH\b(?!\|A)|^\W*PATH\b(?!\|A)", re.MULTILINE
)
"""In a help; empty for paths that no option precedes."""
LOCATION_OPTION = re.compile(r"(--[\w.-]+) (?:\{None\}\|)?PATH\|ADDRESS\b")
"""In a help, an option that takes addresses too."""
ADDRESS = "s3://bucket/x"
SOME = {
    ("doctor", "--out"),
    ("train", "--warm-start"),
    ("daily", "--root"),
    ("plan", "--picture"),
    ("status", "--run"),
    ("compare", ""),
    ("evaluate", "--run"),
    ("export", "--run"),
    ("publish milvus", "--token-file"),
}


REQUIRED = {
    "daily": ("--from", "1", "--to", "2"),
    "publish qdrant": ("--url", "http://127.0.0.1:1"),
    "publish milvus": ("--uri", "http://127.0.0.1:1"),
}
"""Options of a command that are required, and no paths."""


def commands() -> Iterator[str]:
    """Every command; of prepare, one for each source, of publish one for each store."""
    sources = [get_args(source)[1].name for source in get_args(SOURCES)]
    stores = [get_args(store)[1].name for store in get_args(STORES)]
    yield from (name for name in COMMANDS if name not in ("prepare", "publish"))
    yield from (f"prepare {source}" for source in sources)
    yield from (f"publish {store}" for store in stores)


READ = {
    ("prepare parquet", "--interactions"),
    ("prepare movielens", "--out"),
    ("train", "--data"),
    ("evaluate", "--data"),
    ("export", "--data"),
    ("export", "--out"),
    ("recommend", "--export"),
    ("recommend", "--queries"),
    ("recommend", "--out"),
    ("recommend", "--exclude"),
    ("recommend", "--item-table"),
    ("recommend", "--vectors-out"),
    ("similar", "--allow"),
    ("publish lancedb", "--export"),
    ("publish parquet", "--out"),
}
"""Options that take addresses, whatever else does."""


def path_options(command: str, read: Callable[[], str]) -> tuple[list[str], list[str]]:
    """As the command's help tells them: local paths alone, and locations."""
    name, *more = command.split()
    with pytest.raises(SystemExit):
        run_command(name, [*more, "--help"])
    text = read()
    return PATH_OPTION.findall(text), LOCATION_OPTION.findall(text)


def test_every_option_that_is_a_local_path_refuses_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found in the help, so that a new command or option is here too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    # Should one be taken for an address, nobody is asked for credentials.
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    seen, read = set(), set()
    for command in commands():
        name, *more = command.split()
        options, locations = path_options(command, lambda: capsys.readouterr().out)
        read |= {(command, option) for option in locations}
        for option in options:
            seen.add((command, option))
            values = dict.fromkeys([*options, *locations], "x") | {option: ADDRESS}
            words = [word for pair in values.items() for word in pair if word]
            with pytest.raises(UserError, match=rf"^{ADDRESS}: s3 is no local disk"):
                run_command(name, [*more, *words, *REQUIRED.get(command, ())])
    assert seen >= SOME
    assert len(seen | read) >= 30
    assert read >= READ
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreError("s3://x: away"), 1),
        (shared(StoreError("s3://x: away")), 1),
        (shared(DiskError("/x: full")), 1),
        (UserError("no"), 2),
        (shared(UserError("no")), 2),
    ],
)
def test_what_a_later_start_may_mend_has_another_exit_code(
    error: UserError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "run_command", fail)
    monkeypatch.setattr("sys.argv", ["dat-rec", "evaluate"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    assert str(error) in capsys.readouterr().err
