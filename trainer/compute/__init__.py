"""The compute process of a peer and the pipe to it: orders, frames, both ends."""
