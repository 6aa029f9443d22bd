"""Writes recorded.json: what transformers makes of small made folders of tokenizer files.

    python record.py        # needs transformers 5, tokenizers, torch
"""
import json, os, pathlib, sys, tempfile

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_OFFLINE"] = "1"
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

NAMES = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"]
TEXTS = ["Red dog", " red dog", "réd DOG 日本", "red</s>dog", "red <pad>dog", "[MASK] red", "red<|endoftext|> dog", "<s>dog  red", "dog . do not ' red n't", ""]
PAIR = ["red", "dog red"]


def special(tokens):
    return [AddedToken(t, special=True, normalized=False) for t in tokens]


def bert(lower=True, accents=None, chinese=True):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "dog", "Red", "DOG", "réd", "日", "本", "日本", "<", ">", "/", "s", "##s", "pad", "|", "end", "##oft", "##ext", "endoftext"]
    t = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=lower, strip_accents=accents, handle_chinese_chars=chinese)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    t.add_special_tokens(special(words[:5]))
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return t, words


def byte_level(prefix=False, ends=("<s>", "<pad>", "</s>", "<unk>", "<mask>"), roberta=False):
    vocab = {t: i for i, t in enumerate(list(ends) + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("r", "e"), ("re", "d"), ("Ġ", "red"), ("d", "o"), ("do", "g"), ("Ġ", "dog")]
    for a, b in merges:
        vocab[a + b] = len(vocab)
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens(special(ends))
    if roberta:
        t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=prefix)
    return t, vocab, merges


def pieces(metaspace=None):
    ends = ["<unk>", "<s>", "</s>"]
    vocab = {t: i for i, t in enumerate(ends + [f"<0x{b:02X}>" for b in range(256)] + ["▁"] + list(dict.fromkeys("redogRDOG<>pa/s[]MASK|nftx")))}
    merges = []
    for word in ["red", "dog"]:
        for i in range(1, len(word)):
            merges.append((word[:i], word[i]))
        merges.append(("▁", word))
    for a, b in merges:
        vocab.setdefault(a + b, len(vocab))
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tail = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    if metaspace:
        t.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=metaspace, split=False)
    else:
        t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence(tail)
    t.add_special_tokens(special(ends))
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B:1", special_tokens=[("<s>", 1)])
    return t


cases = []


def case(name, model_type, files, config=None, **side):
    """files: name -> contents; config: tokenizer_config.json; side: further JSON files, by name without .json."""
    files = dict(files)
    files["config.json"] = json.dumps({"model_type": model_type} if model_type else {})
    if config is not None:
        files["tokenizer_config.json"] = json.dumps(config)
    for key, value in side.items():
        files[key + ".json"] = json.dumps(value)
    with tempfile.TemporaryDirectory() as folder:
        for file, text in files.items():
            pathlib.Path(folder, file).write_text(text)
        t = AutoTokenizer.from_pretrained(folder)
        pair = t(*PAIR)
        cases.append({
            "name": name, "files": files, "class": type(t).__name__,
            "special": {n: t.special_tokens_map.get(n, "") for n in NAMES},
            "ids": [t(text)["input_ids"] for text in TEXTS],
            "decoded": [t.decode(t(text)["input_ids"], skip_special_tokens=True) for text in TEXTS],
            "pair": pair["input_ids"], "pair_types": pair.get("token_type_ids"),
        })


def whole(t):
    return {"tokenizer.json": t.to_str()}


for lower, flag in [(True, False), (False, True), (True, True), (False, False)]:
    case(f"bert file {lower} flag {flag}", "bert", whole(bert(lower)[0]), {"tokenizer_class": "BertTokenizer", "do_lower_case": flag})
