"""The options in which runs differ; of a single run, those that its preset does not have."""

from collections.abc import Sequence
from typing import Any

from dat_rec.config import preset
from dat_rec.option_marks import flatten, to_json
from dat_rec.run_report.html import Content, Html, code, details, name, note, table
from dat_rec.run_report.parts import section
from dat_rec.run_report.run_facts import RunFacts
from dat_rec.runs.compare import NO_OPTIONS, compare, option_text


def options(runs: Sequence[RunFacts]) -> Html:
    """Return the section."""
    of_each = [_options(run) for run in runs]
    names = list(dict.fromkeys(one for found in of_each for one in found))
    shown = _differing(runs) if len(runs) > 1 else _unusual(runs[0])
    if len(runs) > 1:
        said = "The runs have the same options." if not shown else None
        caption = "Options in which the runs differ"
    else:
        usual = runs[0].config.preset
        said = f"All options are those of the preset {usual}." if not shown else None
        caption = f"Options that are not those of the preset {usual}"
        of_each.append(_of_preset(runs[0]))
    head = [*(name(run.label) for run in runs), *(["preset"] if len(runs) == 1 else [])]
    return section(
        "options",
        "Options",
        note(said) if said else _table(caption, shown, of_each, head),
        details("All options", _table("All options", names, of_each, head)),
    )


def _table(
    caption: str, names: Sequence[str], of_each: Sequence[dict[str, Any]], head: Sequence[Content]
) -> Html:
    rows = [
        [code(one), *(name(option_text(found, one)) for found in of_each)]
        for one in names
        if one != "row_digest"
    ]
    return table(caption, ["option", *head], rows, texts=1 + len(of_each))


def _options(run: RunFacts) -> dict[str, Any]:
    return {key: value for key, value in flatten(run.options).items() if key not in NO_OPTIONS}


def _of_preset(run: RunFacts) -> dict[str, Any]:
    config = run.config
    usual = flatten(to_json(preset(config.preset, config.data, config.out)))
    return {key: value for key, value in usual.items() if key not in ("data", "out")}


def _unusual(run: RunFacts) -> list[str]:
    usual, found = _of_preset(run), flatten(to_json(run.config))
    return [key for key, value in usual.items() if found[key] != value and key not in NO_OPTIONS]


def _differing(runs: Sequence[RunFacts]) -> list[str]:
    found = compare([run.folder for run in runs]).differing()
    return [key for key in found if key != "row_digest"]
