"""What a run is made of: frozen dataclasses, whose field docstrings are the command's help."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from dat_rec.errors import UserError
from dat_rec.files import check_field_types
from dat_rec.table_rules import ShardingType, parse_rule

Preset = Literal["modern", "paper", "two-tower"]
Device = Literal["auto", "cpu", "cuda"]
LONGEST_TIMEOUT_S = 7 * 24 * 3600
MOST_MEMORY_GB = 2**20
RUN_FACTS = ("world_size", "global_batch", "row_digest", "launch", "job", "steps")
"""What a run's config.json holds beside the configuration."""
PRESETS: tuple[Preset, ...] = get_args(Preset)


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the Dual Augmented Two-tower model."""

    embedding_dim: int = 32
    """Dimension of each feature's embedding."""
    hidden: tuple[int, ...] = (256, 128)
    """Widths of each tower's hidden layers."""
    output_dim: int = 32
    """Dimension of the towers' outputs, and so of the augmented vectors."""
    last_relu: bool = False
    """ReLU after the last layer too, as in the paper."""
    augment: bool = True
    """Give each user and item an augmented vector, from tables of their own."""
    precision: Literal["float32", "float64", "bfloat16"] = "float32"
    """Of towers and losses. bfloat16: of the towers' products alone, twice as fast where the
    processor multiplies such numbers. In float64, runs at different world sizes stay equal for
    longer: rounding depends on how the batch is cut, and training amplifies it step by step."""
    fp16_tables: tuple[str, ...] = ()
    """Tables whose weights are float16, by name or pattern, as in item 'augmented_*'. A step of
    less than half a unit in the last place (1/4,096 to 1/2,048 of the weight) is lost: rounding is
    to nearest. The optimizer's sums stay in float32."""


