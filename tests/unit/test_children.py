"""Processes of this program run what is installed, and nothing of the working folder."""

import subprocess
from pathlib import Path

import pytest

from tests.checkout import environment
from trainer.lifetimes import python

KINDS = {
    "modules": ("trainer.py", "verification.py", "json.py", "typer.py", "sitecustomize.py"),
    "packages": ("trainer/__init__.py", "trainer/cli.py", "json/__init__.py"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_in_the_working_folder_do_not_run(kind: str, tmp_path: Path) -> None:
    for name in KINDS[kind]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\n")
    for arguments in (("-m", "trainer.cli", "--help"), ("-c", "import json, trainer.cli")):
        done = subprocess.run(
            python(*arguments), cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()
