"""The one error that a user can cause."""


class UserError(ValueError):
    """Input that cannot be run; the message names the culprit and the cure."""
