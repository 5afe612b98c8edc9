"""The one kind of error that whoever runs a command can mend."""


class UserError(Exception):
    """A mistake in what was given: the message names the file or key, the value and the remedy. Exit code 2.

    Every package derives its own from it. It stands here, in the package that imports none of the others.
    """
