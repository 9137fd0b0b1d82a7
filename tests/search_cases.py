"""What people type into the search, and where it must lead them among the first five hits (tests/test_browser.py)."""

GLOSSARY, HELP = "book/glossary.html#term-", "book/troubleshooting.html#"

LEADS = {
    "catastrophic forgetting": f"{GLOSSARY}catastrophic-forgetting",
    "PEFT": f"{GLOSSARY}PEFT",
    "parameter-efficient": f"{GLOSSARY}PEFT",
    "adapter": f"{GLOSSARY}adapter",
    "fine-tune": f"{GLOSSARY}fine-tuning",
    "finetuning": f"{GLOSSARY}fine-tuning",
    "what is rank": f"{GLOSSARY}rank",
    "fine tuning": f"{GLOSSARY}fine-tuning",
    "quantisation": f"{GLOSSARY}quantisation",
    "quantization": f"{GLOSSARY}quantisation",
    "double quantization": f"{GLOSSARY}double-quantisation",
    "quantised": f"{GLOSSARY}quantisation",
    "optimiser": f"{GLOSSARY}optimizer",
    "activation checkpointing": f"{GLOSSARY}gradient-checkpointing",
    "gradient checkpointing": "chapters/ch08_memory.html#forget-and-compute-again",
    "hyperparameter": f"{GLOSSARY}hyperparameter",
    "QLoRA": f"{GLOSSARY}QLoRA",
    "OOM": f"{GLOSSARY}out-of-memory",
    "CUDA out of memory": f"{GLOSSARY}out-of-memory",
    "out of memory": "chapters/ch08_memory.html#where-does-the-memory-go",
    "VRAM": f"{GLOSSARY}out-of-memory",
    "soft prompt": f"{GLOSSARY}prompt-tuning",
    "cross entropy": f"{GLOSSARY}loss",
    "foundation model": f"{GLOSSARY}base-model",
    "rank-stabilized": f"{GLOSSARY}rsLoRA",
    "singular value decomposition": f"{GLOSSARY}SVD",
    "overfit": f"{GLOSSARY}overfitting",
    "trainable parameters": f"{GLOSSARY}trainable-parameter",
    "weight decay": f"{GLOSSARY}weight-decay",
    "target modules": f"{HELP}no-module-matched-target-modules",
    "which layers": "chapters/ch03_lora.html#which-layers-target-modules",
    "DoRA cost": "chapters/ch13_next.html#what-does-dora-cost",
    "merging a 4-bit model": f"{HELP}merging-into-a-4-bit-model-changed-the-answers",
    "paged optimizer": "chapters/ch09_qlora.html#when-the-optimizer-state-does-not-fit-paging",
    "load_adapter": "book/api.html#lowrank_edu.checkpoint.load_adapter",
    "lo.load_model": "book/api.html#lowrank_edu.models.load_model",
    "bf16": f"{HELP}bf16-on-a-t4",
    "dropout": f"{HELP}is-dropout-part-of-the-merged-model",
    "quantistation": f"{GLOSSARY}quantisation",  # a letter too many
}
"""{query: the section, entry or name that one of the first five hits leads to}"""

MACHINERY = ("Repository", "Open issue", "Contents", "Click to show", "Show code", "Scripts are off", "Difficulty ●")
"""Words of the page around the text: no excerpt has them."""
