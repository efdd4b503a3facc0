"""What a page answers to something that cannot be done."""

from typing import Any


class Refused(Exception):
    """One sentence for the user; `field` names the answer to change, if it is one.

    `values` replace the names in braces in the sentence; `detail` is the English text of the error behind it.
    """

    title = "Not possible"

    def __init__(self, sentence: str, status: int = 422, field: str | None = None, detail: str = "", **values: Any):
        super().__init__(sentence.format(**values) if values else sentence)
        self.sentence = sentence
        self.status = status
        self.field = field
        self.detail = detail
        self.values = values

    @property
    def data(self) -> dict:
        """For JSON; keys that begin with an underscore are for pages, which translate."""
        return {"sentence": str(self), "field": self.field, "detail": self.detail, "_sentence": self.sentence,
                "_values": self.values, "_title": self.title}  # fmt: skip


class NotHere(Refused):
    """Does not exist, or belongs to another user: the answer is the same."""

    title = "Not found"

    def __init__(self):
        super().__init__(sentence="There is no such page.", status=404)
