"""What a chapter's first cell calls on Colab after `pip install --no-deps` of this package.

A Colab machine comes with several hundred packages that fit together. Moving one of them (numpy, torch,
ipywidgets) breaks the others, so this installs only what is absent and tells pip that the rest stays.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

# Colab's own: never installed, never moved, whatever their version is.
NEVER = {"torch", "numpy", "ipywidgets", "ipython", "ipykernel", "matplotlib"}
EXTRAS = ("gpt2", "peft")  # what the chapters use


def needed(requirements: list[str], extras: tuple[str, ...] = EXTRAS) -> list:
    """The requirements that hold here, with these extras, as `packaging` objects."""
    from packaging.requirements import Requirement

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
            too_old.append(f"{name} {version or 'missing'} (the book asks for {requirement.specifier})")
        else:
            install.append(f"{requirement.name}{requirement.specifier}")
            moving.add(name)
    hold = [f"{name}=={version}" for name, version in sorted(installed.items()) if name not in moving]
    return install, hold, too_old


def installed_versions() -> dict[str, str]:
    """Lower-case name -> version of every installed distribution whose version pip can read."""
    from packaging.version import InvalidVersion, Version

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
    install, hold, too_old = plan(
        needed(metadata.requires("lowrank_edu") or [], extras), installed_versions()
    )
    if too_old:
        print(f"This machine keeps its own {', '.join(too_old)}: if a cell fails, choose a newer runtime.")
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
