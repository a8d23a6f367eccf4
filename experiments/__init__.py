"""The programs: train, evaluate, predict, reproduce, prepare, benchmark; thin absl apps."""
