"""Two languages: pages are written in English; chinese.py has the same sentences in Chinese."""

from .chinese import CHINESE

LANGUAGES = {"en": {}, "zh": CHINESE}


def language_of(accepted):
    """ "en" or "zh": whichever an Accept-Language header likes best; English where it likes neither."""
    wishes = []
    for part in accepted.split(","):
        tag, _, quality = part.partition(";")
        try:
            weight = float(quality.strip().removeprefix("q=")) if quality else 1.0
        except ValueError:
            weight = 0.0
        wishes.append((-weight, len(wishes), tag.strip().lower().split("-")[0]))
    return next((tag for weight, _, tag in sorted(wishes) if tag in LANGUAGES and weight < 0), "en")


def translator(language):
    """Sentence -> the same in a language; with what stands for {names} in it."""
    known = LANGUAGES[language]

    def translate(sentence, **values):
        text = known.get(sentence, sentence)
        return text.format(**values) if values else text

    return translate
