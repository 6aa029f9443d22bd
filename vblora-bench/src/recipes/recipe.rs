//! A recipe: every hyperparameter of a run on one task.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vblora::{
    LoraConfig, LoraXsConfig, ParameterGroup, TiedLoraConfig, VbLoraConfig, VeraConfig,
    storage::{Bank, peft::PeftDirectory, read_text},
};
use vblora_models::{BaseDtype, Nf4Settings};

use super::{ClassWeights, EvaluationSettings, TextSettings};
use crate::limits::MAX_TEXT_BYTES;
use crate::schedule::{Schedule, ScheduleKind};
use crate::tasks::Task;
use crate::{Error, Result};

/// Every hyperparameter of a run on one task. An unknown key at any level is an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The task.
    pub task: Task,
    /// The name of the model that the settings are for. It is a note, not a path.
    pub model: String,
    /// The adapted modules: `qv`, `all`, or comma-separated module-name suffixes.
    pub targets: String,
    /// Passes over the training split.
    pub epochs: usize,
    /// Optimizer steps after which the run ends, at most those of `epochs`. The schedule ends there too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<usize>,
    /// Rows of a micro-batch.
    pub batch: usize,
    /// Micro-batches of an optimizer step.
    #[serde(default = "one")]
    pub accumulation: usize,
    /// Maximum tokens of a row, including special tokens. Longer rows are cut.
    pub max_length: usize,
    /// True if rows of similar length share a batch, like the option of this name in transformers. It reduces padding and makes the order
    /// less random.
    #[serde(default)]
    pub group_by_length: bool,
    /// Seeds. Each seed gives one run.
    pub seeds: Vec<u64>,
    /// Maximum joint gradient norm; 0 turns clipping off.
    #[serde(default = "unit")]
    pub clip_norm: f64,
    /// Dropout probability inside the base. If absent, the model's own applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_dropout: Option<f64>,
    /// Form of the base's linear maps: f32, f16, bf16 or nf4. Adapter, head and all operations between the linear maps are f32. With f32, a
    /// model whose files are in 4 bits stays so.
    #[serde(default)]
    pub base_dtype: BaseDtype,
    /// The learning-rate schedule, shared by all groups.
    pub schedule: ScheduleSettings,
    /// The evaluations during training, and early stopping.
    #[serde(default, skip_serializing_if = "EvaluationSettings::is_default")]
    pub evaluation: EvaluationSettings,
    /// Learning rates by parameter group.
    pub lr: LearningRates,
    /// Weight decay by parameter group. Biases and norms have none by default.
    #[serde(default)]
    pub weight_decay: WeightDecay,
    /// AdamW's own settings.
    #[serde(default)]
    pub adam: AdamSettings,
    /// VB-LoRA's settings.
    pub vblora: VbLoraConfig,
    /// The bank that VB-LoRA starts from. If absent, VB-LoRA draws a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bank: Option<SharedBank>,
    /// LoRA's settings.
    pub lora: LoraConfig,
    /// VeRA's settings.
    #[serde(default)]
    pub vera: VeraConfig,
    /// Tied-LoRA's settings.
    #[serde(default)]
    pub tied_lora: TiedLoraConfig,
    /// LoRA-XS's settings.
    #[serde(default)]
    pub lora_xs: LoraXsConfig,
    /// The task head's settings. Tasks of texts have no head.
    #[serde(default)]
    pub head: HeadSettings,
    /// The settings of a base in 4 bits.
    #[serde(default, skip_serializing_if = "is_default")]
    pub nf4: Nf4Settings,
    /// Weights of classes in the loss. If absent, all classes weigh the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<ClassWeights>,
    /// The settings for causal models.
    #[serde(default, skip_serializing_if = "TextSettings::is_default")]
    pub text: TextSettings,
    /// Settings that differ between sources, or that one source leaves out. Maps a key to the statement of each source.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub differs: BTreeMap<String, String>,
}

/// The learning-rate schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleSettings {
    /// `constant`, `linear`, `cosine` or `inverse-sqrt`.
    pub kind: ScheduleKind,
    /// The share of all steps over which the rate rises, in 0..=1, rounded up to whole steps.
    #[serde(default)]
    pub warmup_ratio: f64,
    /// The steps over which the rate rises, instead of a share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<usize>,
}

