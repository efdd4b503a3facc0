"""`--help` of the main job: every option in its group, those that a newcomer needs first."""

import ast
import inspect
import textwrap
from dataclasses import fields

from rich.table import Table

from .config import GROUPS, Config


def explained():
    """{field: what it is}, as written under each field of `Config`."""
    found, name = {}, ""
    for line in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(Config)))):
        if not isinstance(line, ast.ClassDef):
            continue
        for part in line.body:
            if isinstance(part, ast.AnnAssign):
                name = ast.unparse(part.target)
            elif name and isinstance(part, ast.Expr):
                found[name] = " ".join(ast.literal_eval(part.value).split())
    return found


def _default(value):
    """A default as it is typed."""
    if isinstance(value, bool):
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def tables():
    """(title, table) of each group."""
    texts, defaults = explained(), {field.name: field.default for field in fields(Config)}
    for group, names in GROUPS.items():
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        table.add_column(no_wrap=True, style="bold")
        table.add_column(overflow="fold")
        for name in names:
            flag = "--" + name.replace("_", "-")
            if defaults[name] is True:
                flag = "--no-" + name.replace("_", "-")
            shown = _default(defaults[name])
            table.add_row(flag, texts[name] + (f" [dim]({shown})[/dim]" if shown else ""))
        yield group, table


def show(out, usage, description):
    """Print the whole help."""
    out.print(f"usage: {usage} [--OPTION VALUE ...]\n\n{description}", highlight=False, markup=False)
    for group, table in tables():
        out.print(f"\n[bold underline]{group}[/bold underline]")
        out.print(table)
    out.print(
        "\nIn brackets: what is taken where an option is not given. -h, --help: this text; --version.", markup=False
    )
