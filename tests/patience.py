"""How long tests wait. A test fails by what it sees; its deadlines are there for what hangs, on the busiest machine."""

ANSWER = 30.0
"""Seconds for one answer on loopback, which takes milliseconds where nobody else computes."""
WHOLE = 120.0
"""Seconds for a test that waits for several."""
PATIENCE = 300.0
"""Seconds for what takes a quiet machine up to a minute: a process that begins, a round of a run, a whole tiny run."""
NOBODY = "/ip4/127.0.0.1/tcp/1"
"""Where nobody listens: a port that was free a moment ago may be another test's by now."""