@dataclass(frozen=True)
class LossConfig:
    """What is minimised: main + mimic_user·(2u) + mimic_item·(2v) + alignment·(3)."""

    main: Literal["softmax", "bce"] = "softmax"
    """Sampled softmax over the global batch, or the paper's binary cross entropy (4)."""
    negatives: int = 1
    """S, negatives drawn for each example. With softmax all ranks' negatives are shared."""
    shared_negatives: int = 0
    """Softmax: so many drawn for each global batch, in place of S for each example."""
    in_batch: bool = True
    """Softmax: the other examples' positives are candidates too."""
    negative_power: float = 0.0
    """Negatives are drawn ∝ (training count)^power: 0 uniform, 1 by popularity."""
    temperature: float = 0.05
    """Softmax: inner products are divided by it."""
    log_q: float = 1.2
    """Softmax: strength of the sampling-bias correction: 0 none, 1 as sampled; somewhat more
    ranked best on KuaiRand's validation days (benchmarks/LOG.md)."""
    mimic_user: float = 0.5
    """λ1, weight of the user's adaptive-mimic loss (equation 2)."""
    mimic_item: float = 0.5
    """λ2, weight of the item's adaptive-mimic loss (equation 2)."""
    alignment: float = 1.0
    """λ3, weight of the category-alignment loss (equation 3), over the most frequent categories in
    training: at most 2^20 / output_dim² (1,024 for 32 numbers), or 64. The others add nothing."""

    def shared_rows(self, ranks: int) -> int:
        """Rows that the shared negatives have behind each rank's examples."""
        return -(-self.shared_negatives // ranks)


@dataclass(frozen=True)
class OptimizerConfig:
    """Adagrad on the tables, fused into backward; Adam on the towers."""

    table: Literal["rowwise_adagrad", "adagrad"] = "rowwise_adagrad"
    """The tables' optimizer: one sum of squared gradients for each row, or for each weight."""
    table_lr: float = 0.05
    """Learning rate of the embedding tables."""
    tower_lr: float = 0.001
    """Learning rate of the towers."""
    warmup_steps: int = 100
    """Steps over which both learning rates rise from 0."""
    decay: Literal["none", "linear"] = "linear"
    """Linear: both learning rates fall to 0 at the run's end."""
    table_init: float = 0.05
    """Tables start uniformly in ±table_init / √dim."""


@dataclass(frozen=True)
class DataConfig:
    """Which examples a run sees."""

    id_dropout: float = 0.05
    """Share of examples whose user or item id becomes the unknown row, so that it learns."""
    skip_repeats: bool = False
    """Train only on pairs that are new to the user."""
    bad_ids: Literal["refuse", "unknown"] = "refuse"
    """Ids outside their table, or negative: stop, or train the unknown row in their place, counted
    in train.json since the last start."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a model on a prepared dataset; alone, or on each rank under torchrun."""

    data: Path
    """Folder that `dat-rec prepare` made."""
    out: Path
    """Folder of the run: configuration, plan, logs, checkpoints."""
    preset: Preset = "modern"
    """Where the defaults below come from."""
    seed: int = 0
    """Decides tables, towers, order of examples and negatives."""
    epochs: int = 4
    """Passes over the examples."""
    batch_size: int = 2048
    """Examples a batch, on each rank that the run begins with. Resumed on more or fewer ranks, the
    run keeps its global batch and cuts it anew."""
    resume: bool = False
    """Go on from the newest checkpoint in OUT; start anew if there is none."""
    warm_start: Path | None = None
    """A run to begin from, perhaps on another day's dataset: rows of ids and values that both
    have are taken over with their optimizer state, and the towers; new ones start fresh."""
    overwrite: bool = False
    """Replace a run that stands in OUT."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; one more is written at the end."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept."""
    keep_best: int = 0
    """Checkpoints kept besides: those with the lowest main loss, mean over the steps since the
    checkpoint before (each batch is scored before it is trained on)."""
    background_saves: bool = True
    """Write checkpoints beside training, from a copy; without room for one, training waits."""
    disk_patience_s: int = 600
    """Seconds for which the last checkpoint is tried where the disk is full, or away."""
    log_every: int = 20
    """Steps between TensorBoard points."""
    device: Device = "auto"
    """What to train on: auto: GPUs where torch can use them, else CPUs. Each rank has a GPU of its
    own."""
    sharding_types: tuple[ShardingType, ...] = ("table_wise", "row_wise", "table_row_wise")
    """What the planner may choose from; on one rank, table_wise whatever stands here."""
    pin: tuple[str, ...] = ()
    """TABLE=WORD,…: what the planner may do with the tables whose name fits a pattern; the first
    that fits counts. Words: sharding types (data_parallel, table_wise, row_wise, column_wise,
    table_row_wise, table_column_wise, grid_shard), kernels (fused, dense, and on GPUs fused_uvm,
    fused_uvm_caching), min_partition:N, pooling_factor:X, cache_load_factor:X; as in
    item=row_wise or 'augmented_*=column_wise,min_partition:8'."""
    memory_gb: float = 0.0
    """Memory of each rank, in GiB, for the planner and the checkpoints' copies; 0: the GPU's, or
    this machine's divided by its ranks."""
    topology: Path | None = None
    """File with this cluster's bandwidths and costs, as benchmarks/calibrate.py writes them, for
    the planner; `dat-rec plan` reads the same file. Its memory and sizes are not used. Without it:
    on CPUs costs that were measured on others, on GPUs the bandwidths that TorchRec assumes."""
    comms: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Numbers as which pooled embeddings and their gradients travel between ranks; bf16: GPUs. In
    fp16 gradients travel times 512: from 1e-8 to 127 they arrive, and what is more is cut off."""
    sharding_group_size: int = 0
    """GPUs only: shard the tables over groups of so many ranks, each group with a copy of all
    tables, averaged after every step (2D parallelism); 0: over all ranks. The number of copies
    divides that of a host's GPUs, or is a multiple of it."""
    timeout_s: int = 300
    """Seconds without an answer after which the ranks give one another up."""
    preflight: bool = True
    """Of several ranks: look first for what is wrong with the cluster, as does `dat-rec doctor
    --cluster`."""
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    examples: DataConfig = field(default_factory=DataConfig)

    def check(self) -> None:
        """Refuse values that cannot be trained with.

        Raises:
            UserError: names the option, its value and what it may be.
        """
        self._check_effect()
        at_least_one = {
            "--epochs": self.epochs,
            "--batch-size": self.batch_size,
            "--checkpoint-every": self.checkpoint_every,
            "--keep-checkpoints": self.keep_checkpoints,
            "--log-every": self.log_every,
            "--timeout-s": self.timeout_s,
            "--model.embedding-dim": self.model.embedding_dim,
            "--model.output-dim": self.model.output_dim,
            "--model.hidden": min(self.model.hidden, default=1),
        }
        not_negative = {
            "--seed": self.seed,
            "--keep-best": self.keep_best,
            "--disk-patience-s": self.disk_patience_s,
            "--memory-gb": self.memory_gb,
            "--sharding-group-size": self.sharding_group_size,
            "--loss.negatives": self.loss.negatives,
            "--loss.shared-negatives": self.loss.shared_negatives,
            "--loss.negative-power": self.loss.negative_power,
            "--loss.log-q": self.loss.log_q,
            "--loss.mimic-user": self.loss.mimic_user,
            "--loss.mimic-item": self.loss.mimic_item,
            "--loss.alignment": self.loss.alignment,
            "--optimizer.table-lr": self.optimizer.table_lr,
            "--optimizer.tower-lr": self.optimizer.tower_lr,
            "--optimizer.table-init": self.optimizer.table_init,
            "--optimizer.warmup-steps": self.optimizer.warmup_steps,
        }
        if self.seed >= 2**63:
            raise UserError(f"--seed is {self.seed}: it must be below 2^63")
        if self.timeout_s > LONGEST_TIMEOUT_S:
            raise UserError(f"--timeout-s is {self.timeout_s}: at most {LONGEST_TIMEOUT_S}, a week")
        for option, value in at_least_one.items():
            if value < 1:
                raise UserError(f"{option} is {value}: it must be 1 or more")
        for option, number in not_negative.items():
            if not 0 <= number < float("inf"):
                raise UserError(f"{option} is {number}: it must be 0 or more, and finite")
        if self.memory_gb > MOST_MEMORY_GB:
            raise UserError(f"--memory-gb is {self.memory_gb}: at most {MOST_MEMORY_GB}, a PiB")
        if not 0 < self.loss.temperature < float("inf"):
            raise UserError(
                f"--loss.temperature is {self.loss.temperature}: it must be above 0, and finite"
            )
        if not 0 <= self.examples.id_dropout < 1:
            raise UserError(
                f"--examples.id-dropout is {self.examples.id_dropout}: it must be in [0, 1)"
            )
        for pin in self.pin:
            parse_rule(pin)
        if not self.sharding_types:
            raise UserError("--sharding-types is empty: name at least table_wise")
        self._check_negatives()

    def _check_negatives(self) -> None:
        loss = self.loss
        if loss.main == "bce" and (loss.shared_negatives or not loss.in_batch):
            name = "shared-negatives" if loss.shared_negatives else "no-in-batch"
            raise UserError(
                f"--loss.{name} is for --loss.main softmax: bce scores each example's own "
                "negatives: leave it out"
            )
        if loss.main == "bce" and loss.negatives == 0:
            raise UserError("--loss.main bce needs negatives: pass --loss.negatives 1 or more")
        if not (loss.in_batch or loss.negatives or loss.shared_negatives):
            raise UserError(
                "--loss.no-in-batch leaves the softmax without candidates: pass "
                "--loss.shared-negatives or --loss.negatives"
            )

    def _check_effect(self) -> None:
        """Refuse an option that was set, and that another one makes void."""
        void = {
            "without augmented vectors": (not self.model.augment, ("mimic_user", "mimic_item")),
            "with --loss.main bce": (self.loss.main == "bce", ("temperature", "log_q")),
            "with --loss.shared-negatives": (self.loss.shared_negatives > 0, ("negatives",)),
        }
        usual = preset(self.preset, self.data, self.out).loss
        for why, (holds, names) in void.items():
            for name in names:
                value = getattr(self.loss, name)
                if holds and value not in (getattr(usual, name), 0.0):
                    raise UserError(
                        f"--loss.{name.replace('_', '-')} is {value}, and does nothing {why}: "
                        "leave it out"
                    )


def preset(name: Preset, data: Path, out: Path) -> TrainConfig:
    """The defaults that ``--preset name`` stands for.

    ``paper`` is the paper to the letter (S, epochs and learning rates, which it leaves
    open, are ours); ``modern`` is the strongest set-up found; ``two-tower`` is ``modern``
    without augmented vectors and their losses.
    """
    modern = TrainConfig(data=data, out=out, preset=name)
    if name == "modern":
        return modern
    if name == "two-tower":
        return dataclasses.replace(
            modern,
            model=dataclasses.replace(modern.model, augment=False),
            loss=dataclasses.replace(modern.loss, mimic_user=0.0, mimic_item=0.0, alignment=0.0),
        )
    return TrainConfig(
        data=data,
        out=out,
        preset=name,
        batch_size=256,
        model=ModelConfig(last_relu=True),
        loss=LossConfig(main="bce", negatives=4),
        optimizer=OptimizerConfig(),
        examples=DataConfig(id_dropout=0.0),
    )


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON values, paths absolute."""
    value = dataclasses.asdict(config)
    value["data"], value["out"] = str(config.data.resolve()), str(config.out.resolve())
    for name in ("warm_start", "topology"):
        path = getattr(config, name)
        value[name] = path and str(path.resolve())
    for name in ("hidden", "fp16_tables"):
        value["model"][name] = list(value["model"][name])
    value["sharding_types"] = list(config.sharding_types)
    value["pin"] = list(config.pin)
    return value


def differences(ours: TrainConfig, theirs: TrainConfig) -> list[str]:
    """The options in which two configurations differ, as ``--name ours (theirs)``."""
    flat = [flatten(to_json(config)) for config in (ours, theirs)]
    return [
        f"--{name.replace('_', '-')} {flat[0][name]} ({flat[1][name]})"
        for name in flat[0]
        if flat[0][name] != flat[1][name]
    ]


def _check_complete(value: dict[str, Any]) -> None:
    """A field that is missing had another default once, perhaps: it is not filled in.

    A text where a list is wanted would pass for the list of its letters.
    """
    parts = {"model": ModelConfig, "loss": LossConfig, "optimizer": OptimizerConfig}
    parts |= {"examples": DataConfig}
    for part, content in [
        (TrainConfig, value),
        *((kind, value[name]) for name, kind in parts.items()),
    ]:
        for wanted in dataclasses.fields(part):
            found = content[wanted.name]
            if get_origin(wanted.type) is tuple and not isinstance(found, list):
                raise TypeError(f"{wanted.name}: {found!r} is no list")


def flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration's JSON values by the names of their options, as in ``model.hidden``."""
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, dict):
            flat |= flatten(inner, f"{prefix}{name}.")
        else:
            flat[prefix + name] = inner
    return flat


