"""TorchX components: ``torchx run``'s arguments in, jobs that train, evaluate and deliver out.

    torchx run -s slurm launch/components.py:train --data DIR --out RUN -j 2x8 --host 8xh100

Each component is a documented function, which TorchX reads: ``… :train --help`` teaches it. Type
hints must be ``typing``'s own spelling. TorchX runs this file's text inside a module of its own,
so that nothing but the components may stand here.
"""

from typing import List, Optional

from torchx import specs

from launch import app, checks, commands, resources
from launch.size import ONE, parse_size


def train(
    *extra: str,
    data: str,
    out: str,
    preset: str = "modern",
    j: str = "1x2",
    name: str = "dat-rec-train",
    image: str = "",
    host: str = "cpu",
    cpu: int = 0,
    gpu: int = -1,
    memMB: int = 0,
    mounts: Optional[List[str]] = None,
    env: Optional[List[str]] = None,
    max_restarts: int = 3,
    max_retries: int = 3,
    rdzv_port: int = 0,
) -> specs.AppDef:
    """Train a DAT model on one or more hosts; each worker is one rank.

    Args:
        extra: more arguments of `dat-rec train`, after `--`, e.g. `-- --epochs 2 --overwrite`
        data: folder that `dat-rec prepare` made, the same path on every host, or its address
        out: folder of the run, the same path on every host
        preset: modern, paper or two-tower
        j: {hosts}x{workers on each}, or {minimum}:{maximum}x{workers} for an elastic job
        name: the job's name
        image: container image; empty for hosts that share this checkout and its .venv
        host: what each host has, by name: cpu, cpu-16, 8xa100-80gb, 8xh100, 8xh200
        cpu: CPUs of each host; 0: as many as the named host has
        gpu: GPUs of each host; -1: as many as the named host has
        memMB: memory of each host; 0: as much as the named host has
        mounts: for containers, e.g. type=bind,src=/data,dst=/data,readonly
        env: more environment variables, e.g. A=1,B=2
        max_restarts: maximum number of restarts by torchrun, when a worker or a host dies
        max_retries: maximum number of restarts by the scheduler, when a host dies; they resume
        rdzv_port: port on the first host where hosts meet; 0 for one made of the job's id
    """
    size = parse_size(j)
    arguments = ["--data", data, "--out", out, "--preset", preset, *extra]
    arguments = checks.training_arguments(arguments, size, image)
    resource = resources.resource(host, cpu, gpu, memMB, size)
    command = commands.on_each_host(size, ["train", *arguments], image, max_restarts, rdzv_port)
    facts = app.metadata(size, out, image, rdzv_port)
    return app.app_def(
        name, "train", command, image, size, resource, mounts, env, max_retries, facts
    )


def evaluate(
    *extra: str,
    run: str,
    data: str = "",
    j: str = "1x1",
    name: str = "dat-rec-evaluate",
    image: str = "",
    host: str = "cpu",
    cpu: int = 0,
    gpu: int = -1,
    memMB: int = 0,
    mounts: Optional[List[str]] = None,
    env: Optional[List[str]] = None,
    max_retries: int = 0,
    rdzv_port: int = 0,
) -> specs.AppDef:
    """Rank every held-out item among all items; writes metrics.json into the run's folder.

    Args:
        extra: more arguments of `dat-rec evaluate`, after `--`, e.g. `-- --blend-history`
        run: folder that `train` made
        data: folder or address of the dataset, if it is no longer where the run found it
        j: {hosts}x{workers on each}; each worker is one rank, on CPUs
        name: the job's name
        image: container image; empty for hosts that share this checkout and its .venv
        host: what the host has, by name: cpu, cpu-16, 8xa100-80gb, 8xh100, 8xh200
        cpu: CPUs; 0: as many as the named host has
        gpu: GPUs; -1: as many as the named host has
        memMB: memory; 0: as much as the named host has
        mounts: for containers, e.g. type=bind,src=/data,dst=/data,readonly
        env: more environment variables, e.g. A=1,B=2
        max_retries: maximum number of restarts by the scheduler
        rdzv_port: port on the first host where hosts meet; 0 for one made of the job's id
    """
    size = checks.fixed_size(j)
    words = [*checks.run_arguments(run, data, image), *extra]
    arguments = checks.command_arguments("evaluate", words, image)
    command = commands.on_ranks(size, arguments, image, rdzv_port)
    resource = resources.resource(host, cpu, gpu, memMB)
    facts = app.metadata(size, run, image, rdzv_port)
    return app.app_def(
        name, "evaluate", command, image, size, resource, mounts, env, max_retries, facts
    )


