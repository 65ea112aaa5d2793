"""The command line: one file per subcommand, argument parsing only."""
