"""How a job can end other than well."""


class Ended(Exception):  # noqa: N818 - an ending is not always an error: `unsupported` is a finding
    """The job ended with a known outcome.

    Attributes:
        outcome: one of the design's outcomes, such as `unsupported` or `import_failed`.
        reason: one sentence for a person.
    """

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(f"{outcome}: {reason}")
        self.outcome, self.reason = outcome, reason
