//! Where the examples of a session come from, and which model they are for.

use std::{fmt::Debug, path::PathBuf};

use vblora::{Site, SitePlan, Targets, backend::VbLoraBackend};
use vblora_models::{EncoderConfig, ModelFiles, Roberta, TextTokenizer, roberta};

use super::{classification::Classification, data::EncodedSplit, objective::Objective};
use crate::{
    Result, demo,
    recipes::Recipe,
    tasks::{Split, SplitName, read_split},
};

/// What a session is about.
pub trait Source: Debug {
    /// What models are trained for on it.
    type Objective<B: VbLoraBackend>: Objective<B>;

    /// What a dry run knows of the model, from its configuration alone.
    ///
    /// # Errors
    /// A configuration that cannot be used, or settings that do not fit this kind of work.
    fn shape(&self, recipe: &Recipe, files: &ModelFiles) -> Result<Shape>;

    /// Reads examples and model.
    ///
    /// # Errors
    /// A file that is missing or wrong.
    fn load<B: VbLoraBackend>(
        &self,
        recipe: &Recipe,
        files: &ModelFiles,
        device: &B::Device,
    ) -> Result<Loaded<B, Self::Objective<B>>>;
}

/// A model as a dry run sees it.
#[derive(Debug)]
pub struct Shape {
    /// Its blocks.
    pub layers: usize,
    /// Its width.
    pub width: usize,
    /// Its parameters.
    pub parameters: usize,
    /// Those of the head that is trained beside every method.
    pub head: usize,
    /// Its linear maps that an adapter may act on.
    pub sites: Vec<Site>,
    /// Which of them are adapted.
    pub targets: Targets,
}

impl Shape {
    /// The adapted maps.
    ///
    /// # Errors
    /// The targets pick none.
    pub fn plan(&self) -> Result<SitePlan> {
        Ok(self.targets.select(&self.sites)?)
    }
}

/// A model and what it is trained and scored on.
#[derive(Debug)]
pub struct Loaded<B: VbLoraBackend, O: Objective<B>> {
    /// The pretrained model.
    pub base: O::Model,
    /// The training split.
    pub train: O::Split,
    /// The development split.
    pub dev: O::Split,
    /// What a user should know of it.
    pub notes: Vec<String>,
}

/// GLUE, or the bundled task of its kind.
#[derive(Debug, Clone)]
pub enum DataSource {
    /// The bundled demonstration set.
    Demo,
    /// A directory in GLUE's layout.
    Directory(PathBuf),
}

impl DataSource {
    pub(crate) fn read(&self, recipe: &Recipe, name: SplitName) -> Result<Split> {
        match self {
            Self::Demo => demo::split(name),
            Self::Directory(dir) => read_split(dir, &recipe.task, name),
        }
    }
}

/// The model's configuration with the recipe's dropout, if it has one.
fn config(recipe: &Recipe, files: &ModelFiles) -> Result<EncoderConfig> {
    let mut config = EncoderConfig::from_files(files)?;
    if let Some(p) = recipe.base_dropout {
        (config.hidden_dropout, config.attention_dropout) = (p, p);
    }
    config.base_dtype = recipe.base_dtype;
    Ok(config)
}

impl Source for DataSource {
    type Objective<B: VbLoraBackend> = Classification;

    fn shape(&self, recipe: &Recipe, files: &ModelFiles) -> Result<Shape> {
        let config = config(recipe, files)?;
        Ok(Shape {
            layers: config.num_layers,
            width: config.hidden_size,
            parameters: config.parameters(),
            head: vblora_models::head_parameters(config.hidden_size, recipe.task.outputs()),
            sites: roberta::sites(&config),
            targets: roberta::targets(&recipe.targets)?,
        })
    }

    fn load<B: VbLoraBackend>(
        &self,
        recipe: &Recipe,
        files: &ModelFiles,
        device: &B::Device,
    ) -> Result<Loaded<B, Classification>> {
        let config = config(recipe, files)?;
        let tokenizer = TextTokenizer::from_files(files)?.for_encoder(&config)?;
        // A sentence longer than the position table is cut to it; how many were is part of the results.
        let max_length = recipe.max_length.min(config.usable_positions());
        let encode = |name| EncodedSplit::new(&self.read(recipe, name)?, &tokenizer, max_length);
        let (train, dev) = (encode(SplitName::Train)?, encode(SplitName::Dev)?);
        let notes = match (train.truncated(), dev.truncated()) {
            (0, 0) => Vec::new(),
            (train, dev) => vec![format!(
                "{train} train and {dev} dev inputs were cut to {max_length} tokens"
            )],
        };
        let (base, _) = Roberta::load_with(config, files, device)?;
        Ok(Loaded {
            base,
            train,
            dev,
            notes,
        })
    }
}
