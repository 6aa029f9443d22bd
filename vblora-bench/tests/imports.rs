//! Imports go one way: a module may use only modules above it in its crate's table below. Training code therefore cannot depend on drawing
//! code, and no two modules can depend on each other.
//!
//! Every path from the crate's root counts: in a `use`, in code, in a test, in a macro. Cargo checks the order of crates.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Stands for names that the crate's root imports by `*`.
const GLOB: &str = "*";

/// Modules and the reason for their position, the lowest first. Modules that share a row still use one another.
type Layers = &'static [(&'static [&'static str], &'static str)];

const BENCH: Layers = &[
    (&["error"], "what can go wrong, in every room"),
    (&["limits"], "sizes that readers believe"),
    (&["terminal"], "text that commands no terminal"),
    (
        &["program"],
        "signals and output; knows nothing of training",
    ),
    (&["group"], "messages between the processes of a job"),
    (&["directory"], "locks and leftovers of a folder"),
    (&["tensorboard"], "curves in a file that grows"),
    (&["schedule"], "a factor for each step"),
    (&["metrics"], "numbers from predictions and labels"),
    (&["tasks"], "examples, and the metrics that judge them"),
    (&["demo"], "the bundled models, and examples of their tasks"),
    (&["recipes"], "hyperparameters of a task"),
    (&["recordings"], "what an adapter selects, step by step"),
    (&["results"], "what runs came to: numbers, no pictures"),
    (&["card"], "what an adapter is, for those who find it"),
    (&["train"], "makes results of a recipe and examples"),
    (
        &["pretrain"],
        "a base made from nothing, with the pieces of training",
    ),
    (&["predict"], "labels and probabilities of a trained head"),
    (&["evaluate"], "scores of answers and texts"),
    (&["sweep"], "many runs of training"),
    (&["analysis"], "what recordings say"),
    (&["chart"], "axes, marks and colours of pictures"),
    (&["report"], "tables and curves of results and sweeps"),
    (&["figures"], "pictures of what analysis says, for a report"),
    (&["view"], "a page of recordings"),
    (&["browser"], "tests of pages in a browser"),
    (&["commands"], "what a user asks for, of all the rest"),
];

const MODELS: Layers = &[
    (&["dtype"], "a name of a number's type"),
    (&["error"], "what can go wrong, in every room"),
    (&["notice"], "a warning that is said once"),
    (&["contain"], "a thread with limits"),
    (&["files"], "the files of a model, wherever they lie"),
    (&["weights"], "tensors of such files"),
    (&["source"], "weights from files or from a seed"),
    (&["upload"], "host tensors to a device"),
    (&["template"], "Jinja within limits"),
    (
        &["config", "decoder", "generate", "parts", "tokenizer"],
        "a circle still: a configuration names its stop tokens and a decoder's parts, which are made by it and have a cache for generation",
    ),
    (&["chat"], "templates over a tokenizer's files"),
    (&["heads"], "heads of encoders"),
    (&["encoder"], "encoders of such parts"),
    (
        &["convert"],
        "directories of both kinds of model to 4 bits and back",
    ),
    (&["lm_head"], "heads over both kinds of model"),
    (&["hub"], "files from elsewhere"),
    (&["limits"], "names of what other modules limit"),
];

const KERNELS: Layers = &[
    (&["rng"], "numbers from a key"),
    (&["numbers"], "floats as files hold them"),
    (&["loops"], "rows to threads, and functions of one number"),
    (&["aligned"], "memory for vector registers"),
    (&["prefetch"], "hints to the processor"),
    (&["tile"], "sums in registers"),
    (&["activation", "loss"], "functions of elements and rows"),
    (&["dropout"], "which elements a key drops"),
    (&["norm"], "normalisations of rows"),
    (&["rotary"], "heads turned by their place"),
    (&["mix"], "mixtures of a bank"),
    (&["nf4"], "weights in 4 bits, on the host"),
    (&["svd"], "singular vectors of a weight"),
    (&["linear"], "products"),
    (&["attention"], "attention from whole tensors"),
];

const VBLORA: Layers = &[
    (&["error"], "what can go wrong, in every room"),
    (&["vblora_kernels"], "a crate below, for numbers from a key"),
    (&["nf4"], "weights in 4 bits, by their public names"),
    (&["unpadded"], "batches without padding"),
    (
        &["backend", "noise"],
        "a circle still: dropout in attention is drawn by key, by operations of a backend",
    ),
    (&["ops"], "tensor operations on any backend"),
    (&["admixture"], "mixtures of a bank"),
    (&["selection"], "which vectors a mixture takes"),
    (&["pattern"], "Python's regular expressions"),
    (&["site"], "places that adapters act on"),
    (&["factors"], "what a forward pass is given"),
    (
        &["adapter", "count", "limits", "storage"],
        "a circle still: an adapter has a stored form, which counts and limits it",
    ),
    (&["linear"], "a frozen map with a site's factors"),
    (&["stack"], "adapters side by side"),
    (&["set"], "adapters by name"),
];

