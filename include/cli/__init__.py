"""The command line for operators: one module per group of commands, each with ``add_commands``."""
