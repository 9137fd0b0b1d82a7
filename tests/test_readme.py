"""The README's Python runs as printed, and does what its comments say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lowrank_edu import corpus

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_ten_lines_run_and_make_a_pirate(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", README, flags=re.S)[1]
    assert 8 <= len([line for line in code.splitlines() if line.strip()]) <= 12
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out.strip()
    plain, pirate = said.splitlines()[-1], said.splitlines()[-2]
    assert corpus.style_score(pirate, "pirate") > 0.5 > corpus.style_score(plain, "pirate")
    assert {path.name for path in (tmp_path / "pirate-adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_the_commands_run_as_printed_and_answer_as_the_page_says(tmp_path):
    """The bash block as it stands, but for where `lowrank` is."""
    block = re.search(r"```bash\n(cat > my\.jsonl.*?)```", README, flags=re.S)[1]
    here = f"lowrank() {{ {sys.executable} -m lowrank_edu.cli \"$@\"; }}"
    script = block.replace("alias lowrank=.venv/bin/lowrank", here)
    assert here in script
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    base, adapted = re.findall(r'answers "(.*?)" and with it "(.*?)"', README)[0]
    answers = dict(re.findall(r"^\[(.*?)\] When does the ferry leave\?\s*(.*)$", done.stdout, flags=re.M))
    assert answers["my-adapter"] == adapted and answers["base"].startswith(base[:10]) and answers["base"] != adapted


def test_every_make_target_it_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.M))
    pages = [README, *(path.read_text("utf-8") for path in (ROOT / "book").glob("*.md"))]
    named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]+)", "\n".join(pages), flags=re.M))
    assert {"book", "serve", "test", "address", "zip"} <= named <= targets


def test_every_file_it_names_exists():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_citation_file_is_complete():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(cff)
    import lowrank_edu

    assert cff["version"] == lowrank_edu.__version__
    assert f'version = "{lowrank_edu.__version__}"' in (ROOT / "pyproject.toml").read_text("utf-8")


def test_the_size_of_the_environment_is_the_one_that_make_makes():
    """Within a tenth, in the README and in `make help`: the number on the page is measured, not remembered."""
    environment = ROOT / ".venv"
    assert environment.is_dir(), "this is measured in the environment that `make setup` makes"
    size = sum(file.lstat().st_blocks * 512 for file in environment.rglob("*")) / 1e9
    told = float(re.search(r"the environment, once \| [\w ]+ \| ([\d.]+) GB", README)[1])
    assert told == pytest.approx(size, rel=0.1)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert set(re.findall(r"([\d.]+) GB", makefile)) == {f"{told}"}
