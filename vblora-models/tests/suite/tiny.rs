//! Small random encoders in which nothing is at its neutral value, and batches for them.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Tensor, TensorData, backend::Backend},
};
use vblora::{SitePlan, VbLora, VbLoraConfig, backend::VbLoraBackend, rng::Key};
use vblora_models::{
    Activation, BaseDtype, Encoded, Encoder, EncoderConfig, EncoderPositions, Family,
    HeadActivation, LayerSet, PaddedBatch, Pooling, RelativeBuckets, RotaryLayers, encoder, pad,
};

/// Every family, with the settings in which their checkpoints differ. Sizes differ from each other wherever they may.
pub(crate) fn config(family: Family) -> EncoderConfig {
    let (pad_token_id, layer_norm_eps, type_vocab_size) = match family {
        Family::Roberta | Family::XlmRoberta => (1, 1e-5, 1),
        Family::Bert | Family::Electra => (0, 1e-12, 2),
        Family::DistilBert => (0, 1e-12, 0),
        Family::ModernBert => (5, 1e-5, 0),
        Family::DebertaV2 => (0, 1e-7, 0),
    };
    let common = EncoderConfig {
        family,
        hidden_size: 32,
        num_layers: 2,
        num_heads: 4,
        intermediate_size: 48,
        vocab_size: 50,
        max_positions: 24,
        type_vocab_size,
        layer_norm_eps,
        activation: Activation::Gelu,
        hidden_dropout: 0.1,
        attention_dropout: 0.2,
        classifier_dropout: None,
        pad_token_id,
        initializer_range: 0.3,
        position_offset: family.position_offset(pad_token_id),
        base_dtype: BaseDtype::F32,
        ..EncoderConfig::roberta_base()
    };
    match family {
        Family::Roberta | Family::XlmRoberta | Family::Bert => common,
        Family::DistilBert => EncoderConfig {
            head_activation: HeadActivation::Of(Activation::Relu),
            ..common
        },
        Family::Electra => EncoderConfig {
            embedding_size: Some(16),
            head_activation: HeadActivation::Of(Activation::Gelu),
            ..common
        },
        // One global and one local layer, whose window is narrower than the texts.
        Family::ModernBert => EncoderConfig {
            positions: EncoderPositions::Rotary(RotaryLayers {
                theta: 1000.0,
                local_theta: 10.0,
                reach: 2,
                local: LayerSet::Listed(vec![false, true]),
            }),
            attention_bias: false,
            mlp_bias: false,
            norm_bias: false,
            pooling: Pooling::Mean,
            head_activation: HeadActivation::Of(Activation::Gelu),
            head_bias: false,
            head_in_base: true,
            ..common
        },
        Family::DebertaV2 => EncoderConfig {
            positions: EncoderPositions::Relative(RelativeBuckets {
                buckets: 4,
                reach: 24,
            }),
            head_activation: HeadActivation::Of(Activation::Gelu),
            head_in_base: true,
            ..common
        },
    }
}

pub(crate) const FAMILIES: [Family; 7] = Family::ALL;

/// The families that the plain reference computes.
pub(crate) const PLAIN: [Family; 2] = [Family::Roberta, Family::Bert];

/// Moves every parameter, so that no bias is 0 and no norm is 1.
struct Moved(u64);

impl<B: Backend> ModuleMapper<B> for Moved {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        self.0 += 1;
        let shape = param.val().shape();
        let by = Key::new(5).index(self.0).normal(shape.num_elements(), 0.2);
        param.map(|tensor| {
            let by = Tensor::from_data(TensorData::new(by, shape), &tensor.device());
            tensor + by
        })
    }
}

pub(crate) fn moved<B: VbLoraBackend, M: Module<B>>(module: M) -> M {
    module.map(&mut Moved(0))
}

pub(crate) fn model_of<B: VbLoraBackend>(config: EncoderConfig, device: &B::Device) -> Encoder<B> {
    moved(Encoder::random(config, 17, device).expect("a model this small fits"))
}

pub(crate) fn model<B: VbLoraBackend>(family: Family, device: &B::Device) -> Encoder<B> {
    model_of(config(family), device)
}

/// Three texts of different lengths without padding; in BERT's case with a second part each.
pub(crate) fn texts(family: Family) -> Vec<Encoded> {
    let rows: [&[u32]; 3] = [
        &[2, 7, 40, 7, 13, 2],
        &[2, 49, 30],
        &[2, 11, 12, 13, 14, 15, 16, 3, 2],
    ];
    let text = |ids: &[u32]| {
        let second = |i: usize| u32::from(family == Family::Bert && i > ids.len() / 2);
        Encoded {
            ids: ids.to_vec(),
            type_ids: (0..ids.len()).map(second).collect(),
            truncated: false,
        }
    };
    rows.map(text).into()
}

pub(crate) fn batch(texts: &[Encoded], config: &EncoderConfig) -> PaddedBatch {
    pad(&texts.iter().collect::<Vec<_>>(), config.pad_token_id)
}

/// VB-LoRA on every linear map, or on those with these suffixes, with factors large enough to matter.
pub(crate) fn adapter<B: VbLoraBackend>(
    model: &Encoder<B>,
    targets: &str,
    device: &B::Device,
) -> VbLora<B> {
    let plan: SitePlan = encoder::targets(targets)
        .unwrap()
        .select(&model.sites())
        .unwrap();
    let config = VbLoraConfig {
        bank: 10,
        vector_length: 16,
        rank: 3,
        topk: 2,
        bank_bound: 0.5,
        logits_std: 1.0,
        ..Default::default()
    };
    config.check(&plan).unwrap().init(23, device)
}
