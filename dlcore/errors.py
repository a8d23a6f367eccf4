"""The one exception that means: the caller can mend this."""


class UsageError(ValueError):
    """Bad input: a flag, file or dataset that the caller can put right.

    The message is one line that names what is wrong and what would be right. The programs in
    `experiments` print it without a traceback and exit with code 2.
    """


class TrainingError(RuntimeError):
    """A training that cannot go on: non-finite numbers, a stuck step, a lost peer.

    The message is one line that names the step and what to resume from. The programs in
    `experiments` print it without a traceback and exit with code 1.
    """


class NotFiniteError(TrainingError):
    """A training whose loss or gradient is not finite: it diverged."""
