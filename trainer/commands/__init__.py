"""What people call: one module per command of the command line."""
