"""The programs, thin absl apps: `python -m experiments.NAME --help` says what each one does."""
