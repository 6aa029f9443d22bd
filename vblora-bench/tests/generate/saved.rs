//! Tensors that an adapter saved in addition to its update, adapters on the head, and bases with tied or seemingly tied embeddings.

use vblora::{
    LoraConfig, Site, SitePlan, Targets,
    storage::{HostLora, HostTensor, peft::PeftDirectory},
};
use vblora_models::Checkpoint;

use super::*;

const HEAD: &str = "lm_head.weight";
const WORDS: &str = "model.embed_tokens.weight";

type Named = Vec<(String, HostTensor)>;

impl Folder {
    fn tensors(&self) -> Named {
        let files = ModelFiles::open(self.0.path()).unwrap();
        let mut checkpoint = Checkpoint::open(&files).unwrap();
        let names: Vec<_> = checkpoint.names().map(str::to_owned).collect();
        let read = |name: String| {
            let tensor = checkpoint.tensor(&name).unwrap();
            (name, tensor)
        };
        names.into_iter().map(read).collect()
    }

    fn save(&self, tensors: &Named) {
        let path = self.0.path().join("model.safetensors");
        save_tensors(&path, tensors, SaveDtype::F32).unwrap();
    }

    fn configure(&self, edit: impl Fn(&mut serde_json::Value)) {
        let text = std::fs::read(self.path("config.json")).unwrap();
        let mut config = serde_json::from_slice(&text).unwrap();
        edit(&mut config);
        self.put("config.json", config);
    }

    /// The folder's adapter with these tensors of `modules_to_save`.
    fn save_with(&self, saved: Named, modules: &[&str]) {
        let files = ModelFiles::open(self.0.path()).unwrap();
        let config = DecoderConfig::from_files(&files).unwrap();
        let found = PeftDirectory::open(&self.0.path().join("adapter")).unwrap();
        let adapter = PeftAdapter {
            saved,
            modules_to_save: modules.iter().map(|name| (*name).to_owned()).collect(),
            ..found.bind(&decoder::sites(&config)).unwrap()
        };
        adapter.write(&self.0.path().join("saved")).unwrap();
    }

    fn text(&self, flags: &[&str]) -> String {
        self.run(&[&["--prompt", "a b c", "--max-new-tokens", "9"], flags].concat())
    }

    fn adapted(&self, name: &str) -> String {
        let path = self.path(name);
        let found = self.text(&["--adapter", &path]);
        assert_eq!(self.text(&["--adapter", &path, "--merge"]), found, "{name}");
        found
    }
}

/// The same values in another order.
fn changed(tensor: &HostTensor) -> HostTensor {
    HostTensor {
        shape: tensor.shape.clone(),
        values: (tensor.values.iter().rev().enumerate())
            .map(|(i, v)| v * [1.5, -0.5, 0.25][i % 3])
            .collect(),
    }
}

fn of<'a>(tensors: &'a mut Named, name: &str) -> &'a mut HostTensor {
    let mut tensors = tensors.iter_mut();
    let found = tensors.find(|(found, _)| found == name);
    &mut found.unwrap().1
}

#[test]
fn saved_tensors_take_the_place_of_the_bases() {
    let folder = Folder::new();
    let base = folder.tensors();
    let plain = folder.adapted("adapter");
    for module in [
        "lm_head",
        "model.embed_tokens",
        "model.norm",
        "model.layers.1.mlp.up_proj",
        "model.layers.0.self_attn.o_proj",
    ] {
        let name = format!("{module}.weight");
        let mut other = base.clone();
        let tensor = of(&mut other, &name);
        *tensor = changed(tensor);
        folder.save_with(vec![(name, tensor.clone())], &[module]);
        let found = folder.adapted("saved");
        folder.save(&other);
        assert_eq!(found, folder.adapted("adapter"), "{module}");
        assert_ne!(found, plain, "{module}");
        folder.save(&base);
    }
}

#[test]
fn saved_tensors_without_a_place_are_refused_by_name() {
    let folder = Folder::new();
    let mut base = folder.tensors();
    let flags = [
        "--prompt",
        "a",
        "--adapter",
        &folder.path("saved"),
        "--max-new-tokens",
        "3",
    ];
    let head = of(&mut base, HEAD).clone();
    folder.save_with(vec![("score.weight".into(), head.clone())], &["score"]);
    let error = folder.error(&flags);
    assert!(
        error.contains("saved: ") && error.contains("score.weight"),
        "{error}"
    );
    let narrow = HostTensor {
        shape: vec![32, 16],
        values: head.values,
    };
    folder.save_with(
        vec![("model.layers.0.self_attn.o_proj.weight".into(), narrow)],
        &["o_proj"],
    );
    let error = folder.error(&flags);
    assert!(
        error.contains("o_proj.weight\": expected shape [32, 32], found [32, 16]"),
        "{error}"
    );
}

