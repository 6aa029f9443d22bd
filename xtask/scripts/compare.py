"""The reference side of `cargo xtask compare`: works as JSON lines on standard input, milliseconds on standard output.

Arguments: cpu or cuda, the number of threads, and whether a GPU may multiply f32 in TF32 (tf32 or f32).
"""

import contextlib
import gc
import importlib.metadata
import json
import platform
import sys
import time
import traceback

import peft
import torch
import transformers
from peft import LoraConfig, VBLoRAConfig, get_peft_model

DEVICE = torch.device(sys.argv[1])
torch.set_num_threads(int(sys.argv[2]))
torch.set_float32_matmul_precision("high" if sys.argv[3] == "tf32" else "highest")
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}

# Modules beside the blocks, which stay as they are when maps are quantised.
HEADS = ("lm_head", "classifier", "pooler", "head")


def placed(model, what, dtype):
    """The model on the device, in the number type of its frozen weights."""
    if dtype != "nf4":
        return model.to(DEVICE, DTYPES[dtype])
    import bitsandbytes

    compute = DTYPES[what["compute"]]
    maps = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)
    inside = [(name, module) for name, module in model.named_modules() if isinstance(module, maps) and not name.startswith(HEADS)]
    for name, module in inside:
        weight = module.weight.data if isinstance(module, torch.nn.Linear) else module.weight.data.T.contiguous()
        d_out, d_in = weight.shape
        quantised = bitsandbytes.nn.Linear4bit(
            d_in, d_out, bias=module.bias is not None, compute_dtype=compute, compress_statistics=True, quant_type="nf4",
        )
        quantised.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4")
        if module.bias is not None:
            quantised.bias = module.bias
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, quantised)
    # Moving to the device quantises. Everything else is in the type of the products, as in a half-precision run.
    model.to(DEVICE)
    for parameter in model.parameters():
        if not isinstance(parameter, bitsandbytes.nn.Params4bit):
            parameter.data = parameter.data.to(compute)
    model.is_loaded_in_4bit = True
    return model


def is_half(what, dtype):
    return what.get("compute", dtype) != "f32"


def adapted(model, adapter, task_type=None, head=None):
    common = dict(target_modules=adapter["modules"], r=adapter["rank"], task_type=task_type, modules_to_save=head)
    if adapter["method"] == "lora":
        config = LoraConfig(lora_alpha=adapter["alpha"], lora_dropout=0.0, **common)
    else:
        config = VBLoRAConfig(
            num_vectors=adapter["bank"], vector_length=adapter["vector_length"], topk=adapter["topk"],
            vblora_dropout=0.0, init_vector_bank_bound=0.02, init_logits_std=0.01, **common,
        )
    return get_peft_model(model, config)


class Training:
    """A training step as PEFT's users write it."""

    def __init__(self, model, adapter, task, head, half):
        self.model = adapted(model, adapter, task, head).train()
        self.half = half
        trained = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        of = lambda word: [p for name, p in trained if word in name]
        rest = [p for name, p in trained if "vector_bank" not in name and "vblora_logits" not in name]
        groups = [(of("vector_bank"), 1e-3), (of("vblora_logits"), 1e-2), (rest, 2e-3)]
        self.trained = [p for _, p in trained]
        self.optimizer = torch.optim.AdamW(
            [{"params": params, "lr": lr} for params, lr in groups if params], weight_decay=0.0
        )

    def step(self, **inputs):
        with autocast(self.half):
            loss = self.model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss.item()


def autocast(half):
    return torch.autocast(DEVICE.type, torch.bfloat16) if half else contextlib.nullcontext()


class Encoder:
    """A training step with a classification head, or a forward pass without gradients."""

    def __init__(self, what, dtype):
        config = transformers.AutoConfig.for_model(**what["config"], num_labels=2)
        model = placed(transformers.AutoModelForSequenceClassification.from_config(config), what, dtype)
        as_rows = lambda values: torch.tensor(values, device=DEVICE).view(what["rows"], -1)
        self.inputs = {"input_ids": as_rows(what["ids"]), "attention_mask": as_rows(what["mask"]) if what["mask"] else None}
        self.half = is_half(what, dtype)
        self.training = None
        if what["adapter"] is None:
            self.model = model.base_model.eval().requires_grad_(False)
            return
        self.training = Training(model, what["adapter"], "SEQ_CLS", what["head"], self.half)
        self.inputs["labels"] = torch.arange(what["rows"], device=DEVICE) % 2

    def run(self):
        if self.training is not None:
            self.training.step(**self.inputs)
            return
        with torch.no_grad(), autocast(self.half):
            self.model(**self.inputs)


