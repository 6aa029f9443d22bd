//! What the workspace carries so that it runs with no download: a tiny RoBERTa and an acceptability task built from BLiMP.
//!
//! The model was pretrained by this project (`cargo xtask pretrain-tiny`); `assets/demo/README.md` has the data's origin and licence. It is
//! a demonstration set, not CoLA.

use vblora_models::ModelFiles;

use crate::{
    Result,
    tasks::{Split, SplitName, Task, parse_split},
};

macro_rules! asset {
    ($name:literal) => {
        (
            $name,
            include_bytes!(concat!("../assets/tiny-roberta/", $name)).as_slice(),
        )
    };
}

/// The bundled model's files.
pub fn model_files() -> ModelFiles {
    static FILES: [(&str, &[u8]); 3] = [
        asset!("config.json"),
        asset!("model.safetensors"),
        asset!("tokenizer.json"),
    ];
    ModelFiles::embedded("the bundled tiny RoBERTa", &FILES)
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
    parse_split(text, source, Task::Demo)
}