#[test]
fn imports_of_vblora_bench_go_one_way() {
    hold("vblora-bench", BENCH);
}

#[test]
fn imports_of_vblora_models_go_one_way() {
    hold("vblora-models", MODELS);
}

#[test]
fn imports_of_vblora_go_one_way() {
    hold("vblora", VBLORA);
}

#[test]
fn imports_of_its_kernels_go_one_way() {
    hold("vblora/kernels", KERNELS);
}

#[test]
fn an_import_against_the_layers_is_found_wherever_it_stands() {
    let root = names_at_root("pub mod report; mod error; pub use error::{Error, Result};");
    for (text, to) in [
        ("use crate::{Error, report::{self, draw}};", "error report"),
        ("use crate::Result as Outcome;", "error"),
        ("fn f() { g(vec![crate::report::draw()]) }", "report"),
        (
            "mod tests { use super::super::super::report::*; }",
            "report",
        ),
        ("use super::super::{error, report::draw};", "error report"),
        ("use super::other::{report, view};", "train"),
        ("// use crate::report;\nfn f() { \"crate::report\" }", ""),
        ("pub(in crate::train) fn f() {}", "train"),
    ] {
        let mut found = BTreeSet::new();
        let here = ["train", "run"].map(str::to_owned);
        collect(&tokens(text), &here, &mut found);
        let found: Vec<_> = found.iter().map(|name| module_of(name, &root)).collect();
        assert_eq!(found.join(" "), to, "{text}");
    }
    let layers: Layers = &[
        (&["error"], ""),
        (&["train"], ""),
        (&["report", "view"], ""),
    ];
    for (from, to, is_wrong) in [
        ("train", "error", false),
        ("report", "view", false),
        ("train", "report", true),
        ("train", "elsewhere", true),
        ("elsewhere", "error", true),
    ] {
        assert_eq!(problem(from, to, layers).is_some(), is_wrong, "{from} {to}");
    }
}

