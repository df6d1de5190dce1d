"""`bench size`: sizes are what their names say, what does not fit is told, and figures are made of rows as they say."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.status import Status

from benchmarks import join, size
from benchmarks.costs import Plan, Row
from benchmarks.trainers import MODELS
from trainer.commands.demo import demo_job
from verification.errors import UserError

GB = 10**9
SIZES = [name for name in MODELS if name.startswith(size.NAME)]


def row(name: str, parameters: int, native: list[float], ours: list[float], memory: tuple[int, ...]) -> Row:
    """A measured size: peaks of native, of the first order and of rounds."""
    peaks = ("native_peak_memory", "prepare_peak_memory", "round_peak_memory")
    return {
        "model": size.NAME + name, "parameters": parameters, "native_seconds": native, "seconds": ours,
        "left_out": {}, **dict(zip(peaks, memory, strict=True)),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["10", "30", "124", "350"])
def test_a_size_has_as_many_parameters_as_it_is_called_after(name: str) -> None:
    assert size.parameters_of(MODELS[size.NAME + name]) == pytest.approx(1e6 * float(name), rel=0.05)


def test_the_published_sizes_are_gpt2s() -> None:
    """12 layers of 768 and 24 of 1,024, 1,024 places, 50,257 tokens (Radford et al., 2019)."""
    counts = [size.parameters_of(MODELS[size.NAME + name]) for name in ("124", "350")]
    assert counts == [124_439_808, 354_823_168]


@pytest.mark.parametrize("name", SIZES)
def test_every_size_makes_a_job(name: str) -> None:
    recipe = MODELS[name]
    _, job = demo_job(Plan(name, recipe, 1, 1).settings(Path("runs/size")))
    assert job.model.config == recipe.config
    assert not [key for key, value in job.model.config.items() if "drop" in key and value]
    assert (job.swarm.min_workers, job.swarm.workers, job.accounts.peers) == (1, 2, 3)


def test_the_summary_is_ours_over_natives_by_size_and_at_most() -> None:
    rows = [
        row("10", 10, [1.0, 2.0, 9.0], [3.0, 3.0, 3.0], (100, 150, 120)),
        row("30", 30, [4.0], [5.0], (100, 300, 310)),
        {"model": "gpt2-124", "parameters": 124, "left_out": {size.MAKING: "needs some 9 GB"}},
    ]
    assert size.summarise(rows) == {
        "parameters": 30, "memory_over_native": 3.1, "time_over_native": 1.5, "memory_over_native_10": 1.5,
        "memory_over_native_30": 3.1, "time_over_native_10": 1.5, "time_over_native_30": 1.25,
    }  # fmt: skip
    assert size.summarise(rows[2:]) == dict.fromkeys(("parameters", "memory_over_native", "time_over_native"))


def test_needs_grow_with_parameters_and_with_logits() -> None:
    recipe = MODELS["gpt2-124"]
    few, many = (size.needs_of(recipe, count)["compute"] for count in (10**6, 10**9))
    assert few < 2 * GB < 20 * GB < many
    assert size.needs_of(MODELS["gpt2-1"], 10**6)["compute"] < few


def test_what_does_not_fit_is_told_and_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a run there is nothing to measure; else each part is left out for itself."""
    done: list[str] = []
    told = io.StringIO()

    def work(name: str, reason: str = "") -> size.Work:
        def do(plan: Plan, folder: Path) -> Row:
            done.append(name)
            if reason:
                raise UserError(reason)
            return {name: len(done)}

        return do

    parts = {
        size.MAKING: (GB, work("made")),
        "steps": (9 * GB, work("never")),
        "join": (1, work("came", "no root")),
    }
    monkeypatch.setattr(size, "parts_of", lambda needs: parts)
    monkeypatch.setattr(size, "available_memory", lambda: 8 * GB)
    screen = Console(file=told)
    progress = size.Progress(screen, Status("", console=screen), "0.1")
    plan = Plan("gpt2-0.1", MODELS["gpt2-0.1"], 1, 1)
    found = size.measure(plan, progress)
    lacking = "needs some 9.0 GB of memory, 8.0 are left"
    assert done == ["made", "came"]
    assert found["made"] == 1 and found["parameters"] == size.parameters_of(plan.recipe)
    assert found["left_out"] == {"steps": lacking, "join": "no root"}
    assert told.getvalue().count("\n") == 3 and f"steps left out: {lacking}" in told.getvalue()
    monkeypatch.setattr(size, "available_memory", lambda: GB // 2)
    assert list(size.measure(plan, progress)["left_out"]) == [size.MAKING]
    assert done == ["made", "came"]


def test_the_table_has_a_column_for_each_size_and_a_dash_for_what_is_not_there() -> None:
    table = size.table_of([row("10", 10**7, [2.0], [3.0], (10**9, 2 * 10**9, 10**9))])
    lines = dict(zip(*(list(column.cells) for column in table.columns), strict=True))
    assert list(lines) == list(size.LINES)
    assert (lines["over native"], lines["larger one over native"], lines["dispute, s"]) == (
        "1.50",
        "2.00",
        "-",
    )


def test_a_recipes_config_goes_into_a_job_as_it_is() -> None:
    assert join.toml_of(MODELS["gpt2-1"]).splitlines()[:2] == ['model_type = "gpt2"', "vocab_size = 256"]