/// Learning rates by parameter group, before the schedule's factor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearningRates {
    /// VB-LoRA's bank and gate.
    pub bank: f64,
    /// VB-LoRA's logits and noise logits.
    pub logits: f64,
    /// Parameters of all other methods: LoRA's A and B, and those of the methods below if they have no rate of their own.
    pub adapter: f64,
    /// VeRA's vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vera: Option<f64>,
    /// Tied-LoRA's factors and vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tied_lora: Option<f64>,
    /// LoRA-XS's R.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_xs: Option<f64>,
    /// The task head.
    pub head: f64,
    /// The base model, in full fine-tuning only.
    pub base: f64,
}

impl LearningRates {
    /// The rates of methods that have one of their own, by the method's table in recipes.
    pub(super) fn own(&self) -> [(&'static str, Option<f64>); 3] {
        [
            ("vera", self.vera),
            ("tied_lora", self.tied_lora),
            ("lora_xs", self.lora_xs),
        ]
    }

    /// The rate of an adapter's parameters other than bank and logits, by its method's name.
    pub fn of_adapter(&self, method: &str) -> f64 {
        let table = method.replace('-', "_");
        let own = self.own().into_iter().find(|(name, _)| *name == table);
        own.and_then(|(_, rate)| rate).unwrap_or(self.adapter)
    }

    /// The rate of a group of an adapter's parameters.
    pub fn of(&self, group: ParameterGroup) -> f64 {
        match group {
            ParameterGroup::Bank | ParameterGroup::Gate => self.bank,
            ParameterGroup::Logits | ParameterGroup::NoiseLogits => self.logits,
            ParameterGroup::Factors => self.adapter,
        }
    }

    /// The key of a group's rate.
    pub fn key(group: ParameterGroup) -> &'static str {
        match group {
            ParameterGroup::Bank | ParameterGroup::Gate => "bank",
            ParameterGroup::Logits | ParameterGroup::NoiseLogits => "logits",
            ParameterGroup::Factors => "adapter",
        }
    }

    /// The same rates with `rate` for all adapter parameters other than bank and logits, for every method.
    #[must_use]
    pub fn with_adapter(self, rate: f64) -> Self {
        Self {
            adapter: rate,
            vera: None,
            tied_lora: None,
            lora_xs: None,
            ..self
        }
    }
}

/// Weight decay by parameter group.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WeightDecay {
    /// VB-LoRA's bank.
    pub bank: f64,
    /// VB-LoRA's logits.
    pub logits: f64,
    /// The matrices of the other methods' adapters.
    pub adapter: f64,
    /// The matrices of the task head.
    pub head: f64,
    /// The matrices of the base model, in full fine-tuning only.
    pub base: f64,
    /// True if biases and norms decay like matrices, as in torch's plain AdamW.
    pub biases: bool,
}

impl WeightDecay {
    /// The decay of a group of an adapter's parameters. Noise logits and gate have none.
    pub fn of(&self, group: ParameterGroup) -> f64 {
        match group {
            ParameterGroup::Bank => self.bank,
            ParameterGroup::Logits => self.logits,
            ParameterGroup::NoiseLogits | ParameterGroup::Gate => 0.0,
            ParameterGroup::Factors => self.adapter,
        }
    }
}

impl Default for WeightDecay {
    /// Head and base 0.1, the rest 0. The official code gives bank and logits no decay.
    fn default() -> Self {
        Self {
            bank: 0.0,
            logits: 0.0,
            adapter: 0.0,
            head: 0.1,
            base: 0.1,
            biases: false,
        }
    }
}

/// A bank that other adapters share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedBank {
    /// A compact file with a bank, or a PEFT directory of VB-LoRA.
    pub file: PathBuf,
    /// True if the bank is frozen. Then only logits and head are trained, and the codes are bound to this bank.
    #[serde(default)]
    pub frozen: bool,
}

impl SharedBank {
    /// Reads the bank.
    ///
    /// # Errors
    /// The file or directory cannot be read, or has no bank.
    pub fn load(&self) -> Result<Bank> {
        Ok(match self.file.is_dir() {
            true => PeftDirectory::open(&self.file)?.bank()?,
            false => Bank::load(&self.file)?,
        })
    }
}

