"""Headline figures, one command each; `proofswarm bench` lists them. Nothing imports this package."""
