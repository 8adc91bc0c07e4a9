"""Whole pages: of one run and of several, of runs that lack things, and of anybody's texts."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.dataset import Dataset
from dat_rec.errors import UserError
from dat_rec.run_report.report import report
from tests.end_to_end.cli import done
from tests.end_to_end.forked import forked
from tests.run_report.parsed import Parsed

FLAGS = ("--epochs", "1", "--batch-size", "512", "--model.hidden", "16")
FOREIGN = re.compile(r"<script|<link|<img|<iframe|\bsrc=|url\(|@import|https?:|\bon\w+=", re.I)
"""What would load or run something."""


@pytest.fixture(scope="module")
def trained(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was evaluated, and its export."""
    root = tmp_path_factory.mktemp("report")
    done(forked("train", "--data", planted.folder, "--out", root / "run", *FLAGS))
    done(forked("evaluate", "--run", root / "run", "--no-fitted-baselines"))
    done(forked("export", "--run", root / "run", "--out", root / "export"))
    return root


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A run of one's own."""
    return Path(shutil.copytree(trained / "run", tmp_path / "other"))


@pytest.fixture(scope="module")
def page(trained: Path) -> str:
    return report(trained / "run", trained / "page.html").read_text("utf-8")


def test_the_page_is_whole_and_needs_nothing_else(page: str) -> None:
    parsed = Parsed(page.removeprefix("<!DOCTYPE html>"))
    assert not FOREIGN.search(page)
    assert len(page) < 1_000_000
    ids = [value for key, value in parsed.attributes if key == "id"]
    links = [value for key, value in parsed.attributes if key == "href"]
    assert links == [f"#{name}" for name in ids]
    assert len(ids) == len(set(ids)) == 10
    assert ("lang", "en") in parsed.attributes
    assert parsed.tags.count("h1") == 1
    images = page.count("<svg")
    assert images == page.count('role="img"') - page.count("stack tall") > 5
    assert parsed.tags.count("caption") == parsed.tags.count("table")


def test_figures_are_those_of_the_runs_files(page: str, trained: Path) -> None:
    text = Parsed(page.removeprefix("<!DOCTYPE html>")).text
    metrics = json.loads((trained / "run" / "metrics.json").read_text())
    summary = json.loads((trained / "run" / "train.json").read_text())
    ranked = "ranked by HR@50 HR@100 MRR all pairs "
    assert ranked in text
    rows = text[text.index(ranked) :]
    for found in (metrics, *metrics["baselines"].values()):
        for name in ("HR@50", "HR@100", "MRR"):
            assert f"{found['all'][name]:.4f}" in rows
    for category, block in metrics["by_category"].items():
        assert re.search(rf"{category} [\d.]+ % [\d.]+ % {block['HR@100']:.4f}", text), category
    assert f"{summary['samples_per_s']:,.0f}" in text
    assert f"{summary['loss']['main']:.4f}" in text


def test_category_shares_are_those_of_the_training(page: str, planted: Dataset) -> None:
    items = planted.table("items", ["category_name", "train_count"]).to_pandas()
    counts = items.groupby("category_name")["train_count"].sum()
    text = Parsed(page.removeprefix("<!DOCTYPE html>")).text
    for category, count in counts.items():
        assert f"{category} {100 * count / counts.sum():.1f} % " in text


def test_an_export_gives_the_vectors_of_its_checkpoint(page: str, trained: Path) -> None:
    out = trained / "by_export.html"
    other = report([trained / "run"], out, exports=[trained / "export"]).read_text("utf-8")
    cut = re.compile(r'<section id="neighbours">.*?</section>', re.DOTALL)
    (mine,), (theirs,) = cut.findall(page), cut.findall(other)
    assert mine == theirs
    assert mine.count("<li>") >= 30
    assert f"export {trained / 'export'}" in other


def test_a_run_says_what_it_lacks_and_what_gives_it(copied: Path, trained: Path) -> None:
    """As of a run that was killed: no summary, no evaluation, no checkpoint, no curves."""
    for name in ("train.json", "metrics.json", "validations.jsonl"):
        (copied / name).unlink(missing_ok=True)
    for name in ("tensorboard", "checkpoints"):
        shutil.rmtree(copied / name)
    page = report(copied, copied / "page.html").read_text("utf-8")
    said = re.findall(r'<p class="missing">(.*?)</p>', page)
    text = "\n".join(Parsed(f"<p>{one}</p>").text for one in said)
    assert f"other was not evaluated: dat-rec evaluate --run {copied}" in text
    assert f"dat-rec export --run {copied} --out EXPORT" in text
    assert "no whole checkpoint yet: go on with `dat-rec train … --resume`" in text
    assert "other has no curves yet: the same command with --overwrite" in text
    assert f"has not ended, and has no sums: dat-rec status --run {copied}" in text
    assert "--validation-share .1" in text
    whole = Parsed(page.removeprefix("<!DOCTYPE html>"))
    assert whole.tags.count("section") == 10