cased = whole(bert(False)[0])
case("bert says nothing", "bert", cased)
case("bert generic class", "bert", cased, {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True, "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]})
case("bert accents", "bert", whole(bert(True)[0]), {"tokenizer_class": "BertTokenizerFast", "strip_accents": False})
case("bert accents of a cased one", "bert", cased, {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "strip_accents": True})
case("bert chinese", "bert", whole(bert(True)[0]), {"tokenizer_class": "BertTokenizer", "tokenize_chinese_chars": False})
words = {"vocab.txt": "\n".join(bert()[1]) + "\n"}
case("bert vocab.txt", "bert", words)
case("bert vocab.txt cased", "bert", words, {"do_lower_case": False})
case("bert vocab.txt with windows line ends", "bert", {"vocab.txt": "\r\n".join(bert()[1]) + "\r\n"})
case("bert inputs without types", "bert", cased, {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "model_input_names": ["input_ids", "attention_mask"]})

eot = ("<|endoftext|>",)
for prefix in [False, True]:
    file = whole(byte_level(prefix, eot)[0])
    case(f"gpt2 file {prefix}", "gpt2", file)
    for flag in [False, True]:
        case(f"gpt2 file {prefix} flag {flag}", "gpt2", file, {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": flag})
    case(f"gpt2 file {prefix} generic class", "gpt2", file, {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": not prefix})
    case(f"llama with gpt2's class, file {prefix}", "llama", file, {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True})
_, vocab, merges = byte_level(False, eot)
apart = {"vocab.json": json.dumps(vocab), "merges.txt": "#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n"}
case("gpt2 vocabulary", "gpt2", apart)
case("gpt2 vocabulary with prefix", "gpt2", apart, {"add_prefix_space": True})
case("gpt2 vocabulary with bos", "gpt2", apart, {"add_bos_token": True, "add_eos_token": True})
case("gpt2 pad only in the tokenizer", "gpt2", apart, {"pad_token": "<pad>"})
case("gpt2 added_tokens.json", "gpt2", apart, {"eos_token": "</s>"}, added_tokens={"</s>": 263, "<pad>": 264}, special_tokens_map={"pad_token": "<pad>"})
file = whole(byte_level(False, eot)[0])
case("gpt2 special_tokens_map", "gpt2", file, {"bos_token": "<s>"}, special_tokens_map={"bos_token": "</s>", "pad_token": {"content": "<pad>", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}})
entry = {"content": "</s>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
case("gpt2 added_tokens_decoder", "gpt2", file, {"eos_token": "</s>", "added_tokens_decoder": {"263": entry}}, special_tokens_map={"eos_token": "<pad>", "bos_token": "<pad>"})
case("gpt2 additional tokens", "gpt2", file, {"additional_special_tokens": ["</s>"], "eos_token": None})
case("gpt2 special tokens are text", "gpt2", file, {"tokenizer_class": "GPT2Tokenizer", "split_special_tokens": True})

_, vocab, merges = byte_level()
apart = {"vocab.json": json.dumps(vocab), "merges.txt": "\n".join(" ".join(m) for m in merges) + "\n"}
case("roberta vocabulary", "roberta", apart, {"mask_token": "<mask>"})
case("roberta other ends", "roberta", apart, {"cls_token": "<unk>", "sep_token": "<pad>"})
case("roberta file", "roberta", whole(byte_level(roberta=True)[0]), {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True})
case("roberta file without a frame", "roberta", whole(byte_level()[0]))

prepends, always, first = whole(pieces()), whole(pieces("always")), whole(pieces("first"))
for kind, file in [("prepends", prepends), ("always", always), ("first", first)]:
    case(f"llama {kind} generic class", "llama", file, {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"})
    for legacy in [None, False, True]:
        said = {} if legacy is None else {"legacy": legacy}
        case(f"llama {kind} legacy {legacy}", "llama", file, {"tokenizer_class": "LlamaTokenizer", **said})
    case(f"llama {kind} no prefix", "llama", file, {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False})
    case(f"mistral {kind}", "mistral", file, {"tokenizer_class": "LlamaTokenizer", "legacy": True, "eos_token": "</s>"})
case("llama without a first token in its config", "llama", prepends, {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "add_eos_token": True})
case("llama of byte-level kind", "llama", whole(byte_level(False, eot)[0]), {"tokenizer_class": "LlamaTokenizer", "eos_token": "<|endoftext|>"})
case("llama says nothing", "llama", prepends)
case("llama names a pad", "llama", prepends, {"pad_token": "<pad>", "eos_token": "</s>"})

names = "<unk> </s> red dog Red . do not ' n't".split()
t = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="<unk>"))
t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
t.add_special_tokens(special(names[:2]))
for clean in [None, False, True]:
    said = {} if clean is None else {"clean_up_tokenization_spaces": clean}
    case(f"words clean {clean}", "llama", whole(t), {"tokenizer_class": "PreTrainedTokenizerFast", **said})
    case(f"bert clean {clean}", "bert", cased, {"tokenizer_class": "BertTokenizer", "do_lower_case": False, **said})
    case(f"gpt2 clean {clean}", "gpt2", whole(byte_level(False, eot)[0]), {"tokenizer_class": "GPT2Tokenizer", **said})

# generation_config.json (or, without one, config.json), and what is generated with it from scores that are a function of two tokens.
import torch
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

VOCABULARY = 40


def mixed(before, last, token):
    """tests/generation/toy.rs has the same."""
    m = 1 << 32
    x = (before * 7919 + last * 104729 + token * 1299709 + 12345) % m
    x ^= x >> 15
    x = x * 2246822519 % m
    x ^= x >> 13
    return (x % 65536) / 8192.0 - 4.0


TABLE = torch.tensor([[[mixed(a, b, t) for t in range(VOCABULARY)] for b in range(VOCABULARY)] for a in range(VOCABULARY)])


class Config(PretrainedConfig):
    model_type = "toy"


class Toy(PreTrainedModel, GenerationMixin):
    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        self.one = torch.nn.Parameter(torch.zeros(1))
        self.post_init()

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        return {"input_ids": input_ids}

    def forward(self, input_ids, attention_mask=None, **kwargs):
        before = torch.cat([torch.zeros_like(input_ids[:, :1]), input_ids[:, :-1]], 1)
        return CausalLMOutput(logits=TABLE[before, input_ids])


PROMPTS = [[11, 30], [5, 1, 0, 2, 9, 9], [7, 7, 7]]
generated = []


def generation(fields, model={}):
    """With fields None there is no generation_config.json, and model is config.json."""
    toy = Toy(Config(vocab_size=VOCABULARY))
    with tempfile.TemporaryDirectory() as folder:
        files = {"config.json": json.dumps({"model_type": "llama", **model})}
        if fields is not None:
            files["generation_config.json"] = json.dumps(fields)
        for file, text in files.items():
            pathlib.Path(folder, file).write_text(text)
        name = "generation_config.json" if fields is not None else "config.json"
        toy.generation_config = GenerationConfig.from_pretrained(folder, config_file_name=name)
    def new(prompt):
        with torch.no_grad():
            out = toy.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), use_cache=False, pad_token_id=0)
        return out[0, len(prompt):].tolist()
    generated.append({"files": files, "tokens": [new(p) for p in PROMPTS]})


n = {"max_new_tokens": 14}
generation({**n, "eos_token_id": [11, 8]})
generation({**n, "eos_token_id": None}, {"eos_token_id": 34})
generation({**n}, {"eos_token_id": 34})
generation({"max_length": 12, "eos_token_id": 3})
generation({"max_length": 9, "max_new_tokens": 5})
generation(None, {"eos_token_id": 34, "max_new_tokens": 9, "repetition_penalty": 1.5})
for penalty in [1.2, 2.0, 0.7]:
    generation({**n, "repetition_penalty": penalty})
    generation({**n, "repetition_penalty": penalty, "num_beams": 3, "no_repeat_ngram_size": 2})
generation({**n, "no_repeat_ngram_size": 2})
generation({**n, "suppress_tokens": [19, 31, 700]})
generation({**n, "begin_suppress_tokens": [19, 34], "suppress_tokens": [23]})
generation({**n, "num_beams": 4, "length_penalty": -0.5, "early_stopping": True, "eos_token_id": [11, 8, 2], "begin_suppress_tokens": [11, 2]})
generation({**n, "num_beams": 4, "length_penalty": 1.5, "early_stopping": "never", "eos_token_id": [11, 8, 2], "suppress_tokens": [3, 4]})
generation({**n, "num_beams": 2, "repetition_penalty": 1.3, "eos_token_id": 8})
generation({**n, "temperature": 0.1, "top_k": 3})
generation({**n, "eos_token_id": [11, 8], "min_new_tokens": 6})
generation({**n, "eos_token_id": [11, 8, 2], "min_length": 9})
generation({**n, "eos_token_id": [11, 8, 2], "num_beams": 3, "min_new_tokens": 5})
generation({**n, "bad_words_ids": [[19], [31, 31], [34, 2]]})
generation({**n, "num_beams": 3, "bad_words_ids": [[19], [31, 31]], "eos_token_id": 8})
generation({"max_new_tokens": 6, "eos_token_id": 3, "forced_eos_token_id": 3})
generation({"max_new_tokens": 6, "num_beams": 3, "eos_token_id": 3, "forced_eos_token_id": 3})
generation({**n, "forced_bos_token_id": 7})

# Each text of a file once.
contents = sorted({text for c in cases for text in c["files"].values()})
for c in cases:
    c["files"] = {name: contents.index(text) for name, text in c["files"].items()}
out = {"transformers": transformers.__version__, "texts": TEXTS, "pair": PAIR, "contents": contents, "cases": cases, "prompts": PROMPTS, "generated": generated}
path = pathlib.Path(__file__).parent / "recorded.json"
path.write_text(json.dumps(out, ensure_ascii=False, separators=(",", ":")) + "\n")
print(len(cases), "cases", path.stat().st_size, "bytes")
