"""What the law is told of a job: rules of work, windows, money and assumptions, in its own units."""

from collections.abc import Iterator
from contextlib import contextmanager

from trainer.runs.job import EconomicsSection, JobFile, MoneySection, WindowsSection
from verification.economics import safe_committee
from verification.errors import UserError
from verification.manifest import Assumptions, MoneyRules, Windows, WorkRules
from verification.outer import CLIP_UNIT
from verification.units import MILLION, PPM, Amount, Count, Millis

Rules = tuple[WorkRules, Windows, MoneyRules, Assumptions]


def rules_of(job: JobFile) -> Rules:
    """Return the rules of a job's run; raises UserError where they do not fit together."""
    with within_law():
        return _work(job), _windows(job.windows), _money(job.money), _assumptions(job.economics)


@contextmanager
def within_law() -> Iterator[None]:
    """Raise UserError where the law's types refuse what a job says."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"the job's rules do not fit together: {error}") from error


def _work(job: JobFile) -> WorkRules:
    training, swarm = job.training, job.swarm
    return WorkRules(
        rounds=Count(training.rounds),
        max_steps=Count(training.max_steps),
        leaf_every=Count(job.leaf_every),
        batch=Count(training.batch),
        slots=Count(swarm.workers),
        max_verifiers=Count(swarm.verifiers),
        min_workers=Count(swarm.min_workers),
        min_verifiers=Count(swarm.promised),
        audit_rate=ppm(swarm.audit_rate),
        miss_limit=Count(swarm.miss_limit),
        committee=Count(_committee(job)),
        clip=Count(round(CLIP_UNIT * training.clip)),
        on_conviction=swarm.on_conviction,
        overlap=training.overlap,
    )


def _committee(job: JobFile) -> int:
    chosen = job.swarm.committee
    return safe_committee(ppm(job.economics.colluding), job.training.rounds) if chosen is None else chosen


def _windows(windows: WindowsSection) -> Windows:
    return Windows(**{name: Millis(round(1000 * seconds)) for name, seconds in windows.model_dump().items()})


def _money(money: MoneySection) -> MoneyRules:
    rules = money.model_dump(exclude={"funded_rounds"})
    amounts = {name: Amount(value) for name, value in rules.items() if isinstance(value, int)}
    shares = {"slash_grades": tuple(map(ppm, money.slash_grades)), "burned_share": ppm(money.burned_share)}
    return MoneyRules(**{**amounts, **shares})  # type: ignore[arg-type]


def _assumptions(economics: EconomicsSection) -> Assumptions:
    return Assumptions(ppm(economics.colluding), Amount(economics.sabotage))


def ppm(share: float) -> PPM:
    """Return a share in millionths."""
    return PPM(round(share * MILLION))
