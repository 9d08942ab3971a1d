"""BadSample: bytes that are not what they should be; skipped, counted by reason, and named."""


class BadSample(ValueError):
    """A member that cannot be used.

    Args:
        reason: a short name to count by, such as `undecodable_image`.
        detail: what exactly, for a person.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail
