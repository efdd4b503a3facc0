"""Readable code: rules that a formatter does not check, for both packages."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST, DEEPEST = 50, 4
LONG_FOR_A_REASON: dict = {}  # "file:function": why
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try)
FILES = sorted(
    path for side in ("isospike", "reference", "accelerated") for path in (ROOT / side).rglob("*.py")
    if "tests" not in path.parts
)  # fmt: skip


def depth(node):
    """How deep blocks nest below a node; an elif is no deeper than its if."""
    deepest = 0
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                continue
            elif_ = field == "orelse" and isinstance(node, ast.If) and isinstance(child, ast.If)
            deepest = max(deepest, depth(child) + (isinstance(child, BLOCKS) and not elif_))
    return deepest


def complaints(path):
    """(line, what) for everything in a file that is hard to read."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            if length > LONGEST and f"{path.name}:{node.name}" not in LONG_FOR_A_REASON:
                yield node.lineno, f"{node.name} has {length} lines"
            if depth(node) > DEEPEST:
                yield node.lineno, f"{node.name} nests {depth(node)} deep"
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Tuple):
            yield node.lineno, "several calls as one statement"
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.IfExp):
            yield node.lineno, "a condition as an expression"
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            texts = [part for part in (node.left, node.right) if isinstance(part, (ast.Constant, ast.JoinedStr))]
            others = [part for part in (node.left, node.right) if part not in texts]
            text = any(isinstance(part, ast.JoinedStr) or isinstance(part.value, str) for part in texts)
            if text and isinstance(
                others[0] if others else None, (ast.Compare, ast.BoolOp, ast.UnaryOp, ast.Attribute)
            ):
                yield node.lineno, "a text times a truth value"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_reads_one_statement_at_a_time(path):
    found = [f"{path.relative_to(ROOT)}:{line}: {what}" for line, what in complaints(path)]
    assert not found, "\n".join(found)


def test_the_complaints_can_be_made(tmp_path):
    """Each kind, planted once."""
    file = tmp_path / "odd.py"
    lines = [
        "def f(a, b):", "    f(a, b), f(b, a)", "    f(a, b) if a else None", "    c = 'text' * (a == b)",
        *(f"    {'    ' * i}for i{i} in a:" for i in range(5)), "                        pass",
        "def g():", *["    x = 1"] * 51,
    ]  # fmt: skip
    file.write_text("\n".join(lines))
    said = " ".join(what for _, what in complaints(file))
    for what in ("several calls", "as an expression", "a text times", "nests 5 deep", "g has 52 lines"):
        assert what in said, said
