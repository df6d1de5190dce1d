"""Environments of opponents whose packages want other versions than ours, made on first use and kept.

Each lies in front of this environment: what an opponent brings comes first, torch and transformers are the same for
all. The pins are here and nowhere else.
"""

import os
import shutil
import subprocess
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.lifetimes import python
from verification.errors import UserError


@dataclass(frozen=True)
class Package:
    """An opponent's package, its version, and versions of what it brings that fit together."""

    name: str
    version: str
    beside: tuple[str, ...] = ()


PACKAGES = {
    "torchft": Package("torchft", "0.2.0"),
    "hivemind": Package("hivemind", "1.1.12", ("protobuf==6.33.6", "grpcio-tools==1.81.1", "scipy==1.17.1")),
}
FOLDER = "proofswarm/opponents"
READY = "ready"
"""The file in an environment that is whole."""


def python_of(opponent: str) -> str:
    """Return the interpreter of an opponent's environment, which is made if it is not there; raises UserError.

    An opponent that needs no environment has ours.
    """
    package = PACKAGES.get(opponent)
    if package is None:
        return python()[0]
    folder = (
        cache() / f"{package.name}-{package.version}-{sysconfig.get_python_version()}-{torch.__version__}"
    )
    if not (folder / READY).exists():
        _make(folder, package)
    return str(folder / "bin" / "python")


def cache() -> Path:
    """Return where environments are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / FOLDER


def pins(package: Package) -> str:
    """Return the constraints of an installation: torch stays the one that is here."""
    return "\n".join(
        (f"{package.name}=={package.version}", *package.beside, f"torch=={torch.__version__}", "")
    )


def _make(folder: Path, package: Package) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        venv.create(folder, with_pip=True)
        site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
        ours = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
        (site / "ours.pth").write_text("\n".join((*ours, "")), encoding="utf-8")
        (folder / "constraints.txt").write_text(pins(package), encoding="utf-8")
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"{folder}: cannot make an environment for {package.name}: {error}") from error
    install = (
        "-m",
        "pip",
        "install",
        "-q",
        "--no-input",
        "-c",
        str(folder / "constraints.txt"),
        package.name,
    )
    done = subprocess.run(
        [str(folder / "bin" / "python"), *install], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        raise UserError(f"{package.name}=={package.version} cannot be installed: {reason[:300]}")
    (folder / READY).touch()