def test_two_runs_stand_side_by_side_with_their_differences(copied: Path, trained: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["seed"] = 77
    (copied / "config.json").write_text(json.dumps(config))
    metrics = json.loads((copied / "metrics.json").read_text())
    value = metrics["all"]["HR@100"]
    metrics["all"]["HR@100"] = value - 0.25
    (copied / "metrics.json").write_text(json.dumps(metrics))
    out = copied / "two.html"
    parsed = Parsed(report([trained / "run", copied], out).read_text("utf-8")[15:])
    assert "option run other seed 0 77 All options" in parsed.text
    row = f"all pairs HR@100 {value:.4f} {value - 0.25:.4f} −0.2500"
    assert row in parsed.text
    same = metrics["new_pairs"]["MRR"]
    assert f"new pairs, MRR {same:.4f} {same:.4f} ±0" in parsed.text


def test_anybodys_texts_are_shown_as_they_are(tmp_path: Path) -> None:
    """Ids are text, titles and categories hostile; and the same log without either."""
    rng = np.random.default_rng(0)
    titles = ["<script>alert(1)</script>", "\"a\" & 'b'", "שלום עולם", "x" * 300, "</svg></style>"]
    item = np.minimum(rng.zipf(1.5, 3000) - 1, 39)
    log = {
        "user_id": [f"u<{user}>" for user in rng.integers(0, 60, 3000)],
        "item_id": [f"i<{one}>&" for one in item],
        "time": np.arange(3000),
    }
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    table = {
        "item_id": [f"i<{one}>&" for one in range(40)],
        "title": [f"{titles[one % 5]} {one}" for one in range(40)],
        "kind": [["<b>bold</b>", "عربي"][one % 2] for one in range(40)],
    }
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    runs = []
    for name, more in (
        (
            "titled",
            ("--items", tmp_path / "items.parquet", "--title", "title", "--category", "kind"),
        ),
        ("bare", ()),
    ):
        data, run = tmp_path / f"{name}_data", tmp_path / name
        log_path = ("--interactions", tmp_path / "log.parquet")
        done(forked("prepare", "parquet", *log_path, *more, "--out", data))
        done(forked("train", "--data", data, "--out", run, *FLAGS))
        done(forked("evaluate", "--run", run, "--no-fitted-baselines"))
        runs.append(run)
    page = report(runs, tmp_path / "page.html").read_text("utf-8")
    assert not FOREIGN.search(page.replace("alert(1)", ""))
    parsed = Parsed(page.removeprefix("<!DOCTYPE html>"))
    assert any(text.startswith("<script>alert(1)</script> ") for text in parsed.texts)
    assert "שלום עולם 2" in parsed.texts
    assert "<b>bold</b>" in parsed.texts
    assert re.search(r"i<\d+>&", parsed.text)
    bare = Parsed(report(runs[1], tmp_path / "bare.html").read_text("utf-8")[15:]).text
    assert "The items have no titles; to name them: dat-rec prepare parquet" in bare
    assert bare.count("The items have no categories; to name them: dat-rec prepare parquet") == 2


def test_bad_input_is_refused_and_nothing_is_written(trained: Path, tmp_path: Path) -> None:
    run, out = trained / "run", tmp_path / "page.html"
    with pytest.raises(UserError, match=r"is not a run \(no config.json\)"):
        report([run, tmp_path], out)
    with pytest.raises(UserError, match=r"^9 runs: a report is of 1 to 8: name as many$"):
        report([run] * 9, out)
    with pytest.raises(UserError, match=r"^0 runs"):
        report([], out)
    with pytest.raises(UserError, match=r"--export names 1 exports for 2 runs: name one for each"):
        report([run, run], out, exports=[trained / "export"])
    with pytest.raises(UserError, match=r"is not an export"):
        report(run, out, exports=[tmp_path])
    (run / "plan.json").rename(tmp_path / "plan.json")
    (run / "plan.json").write_text("{}")
    with pytest.raises(UserError, match=r"plan.json: is no plan of tables"):
        report(run, out)
    (tmp_path / "plan.json").replace(run / "plan.json")
    assert not out.exists()
    out.write_text("mine")
    with pytest.raises(
        UserError, match=r"is already there: name another file, or pass --overwrite"
    ):
        report(run, out)
    assert out.read_text() == "mine"
    report(run, out, overwrite=True)
    assert out.read_text().startswith("<!DOCTYPE html>")


def test_the_command_names_the_page(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    ended = forked("report", trained / "run", "--out", out, "--export", trained / "export")
    assert done(ended) == f"{out}: a report of 1 run: open it in a browser\n"
    again = forked("report", trained / "run", "--out", out)
    assert again.returncode == 2
    assert again.stderr.splitlines()[-1].startswith(f"dat-rec: error: {out} is already there")
