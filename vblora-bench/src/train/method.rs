//! The methods that a run can compare.

use clap::{ValueEnum, builder::PossibleValue};
use vblora::{AdapterConfig, count, count::Count, for_each_method};
use vblora_models::BaseDtype;

use super::source::ModelSummary;
use crate::{Error, Result, recipes::Recipe};

macro_rules! define {
    ($($method:ident $config:ident $name:literal $table:ident $title:literal;)+) => {
        /// The part that is trained on top of, or instead of, the frozen base.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Method {
            $(
                #[doc = concat!($title, " and the head.")]
                $method,
            )+
            /// Only the head, on the frozen base.
            Head,
            /// Base and head: full fine-tuning, the reference.
            Full,
        }

        impl Method {
            /// The methods that train an adapter on the frozen base.
            pub const ADAPTERS: &[Self] = &[$(Self::$method),+];

            /// Every method.
            pub const ALL: &[Self] = &[$(Self::$method,)+ Self::Head, Self::Full];

            /// The name on the command line and in results.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$method => $name,)+
                    Self::Head => "head",
                    Self::Full => "full",
                }
            }

            fn help(self) -> &'static str {
                match self {
                    $(Self::$method => concat!($title, " and the head"),)+
                    Self::Head => "Only the head, on the frozen base",
                    Self::Full => "Base and head: full fine-tuning, the reference",
                }
            }

            /// The adapter's settings, for the methods that have one.
            pub fn adapter(self, recipe: &Recipe) -> Option<AdapterConfig> {
                match self {
                    $(Self::$method => Some(AdapterConfig::$method(recipe.$table.clone())),)+
                    Self::Head | Self::Full => None,
                }
            }
        }
    };
}

for_each_method!(define);

impl ValueEnum for Method {
    fn value_variants<'a>() -> &'a [Self] {
        Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(self.help()))
    }
}

impl Method {
    /// Counts trained and stored parameters and bytes, without the head.
    ///
    /// # Errors
    /// The adapter's settings do not fit the model's sites; the method trains a base in half precision or with recomputed blocks.
    pub fn count(self, recipe: &Recipe, model: &ModelSummary) -> Result<Count> {
        Ok(match self.adapter(recipe) {
            Some(adapter) => {
                let plan = model.plan()?;
                let whole = adapter.count(&plan)?;
                match (
                    adapter,
                    recipe.bank.as_ref().is_some_and(|bank| bank.frozen),
                ) {
                    (AdapterConfig::VbLora(config), true) => config.check(&plan)?.count_codes(),
                    _ => whole,
                }
            }
            None if self == Self::Full => {
                full_precision(model.base_dtype)?;
                whole_graph(recipe)?;
                count::dense(model.parameters)
            }
            None if model.head == 0 => return Err(nothing_to_train()),
            None => count::dense(0),
        })
    }

    /// Describes the run before anything is allocated: sites, sub-vectors, trained and stored parameters and bytes.
    ///
    /// # Errors
    /// As [`count`](Self::count).
    pub fn describe(self, recipe: &Recipe, model: &ModelSummary) -> Result<String> {
        Ok(match self.adapter(recipe) {
            Some(adapter) => {
                let plan = model.plan()?;
                let text = adapter.describe_counted(&plan, self.count(recipe, model)?);
                let bank = recipe.bank.as_ref().filter(|_| self == Self::VbLora);
                text + &bank.map_or(String::new(), |bank| format!("  {bank}\n"))
            }
            None => format!("{}\n  {}\n", self.name(), self.count(recipe, model)?),
        })
    }
}

/// Requires f32 for a trained base, because small updates vanish in half-precision weights.
fn full_precision(dtype: BaseDtype) -> Result<()> {
    if dtype == BaseDtype::F32 {
        return Ok(());
    }
    Err(Error::Setting {
        setting: "base_dtype".into(),
        expected: "f32 for method full, because it trains the base".into(),
        found: dtype.to_string(),
    })
}

/// Refuses recomputed blocks for a trained base. They give no gradient to the layers before the first block.
fn whole_graph(recipe: &Recipe) -> Result<()> {
    if !recipe.text.recompute {
        return Ok(());
    }
    Err(Error::Setting {
        setting: "text.recompute".into(),
        expected: "false for method full, because it trains the embeddings".into(),
        found: "true".into(),
    })
}

fn nothing_to_train() -> Error {
    Error::Setting {
        setting: "method".into(),
        expected: "an adapter or full for a causal model, which has no head of its own".into(),
        found: "head".into(),
    }
}
