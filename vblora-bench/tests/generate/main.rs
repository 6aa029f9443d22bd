//! `vblora generate` on a small random Llama in a folder of its own.
#![allow(missing_docs)]

mod saved;

use std::{path::Path, process::Command};

use anyhow::Result;
use clap::Parser;
use serde_json::json;
use tempfile::TempDir;
use vblora::{
    VbLoraConfig,
    backend::{BackendJob, BackendKind, DEFAULT_BACKEND, VbLoraBackend},
    storage::{HostAdapter, peft::PeftAdapter},
};
use vblora_bench::commands::generate::{Arguments, write};
use vblora_models::{
    DecoderConfig, ModelFiles, SaveDtype,
    decoder::{self, CausalLm},
    save_tensors,
};

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    arguments: Arguments,
}

const WORDS: &str = "a b c d e f g h i j k l user system";

/// Writes a model, and an adapter of it in both forms, where the program can read them.
struct Write<'a>(&'a Path);

impl BackendJob for Write<'_> {
    type Output = ();

    fn run<B: VbLoraBackend>(self, device: B::Device) {
        let files = ModelFiles::open(self.0).unwrap();
        let config = DecoderConfig::from_files(&files).unwrap();
        let model = CausalLm::<B>::random(config, 17, &device).unwrap();
        let tensors = model.tensors();
        save_tensors(&self.0.join("model.safetensors"), &tensors, SaveDtype::F32).unwrap();
        let plan = decoder::targets("qv")
            .unwrap()
            .select(&model.sites())
            .unwrap();
        let config = VbLoraConfig {
            bank: 10,
            vector_length: 16,
            rank: 3,
            topk: 2,
            // Large enough to change the generated text.
            bank_bound: 1.5,
            logits_std: 1.0,
            ..Default::default()
        };
        let adapter = config.check(&plan).unwrap().init::<B>(5, &device);
        let stored = adapter.store().unwrap();
        stored.save(&self.0.join("adapter.safetensors")).unwrap();
        let peft = PeftAdapter::new(HostAdapter::TopK(stored));
        peft.write(&self.0.join("adapter")).unwrap();
    }
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let words = WORDS.split(' ').chain(["<unk>", "</s>"]).zip(0..);
        let vocabulary: serde_json::Map<_, _> =
            words.map(|(w, id)| (w.to_owned(), json!(id))).collect();
        let end = json!({"id": 15, "content": "</s>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
        folder.put(
            "tokenizer.json",
            json!({
                "pre_tokenizer": {"type": "Whitespace"}, "added_tokens": [end],
                "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
            }),
        );
        folder.put("tokenizer_config.json", json!({"chat_template": "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"}));
        folder.put("config.json", json!({
            "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 16, "max_position_embeddings": 24, "rms_norm_eps": 1e-5, "rope_theta": 100.0,
            "hidden_act": "silu", "initializer_range": 0.5, "tie_word_embeddings": false,
        }));
        let backend: BackendKind = DEFAULT_BACKEND.parse().unwrap();
        backend.dispatch(0, Write(folder.0.path())).unwrap();
        folder
    }

    fn put(&self, name: &str, json: serde_json::Value) {
        std::fs::write(self.0.path().join(name), json.to_string()).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn try_run(&self, flags: &[&str]) -> Result<String> {
        let mut out = Vec::new();
        write(&arguments(self, flags), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn run(&self, flags: &[&str]) -> String {
        self.try_run(flags).unwrap()
    }

    fn error(&self, flags: &[&str]) -> String {
        format!("{:#}", self.try_run(flags).unwrap_err())
    }
}

fn arguments(folder: &Folder, flags: &[&str]) -> Arguments {
    let model = ["generate", "--model"].map(str::to_owned);
    let flags = flags.iter().map(|flag| (*flag).to_owned());
    let words = model.into_iter().chain([folder.path("")]).chain(flags);
    CommandLine::parse_from(words).arguments
}

#[test]
fn the_flags_choose_how_tokens_are_chosen() {
    let folder = Folder::new();
    let of =
        |flags: &[&str]| folder.run(&[&["--prompt", "a b c", "--max-tokens", "8"], flags].concat());
    let greedy = of(&[]);
    // A special token among the eight is not shown.
    let words = greedy.split_whitespace().count();
    assert!((4..=8).contains(&words), "{greedy}");
    for same in [
        &["--beams", "1"][..],
        &["--top-k", "1", "--seed", "9"],
        &["--temperature", "0"],
    ] {
        assert_eq!(of(same), greedy, "{same:?}");
    }
    let drawn = |seed| of(&["--temperature", "3", "--seed", seed]);
    assert_eq!(drawn("1"), drawn("1"));
    assert!(drawn("1") != drawn("2") && drawn("1") != greedy);
    let first = greedy.split_whitespace().next().unwrap();
    assert_eq!(of(&["--stop", first]), "\n");
}

#[test]
fn several_prompts_are_what_each_is_alone() {
    let folder = Folder::new();
    let of = |prompts: &[&str]| {
        let flags = prompts.iter().flat_map(|prompt| ["--prompt", prompt]);
        folder.run(&flags.chain(["--max-tokens", "5"]).collect::<Vec<_>>())
    };
    let expected = format!("--- 1\n{}--- 2\n{}", of(&["a b c"]), of(&["d"]));
    assert_eq!(of(&["a b c", "d"]), expected);
}

#[test]
fn an_adapter_in_any_form_and_merged_is_one_adapter() {
    let folder = Folder::new();
    let prompt = ["--prompt", "a b c", "--max-tokens", "8"];
    let of = |name: &str, merge: &[&str]| {
        folder.run(&[&prompt[..], &["--adapter", &folder.path(name)], merge].concat())
    };
    let adapted = of("adapter", &[]);
    assert_ne!(adapted, folder.run(&prompt));
    assert_eq!(of("adapter.safetensors", &[]), adapted);
    assert_eq!(of("adapter", &["--merge"]), adapted);
    assert_eq!(of("adapter.safetensors", &["--merge"]), adapted);
}

#[test]
fn a_chat_goes_on_from_the_templates_text() {
    let folder = Folder::new();
    let of = |flags: &[&str]| folder.run(&[flags, &["--max-tokens", "6"]].concat());
    assert_eq!(
        of(&["--chat", "--prompt", "a b"]),
        of(&["--prompt", "user a b"])
    );
    let with_system = of(&["--chat", "--system", "c", "--prompt", "a b"]);
    assert_eq!(with_system, of(&["--prompt", "system c user a b"]));
    folder.put("tokenizer_config.json", json!({}));
    let error = folder.error(&["--chat", "--prompt", "a"]);
    assert!(error.contains("has no chat template"), "{error}");
    folder.put(
        "tokenizer_config.json",
        json!({"chat_template": "\n{% if %}"}),
    );
    let error = folder.error(&["--chat", "--prompt", "a"]);
    assert!(
        error.contains("tokenizer_config.json: chat template, line 2"),
        "{error}"
    );
}

#[test]
fn the_models_files_say_what_no_flag_does() {
    let folder = Folder::new();
    let of = |flags: &[&str]| folder.run(&[&["--prompt", "a b c"], flags].concat());
    let config = |json| folder.put("generation_config.json", json);
    let flags = ["--max-tokens", "5", "--repetition-penalty", "3"];
    let penalised = of(&flags);
    assert_ne!(penalised, of(&flags[..2]));
    config(json!({"max_new_tokens": 5, "repetition_penalty": 3.0}));
    assert_eq!(of(&[]), penalised);
    // Five tokens with the three of the prompt.
    config(json!({"max_length": 8, "repetition_penalty": 3.0}));
    assert_eq!(of(&[]), penalised);
    let error = folder.error(&["--prompt", "a b c d a b c d"]);
    assert!(
        error.contains("max_length of generation_config.json"),
        "{error}"
    );
    // Flags come first.
    assert_eq!(of(&["--max-tokens", "5", "--repetition-penalty", "1"]), {
        config(json!({}));
        of(&["--max-tokens", "5"])
    });
    config(json!({"do_sample": true, "temperature": 3.0, "top_k": 0, "max_new_tokens": 8}));
    let drawn = of(&["--seed", "1"]);
    assert_ne!(drawn, of(&["--seed", "2"]));
    let greedy = of(&["--temperature", "0"]);
    config(json!({"max_new_tokens": 8}));
    assert_eq!(
        (of(&[]), of(&["--temperature", "3", "--seed", "1"])),
        (greedy.clone(), drawn)
    );
    // A suppressed token, and ids that the model does not have.
    let first = greedy.split_whitespace().next().unwrap();
    let id = WORDS.split(' ').position(|word| word == first).unwrap();
    config(
        json!({"max_new_tokens": 8, "suppress_tokens": [id, 900], "eos_token_id": [15, 900, -1]}),
    );
    assert!(!of(&[]).contains(first));
}

/// A rule of the model's files that a flag of another name replaces is named on standard error, and so is a seed without draws.
#[test]
fn what_the_flags_set_aside_is_named() {
    let folder = Folder::new();
    let said = |flags: &str| {
        let model = folder.path("");
        let done = Command::new(env!("CARGO_BIN_EXE_vblora"))
            .args(["generate", "--model", &model, "--prompt", "a b"])
            .args(["--max-tokens", "2"])
            .args(flags.split_whitespace())
            .output()
            .unwrap();
        let errors = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.success(), "{errors}");
        errors
    };
    let replaced =
        "note: generation_config.json: num_beams is 3, but --top-k 2, --top-p 0.5 replaces it";
    let greedy = "note: generation_config.json: num_beams is 3, but --temperature 0 replaces it";
    let drawn = "note: generation_config.json: do_sample is true, but --beams 2 replaces it";
    let seed = "note: --seed 1 changes nothing: no token is drawn";
    for (file, flags, note) in [
        (
            json!({"num_beams": 3}),
            "--top-k 2 --top-p 0.5",
            Some(replaced),
        ),
        (json!({"num_beams": 3}), "--temperature 0", Some(greedy)),
        (json!({"num_beams": 3}), "--seed 1", Some(seed)),
        (json!({"do_sample": true}), "--beams 2", Some(drawn)),
        // What the flag's own name says is no news.
        (json!({"num_beams": 3}), "", None),
        (json!({"num_beams": 3}), "--beams 2", None),
        (json!({"do_sample": true}), "--temperature 0", None),
        (json!({"do_sample": true}), "--top-k 2 --seed 1", None),
        (json!({}), "--top-k 2 --seed 1", None),
    ] {
        folder.put("generation_config.json", file.clone());
        let errors = said(flags);
        match note {
            Some(note) => assert!(errors.contains(note), "{file} {flags}: {errors}"),
            None => assert!(!errors.contains("note:"), "{file} {flags}: {errors}"),
        }
    }
}

#[test]
fn what_cannot_be_done_is_said() {
    let folder = Folder::new();
    let long = "a ".repeat(24);
    for (flags, message) in [
        (
            &["--prompt", &long][..],
            "prompt 0 has 24 tokens, but the model takes 24 in a row, prompt and answer together",
        ),
        (&["--prompt", ""], "text 0 is empty"),
        (
            &["--prompt", "a", "--max-new-tokens", "0"],
            "max_new_tokens must be at least 1, found 0",
        ),
        (
            &["--prompt", "a", "--top-p", "2"],
            "top_p must be above 0 and at most 1, found 2",
        ),
        (&["--prompt", "a", "--adapter", "absent"], "absent"),
    ] {
        let error = folder.error(flags);
        assert!(error.contains(message), "{error}");
    }
    // A smaller model under the same tokenizer, then an encoder.
    let config = std::fs::read_to_string(folder.path("config.json")).unwrap();
    std::fs::write(
        folder.path("config.json"),
        config.replace("\"vocab_size\":16", "\"vocab_size\":12"),
    )
    .unwrap();
    let error = folder.error(&["--prompt", "a"]);
    assert!(
        error.contains("the tokenizer does not fit the model: token \"</s>\" has id 15"),
        "{error}"
    );
    folder.put("config.json", json!({"model_type": "roberta"}));
    let error = folder.error(&["--prompt", "a"]);
    assert!(
        error.contains("only a causal language model generates text")
            && error.contains("\"roberta\""),
        "{error}"
    );
}

#[test]
fn what_would_command_a_terminal_is_shown() {
    let folder = Folder::new();
    let file = folder.0.path().join("tokenizer.json");
    let mut tokenizer: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let forged = std::mem::take(vocabulary).into_iter();
    let forged = forged.map(|(word, id)| match word.as_str() {
        "a" | "<unk>" | "</s>" => (word, id),
        _ => (format!("\u{1b}]0;{word}\u{7}\u{202e}"), id),
    });
    *vocabulary = forged.collect();
    folder.put("tokenizer.json", tokenizer);
    for prompts in [
        &["--prompt", "a"][..],
        &["--prompt", "a", "--prompt", "a a"],
    ] {
        let text = folder.run(&[prompts, &["--max-tokens", "4"]].concat());
        let shown = |c: char| c == '\n' || !c.is_control() && c != '\u{202e}';
        assert!(text.chars().all(shown), "{text:?}");
        assert!(
            text.contains(r"\u{1b}]0;") && text.contains(r"\u{7}\u{202e}"),
            "{text}"
        );
    }
}
