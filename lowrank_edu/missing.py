"""What a notebook says when a cell needs torch and there is none: one sentence instead of a traceback.

Most cells of chapters 1 and 2 need numpy alone, and `import lowrank_edu` no more than that, so they run where torch
cannot be installed. A cell that does need it stops, and what it would have made is missing further down: there the
sentence says so too.
"""

import ast
import importlib.util
import sys

NEEDED = ("torch", "transformers", "safetensors", "tqdm", "matplotlib", "ipywidgets")
_WITH = {"torch": "torch transformers"}  # what is installed together
_lost: dict[str, str] = {}  # name that a stopped cell would have made -> the package that it needed


def watch() -> None:
    """In a notebook where a package of `NEEDED` is missing: say so in one sentence when a cell stops for it."""
    shell = _shell()
    if shell is not None and not all(map(installed, NEEDED)):
        shell.set_custom_exc((ModuleNotFoundError, NameError), _told)


def sentence(package: str, name: str = "") -> str:
    """What is missing, what helps, and what goes on. name: what an earlier cell would have made with the package."""
    needs = f"`{name}`, which a cell above makes with {package}, and {package}" if name else f"{package}, which"
    if sys.platform == "emscripten":
        missing = "does not run in a browser: open the chapter on your computer or on Colab for it"
    else:
        command = f"pip install {_WITH.get(package, package)}"
        missing = f"is not installed here: run `{command}`, or `make setup` in the book's folder"
    return f"This cell needs {needs} {missing}. Every cell that needs numpy alone runs without it."


def _shell():
    ipython = sys.modules.get("IPython")  # a notebook has loaded it; nothing else needs it
    return ipython.get_ipython() if ipython else None


def installed(package: str) -> bool:
    """Whether this Python could import the package."""
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:  # an import hook that refuses it
        return False


def _told(shell, kind, error, trace, tb_offset=None):
    """IPython calls this with every ModuleNotFoundError and NameError of a cell."""
    name = "" if isinstance(error, ModuleNotFoundError) else error.name
    package = _lost.get(name) if name else (error.name or "").split(".")[0]
    if package in NEEDED:
        _lost.update(dict.fromkeys(_made_by(shell.user_ns["In"][-1]), package))
        said = sentence(package, name)
        error._render_traceback_ = lambda: [said]  # what IPython prints in place of the traceback
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)


def _made_by(source):
    """Names that the code of a cell assigns, defines or imports."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:  # a magic command
        return set()
    made = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    made |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    imported = [name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for name in node.names]
    return made | {name.asname or name.name.split(".")[0] for name in imported}
