"""Evidence as a file: collected from a ledger, judged again without one."""
