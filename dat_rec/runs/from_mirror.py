"""A mirror in, a run's folder out that training can go on with: the way back of ``mirror.py``."""

import json
import os
import shutil
from pathlib import Path

from dat_rec.checkpoint.listing import checkpoint_folder, checkpoints
from dat_rec.config import TrainConfig
from dat_rec.disk import say
from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import StoreError, UserError
from dat_rec.files import PARTIAL_SUFFIX, publish, sha256
from dat_rec.runs.failure_record import FAILURE
from dat_rec.runs.fence import JOB
from dat_rec.runs.mirror import CONFIG, KEPT, copy_of, mirrored_steps, refuse_other_run
from dat_rec.runs.rank_zero import on_rank_0, patiently
from dat_rec.storage.address import Address
from dat_rec.storage.read import exists, read_bytes, read_json
from dat_rec.storage.snapshot import MANIFEST, fetch, pinned, read_manifest


def fill_from_mirror(config: TrainConfig, context: RankContext) -> None:
    """Take the newest whole checkpoint from the mirror where the run's folder has none.

    That is done for a run that is resumed, and for a job that its scheduler starts again. All ranks
    call this, and rank 0 does it.

    Raises:
        SharedError: the mirror holds a run that is neither resumed nor replaced, or cannot be read.
    """
    mirror = config.mirror
    if isinstance(mirror, Address):
        on_rank_0(context, lambda: patiently(lambda: _fill(config, mirror), config.out, 0))


def _fill(config: TrainConfig, mirror: Address) -> None:
    if checkpoints(config.out):
        return
    steps = mirrored_steps(mirror)
    if not steps:
        return
    job = os.environ.get(JOB, "")
    facts = read_json(mirror / CONFIG, "the run's configuration")
    restarted = bool(job) and isinstance(facts, dict) and facts.get("job") == job
    if config.resume or restarted:
        refuse_other_run(config, mirror)
        _take_newest(steps, mirror, config.out)
        # Last: it says that this folder is a run.
        (config.out / CONFIG).write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
    elif not config.overwrite:
        raise UserError(
            f"--mirror {mirror} holds a run: pass --resume to go on with it, --overwrite to "
            "replace it, or name another address"
        )


def _take_newest(steps: list[int], mirror: Address, run: Path) -> None:
    for step in reversed(steps):
        if damage := _fetch_checkpoint(mirror, step, run):
            say(f"{copy_of(mirror, step)}: damaged ({damage}): looking for an older one")
        else:
            break
    else:
        raise UserError(f"{mirror}: every checkpoint is damaged: train anew, with --overwrite")
    for name in KEPT:
        if name not in (CONFIG, FAILURE) and exists(mirror / name):
            (run / name).write_bytes(read_bytes(mirror / name))
    say(f"{run}: the checkpoint of step {step} was taken from {mirror}")


def _fetch_checkpoint(mirror: Address, step: int, run: Path) -> str:
    """Copy a checkpoint into the run's folder, or return what is wrong with it."""
    where, target = copy_of(mirror, step), checkpoint_folder(run, step)
    partial = target.with_name(target.name + PARTIAL_SUFFIX)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        manifest = read_manifest(where)
        source = pinned(where, MANIFEST)
        assert manifest is not None
        assert isinstance(source, Address)
        for name, file in manifest.files.items():
            fetch(source / name, partial / name)
            if sha256(partial / name) != file.sha256:
                return f"{name}: SHA-256 differs from {MANIFEST}"
    except StoreError:  # that says nothing of the copy
        raise
    except UserError as error:
        return str(error)
    publish(partial, target)
    return ""
