"""The programs: train, evaluate, predict, reproduce, prepare, benchmark. Each is a thin absl app."""
