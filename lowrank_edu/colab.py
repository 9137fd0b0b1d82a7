"""What a chapter's first cell calls once the package can be imported: is this machine ready for the chapter?

A Colab or Kaggle machine comes with several hundred packages that fit together. Moving one of them (numpy, torch,
ipywidgets) breaks the others, so there this installs only what is absent and tells pip that the rest stays. On any
other machine it installs nothing and says what is missing, and from which Python.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import warnings
from importlib import import_module, metadata
from pathlib import Path

# Colab's own: never installed, never moved, whatever their version is; and what stops where one is too old.
NEVER = {
    "torch": "from chapter 2 on, cells that train a model stop",
    "numpy": "cells of every chapter may stop",
    "ipywidgets": "the sliders for your own functions stay away",
    "ipython": "figures may stay still",
    "ipykernel": "figures may stay still",
    "matplotlib": "loss curves are not drawn",
}
EXTRAS = ("gpt2", "peft")  # what the chapters use


def needed(requirements: list[str], extras: tuple[str, ...] = EXTRAS) -> list:
    """The requirements that hold here, with these extras, as `packaging` objects."""
    Requirement = _packaging().requirements.Requirement
    found = []
    for line in requirements:
        requirement = Requirement(line)
        if requirement.name.replace("-", "_") == "lowrank_edu":
            continue
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            found.append(requirement)
    return found


def plan(requirements: list, installed: dict[str, str]) -> tuple[list[str], list[str], list[str]]:
    """What to install, what to hold still, and what is too old but not ours to move.

    `requirements` come from :func:`needed`; `installed` maps lower-case names to versions. Returns three
    lists of strings: `install`, `hold` (``name==version`` for pip's constraints) and `too_old`.
    """
    install, too_old, moving = [], [], set()
    for requirement in requirements:
        name = requirement.name.lower()
        version = installed.get(name)
        if version is not None and requirement.specifier.contains(version, prereleases=True):
            continue
        if name in NEVER:
            asked = f"{name} {version or 'is missing'} (the book asks for {requirement.specifier})"
            too_old.append(f"{asked}: {NEVER[name]}")
        else:
            install.append(f"{requirement.name}{requirement.specifier}")
            moving.add(name)
    hold = [f"{name}=={version}" for name, version in sorted(installed.items()) if name not in moving]
    return install, hold, too_old


def _packaging():
    """The package `packaging`; in a bare Python, the copy that pip carries."""
    for name in ("packaging", "pip._vendor.packaging"):
        try:
            import_module(f"{name}.requirements")
            import_module(f"{name}.version")
            return import_module(name)
        except ModuleNotFoundError:
            continue
    raise RuntimeError("this Python has neither packaging nor pip, so it cannot be asked what is installed.")


def installed_versions() -> dict[str, str]:
    """Lower-case name -> version of every installed distribution whose version pip can read."""
    InvalidVersion, Version = _packaging().version.InvalidVersion, _packaging().version.Version
    versions = {}
    for dist in metadata.distributions():
        name = dist.metadata["Name"]
        try:
            if name:
                versions.setdefault(name.lower(), str(Version(dist.version)))
        except (InvalidVersion, TypeError):
            continue  # an unreadable version can be neither compared nor held
    return versions


def complete(extras: tuple[str, ...] = EXTRAS) -> None:
    """Install what the chapters need and this machine lacks; one sentence if that fails, else silence."""
    install, hold, too_old = plan(needed(requirements(), extras), installed_versions())
    if too_old:
        print(f"This machine keeps its own {'; '.join(too_old)}. Choose a newer runtime if you can.")
    if not install:
        return
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("\n".join(hold) + "\n", "utf-8")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-input",
            "-c",
            str(constraints),
            *install,
        ]
        if subprocess.run(command, capture_output=True).returncode:
            names = ", ".join(install)
            print(f"Could not add {names} without moving what is here; the cells that need it will say so.")


def setup() -> None:
    """Get this machine ready for a chapter, or say what it lacks; silent where nothing is missing.

    On Colab and Kaggle what is missing is installed (`complete`). Elsewhere nothing is: a sentence names this kernel's
    Python, what it lacks, and the two ways out.
    """
    _spare_the_reader()
    if hosted():
        return complete()
    install, _, too_old = plan(needed(requirements()), installed_versions())
    lacks = [re.split(r"[ <>=!~]", line)[0] for line in [*too_old, *install]]
    if lacks:
        print(
            f"This notebook's kernel, {sys.executable}, is not the book's .venv: it lacks {', '.join(lacks)}, or has "
            "versions that are too old. Choose the Python of .venv as the kernel (`make setup` makes it), or install "
            'them here: python -m pip install ".[peft]" in the book\'s folder. Cells that need none of them run.'
        )


def _spare_the_reader() -> None:
    """Two messages of other libraries, addressed to each other, that a learner would take for a failure."""
    warnings.filterwarnings("ignore", message=r"`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    kernels = logging.getLogger("bitsandbytes.backends.cpu.ops")
    if not kernels.filters:  # on a CPU it looks for compiled kernels on a hub, and does without
        kernels.addFilter(lambda record: "kernels-community" not in record.getMessage())


def hosted() -> bool:
    """Whether this is a machine of Colab or Kaggle, whose packages we complete."""
    return "COLAB_RELEASE_TAG" in os.environ or "KAGGLE_KERNEL_RUN_TYPE" in os.environ


def requirements() -> list[str]:
    """What the package asks for: as it was installed, or as pyproject.toml beside it says."""
    try:
        return metadata.requires("lowrank_edu") or []
    except metadata.PackageNotFoundError:
        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    return project["dependencies"] + [f'{line}; extra == "{extra}"' for extra, lines in extras for line in lines]


def checkpoint_folder(
    name: str, drive: str | Path = "/content/drive/MyDrive", local: str | Path = "checkpoints"
) -> Path:
    """A folder for checkpoints that outlives a disconnect if Google Drive is mounted; else a local one, and says so.

    Returns `drive`/lowrank_edu/`name` when `drive` is a folder that can be written to, else `local`/`name`. The
    folder exists afterwards and what it holds is kept, so the same line serves a first run and a resumed one.
    Raises ValueError when `name` is not one plain folder name.
    """
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise ValueError(f"name={name!r}: give one plain folder name, such as 'ch07'.")
    if Path(drive).is_dir():
        folder = Path(drive, "lowrank_edu", name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            reason = "Google Drive is mounted but refuses to be written to"
    else:
        reason = "Google Drive is not mounted"
    folder = Path(local, name)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{reason}: checkpoints go to {folder} and are lost with this machine.")
    return folder
