//! The data of a session, and the model that it is for.

use std::{fmt::Debug, path::PathBuf};

use vblora::{Site, SitePlan, Targets, backend::VbLoraBackend};
use vblora_models::{
    BaseDtype, DecoderConfig, Encoder, EncoderConfig, ModelFiles, TextTokenizer, decoder, encoder,
};

use super::{classification::Classification, data::EncodedSplit, objective::Objective};
use crate::{
    Result, demo,
    recipes::Recipe,
    tasks::{
        Split, SplitName, class_counts,
        own::{OwnData, Splits},
        read_split,
    },
};

/// The data of a session.
pub trait Source: Debug {
    /// The objective of training on this data.
    type Objective<B: VbLoraBackend>: Objective<B>;

    /// The model's summary for a dry run, from its configuration alone.
    ///
    /// # Errors
    /// The configuration cannot be used; the settings do not fit this kind of task.
    fn summary(&self, recipe: &Recipe, files: &ModelFiles) -> Result<ModelSummary>;

    /// The name of the data.
    fn named(&self, recipe: &Recipe) -> DataName;

    /// Reads the data without the model, and checks them.
    ///
    /// # Errors
    /// A file is missing or wrong; a weight of classes fits no class.
    fn survey(&self, recipe: &Recipe, files: &ModelFiles) -> Result<Survey>;

    /// Loads the examples and the model.
    ///
    /// # Errors
    /// A file is missing or wrong.
    fn load<B: VbLoraBackend>(
        &self,
        recipe: &Recipe,
        files: &ModelFiles,
        device: &B::Device,
    ) -> Result<Loaded<B, Self::Objective<B>>>;
}

/// The name of data for readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataName {
    /// The name: that of the task, or of the file of texts.
    pub name: String,
    /// What an example is: `row`, `text`, `conversation`, or `block` of documents.
    pub unit: &'static str,
}

/// The numbers of a session's data.
#[derive(Debug)]
pub struct Survey {
    /// Examples of the training and the development split.
    pub rows: [usize; 2],
    /// Micro-batches of an epoch.
    pub batches: usize,
    /// Notes on the data for the user.
    pub notes: Vec<String>,
}

/// The model's properties that a dry run needs.
#[derive(Debug)]
pub struct ModelSummary {
    /// The number of blocks.
    pub layers: usize,
    /// The hidden size.
    pub width: usize,
    /// The number of parameters.
    pub parameters: usize,
    /// The form in which the linear maps are held.
    pub base_dtype: BaseDtype,
    /// The number of parameters of the head, which is always trained.
    pub head: usize,
    /// The linear maps that an adapter may adapt.
    pub sites: Vec<Site>,
    /// The rule that selects the adapted sites.
    pub targets: Targets,
}

impl ModelSummary {
    /// What a run of an encoder plans with.
    ///
    /// # Errors
    /// The recipe's targets are no rule.
    pub fn of_encoder(config: &EncoderConfig, recipe: &Recipe) -> Result<Self> {
        let head = config.head_form();
        Ok(Self {
            layers: config.num_layers,
            width: config.hidden_size,
            parameters: config.parameters(),
            base_dtype: config.base_dtype,
            head: head.parameters(config.hidden_size, recipe.task.outputs()),
            sites: encoder::sites(config),
            targets: encoder::targets(&recipe.targets)?,
        })
    }

    /// What a run of a decoder plans with.
    ///
    /// # Errors
    /// The recipe's targets are no rule.
    pub fn of_decoder(config: &DecoderConfig, recipe: &Recipe) -> Result<Self> {
        Ok(Self {
            layers: config.num_layers,
            width: config.hidden_size,
            parameters: config.parameters(),
            base_dtype: config.base_dtype,
            head: 0,
            sites: decoder::sites(config),
            targets: decoder::targets(&recipe.targets)?,
        })
    }
}

impl ModelSummary {
    /// The adapted maps.
    ///
    /// # Errors
    /// The targets select no site.
    pub fn plan(&self) -> Result<SitePlan> {
        Ok(self.targets.select(&self.sites)?)
    }
}

/// A model with its training and evaluation data.
#[derive(Debug)]
pub struct Loaded<B: VbLoraBackend, O: Objective<B>> {
    /// The pretrained model.
    pub base: O::Model,
    /// The training split.
    pub train: O::Split,
    /// The development split.
    pub dev: O::Split,
    /// Notes on the data for the user.
    pub notes: Vec<String>,
}

/// GLUE data, the user's own data, or the bundled task with labels.
#[derive(Debug, Clone)]
pub enum DataSource {
    /// The bundled demonstration set.
    Demo,
    /// A directory in GLUE's layout.
    Directory(PathBuf),
    /// The user's own data.
    Own(OwnData),
}

impl DataSource {
    pub(crate) fn read(&self, recipe: &Recipe, name: SplitName) -> Result<Split> {
        match self {
            Self::Demo => demo::split(name),
            Self::Directory(dir) => read_split(dir, &recipe.task, name),
            Self::Own(own) => own.split(&recipe.task, name),
        }
    }
}

type Encoded = (EncodedSplit, EncodedSplit, Vec<String>);