#[test]
fn an_adapters_vocabulary_is_the_models() {
    let folder = Folder::new();
    let base = folder.tensors();
    let mut other = base.clone();
    let mut saved = Named::new();
    for name in [WORDS, HEAD] {
        let tensor = of(&mut other, name);
        tensor.shape[0] += 2;
        let more = tensor.values[..64].iter().map(|v| -2.0 * v);
        tensor.values = tensor.values.iter().copied().chain(more).collect();
        saved.push((name.to_owned(), tensor.clone()));
    }
    folder.save_with(saved.clone(), &["embed_tokens", "lm_head"]);
    let found = folder.adapted("saved");
    // The tokenizer may use what the adapter added.
    let tokenizer = std::fs::read_to_string(folder.path("tokenizer.json")).unwrap();
    let larger = tokenizer.replace("\"a\":0", "\"a\":0,\"more\":17,\"and\":16");
    std::fs::write(folder.path("tokenizer.json"), larger).unwrap();
    let with_more = folder.adapted("saved");
    assert!(folder.error(&["--prompt", "a"]).contains("does not fit"));
    std::fs::write(folder.path("tokenizer.json"), tokenizer).unwrap();
    folder.save(&other);
    folder.configure(|config| config["vocab_size"] = json!(18));
    assert_eq!(found, folder.adapted("adapter"));
    assert!(with_more.split_whitespace().count() >= found.split_whitespace().count());
    folder.configure(|config| config["vocab_size"] = json!(16));
    folder.save(&base);
    let path = folder.path("saved");
    let flags = ["--prompt", "a", "--adapter", &path];
    folder.save_with(saved[..1].to_vec(), &["embed_tokens"]);
    let error = folder.error(&flags);
    assert!(error.contains("lm_head.weight"), "{error}");
    saved[1].1.shape[0] -= 1;
    saved[1].1.values.truncate(17 * 32);
    folder.save_with(saved, &["embed_tokens", "lm_head"]);
    let error = folder.error(&flags);
    assert!(
        error.contains("is for 18 tokens, lm_head.weight for 17"),
        "{error}"
    );
}

/// LoRA on the head, and on another map.
fn on_the_head(folder: &Folder) -> HostLora {
    let sites = vec![
        Site::new("model.layers.0.self_attn.q_proj", 32, 32),
        Site::new("lm_head", 32, 16),
    ];
    let config = LoraConfig {
        rank: 2,
        alpha: 3.0,
        ..LoraConfig::default()
    };
    let draw = |side: usize| {
        let values = 0..2 * side;
        values
            .map(|i| ((i * 37 % 23) as f32 - 11.0) / 15.0)
            .collect::<Vec<_>>()
    };
    let settings = config.check(&plan(&sites)).unwrap();
    let lora = HostLora::new(settings, vec![draw(32), draw(32)], vec![draw(32), draw(16)]).unwrap();
    let adapter = PeftAdapter::new(HostAdapter::Lora(lora.clone()));
    adapter.write(&folder.0.path().join("head")).unwrap();
    // The other tensors of it.
    let rest = plan(&lora.settings().plan().sites()[..1]);
    let (a, b) = (lora.a()[..1].to_vec(), lora.b()[..1].to_vec());
    let rest = HostLora::new(lora.settings().config().check(&rest).unwrap(), a, b).unwrap();
    let adapter = PeftAdapter::new(HostAdapter::Lora(rest));
    adapter.write(&folder.0.path().join("rest")).unwrap();
    lora
}

#[test]
fn lora_on_the_head_is_added_to_the_head_alone() {
    let folder = Folder::new();
    let lora = on_the_head(&folder);
    let base = folder.tensors();
    let mut other = base.clone();
    let add = |table: &mut HostTensor| {
        for (i, value) in table.values.iter_mut().enumerate() {
            let (row, column) = (i / 32, i % 32);
            let product = |r: usize| lora.a()[1][r * 32 + column] * lora.b()[1][r * 16 + row];
            *value += 1.5 * (product(0) + product(1));
        }
    };
    add(of(&mut other, HEAD));
    let found = folder.adapted("head");
    folder.save(&other);
    assert_eq!(found, folder.adapted("rest"));
    // A tied head: the token embedding stays.
    let mut tied = base.clone();
    tied.retain(|(name, _)| name != HEAD);
    folder.save(&tied);
    folder.configure(|config| config["tie_word_embeddings"] = json!(true));
    let found = folder.adapted("head");
    assert_ne!(found, folder.adapted("rest"));
    let mut head = of(&mut tied, WORDS).clone();
    add(&mut head);
    tied.push((HEAD.into(), head));
    folder.save(&tied);
    folder.configure(|config| config["tie_word_embeddings"] = json!(false));
    assert_eq!(found, folder.adapted("rest"));
}

#[test]
fn a_head_is_tied_if_the_tensors_say_so() {
    let folder = Folder::new();
    let both = folder.tensors();
    let tie = |tied: bool| folder.configure(|config| config["tie_word_embeddings"] = json!(tied));
    let untied = folder.text(&[]);
    // The embeddings are separate, whatever the configuration states.
    tie(true);
    assert_eq!(folder.text(&[]), untied);
    // The embeddings are tied: one tensor under either name, or two equal ones.
    let mut one = both.clone();
    one.retain(|(name, _)| name != HEAD);
    folder.save(&one);
    let tied = folder.text(&[]);
    assert_ne!(tied, untied);
    let words = of(&mut one, WORDS).clone();
    let mut twice = one.clone();
    twice.push((HEAD.into(), words.clone()));
    folder.save(&twice);
    assert_eq!(folder.text(&[]), tied);
    twice.retain(|(name, _)| name != WORDS);
    folder.save(&twice);
    assert_eq!(folder.text(&[]), tied);
    // An embedding in modules_to_save leaves the other one unchanged, as in PEFT.
    for (name, module, other) in [(WORDS, "embed_tokens", HEAD), (HEAD, "lm_head", WORDS)] {
        tie(true);
        folder.save(&one);
        let new = changed(&words);
        folder.save_with(vec![(name.to_owned(), new.clone())], &[module]);
        let found = folder.adapted("saved");
        tie(false);
        let mut ends = one.clone();
        ends.retain(|(name, _)| name != WORDS);
        ends.extend([(name.to_owned(), new), (other.to_owned(), words.clone())]);
        folder.save(&ends);
        assert_eq!(found, folder.adapted("adapter"), "{module}");
    }
}

fn plan(sites: &[Site]) -> SitePlan {
    Targets::all_linear().select(sites).unwrap()
}
