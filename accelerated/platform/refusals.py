"""What a page answers to something that cannot be done."""


class Refused(Exception):
    """One sentence for the person who asked; `field` is what they should change, if it is one field."""

    def __init__(self, sentence, status=422, field=None, detail=""):
        super().__init__(sentence)
        self.sentence, self.status, self.field, self.detail = sentence, status, field, detail


class NotHere(Refused):
    """What does not exist, and what is somebody else's: nobody can tell which."""

    def __init__(self):
        super().__init__("There is no such page.", status=404)
