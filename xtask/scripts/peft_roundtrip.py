"""The Python half of `cargo xtask peft-roundtrip`: PEFT writes adapters for this library to read, and reads what it wrote.

    peft_roundtrip.py make DIR    small random models, adapters on each, and the logits they give
    peft_roundtrip.py check DIR   loads every adapter under DIR/MODEL/ours and compares its logits with those beside it

Logits of padding mean nothing and are set to zero.

Needs torch, transformers, peft and safetensors.
"""

import json
import sys
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

GPT2 = ["c_attn", "c_proj", "c_fc"]
GATED = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BERT = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
DISTILBERT = ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"]
DEBERTA = ["query_proj", "key_proj", "value_proj", *BERT[3:], "pooler.dense"]
TARGETS = {
    "roberta": {"qv": ["query", "value"], "all": BERT},
    "xlm_roberta": {"qv": ["query", "value"], "all": BERT},
    "electra": {"qv": ["query", "value"], "all": ["embeddings_project", *BERT]},
    "distilbert": {"qv": ["q_lin", "v_lin"], "all": DISTILBERT},
    "deberta_v3": {"qv": ["query_proj", "value_proj"], "all": DEBERTA},
    "modernbert": {"qv": ["Wqkv"], "all": ["Wqkv", "attn.Wo", "Wi", "mlp.Wo", "head.dense"]},
    "gpt2": {"qv": ["c_attn"], "all": GPT2},
    **{family: {"qv": ["q_proj", "v_proj"], "all": GATED} for family in (
        "llama", "mistral", "gemma", "gemma2", "gemma3", "qwen2", "qwen3", "olmo2", "granite", "smollm3",
    )},
    "phi3": {"qkv": ["qkv_proj"], "all": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]},
}
SIZES = dict(
    vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    intermediate_size=96, max_position_embeddings=40, initializer_range=0.2,
)
ENCODER = dict(
    vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, max_position_embeddings=40,
    num_labels=3, initializer_range=0.2,
)
CONFIGS = {
    "xlm_roberta": lambda: transformers.XLMRobertaConfig(**ENCODER, type_vocab_size=1),
    "electra": lambda: transformers.ElectraConfig(**ENCODER, embedding_size=32),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=100, dim=64, n_layers=2, n_heads=4, hidden_dim=96, max_position_embeddings=40, num_labels=3, initializer_range=0.2,
    ),
    "deberta_v3": lambda: transformers.DebertaV2Config(
        **ENCODER, relative_attention=True, position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True,
        pos_att_type="p2c|c2p", position_biased_input=False,
    ),
    "modernbert": lambda: transformers.ModernBertConfig(
        **{**ENCODER, "num_hidden_layers": 3}, pad_token_id=1, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3,
        local_attention=6, classifier_pooling="mean",
    ),
    "roberta": lambda: transformers.RobertaConfig(
        vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=40, type_vocab_size=1, num_labels=3, initializer_range=0.2,
    ),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=100, n_embd=64, n_layer=2, n_head=4, n_positions=40, initializer_range=0.2, bos_token_id=0, eos_token_id=0,
    ),
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=4),
    "gemma": lambda: transformers.GemmaConfig(**SIZES),
    "gemma2": lambda: transformers.Gemma2Config(
        **SIZES, sliding_window=4, query_pre_attn_scalar=24, attn_logit_softcapping=2.0, final_logit_softcapping=8.0,
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **SIZES, sliding_window=4, layer_types=["sliding_attention", "full_attention"], query_pre_attn_scalar=24,
    ),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES),
    "olmo2": lambda: transformers.Olmo2Config(**SIZES, eos_token_id=2),
    "granite": lambda: transformers.GraniteConfig(
        **SIZES, embedding_multiplier=2.0, residual_multiplier=0.6, attention_multiplier=0.3, logits_scaling=2.0,
    ),
    "smollm3": lambda: transformers.SmolLM3Config(
        **SIZES, pad_token_id=0, bos_token_id=2, eos_token_id=3, no_rope_layers=[1, 0],
    ),
    # The longest text of the batch has 12 tokens.
    "phi3": lambda: transformers.Phi3Config(
        **SIZES, pad_token_id=0, bos_token_id=2, eos_token_id=3, original_max_position_embeddings=10,
        rope_scaling={"type": "longrope", "short_factor": [1 + i / 8 for i in range(8)], "long_factor": [1.0 + i for i in range(8)]},
    ),
}


