"""The reference side of `cargo xtask compare`: works as JSON lines on standard input, milliseconds on standard output.

Arguments: cpu or cuda, the number of threads, whether a GPU may multiply f32 in TF32 (tf32 or f32), and the form.

eager    what users of PEFT and transformers write
compile  the same under torch.compile; generation with a static cache, which transformers compiles
graph    what an expert writes: one composition of one slab a step, and the whole step recorded as a CUDA graph
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
FORM = sys.argv[4]
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
            device="meta",
        )
        quantised.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4")
        if module.bias is not None:
            quantised.bias = module.bias
        # Moving to the device quantises; the dense weight goes at once.
        module.weight = None
        quantised = quantised.to(DEVICE)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, quantised)
    # Everything else is in the type of the products, as in a half-precision run.
    model.to(DEVICE)
    for parameter in model.parameters():
        if not isinstance(parameter, bitsandbytes.nn.Params4bit):
            parameter.data = parameter.data.to(compute)
    model.is_loaded_in_4bit = True
    return model


def fresh(model, config, what, dtype):
    """A model with random weights. A GPU draws them itself, in the type of the products: a CPU would take minutes for a large one."""
    if DEVICE.type == "cpu":
        return placed(model(config), what, dtype)
    torch.set_default_dtype(DTYPES[what.get("compute", dtype)])
    try:
        with DEVICE:
            made = model(config)
    finally:
        torch.set_default_dtype(torch.float32)
    return placed(made, what, dtype)


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


class WithUpdate(torch.nn.Module):
    """A frozen map and the low-rank update that the slab holds for it."""

    def __init__(self, base, factors, name):
        super().__init__()
        self.base, self.factors, self.name = base, factors, name

    def forward(self, x):
        down, up = (factor.to(x.dtype) for factor in self.factors[self.name])
        return self.base(x) + (x @ down) @ up


class Slab(torch.nn.Module):
    """VB-LoRA as an expert writes it: the logits of all maps in one tensor, composed at once."""

    def __init__(self, model, adapter):
        super().__init__()
        ends = tuple("." + module for module in adapter["modules"])
        maps = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n.endswith(ends) and not n.startswith(HEADS)]
        self.rank, self.topk, length = adapter["rank"], adapter["topk"], adapter["vector_length"]
        self.maps = [(name, m.in_features, m.out_features) for name, m in maps]
        self.pieces = [self.rank * d // length for _, *both in self.maps for d in both]
        self.bank = torch.nn.Parameter(torch.empty(adapter["bank"], length, device=DEVICE).uniform_(-0.02, 0.02))
        self.logits = torch.nn.Parameter(0.01 * torch.randn(sum(self.pieces), adapter["bank"], device=DEVICE))
        self.factors = {}
        for name, m in maps:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, WithUpdate(m, self.factors, name))

    def compose(self):
        best, chosen = self.logits.topk(self.topk, dim=-1)
        vectors = torch.einsum("sk,skb->sb", best.softmax(-1), self.bank[chosen])
        tiles = iter(vectors.split(self.pieces))
        for name, d_in, d_out in self.maps:
            down, up = next(tiles).view(self.rank, d_in), next(tiles).view(self.rank, d_out)
            self.factors[name] = (down.t(), up)


class Training:
    """A training step in the form that was asked for."""

    def __init__(self, model, adapter, task, head, half, recompute=False):
        self.half, self.slab, self.graph = half, None, None
        if FORM == "graph" and adapter["method"] == "vblora":
            model.requires_grad_(False)
            for name in head or []:
                model.get_submodule(name).requires_grad_(True)
            self.slab, self.model = Slab(model, adapter), model
        else:
            self.model = adapted(model, adapter, task, head)
        if recompute:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            self.model.enable_input_require_grads()
        self.model.train()
        trained = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        of = lambda word: [p for name, p in trained if word in name]
        rest = [p for name, p in trained if "vector_bank" not in name and "vblora_logits" not in name]
        groups = [(of("vector_bank"), 1e-3), (of("vblora_logits"), 1e-2), (rest, 2e-3)]
        if self.slab is not None:
            groups += [([self.slab.bank], 1e-3), ([self.slab.logits], 1e-2)]
        groups = [{"params": params, "lr": lr} for params, lr in groups if params]
        self.trained = [p for group in groups for p in group["params"]]
        recorded = dict(capturable=True, fused=True) if FORM == "graph" else {}
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.0, **recorded)
        self.forward = torch.compile(self.model) if FORM == "compile" else self.model

    def once(self, inputs):
        if self.slab is not None:
            self.slab.compose()
        with autocast(self.half):
            loss = self.forward(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        # A graph writes gradients to the same place each time.
        self.optimizer.zero_grad(set_to_none=FORM != "graph")
        return loss

    def record(self, inputs):
        apart = torch.cuda.Stream()
        apart.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(apart):
            for _ in range(3):
                self.once(inputs)
        torch.cuda.current_stream().wait_stream(apart)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = self.once(inputs)

    def step(self, **inputs):
        if FORM != "graph":
            self.once(inputs).item()
            return
        if self.graph is None:
            self.record(inputs)
        self.graph.replay()
        self.loss.item()


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
        model = fresh(model, config(**what["config"]), what, dtype)
        model.config.use_cache = False
        ids = torch.tensor(what["ids"], device=DEVICE).view(what["rows"], -1)
        self.half = is_half(what, dtype)
        self.inputs, self.training = {"input_ids": ids}, None
        if what["adapter"] is None:
            self.model = model.eval().requires_grad_(False)
            return
        self.training = Training(model, what["adapter"], "CAUSAL_LM", None, self.half, what["recompute"])
        self.inputs["labels"] = ids

    def run(self):
        if self.training is not None:
            self.training.step(**self.inputs)
            return
        with torch.no_grad(), autocast(self.half):
            self.model(**self.inputs)


class Decode:
    """Greedy generation, with a static cache in every form but the eager one."""

    def __init__(self, what, dtype):
        config, model = CAUSAL[what["family"]]
        self.model = fresh(model, config(**what["config"]), what, dtype).eval()
        self.model.generation_config.eos_token_id = None
        self.ids = torch.tensor(what["prompts"], device=DEVICE)
        self.added = what["added"]
        self.cache = {} if FORM == "eager" else {"cache_implementation": "static"}

    def run(self):
        with torch.no_grad():
            out = self.model.generate(
                self.ids, attention_mask=torch.ones_like(self.ids), max_new_tokens=self.added,
                min_new_tokens=self.added, do_sample=False, pad_token_id=0, **self.cache,
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
                if DEVICE.type == "cuda":
                    gc.collect()
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
            elif request["do"] == "allocated":
                on_device = DEVICE.type == "cuda"
                say(mib=torch.cuda.max_memory_allocated() / 2**20 if on_device else None)
                continue
            else:
                for _ in range(request["repetitions"]):
                    job.run()
            synchronize()
            say(milliseconds=(time.perf_counter() - start) * 1e3)
        except Exception as error:
            traceback.print_exc()
            say(error=f"{type(error).__name__}: {error}")


main()
