"""A job file: TOML in, checked settings out. Every mistake is one line that names the key and the mend."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from verification.errors import UserError
from verification.manifest import MAX_COMMITTEE, MAX_ROUNDS, MAX_SHARDS

Positive = Annotated[int, Field(ge=1)]
Rounds = Annotated[int, Field(ge=1, le=MAX_ROUNDS)]
Steps = Annotated[int, Field(ge=0)]
Peers = Annotated[int, Field(ge=1, le=1000)]
"""The outer step has inputs for every worker's slot: tracing thousands of them takes minutes."""
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, lt=10)]
Names = Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1)]
SOURCES = ("text", "json_lines", "parquet", "dataset", "tokens", "builtin", "images")
"""The keys of [data] of which one says where documents come from."""
ALL_LINEAR = "all-linear"
Seconds = Annotated[float, Field(gt=0, le=10_000_000)]


class Section(BaseModel):
    """A table of a job file: unknown keys and wrong types are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class BoundariesSection(Section):
    """[model.boundaries]: where what goes from one block to the next, and its gradient back, are small integers.

    `count` boundaries stand evenly between the model's repeated blocks, or one behind each module that `after` names. A
    number is `bits` bits of its row's scale, a power of two; a row is what a block makes of one token, or `chunk`
    numbers of it.

    With `width` a learned projection makes each row so many numbers before they are rounded, and another one as many as
    it had behind: parameters of the model, which begin as an identity of the first `width` numbers.
    """

    count: Annotated[int, Field(ge=1, le=1000)] | None = None
    after: Names | None = None
    bits: Literal[16, 8, 4] = 8
    chunk: Annotated[int, Field(ge=8, le=1 << 16)] | None = None
    width: Positive | None = None


class ModelSection(Section):
    """[model]: a Hugging Face config, inline or as a JSON file, and the task, which names the loss.

    `from` is a folder that transformers saved: config, weights in .safetensors and, unless data.tokenizer names
    another, the tokenizer. `config` then changes single keys of its config.

    `module` names a function of a Python file, "model.py:build", that returns any float32 torch.nn.Module: of tokens
    [batch, length] or float32 pixels [batch, channels, height, width] it makes logits, or what has `.logits`.

    Where `boundaries` stand, machines that hold parts of the model send each other little.
    """

    task: Literal["causal-lm", "masked-lm", "image-classification"] = "causal-lm"
    config: dict[str, Any] = {}
    config_file: str | None = None
    checkpoint: str | None = Field(None, alias="from")
    module: str | None = None
    boundaries: BoundariesSection | None = None

    @property
    def ways(self) -> int:
        """In how many ways the section says what the model is."""
        return sum(
            (
                bool(self.config) or self.checkpoint is not None,
                self.config_file is not None,
                self.module is not None,
            )
        )


class DataSection(Section):
    """[data]: where documents come from, and how they become records of `length` tokens.

    Files are names or patterns, one or a list. `text`: each file is a document, or cut at a `delimiter`; `json_lines`
    and `parquet`: a document a row, in `field`, as in `dataset`, a folder that `save_to_disk` of datasets made;
    `tokens`: files of ids of `token_dtype`, or .npy; `builtin`: the Python language reference; `images`: a .safetensors
    file of uint8 `images` [n, channels, height, width] and uint8 `labels` [n].

    `tokenizer` is a tokenizer.json or a folder of one; by default bytes are tokens. Special tokens in documents are
    text unless `special_tokens`. `separator` (a token, its number, or "" for none) stands between documents; it is the
    tokenizer's end of text by default, or byte 0. "cut" begins a record with every document and fills its last one up.

    Of several documents a share `held_out` is held out whole, drawn by the seed, of a single one its end.
    """

    text: Names | None = None
    json_lines: Names | None = None
    parquet: Names | None = None
    dataset: str | None = None
    tokens: Names | None = None
    builtin: Literal["python-reference"] | None = None
    images: str | None = None
    field: str = "text"
    delimiter: str | None = None
    token_dtype: Literal["uint16", "uint32"] = "uint16"
    tokenizer: str | None = None
    special_tokens: bool = False
    separator: str | Annotated[int, Field(ge=0)] | None = None
    packing: Literal["packed", "cut"] = "packed"
    length: Positive = 64
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.05

    @property
    def source(self) -> str:
        """The key that names the files; the one of `SOURCES` that is given."""
        return next(key for key in SOURCES if getattr(self, key) is not None)


class LoraSection(Section):
    """[training.lora]: frozen weights and, beside each target, two small matrices that are trained in their place.

    A target W becomes W + alpha / rank * B A. `targets` are names of linear layers, or their ends such as "q_proj";
    "all-linear" are all but the head.
    """

    rank: Positive = 8
    alpha: Annotated[float, Field(gt=0, le=1e6)] = 16.0
    targets: Names = ALL_LINEAR


DENSITIES = {"top-k": 1 / 64, "low-rank": 1 / 20}
"""By compression the share of a contribution's numbers that it holds, where a job does not say."""
OUTER = {False: (0.7, 0.6), True: (0.5, 0.0)}
"""Rate and momentum of the outer step where a job does not say, by whether rounds overlap: of moves that are a round
late momentum makes swings."""


