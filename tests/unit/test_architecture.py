"""The rules that keep the tree readable and the law pure, each as a test, each tried on a planted violation."""

import ast
import functools
import re
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.checkout import ROOT, environment
from trainer.lifetimes import python

PACKAGES = ("benchmarks", "simulator", "trainer", "p2p", "verification")
MAX_FUNCTION, MAX_MODULE, MAX_PARAMETERS = 80, 600, 8
MAX_TEXT_BYTES = 2_000_000
BAD_NAMES = {"utils", "common", "manager", "node", "helpers"}
HEAVY = ("torch", "transformers", "trio", "asyncio", "libp2p", "hivemind")
TASK_EDGE = "# task's edge"
STARTER = "trainer/lifetimes.py"

Checker = Callable[[str], list[str]]


@functools.cache
def _nodes(source: str) -> tuple[ast.AST, ...]:
    """Every node of a module; all checkers look at the same ones."""
    return tuple(ast.walk(ast.parse(source)))


def long_functions(source: str) -> list[str]:
    """Functions of more than MAX_FUNCTION lines, decorators and docstring included."""
    found = []
    for item in _nodes(source):
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([item.lineno, *(decorator.lineno for decorator in item.decorator_list)])
            lines = (item.end_lineno or first) - first + 1
            if lines > MAX_FUNCTION:
                found.append(f"line {first}: {item.name} has {lines} lines")
    return found


def long_module(source: str) -> list[str]:
    """The module itself when it has more than MAX_MODULE lines."""
    lines = source.count("\n")
    return [f"{lines} lines"] if lines > MAX_MODULE else []


def wide_constructors(source: str) -> list[str]:
    """Hand-written constructors of more than MAX_PARAMETERS; a dataclass that is a plain record may have more."""
    found = []
    for item in _nodes(source):
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            arguments = item.args
            count = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs) - 1
            if count > MAX_PARAMETERS:
                found.append(f"line {item.lineno}: constructor with {count} parameters")
    return found


def _imports(source: str) -> Iterator[tuple[int, str]]:
    for item in _nodes(source):
        if isinstance(item, ast.Import):
            yield from ((item.lineno, alias.name) for alias in item.names)
        elif isinstance(item, ast.ImportFrom) and item.level == 0 and item.module:
            yield item.lineno, item.module


def _called(call: ast.Call) -> str:
    return ast.unparse(call.func)


def unsafe_calls(source: str) -> list[str]:
    """pickle and its kin, torch.load, eval, exec and yaml.load: each runs what a peer sent."""
    pickles = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
    calls = {"torch.load", "eval", "exec", "yaml.load"}
    found = [f"line {line}: imports {name}" for line, name in _imports(source) if name in pickles]
    for item in _nodes(source):
        if isinstance(item, ast.Call) and _called(item) in calls:
            found.append(f"line {item.lineno}: calls {_called(item)}")
    return found


def both_networks(source: str) -> list[str]:
    """hivemind and libp2p in one module: importing both in one process fails."""
    roots = {name.split(".")[0] for _, name in _imports(source)}
    return ["imports hivemind and libp2p"] if {"hivemind", "libp2p"} <= roots else []


def broad_excepts(source: str) -> list[str]:
    """Handlers that catch everything, except where the line says that it is a task's edge."""
    lines, found = source.splitlines(), []
    for item in _nodes(source):
        if not isinstance(item, ast.ExceptHandler) or TASK_EDGE in lines[item.lineno - 1]:
            continue
        kinds = item.type.elts if isinstance(item.type, ast.Tuple) else [item.type]
        if any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in kinds):
            found.append(f"line {item.lineno}: broad except")
    return found


def open_starts(source: str) -> list[str]:
    """Interpreters started beside `trainer.lifetimes.python`, which would import from the working folder."""
    named = (item for item in _nodes(source) if isinstance(item, ast.Attribute))
    return [f"line {i.lineno}: sys.executable" for i in named if ast.unparse(i) == "sys.executable"]


def other_consoles(source: str) -> list[str]:
    """Consoles that are not `trainer.commands.console`'s, which read markup and fail on terminals of few signs."""
    return [f"line {i.lineno}: {i.module}" for i in _nodes(source) if _brings_console(i)]


def _brings_console(item: ast.AST) -> bool:
    named = isinstance(item, ast.ImportFrom) and item.module == "rich.console"
    return named and any(alias.name == "Console" for alias in item.names)


def sleeps(source: str) -> list[str]:
    """Sleeps in tests; a test waits for an event or steps a virtual clock."""
    found = []
    for item in _nodes(source):
        if isinstance(item, ast.Call) and re.fullmatch(r"((time|trio|asyncio|anyio)\.)?sleep", _called(item)):
            found.append(f"line {item.lineno}: sleeps")
    return found


