"""Models by their shapes: a table of configurations, so that nothing is downloaded, and skeletons that hold nothing."""

import copy
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from . import models

_ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_DEBERTA = {"vocab_size": 128100, "max_position_embeddings": 512, "type_vocab_size": 0, "relative_attention": True,
            "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}  # fmt: skip
_LLAMA3 = {"vocab_size": 128256, "num_key_value_heads": 8, "max_position_embeddings": 131072}


def _gpt2(width, layers, heads, **more):
    return "GPT2LMHeadModel", {"n_embd": width, "n_layer": layers, "n_head": heads, **more}


def _llama(width, inner, layers, heads, family="Llama", **more):
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}
    return f"{family}ForCausalLM", {**sizes, "num_attention_heads": heads, **more}


def _qwen3(width, inner, layers, heads, tied):
    more = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": tied}
    return _llama(width, inner, layers, heads, "Qwen3", max_position_embeddings=40960, **more)


def _gemma3(width, inner, layers, heads, pairs, vocabulary=262144):
    more = {"num_key_value_heads": pairs, "head_dim": 256, "vocab_size": vocabulary, "tie_word_embeddings": True}
    return _llama(width, inner, layers, heads, "Gemma3", **more)


ARCHITECTURES = {
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
    # Brown et al. 2020, table 2.1, in GPT-2's classes; nothing says that it used dropout
    "gpt3-175b": _gpt2(12288, 96, 96, n_positions=2048, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0),
    "llama-7b": _llama(4096, 11008, 32, 32),
    "llama-13b": _llama(5120, 13824, 40, 40),
    "llama-30b": _llama(6656, 17920, 60, 52),
    "llama-65b": _llama(8192, 22016, 80, 64),
    "llama-3.2-1b": _llama(2048, 8192, 16, 32, **_LLAMA3, tie_word_embeddings=True),
    "llama-3.2-3b": _llama(3072, 8192, 28, 24, **_LLAMA3, tie_word_embeddings=True),
    "llama-3.1-8b": _llama(4096, 14336, 32, 32, **_LLAMA3),
    "llama-3.3-70b": _llama(8192, 28672, 80, 64, **_LLAMA3),
    "smollm2-135m": _llama(576, 1536, 30, 9, num_key_value_heads=3, vocab_size=49152, tie_word_embeddings=True),
    "mistral-7b": _llama(4096, 14336, 32, 32, "Mistral", num_key_value_heads=8, vocab_size=32768),  # v0.3
    "qwen3-0.6b": _qwen3(1024, 3072, 28, 16, tied=True),
    "qwen3-1.7b": _qwen3(2048, 6144, 28, 16, tied=True),
    "qwen3-4b": _qwen3(2560, 9728, 36, 32, tied=True),
    "qwen3-8b": _qwen3(4096, 12288, 36, 32, tied=False),
    "gemma-3-1b": _gemma3(1152, 6912, 26, 4, 1),
    "gemma-3-4b": _gemma3(2560, 10240, 34, 8, 4, 262208),  # its text model, without the one that sees
    "bert-base": ("BertForSequenceClassification", {}),
    "bert-large": ("BertForSequenceClassification", _LARGE),
    "roberta-base": ("RobertaForSequenceClassification", _ROBERTA),
    "roberta-large": ("RobertaForSequenceClassification", {**_ROBERTA, **_LARGE}),
    "deberta-v3-base": ("DebertaV2ForSequenceClassification", {
        **_DEBERTA, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "pooler_hidden_size": 768}),
    "deberta-v2-xxl": ("DebertaV2ForSequenceClassification", {
        **_DEBERTA, "hidden_size": 1536, "num_hidden_layers": 48, "num_attention_heads": 24,
        "intermediate_size": 6144, "pooler_hidden_size": 1536, "conv_kernel_size": 3, "conv_act": "gelu"}),
    "bart-large": ("BartForConditionalGeneration", {
        "vocab_size": 50265, "d_model": 1024, "encoder_layers": 12, "decoder_layers": 12, "encoder_ffn_dim": 4096,
        "decoder_ffn_dim": 4096, "encoder_attention_heads": 16, "decoder_attention_heads": 16}),
}  # fmt: skip
"""{name: (transformers class, what its configuration sets apart from that class's defaults)}, from the papers' tables
and the published config files. Encoders carry a classification head for two labels."""


