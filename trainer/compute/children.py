"""Starting processes of this program: from its own installation, and from no folder that happens to be at hand."""

import sys


def python(*arguments: str) -> list[str]:
    """Return the command that runs this interpreter with `arguments`, such as "-m", "trainer.compute.process".

    -m and -c put the working folder before everything else on the path of imports, and a script puts its own folder
    there: a file there of a name of ours, Python's or a library's would run in its place. -P leaves both out.
    """
    return [sys.executable, "-P", *arguments]
