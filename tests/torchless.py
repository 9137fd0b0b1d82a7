"""A Python without torch, for tests: `python tests/torchless.py CHAPTER` runs its cells and says how they ended.

One line of JSON per cell: its source, whether it ran to its end, and what IPython displayed or said instead. With
no chapter every exercise is checked with its own reference: one line each with the id and whether it passed.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

ABSENT = {"torch", "transformers", "tokenizers", "safetensors", "accelerate", "peft", "tqdm", "ipywidgets"}
ABSENT |= {"matplotlib"}  # the numpy part of the book draws with SVG


class Refuses:
    """A finder that knows what is not installed here, asked before all others."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def run_cells(chapter):
    """Run each code cell as a notebook does, the later ones too after one has stopped."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance(colors="NoColor")
    for cell in json.loads(Path(chapter).read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            source, said = "".join(cell["source"]), io.StringIO()
            with contextlib.redirect_stdout(said):
                ran = shell.run_cell(source, store_history=True)
            yield {"source": source, "ran": ran.success, "said": said.getvalue()}


def check_all():
    import lowrank_edu as lo

    for name in lo.exercises():
        yield {"id": name, "passed": lo.check(name, lo.exercises.get(name).reference).passed}


if __name__ == "__main__":
    sys.meta_path.insert(0, Refuses())
    found = list(run_cells(sys.argv[1]) if len(sys.argv) > 1 else check_all())
    assert not ABSENT & {name.split(".")[0] for name in sys.modules}
    for line in found:
        print(json.dumps(line))
