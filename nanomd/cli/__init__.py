"""The command line: one file per subcommand, which parses arguments and does nothing else."""
