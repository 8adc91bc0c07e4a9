"""What a training run is made of: each option declared once, as a field of a frozen dataclass.

A field's docstring is its help on the command line. Its annotation holds its type, its bounds
(``Ge``, ``Gt``, ``Le``, ``Lt``) and the marks of ``dat_rec.option_marks``: whether it may change on
``--resume``, beside which other option it is void, and what a config.json that lacks it stands for.
All else follows: ``check``, a run's config.json, and what a resumed run may change.
"""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Le, Lt, MinLen

from dat_rec.errors import UserError
from dat_rec.files import STRICT, checked
from dat_rec.option_marks import (
    MAY_CHANGE,
    Absent,
    Void,
    check_bounds,
    complete,
    flatten,
    marks_of,
    option,
    refuse_void,
    to_json,
)
from dat_rec.sharding_rules import ShardingType, parse_rule
from dat_rec.storage.address import Location

Preset = Literal["modern", "paper", "two-tower"]
Device = Literal["auto", "cpu", "cuda"]
Matmul = Literal["auto", "mkl", "onednn"]
Pooling = Literal["mean", "sqrt"]
LogTo = Literal["tensorboard", "mlflow", "wandb"]
StopBy = Literal[
    "all/HR@50",
    "all/HR@100",
    "all/MRR",
    "new_pairs/HR@50",
    "new_pairs/HR@100",
    "new_pairs/MRR",
    "warm/HR@50",
    "warm/HR@100",
    "warm/MRR",
    "cold/HR@50",
    "cold/HR@100",
    "cold/MRR",
    "per_user/Recall@20",
    "per_user/Recall@50",
    "per_user/Recall@100",
    "per_user/NDCG@20",
    "per_user/NDCG@50",
    "per_user/NDCG@100",
]
"""Block and figure, as metrics.json has them."""
MAXIMUM_TIMEOUT_S = 7 * 24 * 3600
MAXIMUM_MEMORY_GB = 2**20
"""A PiB."""
MAXIMUM_SHUFFLE_MB = 2**30
MAXIMUM_LANES = 2**12
LEAST_TEMPERATURE = 0.01
"""Minimum of a learned temperature: CLIP's (Radford et al., ICML 2021)."""
RUN_FACTS = ("world_size", "global_batch", "row_digest", "launch", "job", "steps", "order")
"""What a run's config.json holds beside the configuration."""
PRESETS: tuple[Preset, ...] = get_args(Preset)
BY_DATA = {"loss.temperature": (0.05, 0.1, 0.2), "loss.log_q": (1.2, 1.0)}
"""Options that others may make void, with the values that ``defaults.py`` may give them."""
OTHER_VERSION = "read it with the version of dat_rec that wrote it, or train anew"
WITH_BCE = Void("with --loss.main bce", lambda config: config.loss.main == "bce")
WITHOUT_SOFTMAX = Void("without --loss.main softmax", lambda config: config.loss.main != "softmax")
WITH_LEARNED = Void("with --loss.learn-temperature", lambda config: config.loss.learn_temperature)
WITHOUT_TEMPERATURE = Void(
    "with --loss.main bce or contrastive",
    lambda config: config.loss.main in ("bce", "contrastive"),
)
WITHOUT_CONTRASTIVE = Void(
    "without --loss.main contrastive", lambda config: config.loss.main != "contrastive"
)
WITHOUT_AUGMENT = Void("without augmented vectors", lambda config: not config.model.augment)
WITHOUT_VALIDATION = Void("without --validate-every", lambda config: config.validate_every == 0)
WITHOUT_FLOAT32 = Void(
    "without --model.precision float32", lambda config: config.model.precision != "float32"
)
WITH_WARM_START = Void("with --warm-start", lambda config: config.warm_start is not None)
WITH_SHARED = Void("with --loss.shared-negatives", lambda config: config.loss.shared_negatives > 0)


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the Dual Augmented Two-tower model."""

    embedding_dim: Annotated[int, Ge(1)] = 32
    """Dimension of each feature's embedding: the number of columns of its table."""
    hidden: tuple[Annotated[int, Ge(1)], ...] = (256, 128)
    """Widths of the hidden layers of each tower."""
    output_dim: Annotated[int, Ge(1)] = 32
    """Dimension of the towers' outputs, and so of the augmented vectors."""
    last_relu: bool = False
    """Apply a ReLU after the last layer too, as in the paper."""
    augment: bool = True
    """Give each user and item an augmented vector, from tables of their own."""
    pooling: Annotated[Pooling, Absent("mean")] = "mean"
    """What a bag of n values becomes, a history for one: their mean, or their sum / √n, so that a
    long history weighs more than a short one beside the id."""
    residual: Annotated[bool, Absent(False)] = False
    """Add the embeddings of ids, of the history's items too, and the augmented vector to each
    tower's output, past its layers; embedding_dim and output_dim must be equal."""
    linear: Annotated[bool, Absent(False)] = False
    """Add a linear layer of all that a tower reads to its output, past its other layers."""
    precision: Literal["float32", "float64", "bfloat16"] = "float32"
    """The dtype of towers and losses. bfloat16: the dtype of the towers' matrix products alone,
    twice as fast where the processor multiplies such numbers. float64: runs at different world
    sizes stay equal for longer, because rounding depends on how the batch is divided, and training
    amplifies it step by step."""
    fp16_tables: tuple[str, ...] = ()
    """Embedding tables whose weights have the dtype float16, by name or pattern, as in
    item 'augmented_*'. An update of less than half a unit in the last place (1/4,096 to 1/2,048 of
    the weight) is lost, because rounding is to nearest. The optimizer's sums stay in float32."""
    generate: Annotated[bool, Absent(False)] = False
    """Make the id embedding and the augmented vector of an unknown user or item from its other
    features, by a small head that learns from the examples whose ids are hidden (id_dropout,
    user_dropout). Without, all unknown ids share a row."""

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class LossConfig:
    """What is minimised: main + mimic_user·(2u) + mimic_item·(2v) + alignment·(3)."""

    main: Literal["softmax", "bce", "contrastive", "bpr"] = "softmax"
    """Main loss: sampled softmax, SimpleX's cosine contrastive loss or Bayesian personalised
    ranking (bpr), over the global batch's candidates; or the paper's binary cross entropy (4)."""
    negatives: Annotated[int, Ge(0), WITH_SHARED] = 1
    """Number S of negatives drawn for each example. Without bce, all examples' negatives are
    every example's candidates."""
    shared_negatives: Annotated[int, Ge(0), WITH_BCE] = 0
    """Number of negatives drawn for each global batch, in place of S for each example; not with
    bce."""
    in_batch: Annotated[bool, WITH_BCE] = True
    """Use the other examples' positives as candidates too; not with bce."""
    queue: Annotated[int, Ge(0), WITH_BCE, Absent(0)] = 0
    """Number of earlier batches whose candidates are used again, with the vectors that they had
    then, so that none is older than so many steps; not with bce."""
    negative_power: Annotated[float, Ge(0)] = 0.0
    """Power of the distribution that negatives are drawn from, ∝ (training count)^power: 0 is
    uniform, 1 by popularity."""
    temperature: Annotated[float, Gt(0), WITHOUT_TEMPERATURE] = 0.05
    """Softmax and bpr: temperature by which inner products are divided."""
    learn_temperature: Annotated[bool, WITHOUT_TEMPERATURE, Absent(False)] = False
    """Learn the temperature, with the towers' learning rate, from --loss.temperature on; it stays
    at .01 or above."""
    log_q: Annotated[float, Ge(0), WITHOUT_SOFTMAX] = 1.2
    """Softmax: strength of the sampling-bias correction (log Q): 0 none, 1 as sampled; somewhat
    more ranked best on KuaiRand's validation days (benchmarks/LOG.md)."""
    own_log_q: Annotated[bool, WITHOUT_SOFTMAX, Absent(True)] = True
    """Softmax: correct an example's own positive by log Q too, as Yi et al. (RecSys 2019) do.
    Without, it counts once and the candidates stand for all other items: with --loss.log-q 1 the
    full softmax's gradient (Khrylchenko et al., RecSys 2025)."""
    popularity: Annotated[float, Ge(0), WITHOUT_SOFTMAX, WITH_LEARNED, Absent(0.0)] = 0.75
    """Softmax: weight of an item's popularity in its score, which is then inner product /
    temperature + popularity · log(training count): what the towers, whose vectors have length 1,
    need not learn. It is a coordinate of its own of the vectors that are served."""
    unknown_count: Annotated[Literal["one", "typical"], Absent("one")] = "typical"
    """What an unknown item counts as where popularity has a weight: one interaction, or as many as
    is typical, the geometric mean of the trained items' training counts. Then items whose ids are
    hidden in training count so too, and drawn negatives' ids are hidden as often as positives'."""
    margin: Annotated[float, Ge(-1), Lt(1), WITHOUT_CONTRASTIVE, Absent(0.9)] = 0.9
    """Contrastive: cosine that a negative may have at no cost; .9 is SimpleX's on Gowalla."""
    negative_weight: Annotated[float, Ge(0), WITHOUT_CONTRASTIVE, Absent(150.0)] = 150.0
    """Contrastive: weight of all negatives of an example together; 150 is SimpleX's for some 1,000
    uniform ones, as of --loss.shared-negatives 1000 --loss.no-in-batch."""
    mimic_user: Annotated[float, Ge(0), WITHOUT_AUGMENT] = 0.5
    """Weight λ1 of the user's adaptive-mimic loss (equation 2)."""
    mimic_item: Annotated[float, Ge(0), WITHOUT_AUGMENT] = 0.5
    """Weight λ2 of the item's adaptive-mimic loss (equation 2)."""
    alignment: Annotated[float, Ge(0)] = 1.0
    """Weight λ3 of the category-alignment loss (equation 3), which takes the most frequent
    categories in training: at most 2^20 / output_dim² (1,024 for dimension 32), or 64 where that is
    more. The other categories add nothing."""

    __pydantic_config__ = STRICT

    def popularity_weight(self) -> float:
        """β, the weight that popularity has in scores: 0 where its option does nothing."""
        return self.popularity if self.main == "softmax" and not self.learn_temperature else 0.0

    def shared_rows(self, ranks: int) -> int:
        """Rows that the shared negatives have behind each rank's examples."""
        return -(-self.shared_negatives // ranks)


@dataclass(frozen=True)
class OptimizerConfig:
    """Adagrad on the tables, fused into backward; Adam on the towers."""

    table: Literal["rowwise_adagrad", "adagrad"] = "rowwise_adagrad"
    """Optimizer of the embedding tables: Adagrad with one sum of squared gradients for each row, or
    for each weight."""
    table_lr: Annotated[float, Ge(0)] = 0.05
    """Learning rate of the embedding tables."""
    tower_lr: Annotated[float, Ge(0)] = 0.001
    """Learning rate of the towers."""
    warmup_steps: Annotated[int, Ge(0)] = 100
    """Number of steps over which both learning rates rise from 0."""
    decay: Literal["none", "linear"] = "linear"
    """Schedule of both learning rates after the warm-up: constant, or falling to 0 at the run's
    end."""
    table_init: Annotated[float, Ge(0)] = 0.05
    """Scale of the tables' initial weights, which are uniform in ±table_init / √dim."""
    table_start: Annotated[Literal["random", "svd"], WITH_WARM_START, Absent("random")] = "random"
    """What the item table begins with: random weights, or a truncated singular value decomposition
    of the training pairs, in rows of length 1."""

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class DataConfig:
    """Which examples a run sees."""

    id_dropout: Annotated[float, Ge(0), Lt(1)] = 0.05
    """Share of examples whose user or item id is replaced by the unknown row, so that this row is
    trained."""
    user_dropout: Annotated[float, Ge(0), Lt(1), Absent(0.0)] = 0.0
    """The same share of users' ids alone, where it is more than id_dropout: the query tower learns
    to answer by the history, where a user's own row would learn a few examples by heart."""
    skip_repeats: bool = False
    """Train only on pairs of user and item that are new to the user."""
    bad_ids: Literal["refuse", "unknown"] = "refuse"
    """What to do with ids that are negative or beyond their table: refuse them and stop, or train
    the unknown row in their place; train.json counts them since the last start."""
    shuffle_mb: Annotated[int, Ge(1), Le(MAXIMUM_SHUFFLE_MB), Absent(512)] = 512
    """Memory of the examples, in MiB, of all ranks together: those that are shuffled together and
    those that are read ahead. It is at least that of two row groups for each lane."""
    lanes: Annotated[int, Ge(0), Le(MAXIMUM_LANES), Absent(0)] = 0
    """Number of lanes that the examples are dealt to, each read and shuffled apart; a rank reads
    the lanes that it trains on, so that more ranks than lanes share one. 0: a lane for every eight
    row groups, rounded down to a power of two, at most 64."""

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class TrainConfig:
    """Train a model on a prepared dataset; alone, or on each rank under torchrun."""

    data: Annotated[Location, MAY_CHANGE]
    """Folder of the dataset that `dat-rec prepare` made, or its address, as in
    s3://bucket/data."""
    out: Annotated[Path, MAY_CHANGE]
    """Folder of the run: configuration, plan, logs, checkpoints."""
    preset: Preset = "modern"
    """Preset that the defaults below come from."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Random seed: decides the initial tables and towers, the order of examples and the
    negatives."""
    epochs: Annotated[int, Ge(1)] = 4
    """Number of epochs: passes over the examples."""
    batch_size: Annotated[int, Ge(1)] = 2048
    """Number of examples in a batch, on each rank that the run begins with. Resumed on more or
    fewer ranks, the run keeps its global batch and divides it anew."""
    resume: Annotated[bool, MAY_CHANGE] = False
    """Resume the run in OUT from its newest checkpoint; if there is none, start it anew with its
    global batch."""
    warm_start: Path | None = None
    """Folder of a run to begin from, perhaps on another day's dataset: embedding rows of ids and
    values that both have are taken over with their optimizer state, and the towers; new rows start
    fresh."""
    overwrite: Annotated[bool, MAY_CHANGE] = False
    """Replace a run that is already in OUT."""
    mirror: Annotated[Location | None, MAY_CHANGE, Absent(None)] = None
    """Address, as in s3://bucket/run, to which each whole checkpoint and failure.json are copied
    behind training. Where OUT has no checkpoint, --resume takes the newest whole one from there."""
    checkpoint_every: Annotated[int, Ge(1), MAY_CHANGE] = 1000
    """Number of steps between checkpoints; one more is written at the end."""
    keep_checkpoints: Annotated[int, Ge(1), MAY_CHANGE] = 2
    """Maximum number of checkpoints to keep: the newest."""
    keep_best: Annotated[int, Ge(0), MAY_CHANGE] = 0
    """Maximum number of checkpoints to keep besides: with --validate-every those with the highest
    --stop-by, else those with the lowest main loss, mean over the steps since the checkpoint before
    (each batch is scored before it is trained on)."""
    validate_every: Annotated[int, Ge(0), MAY_CHANGE, Absent(0)] = 0
    """Number of steps between validations, in which the model ranks the dataset's validation span
    as `dat-rec evaluate` ranks the test; there is one more at the end. 0: none."""
    validation_queries: Annotated[int, Ge(0), WITHOUT_VALIDATION, Absent(20_000)] = 20_000
    """Maximum number of interactions that a validation ranks: of more, those of users whom the
    random seed draws, the same each time. 0: all."""
    stop_by: Annotated[StopBy, WITHOUT_VALIDATION, Absent("new_pairs/HR@100")] = "new_pairs/HR@100"
    """Metric of the validation that decides which checkpoint is the best, and when to stop: block
    and figure, as in metrics.json. Pairs that are repeats say how well a model remembers, new ones
    how well it finds."""
    patience: Annotated[int, Ge(0), MAY_CHANGE, WITHOUT_VALIDATION, Absent(0)] = 0
    """Number of validations in a row without a better --stop-by after which the run ends (early
    stopping); the best checkpoint is kept. --epochs is the maximum then, to which the decay of the
    learning rates runs. 0: the run goes on to its last epoch."""
    background_saves: Annotated[bool, MAY_CHANGE] = True
    """Write checkpoints in the background, from a copy; without memory for one, training waits."""
    disk_patience_s: Annotated[int, Ge(0), MAY_CHANGE, Absent(0)] = 600
    """Maximum number of seconds for which writing the last checkpoint is tried again, while the
    disk is full or away."""
    log_every: Annotated[int, Ge(1), MAY_CHANGE] = 20
    """Number of steps between the points of the curves."""
    log_to: Annotated[tuple[LogTo, ...], MinLen(1), MAY_CHANGE, Absent(("tensorboard",))] = (
        "tensorboard",
    )
    """Where curves and options go: files of TensorBoard in the run's folder, and MLflow and Weights
    & Biases, which their own environment variables lead to (MLFLOW_TRACKING_URI, WANDB_PROJECT, …).
    One that fails costs the run nothing but its curves there."""
    device: Annotated[Device, MAY_CHANGE, Absent("auto")] = "auto"
    """Device to train on: auto takes GPUs (cuda) where torch can use them, else CPUs. Each rank has
    a GPU of its own."""
    matmul: Annotated[
        Literal["auto", "mkl", "onednn"], MAY_CHANGE, WITHOUT_FLOAT32, Absent("mkl")
    ] = "auto"
    """Library for the float32 matrix products of the towers on CPU: mkl is PyTorch's own way; auto
    measures once which is the quicker on this processor. Another choice has other bits."""
    softmax: Annotated[
        Literal["blocks", "fused"], MAY_CHANGE, WITHOUT_SOFTMAX, Absent("blocks")
    ] = "blocks"
    """How the main loss is computed: in blocks of logits, or on GPUs by fused Triton kernels, whose
    logits never reach the GPU's memory. Its products are float32 as well; other bits."""
    sharding_types: Annotated[tuple[ShardingType, ...], MinLen(1), MAY_CHANGE] = (
        "table_wise",
        "row_wise",
        "table_row_wise",
    )
    """Sharding types that the planner may choose from; on one rank it is table_wise in any case."""
    pin: Annotated[tuple[str, ...], MAY_CHANGE] = ()
    """Constraints of the planner, as TABLE=WORD,…: what it may do with the tables whose name
    matches a pattern; the first that matches counts. Words: sharding types (data_parallel,
    table_wise, row_wise, column_wise, table_row_wise, table_column_wise, grid_shard), kernels
    (fused, dense, and on GPUs fused_uvm, fused_uvm_caching), min_partition:N, pooling_factor:X,
    cache_load_factor:X; as in item=row_wise or 'augmented_*=column_wise,min_partition:8'."""
    memory_gb: Annotated[float, Ge(0), Le(MAXIMUM_MEMORY_GB), MAY_CHANGE] = 0.0
    """Memory of each rank, in GiB, for the planner and the copies of checkpoints; 0: the GPU's, or
    this machine's divided by its ranks."""
    topology: Annotated[Path | None, MAY_CHANGE] = None
    """JSON file with this cluster's bandwidths and costs for the planner, as
    benchmarks/calibrate.py writes it; `dat-rec plan` reads the same file. Its memory and sizes are
    not used. Without it: on CPUs costs that were measured on others, on GPUs the bandwidths that
    TorchRec assumes."""
    comms: Annotated[Literal["fp32", "fp16", "bf16"], MAY_CHANGE] = "fp32"
    """The dtype in which pooled embeddings and their gradients travel between ranks; bf16 needs
    GPUs. In fp16, gradients travel times 512: those from 1e-8 to 127 arrive, larger ones are
    clipped."""
    sharding_group_size: Annotated[int, Ge(0), MAY_CHANGE] = 0
    """GPUs only: number of ranks in a group that the tables are sharded over; each group has a copy
    of all tables, and copies are averaged after every step (2D parallelism); 0: all ranks. The
    number of copies must divide the number of a host's GPUs, or be a multiple of it."""
    timeout_s: Annotated[int, Ge(1), Le(MAXIMUM_TIMEOUT_S), MAY_CHANGE] = 300
    """Maximum number of seconds to wait for another rank before the run is stopped (timeout); at
    most a week."""
    preflight: Annotated[bool, MAY_CHANGE] = True
    """Check the cluster before training (several ranks only), as `dat-rec doctor --cluster`
    does."""
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    examples: DataConfig = field(default_factory=DataConfig)

    __pydantic_config__ = STRICT

    def check(self) -> None:
        """Refuse values that cannot be trained with.

        Raises:
            UserError: names the option, its value and what it may be.
        """
        check_bounds(self)
        usual = to_json(preset(self.preset, self.data, self.out))
        refuse_void(self, flatten(to_json(self)), flatten(usual), BY_DATA)
        for pin in self.pin:
            parse_rule(pin)
        if isinstance(self.mirror, Path):
            raise UserError(f"--mirror {self.mirror}: is no address: write e.g. s3://BUCKET/RUN")
        loss, model = self.loss, self.model
        if model.residual and model.embedding_dim != model.output_dim:
            raise UserError(
                f"--model.residual with --model.embedding-dim {model.embedding_dim} and "
                f"--model.output-dim {model.output_dim}: make them equal, or pass "
                "--model.no-residual"
            )
        if loss.learn_temperature and loss.temperature < LEAST_TEMPERATURE:
            raise UserError(
                f"--loss.learn-temperature with --loss.temperature {loss.temperature}: make it "
                f"{LEAST_TEMPERATURE} or more, the least that is learned"
            )
        if loss.main == "bce" and loss.negatives == 0:
            raise UserError("--loss.main bce needs negatives: pass --loss.negatives 1 or more")
        if not (loss.in_batch or loss.negatives or loss.shared_negatives):
            raise UserError(
                f"--loss.no-in-batch leaves --loss.main {loss.main} without candidates: pass "
                "--loss.shared-negatives or --loss.negatives"
            )


def preset(name: Preset, data: Location, out: Path) -> TrainConfig:
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


def may_change_on_resume() -> frozenset[str]:
    """Names of the options that may have another value when a run is resumed."""
    return frozenset(name for name, marks in marks_of(TrainConfig).items() if MAY_CHANGE in marks)


def from_json(value: Any, where: str) -> TrainConfig:
    """A configuration that ``to_json`` wrote, in this release or the one before.

    Args:
        value: the configuration, with or without the facts that a run adds to it.
        where: its file, for the message.

    Raises:
        UserError: a field is missing, unknown or malformed.
    """
    if isinstance(value, dict):
        value = {name: inner for name, inner in value.items() if name not in RUN_FACTS}
    value = complete(TrainConfig, value, where, OTHER_VERSION)
    config = checked(TrainConfig, value, where, OTHER_VERSION)
    config.check()
    return config


def differences(ours: TrainConfig, theirs: TrainConfig, but: Collection[str] = ()) -> list[str]:
    """The options in which two configurations differ, as ``--name ours (theirs)``.

    Args:
        ours: values that stand first.
        theirs: values that stand in brackets.
        but: names of options to leave out.
    """
    flat = [flatten(to_json(config)) for config in (ours, theirs)]
    return [
        f"{option(name)} {flat[0][name]} ({flat[1][name]})"
        for name in flat[0]
        if flat[0][name] != flat[1][name] and name not in but
    ]
