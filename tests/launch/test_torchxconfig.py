"""Every option in .torchxconfig, in comments too, is one that its scheduler knows."""

import re
from configparser import ConfigParser

import pytest
from torchx.runner import get_runner
from torchx.runner.config import apply
from torchx.schedulers import get_scheduler_factories

from dat_rec.install import CHECKOUT

FILE = CHECKOUT / ".torchxconfig"
READ = {bool: {"True": True, "False": False}.__getitem__, int: int, str: str}
"""By type of option; raises for text of another."""
SECTIONS = ("local_cwd", "slurm", "kubernetes", "aws_batch")


def test_there_is_a_section_for_each_scheduler() -> None:
    parser = ConfigParser()
    parser.read(FILE)
    assert tuple(parser.sections()) == SECTIONS
    assert set(SECTIONS) < set(get_scheduler_factories())


@pytest.mark.parametrize("scheduler", SECTIONS)
def test_options_are_known(scheduler: str) -> None:
    parser = ConfigParser()
    parser.read_string(re.sub(r"(?m)^# (\w+ = )", r"\1", FILE.read_text()))
    with get_runner("test") as runner:
        options = runner.scheduler_run_opts(scheduler)
        for name, text in parser[scheduler].items():
            option = options.get(name)
            assert option is not None, name
            READ[option.opt_type](text)


def test_the_defaults_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``torchx run`` reads them, from the folder where it is called."""
    found: dict[str, dict[str, object]] = {"local_cwd": {}, "slurm": {}}
    for scheduler, cfg in found.items():
        apply(scheduler, cfg, dirs=[str(CHECKOUT)])
    assert found == {"local_cwd": {"log_dir": "logs"}, "slurm": {"preflight": True}}
