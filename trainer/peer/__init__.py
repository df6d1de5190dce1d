"""The node process of a peer: the loop, what it signed, its ledger. No torch here."""
