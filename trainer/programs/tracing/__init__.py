"""From a PyTorch model to programs: capture, lowering, optimiser, compression, outer step."""
