"""Every sentence that a page can show is translated to Chinese, and no other."""

import ast
import re
from pathlib import Path

import jinja2
import pytest

from accelerated.platform import fields, networks, outcomes, records, shown, taking
from accelerated.platform.chinese import CHINESE
from accelerated.platform.refusals import NotHere, Refused
from accelerated.platform.web import templates
from accelerated.platform.words import language_of, translator
from accelerated.schedules import SCHEDULES

HERE = Path(__file__).parents[1]
LISTED = {"ANN pre-training", "QANN training", "Test", "Records", "Compare"}  # in loops of templates
CELLS = {"unsettled", "all bits", "no", "vacuous"}  # of report.cells


def in_templates():
    """Sentences that templates translate."""
    for path in (HERE / "templates").glob("*.html"):
        calls = templates.parse(path.read_text()).find_all(jinja2.nodes.Call)
        for call in (call for call in calls if getattr(call.node, "name", None) == "_"):
            for node in [call.args[0], *call.args[0].find_all(jinja2.nodes.Const)]:
                if isinstance(node, jinja2.nodes.Const) and isinstance(node.value, str):
                    yield node.value


def in_code():
    """Sentences of refusals, of confirmations, of messages that a record keeps, and of plots."""
    for path in HERE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            for value in _translated(node):
                yield from _texts(value)


def _translated(node):
    """The parts of a syntax node whose texts are translated."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Refused", "words"):
        return node.args[:1]
    if isinstance(node, ast.keyword) and node.arg in ("message", "done", "sentence"):
        return [node.value]
    if isinstance(node, ast.Dict):
        items = zip(node.keys, node.values, strict=True)
        return [value for key, value in items if getattr(key, "value", "") in ("message", "sentence")]
    if isinstance(node, ast.Assign) and getattr(node.targets[0], "attr", "") == "message":
        return [node.value]
    return []


def _texts(node):
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
        yield node.value
    if isinstance(node, ast.IfExp):
        yield from [*_texts(node.body), *_texts(node.orelse)]


def in_tables():
    """Sentences of fields, kinds and states."""
    from accelerated.platform import accounts, asking

    for field in {*fields.ANN, *fields.UPLOAD, *fields.QANN, *fields.TEST}:
        yield from filter(None, (field.label, field.help, field.cost))
        for _, label, group in field.choices:
            yield from filter(None, (label, group))
    yield from (
        *records.KINDS.values(),
        *records.STATES,
        *shown.STAGES.values(),
        *asking.WANTED.values(),
        accounts.WRONG,
        Refused.title,
        NotHere.title,
    )
    yield from (outcomes.FULL, outcomes.MEMORY, outcomes.LOST, outcomes.LATE, *SCHEDULES, *LISTED, *CELLS)
    yield from (label for label, _ in taking.KINDS.values())
    yield from (*networks.MODELS.values(), *(data.label for data in networks.DATA.values()))


def sentences():
    return {*in_templates(), *in_code(), *in_tables()}


NAMES = {
    "Fashion-MNIST",
    "AdamW",
    "Tiny-ImageNet",
    "Swin",
    "Swin-T",
    "ResNet",
    "ViT-Ti",
    "relu",
    "ONNX",
    *(f"ResNet-{n}" for n in (18, 20, 34, 50, 101)),
}


def same_in_both(sentence):
    """Names and formulas that need no translation."""
    return not re.search(r"[a-z]{2}", sentence) or sentence in NAMES


def test_the_collection_sees_all_kinds_of_places():
    found = sentences()
    assert {"Log in", "This name is taken.", outcomes.FULL, "queued", "Best Acc"} <= found
    assert len(found) > 150


def test_every_sentence_is_there_in_chinese():
    assert sorted(s for s in sentences() if s not in CHINESE and not same_in_both(s)) == []


def test_no_translation_is_unused():
    assert sorted(set(CHINESE) - sentences()) == []


def test_the_names_of_values_are_the_same_in_both_languages():
    for english, chinese in CHINESE.items():
        assert sorted(re.findall(r"\{\w+\}", english)) == sorted(re.findall(r"\{\w+\}", chinese)), english


@pytest.mark.parametrize(("header", "language"), [
    ("", "en"), ("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("de-DE,de;q=0.9", "en"), ("en;q=0.5,zh;q=0.7", "zh"),
    ("fr,zh-TW;q=0.3", "zh"), ("zh;q=0,en", "en"), ("zh;q=odd", "en"), (",,;;", "en"),
])  # fmt: skip
def test_the_browser_chooses_the_language(header, language):
    assert language_of(header) == language


def test_pages_come_in_chinese(inside, ada):
    chinese = {"accept": "text/html", "accept-language": "zh-CN"}
    for path in ("/", "/ann/new", "/qann/new", "/test/new", "/records/ann", "/account", "/compare", "/record/9"):
        text = ada.get(path, headers=chinese).text
        assert '<html lang="zh-CN">' in text
        visible = re.sub(r"<(script|style|code|option|pre).*?</\1>|<[^>]+>", " ", text, flags=re.S)
        words = set(re.findall(r"[A-Za-z]{4,}", visible))
        known = {"isospike", "QANN", "ReLU", "Tiny", "ImageNet", "MNIST", "safetensors", "torch", "save", "file",
                 "AdamW", "Softplus", "QCFS", "Swin", "ResNet", "network", "state", "dict", "FILE", "prefix", "Prefix",
                 "python", "testclient", "Transformer", "English"}  # fmt: skip
        assert words <= known, (path, words - known)
    assert translator("zh")("queued") != "queued"