def export(
    *extra: str,
    run: str,
    out: str,
    data: str = "",
    overwrite: bool = False,
    j: str = "1x1",
    name: str = "dat-rec-export",
    image: str = "",
    host: str = "cpu",
    cpu: int = 0,
    gpu: int = -1,
    memMB: int = 0,
    mounts: Optional[List[str]] = None,
    env: Optional[List[str]] = None,
    max_retries: int = 0,
    rdzv_port: int = 0,
) -> specs.AppDef:
    """Write what serving needs: item vectors, index, query tower with its tables.

    Args:
        extra: more arguments of `dat-rec export`, after `--`, e.g. `-- --blend-history`
        run: folder that `train` made
        out: folder of the export, or its address; for an address, all workers on one host
        data: folder or address of the dataset, if it is no longer where the run found it
        overwrite: replace an export that stands in `out`
        j: {hosts}x{workers on each}; each worker is one rank, on CPUs
        name: the job's name
        image: container image; empty for hosts that share this checkout and its .venv
        host: what the host has, by name: cpu, cpu-16, 8xa100-80gb, 8xh100, 8xh200
        cpu: CPUs; 0: as many as the named host has
        gpu: GPUs; -1: as many as the named host has
        memMB: memory; 0: as much as the named host has
        mounts: for containers, e.g. type=bind,src=/data,dst=/data,readonly
        env: more environment variables, e.g. A=1,B=2
        max_retries: maximum number of restarts by the scheduler
        rdzv_port: port on the first host where hosts meet; 0 for one made of the job's id
    """
    size = checks.fixed_size(j)
    words = [
        *checks.run_arguments(run, data, image),
        *("--out", checks.folder(out, image, or_address=True)),
        *(["--overwrite"] if overwrite else []),
        *extra,
    ]
    arguments = checks.command_arguments("export", words, image)
    command = commands.on_ranks(size, arguments, image, rdzv_port)
    resource = resources.resource(host, cpu, gpu, memMB)
    facts = app.metadata(size, run, image, rdzv_port)
    return app.app_def(
        name, "export", command, image, size, resource, mounts, env, max_retries, facts
    )


def recommend(
    *extra: str,
    export: str,
    out: str,
    k: int = 100,
    queries: str = "",
    user_id: str = "user_id",
    overwrite: bool = False,
    j: str = "1x1",
    name: str = "dat-rec-recommend",
    image: str = "",
    host: str = "cpu",
    cpu: int = 0,
    gpu: int = -1,
    memMB: int = 0,
    mounts: Optional[List[str]] = None,
    env: Optional[List[str]] = None,
    max_retries: int = 0,
    rdzv_port: int = 0,
) -> specs.AppDef:
    """Write the best items of each user, from an export.

    Args:
        extra: more arguments of `dat-rec recommend`, after `--`, e.g. `-- --exclude-seen`
        export: folder that `export` made, or its address
        out: Parquet file to write, or its address; of several ranks, a folder with a file of each
        k: number of items for each user
        queries: Parquet file with the ids of the users, or its address; empty for all users
        user_id: column of `queries` with the ids
        overwrite: replace what stands in `out`
        j: {hosts}x{workers on each}; each worker is one rank, on CPUs
        name: the job's name
        image: container image; empty for hosts that share this checkout and its .venv
        host: what the host has, by name: cpu, cpu-16, 8xa100-80gb, 8xh100, 8xh200
        cpu: CPUs; 0: as many as the named host has
        gpu: GPUs; -1: as many as the named host has
        memMB: memory; 0: as much as the named host has
        mounts: for containers, e.g. type=bind,src=/data,dst=/data,readonly
        env: more environment variables, e.g. A=1,B=2
        max_retries: maximum number of restarts by the scheduler
        rdzv_port: port on the first host where hosts meet; 0 for one made of the job's id
    """
    size = checks.fixed_size(j)
    words = [
        *checks.export_arguments(export, queries, user_id, image),
        *("--out", checks.folder(out, image, or_address=True), "--k", str(k)),
        *(["--overwrite"] if overwrite else []),
        *extra,
    ]
    arguments = checks.command_arguments("recommend", words, image)
    command = commands.on_ranks(size, arguments, image, rdzv_port)
    resource = resources.resource(host, cpu, gpu, memMB)
    facts = {app.PORT: str(rdzv_port)} if rdzv_port else {}
    return app.app_def(
        name, "recommend", command, image, size, resource, mounts, env, max_retries, facts
    )


