"""F, the pure function of a round, and the engines that run its programs."""