def wall_clocks(source: str) -> list[str]:
    """The machine's own time of day. What a peer says, does and records goes by its ledger's: `Ledger.now`."""
    clock = re.compile(r"time\.time(_ns)?|(datetime\.)?datetime\.(now|today|utcnow)|(\w+\.)*system_clock")
    found = []
    for item in _nodes(source):
        if isinstance(item, ast.ImportFrom) and item.module == "time":
            found += [f"line {item.lineno}: {a.name}" for a in item.names if a.name in ("time", "time_ns")]
        elif isinstance(item, ast.Name | ast.Attribute) and clock.fullmatch(ast.unparse(item)):
            found.append(f"line {item.lineno}: {ast.unparse(item)}")
    return found


def rooms_of_the_law(source: str) -> list[str]:
    """What the law itself never imports: who acts under it, what it convicts with as files, who keeps it, who tells."""
    rooms = re.compile(r"verification\.(honest|adversaries|evidence|ledger|report)\b")
    found = []
    for item in _nodes(source):
        names = [alias.name for alias in item.names] if isinstance(item, ast.Import | ast.ImportFrom) else []
        module = item.module or "" if isinstance(item, ast.ImportFrom) else ""
        imported = [f"{module}.{name}".lstrip(".") for name in names]
        found += [f"line {item.lineno}: {name}" for name in imported if rooms.match(name)]
    return found


def bad_file_name(path: str) -> list[str]:
    """Names that say nothing about what a file holds."""
    return [f"{path} says nothing"] if Path(path).stem in BAD_NAMES and path.endswith(".py") else []


def private_paths(source: str) -> list[str]:
    """Paths of somebody's own machine."""
    pattern = r"/(?:home/[a-z_]|root/|Users/[A-Za-z])|C:\\Users"
    return [
        f"line {number}: {line.strip()[:80]}"
        for number, line in enumerate(source.splitlines(), 1)
        if re.search(pattern, line)
    ]


def _tracked() -> list[Path]:
    """Files that git tracks or would track; every file when the tree is no checkout."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        listed = [
            str(path.relative_to(ROOT))
            for folder in (*PACKAGES, "tests", "docs")
            for path in (ROOT / folder).rglob("*")
            if "__pycache__" not in path.parts
        ]
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


def _python(*folders: str) -> list[Path]:
    return [
        path
        for path in _tracked()
        if path.suffix == ".py" and (not folders or path.relative_to(ROOT).parts[0] in folders)
    ]


def _complaints(checker: Checker, paths: list[Path]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}: {complaint}"
        for path in paths
        for complaint in checker(path.read_text("utf-8"))
    ]


@pytest.mark.parametrize("checker", [long_functions, long_module, wide_constructors, both_networks])
def test_every_python_file_keeps(checker: Checker) -> None:
    assert _complaints(checker, _python()) == []


@pytest.mark.parametrize("checker", [unsafe_calls, broad_excepts, other_consoles])
def test_the_packages_keep(checker: Checker) -> None:
    paths = _python(*PACKAGES)
    assert len(paths) > len(PACKAGES)
    assert _complaints(checker, paths) == []


def test_one_place_starts_interpreters() -> None:
    paths = [path for path in _python() if path != ROOT / STARTER]
    assert _complaints(open_starts, paths) == []
    assert len(open_starts((ROOT / STARTER).read_text("utf-8"))) == 1


def test_no_test_sleeps() -> None:
    assert _complaints(sleeps, _python("tests")) == []


def test_the_ledger_owns_the_clock() -> None:
    door = ROOT / "trainer" / "runs" / "ledgers.py"
    paths = [path for path in _python("trainer", "simulator") if path != door]
    assert ROOT / "trainer" / "peer" / "runtime.py" in paths
    assert _complaints(wall_clocks, paths) == []
    assert _complaints(wall_clocks, [door])


def test_the_law_knows_none_of_its_rooms() -> None:
    paths = [path for path in _python("verification") if path.parent == ROOT / "verification"]
    assert ROOT / "verification" / "law.py" in paths
    assert _complaints(rooms_of_the_law, paths) == []


def test_file_names_say_what_they_hold() -> None:
    assert [found for path in _python() for found in bad_file_name(str(path.relative_to(ROOT)))] == []


def test_no_tracked_file_names_a_private_path() -> None:
    here = Path(__file__).resolve()
    texts = [path for path in _tracked() if path != here and path.stat().st_size <= MAX_TEXT_BYTES]
    found = [
        f"{path.relative_to(ROOT)}: {complaint}"
        for path in texts
        for complaint in private_paths(path.read_bytes().decode("utf-8", "replace"))
    ]
    assert found == []


WALK = """
import importlib, pkgutil, sys
import verification
for module in pkgutil.walk_packages(verification.__path__, "verification."):
    if module.name != "verification.ledger.evm":  # a client of a chain's node: the one module that may be heavy
        importlib.import_module(module.name)
