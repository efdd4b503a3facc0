"""The platform's sentences in Chinese, by the English ones."""

CHINESE: dict = {}
