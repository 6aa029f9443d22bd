//! Texts as the data of a session with a causal model.

use vblora::backend::VbLoraBackend;
use vblora_models::{DecoderConfig, ModelFiles, TextTokenizer, decoder::CausalLm};

use super::{
    encode::{EncodedTexts, Encoding},
    objective::{Causal, epoch},
};
use crate::{
    Error, Result,
    recipes::Recipe,
    tasks::{
        causal::{Layout, Texts},
        counted,
    },
    train::{DataName, Loaded, ModelSummary, Source, Survey, source::over_positions},
};

/// Texts to train on, and held-out texts.
#[derive(Debug, Clone)]
pub struct TextSource {
    /// The texts to train on.
    pub train: Texts,
    /// The texts to evaluate on after each epoch.
    pub held_out: Texts,
}

/// The model's configuration with the recipe's dropout, if it has one.
fn config(recipe: &Recipe, files: &ModelFiles) -> Result<DecoderConfig> {
    let mut config = DecoderConfig::from_files(files)?;
    if let Some(p) = recipe.base_dropout {
        config.embedding_dropout = p;
        (config.residual_dropout, config.attention_dropout) = (p, p);
    }
    config.base_dtype = recipe.held_as(config.base_dtype)?;
    Ok(config)
}

/// The encoding of texts that a recipe sets for a model.
///
/// # Errors
/// The model's files name no token that ends a text.
pub fn encoding<'a>(
    recipe: &Recipe,
    config: &DecoderConfig,
    tokenizer: &'a TextTokenizer,
) -> Result<Encoding<'a>> {
    let listed = config.eos_token_ids.first().copied();
    let end = tokenizer.end().or(listed).ok_or_else(|| Error::Setting {
        setting: "eos_token_id".into(),
        expected: "a token that ends each response, as the tokenizer's eos_token or in generation_config.json or config.json".into(),
        found: "none".into(),
    })?;
    Ok(Encoding {
        tokenizer,
        end,
        max_length: recipe.max_length.min(config.max_positions),
        too_long: recipe.text.too_long,
        on_prompt: recipe.text.on_prompt,
    })
}

/// Notes for the user on texts that were changed or left out.
fn notes(train: &EncodedTexts, dev: &EncodedTexts, max_length: usize) -> Vec<String> {
    let splits = [("training", train), ("held-out", dev)];
    let moved = splits.into_iter().filter(|(_, split)| split.moved() > 0);
    let moved = moved.map(|(name, split)| {
        let prompts = counted(
            split.moved() as usize,
            &format!("prompt of {name} texts has"),
            &format!("prompts of {name} texts have"),
        );
        format!("{prompts} other tokens alone, as generation has them, than before the response")
    });
    let rendered = splits.into_iter().filter(|(_, split)| split.rendered() > 0);
    let rendered = rendered.map(|(name, split)| {
        let texts = counted(
            split.rendered() as usize,
            &format!("{name} text begins or ends"),
            &format!("{name} texts begin or end"),
        );
        format!("{texts} with special tokens of the model already, as from a chat template; these are not added twice")
    });
    splits
        .into_iter()
        .filter(|(_, split)| split.cut() + split.dropped() > 0)
        .map(|(name, split)| {
            let cut = counted(
                split.cut() as usize,
                &format!("{name} text was"),
                &format!("{name} texts were"),
            );
            format!(
                "{cut} cut to fit {max_length} tokens (prompts from their left, conversations by their last turns), {} left out",
                split.dropped()
            )
        })
        .chain(moved)
        .chain(rendered)
        .collect()
}

impl Source for TextSource {
    type Objective<B: VbLoraBackend> = Causal;

    fn named(&self, _: &Recipe) -> DataName {
        let Texts {
            texts,
            source,
            layout,
            ..
        } = &self.train;
        let name = source.file_name().unwrap_or(source.as_os_str());
        let has_turns = texts.iter().any(|text| text.turns.is_some());
        DataName {
            name: name.to_string_lossy().into_owned(),
            unit: match (layout, has_turns) {
                (Layout::Blocks, _) => "block",
                (Layout::Examples, true) => "conversation",
                (Layout::Examples, false) => "text",
            },
        }
    }

    fn survey(&self, recipe: &Recipe, files: &ModelFiles) -> Result<Survey> {
        let config = config(recipe, files)?;
        let tokenizer = TextTokenizer::from_files(files)?.for_decoder(&config)?;
        let encoding = encoding(recipe, &config, &tokenizer)?;
        let train = encoding.encode(&self.train)?;
        let dev = encoding.encode(&self.held_out)?;
        let seed = recipe.seeds.first().copied().unwrap_or_default();
        let over = over_positions(recipe, config.max_positions).into_iter();
        Ok(Survey {
            rows: [train.len(), dev.len()],
            batches: epoch(&train, recipe, seed, 1).len(),
            notes: over
                .chain(notes(&train, &dev, encoding.max_length))
                .collect(),
        })
    }

    fn summary(&self, recipe: &Recipe, files: &ModelFiles) -> Result<ModelSummary> {
        ModelSummary::of_decoder(&config(recipe, files)?, recipe)
    }

    fn load<B: VbLoraBackend>(
        &self,
        recipe: &Recipe,
        files: &ModelFiles,
        device: &B::Device,
    ) -> Result<Loaded<B, Causal>> {
        let config = config(recipe, files)?;
        let tokenizer = TextTokenizer::from_files(files)?.for_decoder(&config)?;
        let encoding = encoding(recipe, &config, &tokenizer)?;
        let train = encoding.encode(&self.train)?;
        let dev = encoding.encode(&self.held_out)?;
        let over = over_positions(recipe, config.max_positions).into_iter();
        let notes = over
            .chain(notes(&train, &dev, encoding.max_length))
            .collect();
        let (base, _) = CausalLm::load_with(config, files, device)?;
        Ok(Loaded {
            base,
            train,
            dev,
            notes,
        })
    }
}
