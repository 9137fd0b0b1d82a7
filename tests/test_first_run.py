"""A first run speaks with our words alone: no other library's warning, and a progress bar on stderr."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).resolve().parents[1] / "README.md").read_text("utf-8")
MORE = """
ids = stories[0]["input_ids"][None]
model(input_ids=ids, attention_mask=ids.new_ones(ids.shape), labels=ids).loss.backward()
again, tok = lo.load_model("tiny-gpt2")
lo.adapt(again, lo.PrefixTuning(length=4))
lo.train(again, lo.read_data([{"prompt": "Mia", "completion": " ran."}], tok), steps=1, progress=False)
lo.sample(again, tok, ["Mia", " a red kite"], max_new_tokens=5)
"""


def said(code, folder):
    """What a fresh process says on stderr, line by line, without the bar."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = re.split(r"[\r\n]+", done.stderr)
    bars = [line for line in lines if re.match(r"training: +\d+%\|.*step/s", line)]
    return [line for line in lines if line.strip() and line not in bars], bars


def test_the_ten_lines_and_a_little_more_say_nothing_but_their_bar(tmp_path):
    code = re.search(r"```python\n(.*?)```", README, flags=re.S)[1]
    short = code.replace("steps=60", "steps=3").replace("stories(800", "stories(40")
    assert short != code
    others, bars = said(short + MORE, tmp_path)
    assert others == []
    assert any("3/3" in bar and "loss=" in bar for bar in bars)