def from_json(value: dict[str, Any], where: str) -> TrainConfig:
    """A configuration that ``to_json`` wrote, with the facts that a run adds to it.

    Raises:
        UserError: a field is missing, unknown or malformed.
    """
    try:
        _check_complete(value)
        lists = ("hidden", "fp16_tables")
        model = value["model"] | {name: tuple(value["model"][name]) for name in lists}
        config = TrainConfig(
            **{name: inner for name, inner in value.items() if name not in RUN_FACTS}
            | {
                "data": Path(value["data"]),
                "out": Path(value["out"]),
                "warm_start": value["warm_start"] and Path(value["warm_start"]),
                "topology": value["topology"] and Path(value["topology"]),
                "model": ModelConfig(**model),
                "loss": LossConfig(**value["loss"]),
                "optimizer": OptimizerConfig(**value["optimizer"]),
                "examples": DataConfig(**value["examples"]),
                "sharding_types": tuple(value["sharding_types"]),
                "pin": tuple(value["pin"]),
            }
        )
    except (TypeError, KeyError) as error:
        raise UserError(
            f"{where}: not a configuration of this version ({error}): train anew"
        ) from error
    for part in (config, config.model, config.loss, config.optimizer, config.examples):
        check_field_types(part, where)
    config.check()
    return config
