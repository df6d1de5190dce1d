"""`python -m benchmarks`: the same as `proofswarm bench`, for a checkout that is not installed."""

from benchmarks.commands import main

main()