impl DataSource {
    /// The training and development split as tokens, and notes for the user about their rows.
    fn encode(
        &self,
        recipe: &Recipe,
        tokenizer: &TextTokenizer,
        max_length: usize,
    ) -> Result<Encoded> {
        if let Self::Own(own) = self {
            let Splits { train, dev, notes } = own.read(&recipe.task)?;
            let encode = |split| EncodedSplit::of_stored(split, tokenizer, max_length);
            return Ok((encode(train)?, encode(dev)?, notes));
        }
        let encode = |name| EncodedSplit::new(&self.read(recipe, name)?, tokenizer, max_length);
        let (train, dev) = (encode(SplitName::Train)?, encode(SplitName::Dev)?);
        Ok((train, dev, Vec::new()))
    }
}

/// Says that a recipe asks for longer texts than the model takes. `found` is the model's most tokens.
pub(super) fn over_positions(recipe: &Recipe, found: usize) -> Option<String> {
    let asked = recipe.max_length;
    (asked > found).then(|| {
        format!(
            "max_length is {asked}, but the model has positions for {found} tokens: {found} is taken in its place"
        )
    })
}

/// Says how many inputs were cut.
fn cut(train: &EncodedSplit, dev: &EncodedSplit, max_length: usize) -> Option<String> {
    let shown = |split: &EncodedSplit| match split.is_estimate() {
        true => format!("about {}", split.truncated()),
        false => split.truncated().to_string(),
    };
    match (train.truncated(), dev.truncated()) {
        (0, 0) => None,
        _ => Some(format!(
            "{} train and {} dev inputs were cut to {max_length} tokens",
            shown(train),
            shown(dev)
        )),
    }
}

/// The training split with the recipe's weights of classes, if it has some.
fn weighted(train: EncodedSplit, recipe: &Recipe) -> Result<EncodedSplit> {
    let Some(weights) = &recipe.class_weights else {
        return Ok(train);
    };
    let classes = recipe.task.classes();
    let weights = weights.resolve(classes, &train.counts(classes.len()))?;
    Ok(train.with_class_weights(weights))
}

/// The model's configuration with the recipe's dropout, if it has one.
fn config(recipe: &Recipe, files: &ModelFiles) -> Result<EncoderConfig> {
    let mut config = EncoderConfig::from_files(files)?;
    if let Some(p) = recipe.base_dropout {
        (config.hidden_dropout, config.attention_dropout) = (p, p);
    }
    config.base_dtype = recipe.held_as(config.base_dtype)?;
    Ok(config)
}

/// Says that the head's dropout is not the one of the model's files.
fn other_dropout(config: &EncoderConfig, recipe: &Recipe) -> Option<String> {
    let ours = recipe.head.dropout;
    let theirs = config.classifier_dropout.filter(|p| *p != ours)?;
    let field = config.classifier().dropout;
    Some(format!(
        "config.json: {field} is {theirs}, and the recipe's head.dropout, {ours}, is taken in its place"
    ))
}

impl Source for DataSource {
    type Objective<B: VbLoraBackend> = Classification;

    fn named(&self, recipe: &Recipe) -> DataName {
        DataName {
            name: recipe.task.name().to_owned(),
            unit: "row",
        }
    }

    fn survey(&self, recipe: &Recipe, files: &ModelFiles) -> Result<Survey> {
        let classes = recipe.task.classes();
        let (rows, counts, mut notes) = match self {
            Self::Own(own) => {
                let Splits { train, dev, notes } = own.read(&recipe.task)?;
                let counts = train.counts(classes.len());
                ([train.len(), dev.len()], counts, notes)
            }
            Self::Demo | Self::Directory(_) => {
                let train = self.read(recipe, SplitName::Train)?;
                let dev = self.read(recipe, SplitName::Dev)?;
                let labels = train.examples.iter().map(|example| &example.label);
                let counts = class_counts(labels, classes.len());
                let rows = [&train, &dev].map(|split| split.examples.len());
                (rows, counts, Vec::new())
            }
        };
        if let Some(weights) = &recipe.class_weights {
            weights.resolve(classes, &counts)?;
        }
        let config = config(recipe, files)?;
        notes.extend(over_positions(recipe, config.usable_positions()));
        notes.extend(other_dropout(&config, recipe));
        Ok(Survey {
            rows,
            batches: rows[0].div_ceil(recipe.batch),
            notes,
        })
    }

    fn summary(&self, recipe: &Recipe, files: &ModelFiles) -> Result<ModelSummary> {
        ModelSummary::of_encoder(&config(recipe, files)?, recipe)
    }

    fn load<B: VbLoraBackend>(
        &self,
        recipe: &Recipe,
        files: &ModelFiles,
        device: &B::Device,
    ) -> Result<Loaded<B, Classification>> {
        let config = config(recipe, files)?;
        let tokenizer = TextTokenizer::from_files(files)?.for_encoder(&config)?;
        // Sentences longer than the position table are cut to it. The results count them.
        let max_length = recipe.max_length.min(config.usable_positions());
        let (train, dev, mut notes) = self.encode(recipe, &tokenizer, max_length)?;
        notes.extend(over_positions(recipe, config.usable_positions()));
        notes.extend(cut(&train, &dev, max_length));
        notes.extend(other_dropout(&config, recipe));
        let train = weighted(train, recipe)?;
        let (base, _) = Encoder::load_with(config, files, device)?;
        Ok(Loaded {
            base,
            train,
            dev,
            notes,
        })
    }
}
