"""Tiny ColBERT checkpoints with random weights, one for each encoder family: `PYTHON tiny_checkpoints.py OUT FAMILY …`.

`make` runs in an environment under test, with nothing downloaded: the tokenizers are made from a few lines of text. The
tests themselves, which have no torch, read `FAMILIES`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

DIM = 16
TEXTS = [f"The office for topic {n} decides on claim {n * 7}, and you must apply before the date." for n in range(60)]
BERT_TOKENS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
               "mask_token": "[MASK]"}  # fmt: skip
ROBERTA_TOKENS = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>",
                  "mask_token": "<mask>", "bos_token": "<s>", "eos_token": "</s>"}  # fmt: skip
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
FAMILIES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "bert": ("Bert", "Bert", "wordpiece", SIZES),
    "distilbert": ("DistilBert", "DistilBert", "wordpiece", {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}),
    "electra": ("Electra", "Electra", "wordpiece", {**SIZES, "embedding_size": 16}),
    "roberta": ("Roberta", "Roberta", "bytes", {**SIZES, "pad_token_id": 1}),
    "xlm-roberta": ("XLMRoberta", "XLMRoberta", "unigram", {**SIZES, "pad_token_id": 1}),
    "camembert": ("Camembert", "Camembert", "unigram", {**SIZES, "pad_token_id": 1}),
    "deberta": ("Deberta", "Deberta", "bytes", {**SIZES, **RELATIVE, "pad_token_id": 1}),
    "deberta-v2": ("DebertaV2", "DebertaV2", "unigram",
                   {**SIZES, **RELATIVE, "pad_token_id": 1, "conv_kernel_size": 3}),
    "albert": ("Albert", "Albert", "unigram", {**SIZES, "embedding_size": 16, "pad_token_id": 1}),
    "mpnet": ("MPNet", "MPNet", "wordpiece", SIZES),
    "xmod": ("Xmod", "XLMRoberta", "unigram",
             {**SIZES, "pad_token_id": 1, "languages": ["en_XX"], "default_language": "en_XX"}),
}  # fmt: skip
"""Value of `model_type` to the names of the classes of model and tokenizer, the kind of vocabulary, and sizes."""


def vocabulary(kind: str) -> tuple[Any, dict[str, str]]:
    """A tokenizer trained on `TEXTS`, and its special tokens."""
    from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer, SentencePieceUnigramTokenizer

    if kind == "wordpiece":
        letters = "abcdefghijklmnopqrstuvwxyz0123456789.,"
        words = [*BERT_TOKENS.values(), *letters, *(f"##{letter}" for letter in letters), "the", "claim"]
        return BertWordPieceTokenizer({word: i for i, word in enumerate(words)}), BERT_TOKENS
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if kind == "bytes":
        made: Any = ByteLevelBPETokenizer()
        made.train_from_iterator(TEXTS, vocab_size=320, special_tokens=special)
    else:
        made = SentencePieceUnigramTokenizer()
        made.train_from_iterator(TEXTS, vocab_size=80, special_tokens=special, unk_token="<unk>")
    return made, ROBERTA_TOKENS


def make(family: str, folder: Path) -> None:
    """Write the checkpoint of one family as colbert-ai would save it."""
    import torch
    import transformers
    from safetensors.torch import save_file
    from tokenizers import Tokenizer

    model_name, tokenizer_name, kind, sizes = FAMILIES[family]
    made, special = vocabulary(kind)
    tokenizer = getattr(transformers, f"{tokenizer_name}TokenizerFast")(
        tokenizer_object=Tokenizer.from_str(made.to_str()), **special, model_max_length=512
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = getattr(transformers, f"{model_name}Config")(vocab_size=len(tokenizer), **sizes)
    model = getattr(transformers, f"{model_name}Model")(config)
    config.architectures = ["HF_ColBERT"]
    config.save_pretrained(folder)
    state = {f"{model.base_model_prefix}.{name}": t.clone() for name, t in model.state_dict().items()}
    state["linear.weight"] = torch.randn(DIM, 32)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    settings = {
        "dim": DIM, "doc_maxlen": 64, "query_maxlen": 32, "mask_punctuation": True, "similarity": "cosine",
        "query_token_id": special["unk_token"], "doc_token_id": special["mask_token"],
    }  # fmt: skip
    (folder / "artifact.metadata").write_text(json.dumps(settings))


if __name__ == "__main__":
    for name in sys.argv[2:] or FAMILIES:
        make(name, Path(sys.argv[1]) / name)
