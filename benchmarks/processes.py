"""What other processes of this machine use, as Linux tells it."""

import os
import time
from pathlib import Path


def processor_seconds(pid: int) -> float:
    """Return the processor seconds that a process has used; raises OSError for one that is gone."""
    return time.clock_gettime(~pid << 3 | 2)  # as clock_getcpuclockid(3) names it


def resident_bytes(pid: int) -> int:
    """Return the bytes of memory that a process holds now; raises OSError for one that is gone."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
