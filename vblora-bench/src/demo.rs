//! Data that the workspace includes so that it runs without a download. A tiny RoBERTa comes with an acceptability task built from BLiMP. A
//! tiny Llama comes with meaning representations of places and their descriptions.
//!
//! This project pretrained the models (`cargo xtask pretrain-tiny`, `pretrain-decoder`). `assets/demo/README.md` and
//! `assets/demo-text/README.md` state the data's origin and licence. They are demonstration sets, not CoLA and not E2E.

use vblora_models::ModelFiles;

use crate::{
    Result,
    tasks::{
        Split, SplitName, Task,
        causal::{Form, Texts, parse_texts},
        parse_split,
    },
};

macro_rules! model {
    ($folder:literal) => {
        [
            model!($folder, "config.json"),
            model!($folder, "model.safetensors"),
            model!($folder, "tokenizer.json"),
        ]
    };
    ($folder:literal, $name:literal) => {
        (
            $name,
            include_bytes!(concat!("../assets/", $folder, "/", $name)).as_slice(),
        )
    };
}

/// The bundled encoder's files.
pub fn model_files() -> ModelFiles {
    static FILES: [(&str, &[u8]); 3] = model!("tiny-roberta");
    ModelFiles::embedded("the bundled tiny RoBERTa", &FILES)
}

/// The bundled decoder's files.
pub fn decoder_files() -> ModelFiles {
    static FILES: [(&str, &[u8]); 3] = model!("tiny-llama");
    ModelFiles::embedded("the bundled tiny Llama", &FILES)
}

/// A split of the bundled task.
///
/// # Errors
/// Never, as long as the tests pass.
pub fn split(name: SplitName) -> Result<Split> {
    let (text, source) = match name {
        SplitName::Train => (
            include_str!("../assets/demo/train.tsv"),
            "the bundled train.tsv",
        ),
        SplitName::Dev => (
            include_str!("../assets/demo/dev.tsv"),
            "the bundled dev.tsv",
        ),
    };
    parse_split(text, source, &Task::demo())
}

/// A split of the bundled texts.
///
/// # Errors
/// Never, as long as the tests pass.
pub fn texts(name: SplitName) -> Result<Texts> {
    let (text, source) = match name {
        SplitName::Train => (
            include_str!("../assets/demo-text/train.csv"),
            "the bundled train.csv",
        ),
        SplitName::Dev => (
            include_str!("../assets/demo-text/dev.csv"),
            "the bundled dev.csv",
        ),
    };
    parse_texts(text, "csv", source, &Form::E2e)
}
