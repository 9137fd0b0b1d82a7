"""Tiny models with random weights, one per architecture, and small helpers. No layer that can be oblong is square."""

import copy
import functools

import torch
import transformers

COMMON = {"vocab_size": 97, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ENCODER = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40,
           "max_position_embeddings": 32}  # fmt: skip
CONFIGS = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"n_embd": 24, "n_layer": 2, "n_head": 2, "n_inner": 40,
             "n_positions": 32}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {"hidden_size": 20, "head_dim": 8, "num_attention_heads": 2,
              "num_key_value_heads": 1, "num_hidden_layers": 2, "intermediate_size": 36,
              "max_position_embeddings": 32, "tie_word_embeddings": False}),
    "bert": ("BertForMaskedLM", "BertConfig", ENCODER),
    "bart": ("BartForConditionalGeneration", "BartConfig", {"d_model": 24, "encoder_layers": 1, "decoder_layers": 1,
             "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 40,
             "decoder_ffn_dim": 44, "max_position_embeddings": 32, "scale_embedding": True,
             "decoder_start_token_id": 2, "forced_eos_token_id": None}),
    "deberta": ("DebertaV2ForMaskedLM", "DebertaV2Config", {**ENCODER, "relative_attention": True,
                "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "position_buckets": 4,
                "max_relative_positions": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True}),
}  # fmt: skip
TARGETS = {
    "gpt2": ["c_attn", "mlp.c_fc"],
    "llama": ["q_proj", "v_proj", "down_proj"],
    "bert": ["query", "value", "intermediate.dense"],
    "bart": ["q_proj", "v_proj", "fc1"],
    "deberta": ["query_proj", "value_proj", "intermediate.dense"],
}
HEADS = {"gpt2": "lm_head", "llama": "lm_head", "bert": "cls.predictions.decoder", "bart": "lm_head"}


@functools.cache
def _built(name, changes):
    model_class, config_class, settings = CONFIGS[name]
    config = getattr(transformers, config_class)(**{**COMMON, **settings, **dict(changes)})
    torch.manual_seed(0)
    model = getattr(transformers, model_class)(config).eval()
    return shaken(model, seed=1, by=0.15, every=True)  # biases and norms too, so that nothing is 0 or 1


def tiny(name="gpt2", **changes):
    """A fresh copy of a tiny model, always with the same weights; `changes` go to its configuration."""
    return copy.deepcopy(_built(name, tuple(changes.items())))


@torch.no_grad()
def shaken(model, seed=0, by=0.1, every=False):
    """Add noise to all parameters that have gradients (or to `every` one), tied ones once."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        if every or p.requires_grad:
            p += (torch.randn(p.shape, generator=generator, dtype=torch.float32) * by).to(p.dtype)
    return model


def batch(rows=3, length=7):
    """Token ids (rows, length), none of them special."""
    return torch.randint(3, 97, (rows, length), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def logits(model, ids=None):
    return model(input_ids=batch() if ids is None else ids).logits


def gap(x, y):
    """Largest absolute difference."""
    return float((x.double() - y.double()).detach().abs().max())


def is_rounding(name):
    """Whether a parameter's gradient is nothing but rounding, which Adam makes large.

    The same vector added to every key changes no attention, so the bias of GPT-2's c_attn has such a part.
    """
    return "c_attn." in name and "bias" in name


def state(model):
    """A copy of every parameter and buffer."""
    return {key: value.clone() for key, value in model.state_dict().items()}


def same_state(model, before):
    now = model.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[key], before[key]) for key in before)
