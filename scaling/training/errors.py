"""What can go wrong in training besides files and configurations."""


class TrainingError(Exception):
    """Training cannot go on; the message names the step and the tensor."""


class ParallelError(Exception):
    """A strategy that cannot be had here; the message says what to change."""


class Interrupted(Exception):
    """Training or sampling stopped on request, with its state saved."""
