"""What a page answers to something that cannot be done."""


class Refused(Exception):
    """One sentence for the person who asked; `field` is what they should change, if it is one field.

    `values` stand for the names in braces in the sentence; `detail` is in the words of whoever refused, in English.
    """

    title = "Not possible"

    def __init__(self, sentence, status=422, field=None, detail="", **values):
        super().__init__(sentence.format(**values) if values else sentence)
        self.sentence, self.status, self.field, self.detail, self.values = sentence, status, field, detail, values

    @property
    def told(self):
        """As data; what begins with an underscore is for pages, which translate."""
        return {"sentence": str(self), "field": self.field, "detail": self.detail, "_sentence": self.sentence,
                "_values": self.values, "_title": self.title}  # fmt: skip


class NotHere(Refused):
    """What does not exist, and what is somebody else's: nobody can tell which."""

    title = "Not found"

    def __init__(self):
        super().__init__(sentence="There is no such page.", status=404)
