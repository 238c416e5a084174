"""The command `ntkcl`: configurations in, runs and reports out."""
