"""What an editor and a type checker see of `lo.`: names come lazily at run time, so `__init__.pyi` says what they are.

    python tests/test_types.py        write lowrank_edu/__init__.pyi again, after a change to `_HOMES`
"""

import inspect
import re
import tomllib
from dataclasses import fields
from pathlib import Path

import jedi
import pytest

import lowrank_edu as lo

ROOT = Path(__file__).resolve().parents[1]
STUB = ROOT / "lowrank_edu/__init__.pyi"
HEAD = '''"""What `lowrank_edu` offers, for editors and type checkers; written by tests/test_types.py from `_HOMES`."""
# ruff: noqa: I001

'''


def stub():
    """The text of `__init__.pyi`."""
    lines = [f"from . import {module} as {module}" for module in sorted(set(lo._MODULES) - set(lo._HOME_OF))]
    # `exercises` is a module that can be called, which no checker understands: calling it is its function `ids`
    lines += [f"from .{home} import {name} as {name}" for name, home in lo._HOME_OF.items() if name != "exercises"]
    lines += ["from .exercises import ids as _ids", "", "__version__: str", "exercises = _ids", ""]
    return HEAD + "\n".join(lines)


def test_the_stub_says_what_the_package_says():
    assert STUB.read_text("utf-8") == stub(), "run: python tests/test_types.py"


def test_the_stub_and_the_mark_of_a_typed_package_are_in_the_wheel():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    assert {"py.typed", "*.pyi"} <= set(data["lowrank_edu"])
    assert (ROOT / "lowrank_edu/py.typed").read_bytes() == b""


def test_the_reference_begins_with_every_name():
    glance = (ROOT / "book/api.md").read_text("utf-8").split("\n## ")[1]
    told = re.findall(r"`lo\.(\w+)(?: <lowrank_edu\.(\w+)\.(\w+)>)?`", glance)
    assert {name for name, _, _ in told} == lo._HOME_OF.keys()
    assert all((home, target) == (lo._HOME_OF[name], name) for name, home, target in told if home)
    assert {name for name, home, _ in told if not home} == {"exercises", "setup"}  # not described further down


# ---- an editor -------------------------------------------
def editor(code):
    return jedi.Script(f"import lowrank_edu as lo\n{code}", project=jedi.Project(ROOT))


def kind(value):
    return "class" if inspect.isclass(value) else "module" if inspect.ismodule(value) else "function"


@pytest.mark.parametrize("name", lo.__all__)
def test_an_editor_finds_what_python_finds(name):
    value = getattr(lo, name)
    look = editor(f"lo.{name}")
    place = 2, len(name) + 3
    if name == "exercises":
        found, value = look.infer(*place), value.ids
    else:
        found = look.goto(*place, follow_imports=True)
    assert [thing.type for thing in found] == [kind(value)]
    home = value.__name__ if inspect.ismodule(value) else f"{value.__module__}.{value.__qualname__}"
    assert found[0].full_name == home


def test_completion_offers_functions_with_their_signatures():
    offered = {c.name: c for c in editor("lo.ad").complete(2, 5)}
    assert {"adapt", "adapted_layers", "adapter_names", "adapting"} <= offered.keys()
    told = offered["adapt"].get_signatures()[0]
    assert [p.name for p in told.params] == list(inspect.signature(lo.adapt).parameters)
    assert "Freeze the model" in offered["adapt"].docstring()


@pytest.mark.parametrize("name", ["LoRA", "AdaLoRA", "LaMDA"])
def test_a_method_shows_its_settings(name):
    told = editor(f"lo.{name}(").get_signatures(2, len(name) + 4)[0]
    assert [p.name for p in told.params] == [field.name for field in fields(getattr(lo, name))]


def test_a_live_notebook_completes_too():
    offered = [c.name for c in jedi.Interpreter("lo.ad", [{"lo": lo}]).complete()]
    assert {"adapt", "adapted_layers"} <= set(offered)


if __name__ == "__main__":
    STUB.write_text(stub(), "utf-8")
