"""Worker groups: one owner's machines make an inner step of one worker together, with one machine's digests."""
