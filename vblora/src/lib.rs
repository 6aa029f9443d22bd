//! VB-LoRA (Li, Han and Ji, NeurIPS 2024, arXiv 2405.15179) on Burn: extremely parameter-efficient fine-tuning with vector banks.
//!
//! Every low-rank factor of every adapted layer is tiled from one small shared *bank* of vectors. Each tile is a softmax mixture of the k
//! bank vectors with the largest logits (top-k admixture). The stored form holds the bank, and k indices and k - 1 weights per tile.
//!
//! The base model is a frozen function and adapters are values passed in. A layer is a [`FrozenLinear`], a forward pass takes [`Factors`],
//! and the optimizer only ever sees the adapter. So one base in memory serves any number of adapters.
//!
//! # Symbols
//!
//! | symbol | meaning |
//! | --- | --- |
//! | `d_in`, `d_out` | dimensions of a linear map, whose weight is `[d_in, d_out]` |
//! | `r` | rank of the factors: down `[d_in, r]`, up `[r, d_out]` |
//! | `h`, `b` | the bank is `[h, b]`: h vectors of length b |
//! | `k` | bank vectors mixed per sub-vector |
//! | `S` | sub-vectors of all factors of all sites: the sum of `r (d_in / b + d_out / b)`; the logits are `[S, h]` |
//! | `T` | tokens |
//!
//! # Adapting a model of your own
//!
//! ```
//! use burn::{backend::Autodiff, grad_clipping::GradientClippingConfig, module::{AutodiffModule, Module},
//!     optim::{AdamWConfig, GradientsParams, Optimizer}, tensor::{Distribution, Tensor, backend::Backend}};
//! use vblora::{Adapter, Composition, Factors, FrozenLinear, StoredVbLora, Targets, VbLoraConfig, WeightLayout, backend::VbLoraBackend};
#![cfg_attr(feature = "flex", doc = "type B = burn::backend::Flex;")]
#![cfg_attr(not(feature = "flex"), doc = "type B = burn::backend::NdArray;")]
//!
//! #[derive(Module, Debug)]
//! struct Net<B: Backend> { first: FrozenLinear<B>, second: FrozenLinear<B> }
//!
//! impl<B: VbLoraBackend> Net<B> {
//!     fn forward(&self, x: Tensor<B, 2>, factors: &Factors<B>) -> Tensor<B, 2> {
//!         self.second.forward(self.first.forward(x, factors).tanh(), factors)
//!     }
//! }
//!
//! let device = Default::default();
//! let random = |shape| Tensor::<Autodiff<B>, 2>::random(shape, Distribution::Normal(0.0, 0.3), &device);
//! let frozen = |site, d_out, d_in| FrozenLinear::new(site, random([d_out, d_in]), None, WeightLayout::OutIn);
//! let net = Net { first: frozen("first", 32, 16), second: frozen("second", 8, 32) };
//! let (x, target) = (random([64, 16]), random([64, 8]));
//!
//! let plan = Targets::all_linear().select(&[net.first.site(), net.second.site()])?;
//! let config = VbLoraConfig { bank: 24, vector_length: 8, ..Default::default() };
//! let mut adapter = config.check(&plan)?.init::<Autodiff<B>>(7, &device);
//! let mut optimizer = AdamWConfig::new().with_weight_decay(0.0).init();
//! let mut losses = Vec::new();
//! for _ in 0..60 {
//!     let mut step = Composition::new(&adapter);
//!     let loss = (net.forward(x.clone(), step.factors()) - target.clone()).square().mean();
//!     losses.push(loss.clone().into_scalar());
//!     step.collect(&mut loss.backward());
//!     adapter = optimizer.step(0.02, adapter.clone(), GradientsParams::from_grads(step.push_back()?, &adapter));
//! }
//! assert!(losses[59] < 0.9 * losses[0]);
//!
//! let file = std::env::temp_dir().join("adapter.safetensors");
//! adapter.valid().store()?.save(&file)?;                        // bank and codes: a few kilobytes
//! let factors = StoredVbLora::load(&file)?.factors(&device);    // serves as it is
//! let difference = net.valid().forward(x.clone().inner(), &factors) - net.valid().forward(x.inner(), &adapter.valid().factors());
//! assert!(difference.abs().max().into_scalar() < 1e-5);
//! # Ok::<(), vblora::Error>(())
//! ```

#![forbid(unsafe_code)]

pub mod adapter;
pub mod admixture;
pub mod backend;
pub mod count;
mod error;
mod factors;
pub mod limits;
mod linear;
pub mod nf4;
pub mod noise;
pub mod ops;
mod pattern;
pub mod selection;
mod set;
mod site;
mod stack;
pub mod storage;
mod unpadded;

pub use adapter::{
    Adapter, AdapterConfig, AnyAdapter, BaseWeights, Composition, FactorGradients, MethodConfig,
    ParameterGroup, leaf_factors, methods::*, slab_gradients,
};
pub use error::{Error, Result};
pub use factors::{Factors, LowRank};
pub use linear::{FrozenLinear, FrozenWeight, JoinedMaps, StepMaps, WeightLayout};
pub use noise::Noise;
pub use selection::Selection;
pub use set::AdapterSet;
pub use site::{Site, SitePlan, Targets};
pub use stack::Stack;
pub use storage::StoredVbLora;
pub use unpadded::{MASKED, Unpadded};
#[doc(inline)]
pub use vblora_kernels::rng;