class TrainingSection(Section):
    """[training]: rounds, inner steps and the two optimizers.

    `horizon` is over how many rounds the schedule goes, those of a run that this one extends included; by default over
    this run's.

    An inner step takes `batch` records, in `accumulate` parts one after another: in the memory of one part.

    The learning rate is a function of the step of the whole run (`Schedule`): `warmup` steps of growth, then `schedule`
    down to `final_share` of it; "wsd" falls over the last `decay_steps`. It grows over `round_warmup` steps of every
    round too, since optimizers begin anew there. `gradient_clip` bounds the norm of all gradients together; 0 does not.

    With `overlap` workers train on while the last round is decided, from a state one round older. The outer step's
    `outer_rate` is 0.7 by default and `outer_momentum` 0.6, with overlap 0.5 and 0.

    `grid` is the contribution's unit, 2**-grid; "auto" gives each tensor its own, from a part of a round that is tried
    before the run opens. `compression` makes contributions smaller (`Dense`, `TopK`, `LowRank`), by scales that `chunk`
    numbers share; "top-k" keeps a share `density` of a chunk, by default 1/64, the factors of "low-rank" have such a
    share of a matrix's numbers, by default 1/20; "none" is 8 bits on the grid.

    `precision` are the bits of a product's operands, sign included.

    `momentum` (sgd 0.9, muon 0.95) and `nesterov` (sgd false, muon true) are for sgd and muon, the betas and epsilon
    for adamw and muon, which leaves embeddings, head and vectors to AdamW.

    Trained is the whole model, or with `lora` small matrices beside frozen ones.
    """

    rounds: Rounds
    horizon: Rounds | None = None
    max_steps: Positive = 10
    leaf_every: Positive = 5
    batch: Positive = 8
    accumulate: Positive = 1
    optimiser: Literal["adamw", "sgd", "muon"] = "adamw"
    learning_rate: Rate = 3e-3
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "constant"
    warmup: Steps = 0
    decay_steps: Positive | None = None
    final_share: Share = 0.0
    round_warmup: Positive = 3
    gradient_clip: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    beta1: Share = 0.9
    beta2: Share = 0.99
    epsilon: Rate = 1e-8
    momentum: Share | None = None
    nesterov: bool | None = None
    weight_decay: Annotated[float, Field(ge=0, lt=10)] = 0.01
    outer_rate: Rate | None = None
    outer_momentum: Share | None = None
    overlap: bool = False
    clip: Annotated[float, Field(ge=0, le=1000)] = 3.0
    grid: Literal["auto"] | Annotated[int, Field(ge=0, le=60)] = "auto"
    compression: Literal["none", "dense-8", "dense-4", "dense-2", "top-k", "low-rank"] = "none"
    density: Annotated[float, Field(gt=0, le=0.5)] | None = None
    chunk: Annotated[int, Field(ge=8, le=1 << 16)] = 1024
    precision: Literal[8, 14] = 14
    lora: LoraSection | None = None

    @property
    def horizon_steps(self) -> int:
        """Inner steps over which the schedule goes."""
        return (self.horizon or self.rounds) * self.max_steps

    @property
    def outer(self) -> tuple[float, float]:
        """Rate and momentum of the outer step."""
        rate, momentum = OUTER[self.overlap]
        return (
            rate if self.outer_rate is None else self.outer_rate,
            momentum if self.outer_momentum is None else self.outer_momentum,
        )

    @property
    def kept(self) -> float:
        """The share of its numbers that a contribution holds, as its compression counts them."""
        return self.density or DENSITIES.get(self.compression, 1.0)


class SwarmSection(Section):
    """[swarm]: how many may and must take part, and how often a verifier audits a worker.

    `min_verifiers` are promised: no round opens while fewer are active. By default two, so that one may collude.

    Each of `crews` is a number of members who may share a worker's round, each with its shard of the model; the shards
    are about equal in work. Such a run has a leaf after every inner step.

    Where there are more members than `committee`, so many seats drawn by stake attest and seal each round; 0 lets all
    of them do it. By default it is as large as [economics] asks for.
    """

    workers: Peers = 4
    verifiers: Peers = 3
    min_workers: Positive = 1
    min_verifiers: Annotated[int, Field(ge=0)] | None = None
    audit_rate: Share = 0.2
    miss_limit: Positive = 2
    committee: Annotated[int, Field(ge=0, le=MAX_COMMITTEE)] | None = None
    crews: list[Annotated[int, Field(ge=2, le=MAX_SHARDS)]] = []
    on_conviction: Literal["continue", "subtract"] = "continue"

    @property
    def promised(self) -> int:
        """Return how many verifiers the run promises."""
        return min(2, self.verifiers) if self.min_verifiers is None else self.min_verifiers