print([name for name in {heavy!r} if name in sys.modules])
"""


def test_importing_the_law_brings_nothing_heavy() -> None:
    command = python("-c", WALK.format(heavy=HEAVY))
    answer = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert (answer.returncode, answer.stdout.strip()) == (0, "[]"), answer.stderr


BODY = "    pass\n"
PLANTED: list[tuple[Checker, str, str]] = [
    (long_functions, "def f():\n" + BODY * MAX_FUNCTION, "def f():\n" + BODY * (MAX_FUNCTION - 1)),
    (long_module, "\n" * (MAX_MODULE + 1), "\n" * MAX_MODULE),
    (
        wide_constructors,
        "class A:\n def __init__(self, a, b, c, d, e, f, g, *, h, i): ...",
        "class A:\n def __init__(self, a, b, c, d, e, f, g, *, h): ...",
    ),
    (unsafe_calls, "import pickle", "import json"),
    (unsafe_calls, "from pickle import loads", "from json import loads"),
    (unsafe_calls, "torch.load(path)", "safetensors.torch.load_file(path)"),
    (unsafe_calls, "eval(text)", "model.eval()"),
    (unsafe_calls, "yaml.load(text)", "yaml.safe_load(text)"),
    (both_networks, "import hivemind\nfrom libp2p.host import x", "import hivemind"),
    (broad_excepts, "try: f()\nexcept Exception: g()", "try: f()\nexcept OSError: g()"),
    (broad_excepts, "try: f()\nexcept: g()", "try: f()\nexcept Exception:  # task's edge\n    g()"),
    (
        broad_excepts,
        "try: f()\nexcept (OSError, BaseException): g()",
        "try: f()\nexcept (OSError, KeyError): g()",
    ),
    (other_consoles, "from rich.console import Console", "from trainer.commands.console import Console"),
    (open_starts, "run([sys.executable, '-m', 'x'])", "run(python('-m', 'x'))"),
    (sleeps, "await trio.sleep(1)", "await trio.sleep_forever()"),
    (sleeps, "from time import sleep\nsleep(1)", "clock.jump(1)"),
    (wall_clocks, "now = time.time()", "began = time.perf_counter()"),
    (wall_clocks, "from time import time_ns", "from time import monotonic"),
    (wall_clocks, "Host(clock=system_clock)", "Host(clock=ledger.now)"),
    (rooms_of_the_law, "from verification import codec, report", "from verification import codec, law"),
    (rooms_of_the_law, "import verification.ledger.log", "import verification.law"),
    (rooms_of_the_law, "from verification.honest.decide import decide", "from verification.law import apply"),
    (bad_file_name, "p2p/utils.py", "p2p/utils_of_nothing.py"),
    (private_paths, "cd /home/" + "alice", "cd /homepage"),
    (private_paths, "/root/" + "x", "a/rooted/tree"),
]


@pytest.mark.parametrize(("checker", "violation", "clean"), PLANTED)
def test_a_planted_violation_is_found(checker: Checker, violation: str, clean: str) -> None:
    assert len(checker(violation)) == 1
    assert checker(clean) == []


CONTRACTS = [
    ("the simulator knows no", "simulator/world.py", "import verification.ledger.sequencer", "sqlite3"),
    ("the simulator knows no", "simulator/world.py", "import trainer.rounds.training", "time"),
    (
        "only trainer.runs.ledgers knows",
        "trainer/commands/demo.py",
        "import trainer.peer.runtime",
        "verification.ledger.local",
    ),
    (
        "the honest peer knows no",
        "trainer/peer/runtime.py",
        "import trainer.peer.deeds",
        "verification.adversaries.playbook",
    ),
    (
        "the honest peer knows no",
        "trainer/compute/process.py",
        "import trainer.rounds.engine",
        "trainer.rounds.cheats",
    ),
    (
        "the honest peer knows no",
        "trainer/commands/report.py",
        "import trainer.peer.policy",
        "trainer.peer.rogue",
    ),
    (
        "the report knows no adversaries",
        "verification/report/build.py",
        "import verification.economics",
        "verification.adversaries.playbook",
    ),
]
"""(contract, module, what it imports, what that one then must not import)"""


@pytest.mark.slow
@pytest.mark.parametrize(("contract", "module", "line", "forbidden"), CONTRACTS)
def test_an_import_contract_finds_a_planted_violation_behind_another_module(
    tmp_path: Path, contract: str, module: str, line: str, forbidden: str
) -> None:
    """On a tree of modules that are empty, all but the door to the ledger, under the contracts of setup.cfg."""
    for source in _python(*PACKAGES):
        empty = tmp_path / source.relative_to(ROOT)
        empty.parent.mkdir(parents=True, exist_ok=True)
        empty.touch()
    (tmp_path / "trainer" / "runs" / "ledgers.py").write_text("import verification.ledger.local\n")
    (tmp_path / module).write_text(line + "\n")
    assert _broken_contracts(tmp_path) == []
    (tmp_path / f"{line.removeprefix('import ').replace('.', '/')}.py").write_text(f"import {forbidden}\n")
    (broken,) = (name for name in _broken_contracts(tmp_path) if name.startswith(contract))
    assert broken


def _broken_contracts(folder: Path) -> list[str]:
    """Return the names of the contracts in setup.cfg that the packages in a folder break."""
    command = [
        Path(sysconfig.get_path("scripts"), "lint-imports"),
        "--config",
        ROOT / "setup.cfg",
        "--no-cache",
    ]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert "Contracts:" in answer.stdout, answer.stdout + answer.stderr
    return re.findall(r"^(.*) BROKEN\b", answer.stdout, re.MULTILINE)