impl fmt::Display for SharedBank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.frozen {
            "frozen"
        } else {
            "to start from"
        };
        write!(f, "bank of {}, {how}", self.file.display())
    }
}

/// AdamW's own settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the square root of the second moment.
    pub eps: f64,
}

impl Default for AdamSettings {
    /// The defaults of torch and of the official code: 0.9, 0.999, 1e-8.
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
        }
    }
}

/// The task head: dense, tanh, dropout, projection on the first token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeadSettings {
    /// Dropout probability before each of the two matrices.
    pub dropout: f64,
    /// Initial values.
    pub init: HeadInit,
}

impl Default for HeadSettings {
    /// RoBERTa's settings: dropout 0.1, `roberta`.
    fn default() -> Self {
        Self {
            dropout: 0.1,
            init: HeadInit::Roberta,
        }
    }
}

/// Initial values of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadInit {
    /// Matrices are normal with standard deviation 0.02, biases are zero, as in transformers' RoBERTa.
    Roberta,
    /// Matrices and biases are uniform within `1 / sqrt(d_in)`, as in PyTorch's Linear.
    Torch,
}

impl Recipe {
    /// Reads and checks a recipe file.
    ///
    /// # Errors
    /// The file does not exist; a key is unknown or missing, with file and key; [`Recipe::validate`] refuses a setting.
    pub fn from_toml_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = read_text(path, MAX_TEXT_BYTES).map_err(|e| Error::read(path, e))?;
        Self::from_toml(&text, &path.display().to_string())
    }

    /// Reads and checks a recipe. Errors show `file` as its name.
    ///
    /// # Errors
    /// As [`Recipe::from_toml_file`].
    pub fn from_toml(text: &str, file: &str) -> Result<Self> {
        let recipe: Self = toml::from_str(text).map_err(|e| syntax(file, e))?;
        recipe.validate()?;
        Ok(recipe)
    }

    /// Writes the whole recipe, with defaults, as TOML. [`Recipe::from_toml`] reads back an equal recipe.
    ///
    /// # Errors
    /// The TOML writer refuses a value.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| syntax("to be written", e))
    }

    /// The recipe as a table of TOML, with the same keys and values.
    pub(super) fn to_table(&self) -> Result<toml::Table> {
        toml::Table::try_from(self).map_err(|e| syntax("to be written", e))
    }

    /// The form in which the base is held, given the form of its files, with the settings of 4 bits.
    ///
    /// # Errors
    /// The files are in 4 bits, and half precision is asked for; there are settings of 4 bits, and nothing is in 4 bits.
    pub fn held_as(&self, files: BaseDtype) -> Result<BaseDtype> {
        held_as(self.base_dtype, self.nf4, files)
    }

    /// The recipe as a record of a run whose base is held in this form. A base whose files are in 4 bits is one in nf4, under either name.
    pub(crate) fn settled(&self, held: BaseDtype) -> Self {
        let base_dtype = match held {
            BaseDtype::Stored4Bit(_) => BaseDtype::Nf4(Nf4Settings::default()),
            _ => self.base_dtype,
        };
        Self {
            base_dtype,
            ..self.clone()
        }
    }

    /// The schedule over `total_steps` optimizer steps.
    pub fn schedule(&self, total_steps: usize) -> Schedule {
        let ScheduleSettings {
            kind,
            warmup_ratio,
            warmup_steps,
        } = self.schedule;
        match warmup_steps {
            None => Schedule::with_ratio(kind, warmup_ratio, total_steps),
            Some(warmup_steps) => Schedule {
                kind,
                warmup_steps,
                total_steps,
            },
        }
    }

    /// The optimizer steps of a run whose epochs have `steps_per_epoch` steps.
    pub fn steps(&self, steps_per_epoch: usize) -> usize {
        let all = steps_per_epoch.saturating_mul(self.epochs);
        self.max_steps.map_or(all, |most| most.min(all))
    }
}