/// Fails if a module of the crate uses one below it in the table, or one that does not exist.
fn hold(name: &str, layers: Layers) {
    let src = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(name)
        .join("src");
    let mut root = names_at_root(&fs::read_to_string(src.join("lib.rs")).unwrap());
    let read = |file: PathBuf| {
        let here = module_path(file.strip_prefix(&src).unwrap());
        let shown = format!("{name}/src/{}", file.strip_prefix(&src).unwrap().display());
        (shown, here, tokens(&fs::read_to_string(file).unwrap()))
    };
    let files: Vec<_> = sources(&src).into_iter().map(read).collect();
    for (_, here, tokens) in &files {
        root.extend(macros(tokens).map(|name| (name, here[0].clone())));
    }
    let mut wrong = Vec::new();
    for (file, here, tokens) in &files {
        let mut names = BTreeSet::new();
        collect(tokens, here, &mut names);
        let used: BTreeSet<_> = names.iter().map(|name| module_of(name, &root)).collect();
        let found = used.iter().filter_map(|to| problem(&here[0], to, layers));
        wrong.extend(found.map(|problem| format!("{file}: {problem}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The error of an import from one module by another.
fn problem(from: &str, to: &str, layers: Layers) -> Option<String> {
    let place = |module: &str| layers.iter().position(|(row, _)| row.contains(&module));
    match (place(from), place(to)) {
        (None, _) => Some(format!("{from} is in no row of the table")),
        (_, None) => Some(format!("{from} uses {to}, which is in no row of the table")),
        (Some(here), Some(there)) if there > here => {
            let reasons = [here, there].map(|row| layers[row].1);
            Some(format!(
                "{from} ({}) uses {to} ({})",
                reasons[0], reasons[1]
            ))
        }
        _ => None,
    }
}

/// The source files of a crate's library, except its root.
fn sources(src: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(src).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "bin" {
            found.extend(sources(&path));
        } else if name.ends_with(".rs") && !["lib.rs", "main.rs"].contains(&name) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// `train/causal/mod.rs` is `train::causal`.
fn module_path(file: &Path) -> Vec<String> {
    let file = file.with_extension("");
    let names = file.iter().map(|name| name.to_str().unwrap().to_owned());
    names.filter(|name| name != "mod").collect()
}

fn tokens(text: &str) -> Vec<TokenTree> {
    let stream: TokenStream = text.parse().unwrap();
    stream.into_iter().collect()
}

fn inner(group: &proc_macro2::Group) -> Vec<TokenTree> {
    group.stream().into_iter().collect()
}

/// The identifier at a position, if there is one.
fn word(tokens: &[TokenTree], at: usize) -> Option<String> {
    match tokens.get(at) {
        Some(TokenTree::Ident(word)) => Some(word.to_string()),
        _ => None,
    }
}

/// Returns true if `::` is at a position.
fn is_path(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |at| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == ':');
    colon(at) && colon(at + 1)
}

/// Adds the first names of all paths from the crate's root, in code of the module `here`.
fn collect(tokens: &[TokenTree], here: &[String], found: &mut BTreeSet<String>) {
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => {
                let named = at.checked_sub(2).and_then(|at| word(tokens, at));
                let name = word(tokens, at.saturating_sub(1));
                match (named.as_deref(), name) {
                    (Some("mod"), Some(name)) => {
                        let here = [here, &[name]].concat();
                        collect(&inner(group), &here, found);
                    }
                    _ => collect(&inner(group), here, found),
                }
            }
            // Later parts of a path do not start a path.
            TokenTree::Ident(_) if at >= 2 && is_path(tokens, at - 2) => {}
            TokenTree::Ident(word) if is_path(tokens, at + 1) => match word.to_string().as_str() {
                "crate" => follow(&tokens[at + 3..], &[], found),
                "super" => follow(&tokens[at + 3..], &here[..here.len() - 1], found),
                _ => {}
            },
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

/// Adds the first name of the path that continues with these tokens in the module `base`, or of all its branches.
fn follow(tokens: &[TokenTree], base: &[String], found: &mut BTreeSet<String>) {
    match tokens.first() {
        Some(TokenTree::Ident(word)) if *word == "super" && is_path(tokens, 1) => {
            follow(&tokens[3..], &base[..base.len() - 1], found);
        }
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
            for branch in branches(&inner(group)) {
                follow(branch, base, found);
            }
        }
        Some(token) => {
            found.insert(base.first().map_or(token.to_string(), String::clone));
        }
        None => {}
    }
}

/// Splits tokens at commas.
fn branches(tokens: &[TokenTree]) -> impl Iterator<Item = &[TokenTree]> {
    let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(p) if p.as_char() == ',');
    tokens.split(is_comma).filter(|branch| !branch.is_empty())
}

/// The modules by the names in a crate's root: `Error` belongs to `error`. Names imported by `*` map to [`GLOB`].
fn names_at_root(lib: &str) -> BTreeMap<String, String> {
    let tokens = tokens(lib);
    let modules = (0..tokens.len()).filter(|&at| word(&tokens, at).as_deref() == Some("mod"));
    let modules = modules.filter_map(|at| word(&tokens, at + 1));
    let is_end = |token: &TokenTree| matches!(token, TokenTree::Punct(p) if p.as_char() == ';');
    let mut names: BTreeMap<_, _> = modules.map(|name| (name.clone(), name)).collect();
    for item in tokens.split(is_end) {
        let start = (0..item.len()).find(|&at| word(item, at).as_deref() == Some("use"));
        let Some(path) = start.map(|at| &item[at + 1..]) else {
            continue;
        };
        if let Some(module) = word(path, 0) {
            leaves(path, &module, &mut names);
        }
    }
    names
}

fn leaves(path: &[TokenTree], module: &str, names: &mut BTreeMap<String, String>) {
    match path.last() {
        Some(TokenTree::Group(group)) => {
            let inner = inner(group);
            branches(&inner).for_each(|branch| leaves(branch, module, names));
        }
        Some(TokenTree::Ident(name)) => {
            names.insert(name.to_string(), module.to_owned());
        }
        Some(TokenTree::Punct(_)) => {
            names.insert(GLOB.into(), module.to_owned());
        }
        Some(TokenTree::Literal(_)) | None => {}
    }
}

/// The macros that a file defines. An exported macro belongs to the crate's root.
fn macros(tokens: &[TokenTree]) -> impl Iterator<Item = String> {
    let is_one = |&at: &usize| word(tokens, at).as_deref() == Some("macro_rules");
    let found = (0..tokens.len()).filter(is_one);
    found.filter_map(|at| word(tokens, at + 2))
}

/// The module of a name in the crate's root.
fn module_of(name: &str, root: &BTreeMap<String, String>) -> String {
    let found = root.get(name).or_else(|| root.get(GLOB));
    found.cloned().unwrap_or_else(|| name.to_owned())
}