def configuration(name, head=None, **changes):
    """The transformers configuration of a model; `head` is another class name, `changes` other settings.

    name  one of `ARCHITECTURES`, tiny-gpt2, a folder with a config.json, or owner/name on the Hugging Face hub, from
          which the configuration alone is fetched, and no code

    Raises ValueError, listing the names, when there is no such model, and RuntimeError when the hub does not deliver.
    """
    import transformers

    folder = models.TINY if name == "tiny-gpt2" else Path(name)
    if name not in ARCHITECTURES and ((folder / "config.json").is_file() or models.HUB_ID.fullmatch(name)):
        return _read(folder, name, head, changes)
    if name not in ARCHITECTURES:
        raise ValueError(
            f"no shapes are written down for a model {name!r}; there are tiny-gpt2, {', '.join(ARCHITECTURES)}. "
            "A folder with a config.json, owner/name on the hub, a transformers configuration or a model works too."
        )
    model_class, settings = ARCHITECTURES[name]
    model_class = head or model_class
    made = getattr(transformers, model_class).config_class(**{**settings, **changes})
    made.architectures = [model_class]
    return made


def _read(folder, name, head, changes):
    """A configuration from a folder, or from the hub or its cache."""
    from transformers import AutoConfig

    local = (folder / "config.json").is_file()
    offline = local or not models.hub_answers()
    try:
        made = AutoConfig.from_pretrained(
            folder if local else name, local_files_only=offline, trust_remote_code=False, **changes
        )
    except (OSError, ValueError) as error:
        reason = f"{folder}: {error}" if local else f"the configuration of {name} cannot be fetched, and is not cached"
        known = ", ".join(ARCHITECTURES)
        raise RuntimeError(f"{reason}. Name a folder with a config.json, or one of {known}.") from None
    if head:
        made.architectures = [head]
    return made


def skeleton(model, dtype=None):
    """A model of the same shapes and dtypes whose tensors hold nothing (torch's meta device).

    model   a name, a transformers configuration, or a model, which is only read
    dtype   another one for its weights
    """
    if isinstance(model, nn.Module):
        tensors = [*model.parameters(), *model.buffers()]
        made = copy.deepcopy(model, {id(t): twin(t, torch.empty_like(t, device="meta")) for t in tensors})
        return made if dtype is None else made.to(dtype)
    import transformers

    config = configuration(model) if isinstance(model, str) else copy.deepcopy(model)  # making a model writes into it
    if not isinstance(config, transformers.PretrainedConfig):
        raise ValueError(f"a model is a name, a transformers configuration or a module, not a {type(model).__name__}.")
    with torch.device("meta"):
        return _model_class(config)._from_config(config, dtype=dtype or getattr(config, "dtype", None) or torch.float32)


def twin(tensor, made):
    """`made` as a Parameter, trained or not, if `tensor` is one."""
    return nn.Parameter(made, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def _model_class(config):
    """What the configuration's `architectures` names, or the usual class for its kind of model."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    if config.architectures:
        return getattr(transformers, config.architectures[0])
    if config.is_encoder_decoder:
        table = auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    elif type(config) in auto.MODEL_FOR_MASKED_LM_MAPPING:  # an encoder
        table = auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    else:
        table = auto.MODEL_FOR_CAUSAL_LM_MAPPING
    return table[type(config)]


class Split(nn.Module):
    """GPT-2's fused attention layer as three: the same numbers, with q, k and v under names of their own."""

    def __init__(self, fused):
        super().__init__()
        for name in ("q", "k", "v"):
            setattr(self, name, type(fused)(fused.nf // 3, fused.nx).to(fused.weight.dtype))

    def forward(self, x):
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)  # (…, d) -> (…, 3 d)


def unfuse(model):
    """Give a skeleton of GPT-2 q, k and v as layers of their own."""
    fused = [m for m in model.modules() if type(getattr(m, "c_attn", None)).__name__ == "Conv1D"]
    with torch.device("meta"):
        for attention in fused:
            attention.c_attn = Split(attention.c_attn)


@contextmanager
def without_content(model):
    """Inside, new tensors and the skeleton's own have a CPU's choice of kernels, but no content.

    Raises ValueError when something asks for content.
    """
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    with FakeTensorMode():
        memo = {}
        for module in model.modules():
            for table in (module._parameters, module._buffers):
                for key, t in table.items():
                    if t is not None and id(t) not in memo:
                        made = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cpu")
                        memo[id(t)] = t, twin(t, made)  # t stays alive, so that its id is not used again
                    table[key] = None if t is None else memo[id(t)][1]
        try:
            yield
        except DataDependentOutputException as error:
            raise ValueError(
                f"the forward pass of this {type(model).__name__} looks at values ({error}), and a plan has only "
                "shapes. Plan another precision, or measure a step with ledger."
            ) from None