def daily(
    *extra: str,
    root: str,
    interactions: str,
    first: str,
    last: str,
    keep: int = 0,
    name: str = "dat-rec-daily",
    image: str = "",
    host: str = "cpu",
    cpu: int = 0,
    gpu: int = -1,
    memMB: int = 0,
    mounts: Optional[List[str]] = None,
    env: Optional[List[str]] = None,
    max_retries: int = 3,
) -> specs.AppDef:
    """Walk the days of a log: score yesterday's model, prepare, train, export; one rank.

    Args:
        extra: more arguments of `dat-rec daily`, after `--`, e.g. `-- --time when -- --epochs 2`
        root: folder of the results, the same in every start
        interactions: folder of the log, partitioned by day, or its address
        first: first day, as in 2026-11-01, the same in every start
        last: last day, that one included
        keep: number of days whose folders stay; 0: all
        name: the job's name
        image: container image; empty for a host that shares this checkout and its .venv
        host: what the host has, by name: cpu, cpu-16, 8xa100-80gb, 8xh100, 8xh200
        cpu: CPUs; 0: as many as the named host has
        gpu: GPUs; -1: as many as the named host has
        memMB: memory; 0: as much as the named host has
        mounts: for containers, e.g. type=bind,src=/data,dst=/data,readonly
        env: more environment variables, e.g. A=1,B=2
        max_retries: maximum number of restarts by the scheduler; they go on where it was
    """
    arguments = ["--root", checks.folder(root, image), "--from", first, "--to", last]
    arguments += ["--interactions", checks.folder(interactions, image, or_address=True)]
    arguments += ["--keep", str(keep), *extra]
    checks.daily_arguments(arguments, image)
    command = commands.once(["-m", "dat_rec", "daily", *arguments], image)
    resource = resources.resource(host, cpu, gpu, memMB)
    return app.app_def(
        name, "daily", command, image, ONE, resource, mounts, env, max_retries=max_retries
    )


def benchmark(
    *extra: str,
    script: str = "train_step",
    name: str = "dat-rec-benchmark",
    image: str = "",
    host: str = "cpu",
    cpu: int = 0,
    gpu: int = -1,
    memMB: int = 0,
    mounts: Optional[List[str]] = None,
    env: Optional[List[str]] = None,
) -> specs.AppDef:
    """Answer one question of benchmarks/, on one host; JSON lines on standard output.

    Args:
        extra: the script's arguments, after `--`, e.g. `-- --smoke`
        script: a script of benchmarks/, without .py
        name: the job's name
        image: container image; empty for a host that shares this checkout and its .venv
        host: what the host has, by name: cpu, cpu-16, 8xa100-80gb, 8xh100, 8xh200
        cpu: CPUs; 0: as many as the named host has
        gpu: GPUs; -1: as many as the named host has
        memMB: memory; 0: as much as the named host has
        mounts: for containers, e.g. type=bind,src=/data,dst=/data,readonly
        env: more environment variables, e.g. A=1,B=2
    """
    command = commands.once(["-m", checks.benchmark(script), *extra], image)
    resource = resources.resource(host, cpu, gpu, memMB)
    return app.app_def(name, "benchmark", command, image, ONE, resource, mounts, env)
