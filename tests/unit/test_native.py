"""The C text of the kernels for processors that are not at hand: every compiler that is found must build it."""

import shutil
import subprocess
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from trainer.exact import native
from trainer.exact.c_product import text
from trainer.programs.loops import emit, fusion
from trainer.programs.loops.groups import Group
from verification.program import decode_program

MARCHES = (
    "sapphirerapids", "icelake-server", "skylake-avx512", "znver4", "haswell", "x86-64-v2", "x86-64-v4",
)  # fmt: skip
"""Of Intel and AMD, with and without AVX-512, VNNI, half precision and tiles."""


def golden_groups() -> list[Group]:
    """The loops of the frozen Llama step that `doctor` runs."""
    program = decode_program(resources.files("trainer.golden").joinpath("step.msgpack").read_bytes())
    return [work for work in fusion.plan(program).steps if isinstance(work, Group)]


def golden_loops() -> str:
    """Their text."""
    return emit.write(golden_groups(), set(), {})[0]


TEXTS: dict[str, Callable[[], str]] = {
    "int16": lambda: text("int16.c"),
    "int8": lambda: text("int8.c"),
    "loops": golden_loops,
}


def knows(command: str, march: str) -> bool:
    """Whether a compiler has heard of a processor: an older one has not of every newer one."""
    done = subprocess.run(
        [command, f"-march={march}", "-E", "-"], input="", capture_output=True, text=True, check=False
    )
    return done.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("march", MARCHES)
@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_the_kernels_compile_for_processors_not_at_hand(name: str, march: str, tmp_path: Path) -> None:
    command = shutil.which(name)
    if command is None or not knows(command, march):
        pytest.skip(f"no {name} that knows {march}")
    for title, written in TEXTS.items():
        source = tmp_path / f"{title}.c"
        source.write_text(native.GUARD + written(), encoding="utf-8")
        # Without optimisation, which takes most of the time and refuses nothing.
        others = {native.NATIVE: f"-march={march}", "-O3": "-O0"}
        flags = [others.get(flag, flag) for flag in native.FLAGS]
        done = subprocess.run(
            [command, *flags, "-fopenmp", "-S", str(source), "-o", str(source.with_suffix(".s"))],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_loops_over_many_buffers_run_on_vectors(name: str, tmp_path: Path) -> None:
    """AdamW's, whose seven rows gcc did not prove apart: each square root was one number's."""
    command = shutil.which(name)
    if command is None or not knows(command, "haswell"):
        pytest.skip(f"no {name} that knows haswell")
    updates = [
        group
        for group in golden_groups()
        if group.columns >= 64 and any(member.node.operator == "sqrt" for member in group.members.values())
    ]
    assert updates
    source, made = tmp_path / "loops.c", tmp_path / "loops.s"
    source.write_text(native.GUARD + emit.write(updates, set(), {})[0], encoding="utf-8")
    flags = ["-march=haswell" if flag == native.NATIVE else flag for flag in native.FLAGS]
    subprocess.run([command, *flags, "-fopenmp", "-S", str(source), "-o", str(made)], check=True)
    assert "vsqrtps" in made.read_text("utf-8")


def test_a_wider_evaluation_is_refused(tmp_path: Path) -> None:
    """The guard itself: x87 arithmetic, which rounds twice, must not build."""
    command = native.compiler()
    if command is None or not knows(command, "x86-64"):
        pytest.skip("no compiler for x86")
    source = tmp_path / "kernels.c"
    source.write_text(native.GUARD, encoding="utf-8")
    done = subprocess.run(
        [command, *native.FLAGS, "-mfpmath=387", "-E", str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "wider type" in done.stderr


ARM = """processor\t: 0
BogoMIPS\t: {bogomips}
Features\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimddp{more}
CPU implementer\t: {implementer}
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: {part}
"""


def test_arm_machines_that_compile_differently_are_told_apart() -> None:
    """What a cache that they share needs; equal machines at other speeds share its kernels."""
    fields = {"bogomips": "243.75", "more": "", "implementer": "0x41", "part": "0xd0c"}
    first = native.identity(ARM.format(**fields))
    assert native.identity(ARM.format(**fields | {"bogomips": "50.00"})) == first
    others = [{"part": "0xd40"}, {"implementer": "0x48"}, {"more": " i8mm bf16"}]
    found = {native.identity(ARM.format(**fields | other)) for other in others}
    assert len(found) == 3 and first not in found
    assert "asimddp" in first.split() and "i8mm" not in first.split()
