"""The arithmetic, defined: every number of every operator, in plain integers and doubles. (SPEC.md 6.5)

No torch, no numpy, no vector code: what is written here is the arithmetic, and every fast kernel is tested against it.
`definition` says what a definition is; `functions`, `elementwise`, `moves` and `sums` hold them all, and
`verification.operators` names them.
"""
