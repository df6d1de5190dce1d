"""Errors of the exact arithmetic."""


class NonFinite(ArithmeticError):
    """A tensor that must be finite holds an infinity or a NaN; the step that made it ends."""


class BackendFault(RuntimeError):
    """A product backend failed its golden vectors on this machine and must not be used."""
