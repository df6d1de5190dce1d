"""Shards: one model's programs cut over its depth, so that several machines can make one worker's step together."""