class MoneySection(Section):
    """[money]: integers in the ledger's unit.

    `funded_rounds`: for how many rounds' worst case the deposit is; all of them by default. Rounds mostly cost less,
    so a smaller deposit lasts longer; the run ends when it cannot pay another round.
    """

    worker_stake: Positive = 1_000_000
    verifier_stake: Positive = 1_000_000
    reward_per_step: Positive = 100
    fee_per_step: Positive = 130
    accuser_bond: Positive = 50_000
    slash_grades: list[Share] = [0.1, 0.5, 1.0]
    burned_share: Share = 0.5
    excluded_after: Positive = 1
    escrow_rounds: Positive = 16
    chunk_price: Positive = 1_000
    funded_rounds: Positive | None = None


class EconomicsSection(Section):
    """[economics]: what is assumed of adversaries; `run create` refuses a run in which cheating would pay.

    `colluding`: share of the promised verifiers that pass a partner's work, and of the stake; above zero it is one
    verifier at least, so a run with a single verifier must trust it: 0. `sabotage`: what a wrong round is worth to
    someone.
    """

    colluding: Share = 0.34
    sabotage: Annotated[int, Field(ge=0, lt=2**62)] = 0


class WindowsSection(Section):
    """[windows]: seconds on the ledger's clock."""

    commit: Seconds = 120
    attest: Seconds = 60
    seal: Seconds = 60
    verdict: Seconds = 240
    opening: Seconds = 60
    reveal: Seconds = 60
    clock: Seconds = 300
    stall: Seconds = 3600
    silence: Seconds = 1800


class AccountsSection(Section):
    """[accounts]: keys to make, and what each account holds at the start; more accounts by address."""

    peers: Annotated[int, Field(ge=0, le=1000)] = 7
    balance: Positive = 2_000_000
    others: dict[str, Positive] = {}


class JobFile(Section):
    """A whole job file."""

    title: str = "a proofswarm run"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    model: ModelSection
    data: DataSection
    training: TrainingSection
    swarm: SwarmSection = SwarmSection()
    money: MoneySection = MoneySection()
    economics: EconomicsSection = EconomicsSection()
    windows: WindowsSection = WindowsSection()
    accounts: AccountsSection = AccountsSection()

    @property
    def leaf_every(self) -> int:
        """Return after how many inner steps there is a leaf."""
        return 1 if self.swarm.crews else self.training.leaf_every


