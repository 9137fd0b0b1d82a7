"""Where the book's repository is: what was written down, or what this checkout was cloned from.

Files that are committed depend on the first alone (`written`), so that they are the same on every machine. Pages also
follow the second (`found`): the environment of GitHub's workflows, or the remote called origin. Without either the
book names no repository at all, because whoever owns an address that we name can run code on a reader's machine.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = re.compile(r"https://[\w.-]+(?:/[\w.-]+){2,}")
REMOTE = re.compile(r"(?:ssh://)?git@([\w.-]+)[:/](?:\d+/)?([\w./-]+?)(?:\.git)?/?$")


@dataclass(frozen=True)
class Address:
    """A repository, https://host/owner/name, and the branch that readers get."""

    url: str
    branch: str = "main"

    @property
    def name(self) -> str:
        """owner/name."""
        return self.url.split("/", 3)[3]

    @property
    def on_github(self) -> bool:
        return self.url.startswith("https://github.com/")

    @property
    def home(self) -> str | None:
        """Where GitHub's pages of the repository lie, with a slash at the end; None for any other host."""
        owner, _, name = self.name.partition("/")
        return f"https://{owner}.github.io/{name}/" if self.on_github else None

    @property
    def archive(self) -> str:
        """The branch as a zip that pip installs, without git and without an account."""
        return f"{self.url}/archive/refs/heads/{self.branch}.zip"

    def file(self, path: str) -> str:
        return f"{self.url}/blob/{self.branch}/{path}"

    def colab(self, path: str) -> str | None:
        """Where Colab opens a notebook of the repository; it reads GitHub only."""
        place = f"{self.name}/blob/{self.branch}/{path}"
        return f"https://colab.research.google.com/github/{place}" if self.on_github else None


def written(config: Path = ROOT / "_config.yml") -> Address | None:
    """The address that `_config.yml` holds, None where it holds none.  ValueError when it cannot be used."""
    repository = yaml.safe_load(config.read_text("utf-8")).get("repository") or {}
    return checked(repository["url"], repository.get("branch", "main")) if repository.get("url") else None


def checked(url: object, branch: object = "main") -> Address:
    """An address as somebody typed it.  ValueError says what one looks like."""
    text = str(url).rstrip("/").removesuffix(".git")
    if not REPOSITORY.fullmatch(text) or ".." in text:
        raise ValueError(
            f"the repository's address is {url!r}; it has to look like https://github.com/owner/name. "
            "Correct it with `make address url=https://github.com/owner/name`."
        )
    return Address(text, str(branch))


def found(config: Path = ROOT / "_config.yml", folder: Path = ROOT, environ=os.environ) -> Address | None:
    """The address in `_config.yml`; else the repository of the running workflow; else that of the remote origin."""
    if address := written(config):
        return address
    branch = (yaml.safe_load(config.read_text("utf-8")).get("repository") or {}).get("branch", "main")
    url = remote(folder)
    if environ.get("GITHUB_REPOSITORY"):
        url = f"{environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{environ['GITHUB_REPOSITORY']}"
    return Address(url, branch) if url and REPOSITORY.fullmatch(url) and ".." not in url else None


def remote(folder: Path = ROOT) -> str | None:
    """The remote origin of a checkout as https://host/owner/name; None where it is a folder or there is none."""
    command = ["git", "-C", str(folder), "remote", "get-url", "origin"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = done.stdout.strip() if done.returncode == 0 else ""
    if ssh := REMOTE.fullmatch(said):
        said = f"https://{ssh[1]}/{ssh[2]}"
    plain = re.sub(r"^https://[^/@]*@", "https://", said).rstrip("/").removesuffix(".git")  # no name, no password
    return plain if REPOSITORY.fullmatch(plain) and ".." not in plain else None


def write(address: Address | None, config: Path = ROOT / "_config.yml") -> None:
    """Put the address into `_config.yml`, or take it out; every other line stays as it is."""
    text = config.read_text("utf-8")
    text = re.sub(r"^  url: .*\n", "", text, flags=re.M)
    if address:
        text = re.sub(r"^repository:\n", lambda line: f"{line[0]}  url: {address.url}\n", text, flags=re.M)
    config.write_text(text, "utf-8")
