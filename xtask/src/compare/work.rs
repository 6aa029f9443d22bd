//! The works to compare, with names like `roberta-base/vblora-all/8x128`.

use std::{fmt, str::FromStr};

use anyhow::{Context, Error, Result, bail};
use serde::Serialize;
use vblora::{AdapterConfig, LoraConfig, SitePlan, Targets, VbLoraConfig, rng::Key};
use vblora_models::{DecoderConfig, EncoderConfig, PaddedBatch, decoder::sites, encoder};

/// Rules that select the lowest site of each kind of model. Gradients flow as far down as if every site were adapted.
const LOWEST_SITE: &str = "encoder.layer.0.attention.self.query,encoder.layer.0.attention.self.query_proj,layers.0.attn.Wqkv,model.layers.0.self_attn.q_proj,transformer.h.0.attn.c_attn";

/// One piece of work, which both sides run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) task: Task,
    /// The number type in which frozen weights, or a product's operands, are stored and multiplied.
    pub(crate) dtype: Dtype,
}

/// The kind of a work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// An encoder on a batch.
    Encoder(Encoder, Pass, Shape),
    /// A decoder on a batch. Every next token is a label.
    Decoder(Decoder, Pass, Shape),
    /// A decoder that continues this many prompts, greedily.
    Decode(Decoder, usize),
    /// Composition of every factor of an all-linear VB-LoRA from bank and logits, and its backward pass.
    Compose(Shapes),
    /// A square matrix product, on our side with a frozen weight. It shows the machine's limit.
    Product(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoder {
    Base,
    Large,
    ModernBertBase,
    DebertaV3Base,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoder {
    SmolLm2,
    Gpt2Medium,
    /// TinyLlama's sizes (arXiv 2401.02385).
    Llama1B,
    Llama2At7B,
    Llama2At13B,
}

/// Tokens of every prompt of a decoding work, and tokens that are generated.
pub(super) const PROMPT: usize = 32;
pub(super) const ADDED: usize = 32;

/// The pass of a model over a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// A forward pass without gradients.
    FrozenForward,
    /// A training step with a single adapter of rank 1 on the lowest site.
    GradientFlow,
    LoraQv,
    LoraAll,
    VbLoraQv,
    VbLoraAll,
}

/// A batch's rows and columns, and how a step takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    rows: usize,
    columns: usize,
    form: BatchForm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BatchForm {
    Plain,
    /// Rows fill between a quarter and all of the columns.
    Padded,
    /// A decoder's blocks are computed again on the way back, "gradient checkpointing".
    Recomputed,
}

impl BatchForm {
    const ALL: [(&'static str, Self); 3] = [
        ("-padded", Self::Padded),
        ("-recompute", Self::Recomputed),
        ("", Self::Plain),
    ];
}

/// The linear maps of a model that is not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shapes {
    RobertaBase,
    RobertaLarge,
    Llama2At7B,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dtype {
    F32,
    Bf16,
    /// 4 bits with double quantisation. Products are in bf16 on a GPU, and in f32 on a CPU.
    Nf4,
}

impl Dtype {
    const ALL: [(&'static str, Self); 3] =
        [("f32", Self::F32), ("bf16", Self::Bf16), ("nf4", Self::Nf4)];
}

impl Encoder {
    const ALL: [(&'static str, Self); 4] = [
        ("roberta-base", Self::Base),
        ("roberta-large", Self::Large),
        ("modernbert-base", Self::ModernBertBase),
        ("deberta-v3-base", Self::DebertaV3Base),
    ];

    pub(super) fn config(self) -> EncoderConfig {
        match self {
            Self::Base => EncoderConfig::roberta_base(),
            Self::Large => EncoderConfig::roberta_large(),
            Self::ModernBertBase => EncoderConfig::modernbert_base(),
            Self::DebertaV3Base => EncoderConfig::deberta_v3_base(),
        }
        .without_dropout()
    }

    /// The adapter of a pass. A bank vector's length must divide every dimension, and 256 does not for ModernBERT.
    pub(crate) fn adapter(self, pass: Pass) -> Option<(AdapterConfig, &'static str)> {
        let length = (self == Self::ModernBertBase).then_some(192);
        pass.adapter_of_length(length)
    }
}

impl Decoder {
    const ALL: [(&'static str, Self); 5] = [
        ("smollm2", Self::SmolLm2),
        ("gpt2-medium", Self::Gpt2Medium),
        ("llama-1.1b", Self::Llama1B),
        ("llama-2-7b", Self::Llama2At7B),
        ("llama-2-13b", Self::Llama2At13B),
    ];

    /// True if the device must draw the weights, because the host would take minutes.
    pub(super) fn is_large(self) -> bool {
        matches!(self, Self::Llama2At7B | Self::Llama2At13B)
    }

    pub(super) fn config(self) -> DecoderConfig {
        let config = match self {
            Self::SmolLm2 => DecoderConfig::smollm2_135m(),
            Self::Gpt2Medium => DecoderConfig::gpt2_medium(),
            Self::Llama1B => DecoderConfig {
                hidden_size: 2048,
                num_layers: 22,
                num_heads: 32,
                num_kv_heads: 4,
                head_size: 64,
                intermediate_size: 5632,
                ..DecoderConfig::llama_2_7b()
            },
            Self::Llama2At7B => DecoderConfig::llama_2_7b(),
            Self::Llama2At13B => DecoderConfig::llama_2_13b(),
        };
        // Speed is measured without dropout. Random weights never end a text.
        DecoderConfig {
            embedding_dropout: 0.0,
            residual_dropout: 0.0,
            attention_dropout: 0.0,
            eos_token_ids: Vec::new(),
            ..config
        }
    }

    /// The adapter of a pass. A bank vector's length must divide every dimension, and 256 does not for SmolLM2. The large models have the
    /// bank and the rank of the paper's table 9.
    pub(crate) fn adapter(self, pass: Pass) -> Option<(AdapterConfig, &'static str)> {
        let length = (self == Self::SmolLm2).then_some(64);
        let (adapter, targets) = pass.adapter_of_length(length)?;
        let rank = match self {
            Self::Llama2At7B => 4,
            Self::Llama2At13B => 6,
            _ => return Some((adapter, targets)),
        };
        let adapter = match adapter {
            AdapterConfig::VbLora(config) => AdapterConfig::VbLora(VbLoraConfig {
                rank,
                bank: 2048,
                ..config
            }),
            other => other,
        };
        Some((adapter, targets))
    }
}

/// The prompts of a decoding work: random tokens, all of the same length.
pub(super) fn prompts(rows: usize) -> Vec<Vec<u32>> {
    let token = |i: usize| 5 + Key::new(3).below(i as u64, 30_000) as u32;
    let tokens: Vec<u32> = (0..rows * PROMPT).map(token).collect();
    tokens.chunks(PROMPT).map(<[u32]>::to_vec).collect()
}

impl Pass {
    const ALL: [(&'static str, Self); 6] = [
        ("frozen-forward", Self::FrozenForward),
        ("gradient-flow", Self::GradientFlow),
        ("lora-qv", Self::LoraQv),
        ("lora-all", Self::LoraAll),
        ("vblora-qv", Self::VbLoraQv),
        ("vblora-all", Self::VbLoraAll),
    ];

    /// [`adapter`](Self::adapter) with bank vectors of another length.
    fn adapter_of_length(self, length: Option<usize>) -> Option<(AdapterConfig, &'static str)> {
        let (adapter, targets) = self.adapter()?;
        let adapter = match (adapter, length) {
            (AdapterConfig::VbLora(config), Some(vector_length)) => {
                AdapterConfig::VbLora(VbLoraConfig {
                    vector_length,
                    ..config
                })
            }
            (other, _) => other,
        };
        Some((adapter, targets))
    }

    /// The adapter that is trained, and its sites as a rule for the model's `targets`; `None` for a forward pass.
    pub(crate) fn adapter(self) -> Option<(AdapterConfig, &'static str)> {
        let one = LoraConfig {
            rank: 1,
            ..LoraConfig::default()
        };
        Some(match self {
            Self::FrozenForward => return None,
            Self::GradientFlow => (AdapterConfig::Lora(one), LOWEST_SITE),
            Self::LoraQv => (AdapterConfig::Lora(LoraConfig::default()), "qv"),
            Self::LoraAll => (AdapterConfig::Lora(LoraConfig::default()), "all"),
            Self::VbLoraQv => (AdapterConfig::VbLora(VbLoraConfig::default()), "qv"),
            Self::VbLoraAll => (AdapterConfig::VbLora(VbLoraConfig::default()), "all"),
        })
    }
}

impl Shape {
    /// Returns true if rows have padding.
    pub(super) fn is_padded(self) -> bool {
        self.form == BatchForm::Padded
    }

    /// Returns true if blocks are computed again on the way back.
    pub(super) fn is_recomputed(self) -> bool {
        self.form == BatchForm::Recomputed
    }

    /// Rows without padding.
    pub(crate) fn without_padding(rows: usize, columns: usize) -> Self {
        Self {
            rows,
            columns,
            form: BatchForm::Plain,
        }
    }

    /// Rows of random tokens.
    pub(crate) fn batch(self, pad_id: u32) -> PaddedBatch {
        let Self { rows, columns, .. } = self;
        let shortest = columns.div_ceil(4);
        let length = |row: usize| match self.is_padded() {
            true if row > 0 => shortest + Key::new(2).below(row as u64, columns - shortest + 1),
            _ => columns,
        };
        let is_token = |i: usize| i % columns < length(i / columns);
        let token = |i: usize| 5 + Key::new(1).below(i as u64, 50_000) as i64;
        let cells = 0..rows * columns;
        PaddedBatch {
            ids: cells
                .clone()
                .map(|i| if is_token(i) { token(i) } else { pad_id.into() })
                .collect(),
            type_ids: vec![0; rows * columns],
            mask: cells.map(|i| i64::from(is_token(i))).collect(),
            rows,
            columns,
        }
    }
}

impl Shapes {
    const ALL: [(&'static str, Self); 3] = [
        ("roberta-base", Self::RobertaBase),
        ("roberta-large", Self::RobertaLarge),
        ("llama-2-7b", Self::Llama2At7B),
    ];

    /// The sites of an all-linear adapter, and its settings from the paper's tables 7 and 9.
    pub(super) fn vblora(self) -> Result<(SitePlan, VbLoraConfig)> {
        let default = VbLoraConfig::default();
        let (sites, config) = match self {
            Self::RobertaBase => (encoder::sites(&Encoder::Base.config()), default),
            Self::RobertaLarge => (encoder::sites(&Encoder::Large.config()), default),
            Self::Llama2At7B => (
                sites(&DecoderConfig::llama_2_7b()),
                VbLoraConfig {
                    bank: 2048,
                    ..default
                },
            ),
        };
        Ok((Targets::all_linear().select(&sites)?, config))
    }
}

impl Work {
    /// The default works, for a CPU or a GPU.
    pub(super) fn defaults(gpu: bool) -> Vec<Self> {
        let names: &[&str] = if gpu {
            &[
                "product/8192",
                "product/8192/bf16",
                "roberta-base/frozen-forward/32x128",
                "roberta-base/gradient-flow/32x128",
                "roberta-base/lora-qv/32x128",
                "roberta-base/vblora-qv/32x128",
                "roberta-base/vblora-all/32x128",
                "roberta-base/gradient-flow/32x128/bf16",
                "roberta-base/vblora-all/32x128/bf16",
                "roberta-large/frozen-forward/32x128",
                "roberta-large/gradient-flow/32x128",
                "roberta-large/lora-qv/32x128",
                "roberta-large/vblora-qv/32x128",
                "roberta-large/vblora-all/32x128",
                "roberta-large/gradient-flow/32x128/bf16",
                "roberta-large/vblora-all/32x128/bf16",
                "compose/roberta-large",
                "compose/llama-2-7b",
                "llama-1.1b/gradient-flow/2x512",
                "llama-1.1b/lora-qv/2x512",
                "llama-1.1b/vblora-all/2x512",
                "llama-1.1b/gradient-flow/2x512/bf16",
                "llama-1.1b/vblora-all/2x512/bf16",
                "llama-1.1b/lora-qv/2x512/nf4",
                "llama-1.1b/vblora-all/2x512/nf4",
                "llama-2-7b/vblora-all/4x528-recompute/bf16",
                "llama-2-7b/lora-all/4x528-recompute/nf4",
                "llama-2-7b/vblora-all/4x528-recompute/nf4",
                "smollm2/decode/1",
                "smollm2/decode/8",
                "llama-1.1b/decode/1",
                "llama-1.1b/decode/8",
            ]
        } else {
            &[
                "product/2048",
                "roberta-base/frozen-forward/8x128",
                "roberta-base/gradient-flow/8x128",
                "roberta-base/lora-qv/8x128",
                "roberta-base/vblora-all/8x128",
                "roberta-base/vblora-all/32x64-padded",
                "modernbert-base/vblora-all/8x128",
                "deberta-v3-base/vblora-all/8x128",
                "compose/roberta-base",
                "smollm2/gradient-flow/2x256",
                "smollm2/vblora-all/2x256",
                "smollm2/decode/1",
                "smollm2/decode/8",
            ]
        };
        let known = |name: &&str| name.parse().expect("the names above are well-formed");
        names.iter().map(known).collect()
    }

    /// Floating-point operations of the products with frozen weights and of attention. An adapter's own operations are below 1 % of them.
    pub(super) fn operations(self) -> Option<f64> {
        match self.task {
            Task::Compose(_) | Task::Decode(..) => None,
            Task::Product(n) => Some(2.0 * (n as f64).powi(3)),
            Task::Encoder(encoder, pass, shape) => {
                let config = encoder.config();
                // A map of the head sees one token of a row.
                let maps = encoder::sites(&config).into_iter();
                let maps = maps.filter(|site| site.name.contains("layer"));
                let weights: usize = maps.map(|site| site.d_in * site.d_out).sum();
                let attended = shape.columns * config.num_layers * config.hidden_size;
                Some(of_pass(pass, shape, [weights, attended]))
            }
            Task::Decoder(decoder, pass, shape) => {
                let config = decoder.config();
                let maps = sites(&config).into_iter();
                let weights: usize = maps.map(|site| site.d_in * site.d_out).sum();
                // On average a token attends to half of the others.
                let width = config.num_heads * config.head_size;
                let attended = shape.columns * config.num_layers * width / 2;
                let head = config.vocab_size * config.hidden_size;
                Some(of_pass(pass, shape, [weights + head, attended]))
            }
        }
    }
}

impl Task {
    /// Rows and tokens of a batch of a model; nothing for other works.
    pub(crate) fn sizes(self) -> (usize, usize) {
        match self {
            Self::Encoder(_, _, Shape { rows, columns, .. })
            | Self::Decoder(_, _, Shape { rows, columns, .. }) => (rows, columns),
            Self::Decode(..) | Self::Compose(_) | Self::Product(_) => (0, 0),
        }
    }
}

/// Operations of a pass over weights, and over the keys and values that a token attends to.
fn of_pass(pass: Pass, shape: Shape, [weights, attended]: [usize; 2]) -> f64 {
    let (products, attention) = ((2 * weights) as f64, (4 * attended) as f64);
    // In the backward pass, a frozen map costs one product, and attention costs two for each of its own.
    let per_token = match pass {
        Pass::FrozenForward => products + attention,
        _ if shape.is_recomputed() => 3.0 * products + 4.0 * attention,
        _ => 2.0 * products + 3.0 * attention,
    };
    per_token * (shape.rows * shape.columns) as f64
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.task {
            Task::Encoder(encoder, pass, shape) => write!(
                f,
                "{}/{}/{shape}",
                name(&Encoder::ALL, encoder),
                name(&Pass::ALL, pass)
            ),
            Task::Decoder(decoder, pass, shape) => write!(
                f,
                "{}/{}/{shape}",
                name(&Decoder::ALL, decoder),
                name(&Pass::ALL, pass)
            ),
            Task::Decode(decoder, rows) => {
                write!(f, "{}/decode/{rows}", name(&Decoder::ALL, decoder))
            }
            Task::Compose(shapes) => write!(f, "compose/{}", name(&Shapes::ALL, shapes)),
            Task::Product(n) => write!(f, "product/{n}"),
        }?;
        match self.dtype {
            Dtype::F32 => Ok(()),
            other => write!(f, "/{}", name(&Dtype::ALL, other)),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = name(&BatchForm::ALL, self.form);
        write!(f, "{}x{}{form}", self.rows, self.columns)
    }
}

fn name<T: PartialEq>(names: &[(&'static str, T)], value: T) -> &'static str {
    let found = names.iter().find(|(_, known)| *known == value);
    found.expect("every value has a name").0
}

fn named<T: Copy>(names: &[(&'static str, T)], text: &str) -> Result<T> {
    match names.iter().find(|(name, _)| *name == text) {
        Some((_, value)) => Ok(*value),
        None => {
            let known: Vec<_> = names.iter().map(|(name, _)| *name).collect();
            bail!("expected one of {}, found {text:?}", known.join(", "))
        }
    }
}

impl FromStr for Work {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (rest, dtype) = match text.rsplit_once('/') {
            Some((rest, "bf16")) => (rest, Dtype::Bf16),
            Some((rest, "nf4")) => (rest, Dtype::Nf4),
            _ => (text, Dtype::F32),
        };
        let task = match *rest.split('/').collect::<Vec<_>>() {
            ["compose", shapes] => Task::Compose(named(&Shapes::ALL, shapes)?),
            ["product", n] => Task::Product(size(n)?),
            [decoder, "decode", rows] => Task::Decode(named(&Decoder::ALL, decoder)?, size(rows)?),
            [model, pass, shape] => {
                let (pass, shape) = (named(&Pass::ALL, pass)?, shape.parse()?);
                match named(&Decoder::ALL, model) {
                    Ok(decoder) => Task::Decoder(decoder, pass, shape),
                    Err(_) => Task::Encoder(named(&Encoder::ALL, model)?, pass, shape),
                }
            }
            _ => bail!(
                "expected MODEL/PASS/ROWSxCOLUMNS, MODEL/decode/ROWS, compose/MODEL or product/SIZE, found {text:?}"
            ),
        };
        let recomputes = |shape: Shape, pass| shape.is_recomputed() && pass == Pass::FrozenForward;
        match task {
            Task::Encoder(_, _, shape) if shape.is_recomputed() => {
                bail!("encoders keep their activations, found {text:?}")
            }
            Task::Decoder(_, pass, shape) if recomputes(shape, pass) => {
                bail!("a forward pass computes nothing again, found {text:?}")
            }
            _ => {}
        }
        if dtype == Dtype::Nf4 && matches!(task, Task::Compose(_) | Task::Product(_)) {
            bail!("{rest} has no base that could be in 4 bits, found {text:?}");
        }
        Ok(Self { task, dtype })
    }
}

impl FromStr for Shape {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut forms = BatchForm::ALL.into_iter();
        let found = forms.find_map(|(end, form)| Some((text.strip_suffix(end)?, form)));
        let (sizes, form) = found.unwrap_or((text, BatchForm::Plain));
        let (rows, columns) = sizes
            .split_once('x')
            .with_context(|| format!("expected ROWSxCOLUMNS, found {text:?}"))?;
        let (rows, columns) = (size(rows)?, size(columns)?);
        Ok(Self {
            rows,
            columns,
            form,
        })
    }
}

/// Parses a size that a machine may have memory for.
fn size(text: &str) -> Result<usize> {
    match text.parse() {
        Ok(n @ 1..=65_536) => Ok(n),
        _ => bail!("expected a size from 1 to 65536, found {text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let known = [Work::defaults(true), Work::defaults(false)].concat();
        assert!(known.len() > 20);
        for work in known {
            assert_eq!(work.to_string().parse::<Work>().unwrap(), work);
        }
    }

    #[test]
    fn a_wrong_name_is_answered_with_the_right_ones() {
        for (name, expected) in [
            ("roberta-base/vblora-al/8x128", "vblora-all"),
            ("roberta-huge/vblora-all/8x128", "deberta-v3-base"),
            ("roberta-base/vblora-all/8", "ROWSxCOLUMNS"),
            ("roberta-base/vblora-all/0x128", "from 1 to"),
            ("compose/gpt-5", "llama-2-7b"),
            ("product", "product/SIZE"),
            ("smollm3/decode/1", "gpt2-medium"),
            ("smollm2/decode/0", "from 1 to"),
            ("product/8/nf4", "4 bits"),
            ("roberta-base/vblora-all/8x128-recompute", "encoders"),
            ("llama-2-7b/frozen-forward/1x16-recompute", "forward"),
            ("compose/llama-2-7b/nf4", "4 bits"),
        ] {
            let message = name.parse::<Work>().unwrap_err().to_string();
            assert!(message.contains(expected), "{name}: {message}");
        }
    }

    #[test]
    fn padded_rows_have_from_a_quarter_to_all_of_the_columns() {
        let shape: Shape = "32x64-padded".parse().unwrap();
        let batch = shape.batch(1);
        let lengths: Vec<i64> = batch.mask.chunks(64).map(|row| row.iter().sum()).collect();
        assert_eq!(lengths[0], 64);
        assert!(lengths.iter().all(|n| (16..=64).contains(n)));
        assert!(lengths.iter().any(|&n| n < 32));
        let padding = batch.ids.iter().zip(&batch.mask);
        assert!(padding.into_iter().all(|(&id, &m)| (id == 1) == (m == 0)));
    }
}