def read_job(path: Path) -> JobFile:
    """Return the checked job in a TOML file; raises UserError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such job file; give the path of a TOML file (README has one)") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text: {error}; save it as UTF-8") from error
    return parse_job(text, str(path))


def parse_job(text: str, name: str) -> JobFile:
    """Return the checked job in TOML text; `name` stands for it in errors. Raises UserError."""
    try:
        job = JobFile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{name}: not TOML: {error}") from error
    except ValidationError as error:
        raise UserError(f"{name}: {_first_problem(error)}") from error
    _check_together(job, name)
    return job


def _first_problem(error: ValidationError) -> str:
    first, *rest = error.errors()
    key = ".".join(str(part) for part in first["loc"]) or "the file"
    messages = {
        "extra_forbidden": "is no key of a job file; remove it or correct its name",
        "missing": "is missing",
    }
    message = messages.get(first["type"], first["msg"].lower() + f", got {first.get('input')!r}")
    more = f" (and {len(rest)} more)" if rest else ""
    return f"{key}: {message}{more}"


_OPTIMISER_KEYS = {
    "adamw": {"beta1", "beta2", "epsilon"},
    "sgd": {"momentum", "nesterov"},
    "muon": {"beta1", "beta2", "epsilon", "momentum", "nesterov"},
}
"""The keys of [training] that only some optimizers know."""


def _optimiser_checks(training: TrainingSection) -> list[tuple[bool, str]]:
    known = _OPTIMISER_KEYS[training.optimiser]
    strange = (_OPTIMISER_KEYS["muon"] - known) & training.model_fields_set
    return [
        (False, f"training.{key}: is nothing to {training.optimiser}; remove it") for key in sorted(strange)
    ]


def _schedule_checks(training: TrainingSection) -> list[tuple[bool, str]]:
    total, curve, decay = training.horizon_steps, training.schedule, training.decay_steps
    falls = curve != "constant"
    return [
        (
            training.warmup < total,
            f"training.warmup: must be less than the {total} steps of the schedule",
        ),
        (
            (decay is not None) == (curve == "wsd"),
            'training.decay_steps: give it with schedule = "wsd", and only then',
        ),
        (
            decay is None or training.warmup + decay <= total,
            f"training.decay_steps: warmup and decay together must not exceed the schedule's {total} steps",
        ),
        (
            falls or "final_share" not in training.model_fields_set,
            "training.final_share: is nothing to a constant rate",
        ),
    ]


_NAMED = " and ".join(f'"{name}"' for name in DENSITIES)


def _compression_checks(training: TrainingSection) -> list[tuple[bool, str]]:
    given, way = training.model_fields_set, training.compression
    return [
        (
            way != "none" or "chunk" not in given,
            'training.chunk: is nothing to compression "none"; remove it',
        ),
        (training.chunk.bit_count() == 1, "training.chunk: must be a power of two"),
        (
            way in DENSITIES or "density" not in given,
            f"training.density: is for compression {_NAMED} alone; remove it",
        ),
        (
            way != "top-k" or training.kept * training.chunk >= 1,
            f"training.density: keeps less than one of a chunk's {training.chunk} numbers; raise it or chunk",
        ),
    ]


_DATA_KEYS = {
    "field": {"json_lines", "parquet", "dataset"},
    "delimiter": {"text"},
    "token_dtype": {"tokens"},
    **dict.fromkeys(("tokenizer", "separator", "packing"), set(SOURCES) - {"images"}),
    "special_tokens": set(SOURCES) - {"images", "tokens"},
}
"""The keys of [data] that only some sources know."""


def _data_checks(data: DataSection, task: str) -> list[tuple[bool, str]]:
    given = [key for key in SOURCES if getattr(data, key) is not None]
    if len(given) != 1:
        return [(False, f"data: give one of {', '.join(SOURCES)}")]
    strange = [
        key for key, known in _DATA_KEYS.items() if key in data.model_fields_set and given[0] not in known
    ]
    needed = "images" if task == "image-classification" else "text or tokens"
    return [
        ((given[0] == "images") == (needed == "images"), f"data.{given[0]}: the task {task} needs {needed}"),
        *((False, f"data.{key}: is nothing to data.{given[0]}; remove it") for key in strange),
    ]


def _boundary_checks(job: JobFile) -> list[tuple[bool, str]]:
    boundaries = job.model.boundaries
    if boundaries is None:
        return []
    width, chunk = boundaries.width, boundaries.chunk
    return [
        (
            (boundaries.count is None) != (boundaries.after is None),
            "model.boundaries: give either count, or after with the names of blocks",
        ),
        (
            width is None or chunk is None or width % chunk == 0,
            f"model.boundaries.chunk: {chunk} does not divide width, {width}: take a divisor, or leave it out",
        ),
        (
            width is None or job.model.checkpoint is None,
            "model.boundaries.width: drops at first most of what a trained model's blocks pass on, and so what it "
            "knows: leave it out, or train from model.config",
        ),
        (
            width is None or job.training.lora is None,
            "model.boundaries.width: adds weights that no adapter holds, and training.lora trains an adapter alone: "
            "leave one of them out",
        ),
    ]


def _check_together(job: JobFile, name: str) -> None:
    checks = [
        (job.model.ways == 1, "model: give either config, config_file, from or module"),
        *_boundary_checks(job),
        *_data_checks(job.data, job.model.task),
        *_optimiser_checks(job.training),
        *_schedule_checks(job.training),
        *_compression_checks(job.training),
        (
            job.training.batch % job.training.accumulate == 0,
            "training.accumulate: must divide batch into equal parts",
        ),
        (job.leaf_every <= job.training.max_steps, "training.leaf_every: must not exceed max_steps"),
        (
            "leaf_every" not in job.training.model_fields_set or job.training.leaf_every == job.leaf_every,
            "training.leaf_every: must be 1 in a run with swarm.crews; set it so, or leave it out",
        ),
        (len(set(job.swarm.crews)) == len(job.swarm.crews), "swarm.crews: names a number of members twice"),
        (job.swarm.min_workers <= job.swarm.workers, "swarm.min_workers: must not exceed workers"),
        (job.swarm.promised <= job.swarm.verifiers, "swarm.min_verifiers: must not exceed verifiers"),
        (
            job.money.accuser_bond <= job.money.verifier_stake,
            "money.accuser_bond: must not exceed verifier_stake",
        ),
        (
            job.accounts.peers == 0
            or job.accounts.balance >= max(job.money.worker_stake, job.money.verifier_stake),
            "accounts.balance: must cover worker_stake and verifier_stake, or nobody can join",
        ),
        (bool(job.money.slash_grades), "money.slash_grades: needs at least one share"),
    ]
    for holds, message in checks:
        if not holds:
            raise UserError(f"{name}: {message}")
