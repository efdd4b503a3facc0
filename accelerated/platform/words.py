"""Two languages: pages are written in English; chinese.py has the same sentences in Chinese."""

from collections.abc import Callable

from .chinese import CHINESE

LANGUAGES: dict = {"en": {}, "zh": CHINESE}


def language_of(accepted: str) -> str:
    """ "en" or "zh", whichever an Accept-Language header prefers; "en" if it names neither."""
    preferences: list = []
    for part in accepted.split(","):
        tag, _, quality = part.partition(";")
        try:
            weight = float(quality.strip().removeprefix("q=")) if quality else 1.0
        except ValueError:
            weight = 0.0
        preferences.append((-weight, len(preferences), tag.strip().lower().split("-")[0]))
    return next((tag for weight, _, tag in sorted(preferences) if tag in LANGUAGES and weight < 0), "en")


def chosen(cookie: str, accepted: str) -> str:
    """The language that was chosen on a page, or else the browser's."""
    return cookie if cookie in LANGUAGES else language_of(accepted)


def translator(language: str) -> Callable[..., str]:
    """A function that translates a sentence and fills in its {names}."""
    known = LANGUAGES[language]

    def translate(sentence: str, **values: object) -> str:
        text = known.get(sentence, sentence)
        return text.format(**values) if values else text

    return translate
