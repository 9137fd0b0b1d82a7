"""README.md of an adapter folder: what it is, for whoever finds the folder later."""

import json
from pathlib import Path

WRITTEN = "written by `lowrank_edu`"
_PEFT = """\
```python
from peft import PeftModel

model = PeftModel.from_pretrained(model, "this-folder")  # a model loaded anew, with PEFT in place of lowrank_edu
```
"""
_OURS = """\
PEFT does not read this format. `lowrank convert` writes the plain LoRA that the adapter equals, where there is one.
"""


def adapter_card(kind: str, config: dict, base: str | None, numbers: int) -> str:
    """The page as Markdown, with the front matter that model hubs read.

    kind     "adapter" for PEFT's format, "lowrank" for ours
    config   the settings of the folder
    base     the model that the adapter was trained on, None where it has no name
    numbers  how many numbers the folder holds
    """
    method = config.get("peft_type") or config.get("method")
    front = {"base_model": base, "library_name": "peft" if kind == "adapter" else "lowrank_edu", "tags": ["lora"]}
    head = "\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items() if value)
    shown = {k: v for k, v in config.items() if v not in (None, False, {}, [], "") and k not in ("method", "peft_type")}
    rows = "\n".join(f"| `{key}` | `{_cell(value)}` |" for key, value in sorted(shown.items()))
    how = _PEFT if kind == "adapter" else _OURS
    return f"""---
{head}
---

# An adapter for {base or "a model without a name"}

{method}, {numbers:,} numbers, {WRITTEN}. It holds what was trained and nothing of the model itself.

```python
import lowrank_edu as lo

model, tokenizer = lo.load_model({json.dumps(base or "your-model")})
lo.load_adapter(model, "this-folder")
```

{how}
| setting | value |
|---|---|
{rows}
"""


def is_ours(readme: Path) -> bool:
    """Whether a README.md was written by `adapter_card`, so that it may be written anew."""
    return WRITTEN in readme.read_text("utf-8", errors="replace")


def _cell(value) -> str:
    """A setting as text in a table: one line, and no sign that Markdown would read."""
    text = json.dumps(value, default=list, ensure_ascii=False)
    text = text.replace("`", "'").replace("|", "/").replace("\n", " ")
    return text if len(text) <= 300 else text[:299] + "…"