pub(super) fn syntax(file: &str, error: impl std::fmt::Display) -> Error {
    Error::RecipeSyntax {
        file: file.to_string(),
        message: error.to_string().trim_end().to_string(),
    }
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// [`Recipe::held_as`] of a form and its settings of 4 bits.
pub(crate) fn held_as(asked: BaseDtype, nf4: Nf4Settings, files: BaseDtype) -> Result<BaseDtype> {
    let asked = match asked {
        BaseDtype::Nf4(_) => BaseDtype::Nf4(nf4),
        other => other,
    };
    match asked.settle(files)? {
        BaseDtype::Stored4Bit(_) if nf4.double_quant != Nf4Settings::default().double_quant => {
            Err(Error::Setting {
                setting: "nf4.double_quant".into(),
                expected: "none: the model's files are in 4 bits, and their scales are used".into(),
                found: nf4.double_quant.to_string(),
            })
        }
        BaseDtype::Stored4Bit(_) => Ok(BaseDtype::Stored4Bit(nf4.compute)),
        nf4 @ BaseDtype::Nf4(_) => Ok(nf4),
        dense if is_default(&nf4) => Ok(dense),
        dense => Err(Error::Setting {
            setting: "nf4".into(),
            expected: "no such table unless base_dtype is nf4".into(),
            found: format!("base_dtype {dense}"),
        }),
    }
}

fn one() -> usize {
    1
}

fn unit() -> f64 {
    1.0
}

#[cfg(test)]
mod tests {
    use vblora::Selection;

    use super::*;
    use crate::recipes::Size;

    /// A recipe with only the keys that have no default.
    const SHORT: &str = r#"
task = "rte"
model = "any"
targets = "query,value"
epochs = 3
batch = 8
max_length = 64
seeds = [7]
schedule = { kind = "cosine", warmup_ratio = 0.1 }
lr = { bank = 1e-3, logits = 1e-2, adapter = 5e-4, head = 2e-3, base = 1e-5 }
vblora = { bank = 16, vector_length = 8, rank = 2, topk = 3, bank_bound = 0.02, logits_std = 0.01 }
lora = { rank = 2, alpha = 4, dropout = 0.05 }
"#;

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let recipe = Recipe::from_toml(SHORT, "short.toml").unwrap();
        assert_eq!(
            (recipe.accumulation, recipe.clip_norm, recipe.base_dropout),
            (1, 1.0, None)
        );
        assert_eq!(recipe.base_dtype, BaseDtype::F32);
        assert_eq!(
            (recipe.weight_decay.head, recipe.weight_decay.bank),
            (0.1, 0.0)
        );
        assert_eq!((recipe.adam.beta2, recipe.adam.eps), (0.999, 1e-8));
        assert_eq!(
            (recipe.head.dropout, recipe.head.init),
            (0.1, HeadInit::Roberta)
        );
        let vera = &recipe.vera;
        assert_eq!((vera.d_init, vera.projection_seed), (0.1, 0));
        assert!(!recipe.lora.rslora);
        assert_eq!((recipe.tied_lora.rank, recipe.lora_xs.std), (8, 1e-5));
        let schedule = recipe.schedule(101);
        assert_eq!(
            (schedule.warmup_steps, schedule.kind),
            (11, ScheduleKind::Cosine)
        );
        assert_eq!((recipe.max_steps, recipe.steps(40)), (None, 120));
        assert!(recipe.evaluation.is_default());
        // Keys that are absent stay absent, so recipes keep their hashes.
        let text = recipe.to_toml().unwrap();
        for key in ["max_steps", "evaluation", "warmup_steps"] {
            assert!(!text.contains(key), "{text}");
        }
    }

    #[test]
    fn steps_of_a_run_and_of_its_warm_up_go_round() {
        let text = SHORT.replace("warmup_ratio = 0.1", "warmup_steps = 7");
        let text = format!("max_steps = 50\n{text}evaluation = {{ every = 10, patience = 2 }}\n");
        let recipe = Recipe::from_toml(&text, "").unwrap();
        assert_eq!((recipe.steps(40), recipe.steps(10)), (50, 30));
        assert_eq!(recipe.schedule(50).warmup_steps, 7);
        let EvaluationSettings { every, patience } = recipe.evaluation;
        assert_eq!((every, patience), (Some(10), Some(2)));
        let text = recipe.to_toml().unwrap();
        assert_eq!(Recipe::from_toml(&text, "again").unwrap(), recipe, "{text}");
    }

    #[test]
    fn a_baseline_has_the_adapters_rate_or_its_own() {
        let mut recipe = Recipe::from_toml(SHORT, "short.toml").unwrap();
        for method in ["lora", "vera", "tied-lora", "lora-xs"] {
            assert_eq!(recipe.lr.of_adapter(method), 5e-4, "{method}");
        }
        let lr = &mut recipe.lr;
        (lr.vera, lr.tied_lora, lr.lora_xs) = (Some(1.0), Some(2.0), Some(3.0));
        let found = ["lora", "vera", "tied-lora", "lora-xs"].map(|name| lr.of_adapter(name));
        assert_eq!(found, [5e-4, 1.0, 2.0, 3.0]);
        let one = recipe.lr.with_adapter(7.0);
        for method in ["lora", "vera", "tied-lora", "lora-xs"] {
            assert_eq!(one.of_adapter(method), 7.0, "{method}");
        }
        assert_eq!(one.bank, recipe.lr.bank);
        let text = recipe.to_toml().unwrap();
        assert_eq!(Recipe::from_toml(&text, "again").unwrap(), recipe, "{text}");
    }

    #[test]
    fn a_selection_is_chosen_by_name() {
        let recipe = |keys: &str| {
            Recipe::from_toml(&SHORT.replace("topk = 3", &format!("topk = 3{keys}")), "")
        };
        let default = recipe("").unwrap();
        assert_eq!(
            default.vblora,
            recipe(
                r#", selection = "topk", tau = 0.3333333333333333, noise_std = 0.01, gate = false"#
            )
            .unwrap()
            .vblora
        );
        for selection in Selection::ALL {
            let keys =
                format!(", selection = \"{selection}\", tau = 0.5, noise_std = 0.25, gate = true");
            let chosen = recipe(&keys).unwrap();
            let VbLoraConfig {
                tau,
                noise_std,
                gate,
                ..
            } = chosen.vblora;
            assert_eq!(
                (chosen.vblora.selection, tau, noise_std, gate),
                (selection, 0.5, 0.25, true)
            );
            assert_eq!(
                Recipe::from_toml(&chosen.to_toml().unwrap(), "").unwrap(),
                chosen
            );
        }
        let error = recipe(r#", selection = "best""#).unwrap_err().to_string();
        assert!(
            error.contains("`best`") && error.contains("`noisy-topk`"),
            "{error}"
        );
    }

    #[test]
    fn what_is_written_reads_back_equal() {
        let mut recipe = Recipe::builtin(Size::Base, &Task::mrpc()).unwrap();
        recipe.base_dropout = Some(0.25);
        recipe.base_dtype = BaseDtype::Bf16;
        recipe.seeds = vec![3, 9_007_199_254_740_993];
        let text = recipe.to_toml().unwrap();
        assert_eq!(Recipe::from_toml(&text, "again").unwrap(), recipe, "{text}");
        recipe.seeds = vec![u64::MAX];
        let text = recipe.to_toml().unwrap();
        assert_eq!(Recipe::from_toml(&text, "again").unwrap().seeds, [u64::MAX]);
    }

    #[test]
    fn unknown_and_missing_keys_are_named_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.toml");
        let message = |text: String| {
            std::fs::write(&path, text).unwrap();
            Recipe::from_toml_file(&path).unwrap_err().to_string()
        };
        for (from, to, key) in [
            ("epochs = 3", "epoch = 3", "`epoch`"),
            ("topk = 3", "top_k = 3", "`top_k`"),
            ("head = 2e-3", "heads = 2e-3", "`heads`"),
            ("warmup_ratio", "warmup", "`warmup`"),
            ("kind = \"cosine\"", "kind = \"square\"", "`square`"),
            ("batch = 8", "", "`batch`"),
            ("task = \"rte\"", "task = \"mnli\"", "`mnli`"),
            ("epochs = 3", "epochs = -3", "line 5"),
        ] {
            let error = message(SHORT.replace(from, to));
            assert!(
                error.contains(key) && error.contains("mine.toml"),
                "{error}"
            );
        }
        for table in ["weight_decay", "adam", "head"] {
            let error = message(format!("{SHORT}{table} = {{ wrong = 1.0 }}\n"));
            assert!(error.contains("`wrong`"), "{error}");
        }
        let absent = Recipe::from_toml_file(dir.path().join("none.toml"))
            .unwrap_err()
            .to_string();
        assert!(absent.contains("none.toml"), "{absent}");
    }
}