ENCODERS = ["roberta", "xlm_roberta", "electra", "distilbert", "deberta_v3", "modernbert"]


def kind(family):
    if family in ENCODERS:
        return transformers.AutoModelForSequenceClassification, "SEQ_CLS"
    return transformers.AutoModelForCausalLM, "CAUSAL_LM"


def base_model(directory):
    model, _ = kind(directory.name)
    return model.from_pretrained(directory / "base").eval()


def configurations(family):
    _, task = kind(family)
    for targets, modules in TARGETS[family].items():
        for topk, bank in [(1, 20), (2, 90), (3, 300)]:
            yield f"vblora-{targets}-k{topk}-h{bank}", peft.VBLoRAConfig(
                task_type=task, r=4, num_vectors=bank, vector_length=16, topk=topk, target_modules=modules,
                init_vector_bank_bound=0.5, init_logits_std=1.0, save_only_topk_weights=False,
            )
        for name, stabilised in [("lora", False), ("rslora", True)]:
            yield f"{name}-{targets}", peft.LoraConfig(
                task_type=task, r=3, lora_alpha=8, target_modules=modules, use_rslora=stabilised,
            )
        yield f"vera-{targets}", peft.VeraConfig(task_type=task, r=5, target_modules=modules, projection_prng_key=3)


def logits(model, directory):
    inputs = load_file(directory / "inputs.safetensors")
    with torch.no_grad():
        found = model(**inputs).logits
    if found.ndim == 3:
        found = found * inputs["attention_mask"][:, :, None]
    return found.contiguous()


def make(directory):
    for family in CONFIGS:
        torch.manual_seed(7)
        make_family(directory / family)


def make_family(directory):
    model, _ = kind(directory.name)
    model.from_config(CONFIGS[directory.name]()).save_pretrained(directory / "base")
    lengths = [12, 7, 3]
    mask = torch.tensor([[int(i < n) for i in range(12)] for n in lengths])
    ids = torch.randint(5, 100, (3, 12)) * mask + (1 - mask)
    save_file({"input_ids": ids, "attention_mask": mask}, directory / "inputs.safetensors")
    for name, settings in configurations(directory.name):
        model = peft.get_peft_model(base_model(directory), settings).eval()
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "lora_B" in parameter_name or "vera_lambda" in parameter_name:
                    parameter.normal_(0, 0.3)
        forms = [("full", False), ("topk", True)] if name.startswith("vblora") else [("full", None)]
        for form, topk_only in forms:
            if topk_only is not None:
                model.peft_config["default"].save_only_topk_weights = topk_only
            target = directory / "theirs" / f"{name}-{form}"
            model.save_pretrained(target)
            save_file({"logits": logits(model, directory)}, target / "logits.safetensors")


def check(directory):
    rows = []
    for adapter in sorted(directory.glob("*/ours/*")):
        family = adapter.parent.parent
        model = peft.PeftModel.from_pretrained(base_model(family), adapter).eval()
        expected = load_file(adapter / "logits.safetensors")["logits"]
        difference = (logits(model, family) - expected).abs().max().item()
        rows.append({"adapter": f"{family.name} {adapter.name}", "difference": difference})
    versions = {"peft": peft.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    (directory / "report.json").write_text(json.dumps({"versions": versions, "rows": rows}))


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    {"make": make, "check": check}[sys.argv[1]](Path(sys.argv[2]))
