"""What an honest peer does: a pure function of the state and of its own results."""
