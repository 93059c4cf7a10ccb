"""Errors that a user can cause. Each names the place, the cause and a fix; anything else is a bug of ours."""


class UserError(Exception):
    """A mistake in what the user gave: `place` (a YAML or file path), `cause`, and a `fix` to try."""

    def __init__(self, place: str, cause: str, fix: str = ""):
        self.place, self.cause, self.fix = place, cause, fix
        super().__init__(f"{place}: {cause}." + (f" {fix}" if fix else ""))

    def __reduce__(self) -> tuple:
        """How it goes from one process to another."""
        return type(self), (self.place, self.cause, self.fix)


class GraphError(UserError):
    """A graph in YAML (or a dict) that has no meaning, e.g. an unknown name or a loop without delay."""


class ConfigError(UserError):
    """A run that cannot start: a wrong option, missing data, a checkpoint of another model."""


class DataError(UserError):
    """Data that cannot be read or does not fit its labels; names the file."""


class GraphWarning(UserWarning):
    """A graph that means something, though perhaps not what was meant, e.g. an input that nobody reads."""


class TrainingError(UserError):
    """A run that cannot go on: a loss that is not finite, a disk that is full. What was saved is named."""