CAUSAL = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel),
}


class Decoder:
    """A training step with every next token a label, or a forward pass without gradients."""

    def __init__(self, what, dtype):
        config, model = CAUSAL[what["family"]]
        model = placed(model(config(**what["config"])), what, dtype)
        model.config.use_cache = False
        ids = torch.tensor(what["ids"], device=DEVICE).view(what["rows"], -1)
        self.half = is_half(what, dtype)
        self.inputs, self.training = {"input_ids": ids}, None
        if what["adapter"] is None:
            self.model = model.eval().requires_grad_(False)
            return
        self.training = Training(model, what["adapter"], "CAUSAL_LM", None, self.half)
        self.inputs["labels"] = ids

    def run(self):
        if self.training is not None:
            self.training.step(**self.inputs)
            return
        with torch.no_grad(), autocast(self.half):
            self.model(**self.inputs)


class Decode:
    """Greedy generation as transformers' users write it."""

    def __init__(self, what, dtype):
        config, model = CAUSAL[what["family"]]
        self.model = placed(model(config(**what["config"])), what, dtype).eval()
        self.model.generation_config.eos_token_id = None
        self.ids = torch.tensor(what["prompts"], device=DEVICE)
        self.added = what["added"]

    def run(self):
        with torch.no_grad():
            out = self.model.generate(
                self.ids, attention_mask=torch.ones_like(self.ids), max_new_tokens=self.added,
                min_new_tokens=self.added, do_sample=False, pad_token_id=0,
            )
        assert out.shape[1] == self.ids.shape[1] + self.added
        out.cpu()


class Sites(torch.nn.Module):
    """Linear maps that take no memory: one zero, expanded."""

    def __init__(self, sites):
        super().__init__()
        for index, (d_in, d_out) in enumerate(sites):
            linear = torch.nn.Linear(d_in, d_out, bias=False, device="meta")
            zeros = torch.zeros(1, device=DEVICE).expand(d_out, d_in)
            linear.weight = torch.nn.Parameter(zeros, requires_grad=False)
            self.add_module(f"site{index}", linear)


class Compose:
    """PEFT's own composition of every factor, and given gradients back to bank and logits."""

    def __init__(self, what, dtype):
        model = adapted(Sites(what["sites"]), what["adapter"])
        self.sites = [module for name, module in model.named_modules() if hasattr(module, "vblora_logits_A")]
        assert len(self.sites) == len(what["sites"])
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.grads = [[torch.randn_like(factor) for factor in self.factors(site)] for site in self.sites]

    def factors(self, site):
        return site._get_lora_matrices("default")

    def run(self):
        loss = sum(
            (factor * grad).sum()
            for site, grads in zip(self.sites, self.grads)
            for factor, grad in zip(self.factors(site), grads)
        )
        loss.backward()
        for parameter in self.trained:
            parameter.grad = None


class Product:
    def __init__(self, what, dtype):
        draw = lambda: torch.rand(what["size"], what["size"], device=DEVICE).to(DTYPES[dtype])
        self.a, self.b = draw(), draw()

    def run(self):
        self.a @ self.b


def synchronize():
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def say(**answer):
    print(json.dumps(answer), flush=True)


def main():
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {"transformers": transformers.__version__, "peft": peft.__version__}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        versions["bitsandbytes"] = importlib.metadata.version("bitsandbytes")
    say(versions=versions)
    job = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            start = time.perf_counter()
            if request["do"] == "prepare":
                job = None
                gc.collect()
                if DEVICE.type == "cuda":
                    torch.cuda.empty_cache()
                work = request["work"]
                kinds = {"encoder": Encoder, "decoder": Decoder, "decode": Decode, "compose": Compose, "product": Product}
                job = kinds[work["what"]["task"]](work["what"], work["dtype"])
            else:
                for _ in range(request["repetitions"]):
                    job.run()
            synchronize()
            say(milliseconds=(time.perf_counter() - start) * 1e3)
        except Exception as error:
            traceback.print_exc()
            say(error=f"{type(error).__name__}: {error}")


main()
