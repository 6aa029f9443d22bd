//! The methods that a run can compare.

use clap::ValueEnum;
use vblora::{AdapterConfig, SitePlan, count, count::Count};
use vblora_models::{BaseDtype, EncoderConfig, roberta};

use crate::{Error, Result, recipes::Recipe};

/// What is trained on top of, or instead of, the frozen base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lowercase")]
pub enum Method {
    /// VB-LoRA and the head.
    VbLora,
    /// LoRA and the head.
    Lora,
    /// The head alone, on the frozen base.
    Head,
    /// Base and head: full fine-tuning, the yardstick.
    Full,
}

impl Method {
    /// The name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::VbLora => "vblora",
            Self::Lora => "lora",
            Self::Head => "head",
            Self::Full => "full",
        }
    }

    /// The adapter's settings, for the methods that have one.
    pub fn adapter(self, recipe: &Recipe) -> Option<AdapterConfig> {
        match self {
            Self::VbLora => Some(AdapterConfig::VbLora(recipe.vblora.clone())),
            Self::Lora => Some(AdapterConfig::Lora(recipe.lora.clone())),
            Self::Head | Self::Full => None,
        }
    }

    /// The sites that the recipe's targets pick in such a model.
    ///
    /// # Errors
    /// The targets pick none.
    pub fn sites(recipe: &Recipe, model: &EncoderConfig) -> Result<SitePlan> {
        Ok(roberta::targets(&recipe.targets)?.select(&roberta::sites(model))?)
    }

    /// What is trained and stored besides the head.
    ///
    /// # Errors
    /// The adapter's settings do not fit the model's sites; a base in half precision is to be trained itself.
    pub fn count(self, recipe: &Recipe, model: &EncoderConfig) -> Result<Count> {
        Ok(match self.adapter(recipe) {
            Some(adapter) => {
                let plan = Self::sites(recipe, model)?;
                let whole = adapter.count(&plan)?;
                match (
                    adapter,
                    recipe.bank.as_ref().is_some_and(|bank| bank.frozen),
                ) {
                    (AdapterConfig::VbLora(config), true) => {
                        let s = plan.sub_vectors(config.rank, config.vector_length);
                        count::vblora_codes(config.bank, s, config.topk)
                    }
                    _ => whole,
                }
            }
            None if self == Self::Full => {
                full_precision(recipe.base_dtype)?;
                count::dense(model.parameters())
            }
            None => count::dense(0),
        })
    }

    /// The dry run: sites, sub-vectors, trained and stored parameters and bytes, before anything is allocated.
    ///
    /// # Errors
    /// As [`count`](Self::count).
    pub fn describe(self, recipe: &Recipe, model: &EncoderConfig) -> Result<String> {
        Ok(match self.adapter(recipe) {
            Some(adapter) => {
                let plan = Self::sites(recipe, model)?;
                let text = adapter.describe_counted(&plan, self.count(recipe, model)?);
                let bank = recipe.bank.as_ref().filter(|_| self == Self::VbLora);
                text + &bank.map_or(String::new(), |bank| format!("  {bank}\n"))
            }
            None => format!("{}\n  {}\n", self.name(), self.count(recipe, model)?),
        })
    }
}

/// Small updates vanish in half-precision weights, so a base that is trained itself must be in f32.
fn full_precision(dtype: BaseDtype) -> Result<()> {
    if dtype == BaseDtype::F32 {
        return Ok(());
    }
    Err(Error::Setting {
        setting: "base_dtype".into(),
        expected: "f32 for method full, which trains the base itself".into(),
        found: dtype.to_string(),
    })
}
