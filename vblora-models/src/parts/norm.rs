//! Frozen normalisations.

use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};
use vblora::{
    backend::VbLoraBackend,
    ops::{StepNorm, invertible_norm, invertible_sum_norm, layer_norm, rms_norm},
};

use super::build::Builder;
use crate::{HostTensor, Result, config::NormForm, host_tensor, source::WeightSource};

/// `gamma (x - mean) / sqrt(var + epsilon) + beta` over the last dimension.
#[derive(Module, Debug)]
pub struct FrozenLayerNorm<B: Backend> {
    /// `[d]`
    pub gamma: Param<Tensor<B, 1>>,
    /// `[d]`; 0 where there is none.
    pub beta: Option<Param<Tensor<B, 1>>>,
    #[module(skip)]
    epsilon: f64,
    #[module(skip)]
    is_invertible: bool,
}

/// How far beta may outweigh gamma where the input is computed from the output: that many times f32's rounding is the error then.
const MAX_RATIO: f32 = 16.0;

/// Returns true if the input can be computed from the output to few bits less than it has.
fn is_invertible<B: VbLoraBackend>(
    gamma: &Param<Tensor<B, 1>>,
    beta: Option<&Param<Tensor<B, 1>>>,
) -> bool {
    let values = |weight: &Param<Tensor<B, 1>>| host_tensor(weight.val()).values;
    let gamma = values(gamma);
    let beta = beta.map_or_else(|| vec![0.0; gamma.len()], values);
    let mut both = gamma.iter().zip(&beta);
    both.all(|(gamma, beta)| *gamma != 0.0 && beta.abs() <= MAX_RATIO * gamma.abs())
}

impl<B: VbLoraBackend> FrozenLayerNorm<B> {
    pub(crate) fn build<S: WeightSource>(
        builder: &mut Builder<'_, B, S>,
        name: &str,
        d: usize,
        epsilon: f64,
    ) -> Result<Self> {
        Self::build_with(builder, name, d, epsilon, true)
    }

    /// [`build`](Self::build) of a norm that may have no bias.
    pub(crate) fn build_with<S: WeightSource>(
        builder: &mut Builder<'_, B, S>,
        name: &str,
        d: usize,
        epsilon: f64,
        has_bias: bool,
    ) -> Result<Self> {
        let gamma = builder.norm_weight(&format!("{name}.weight"), d, 0.0);
        let bias = has_bias.then(|| builder.frozen(&format!("{name}.bias"), [d]));
        let (gamma, beta) = (gamma?, bias.transpose()?);
        Ok(Self {
            is_invertible: is_invertible(&gamma, beta.as_ref()),
            gamma,
            beta,
            epsilon,
        })
    }

    /// Its tensors as they are stored.
    pub(crate) fn tensors(&self, name: &str) -> Vec<(String, HostTensor)> {
        let named = |part: &str, values: &Param<Tensor<B, 1>>| {
            (format!("{name}.{part}"), host_tensor(values.val()))
        };
        let bias = self.beta.as_ref().map(|beta| named("bias", beta));
        std::iter::once(named("weight", &self.gamma))
            .chain(bias)
            .collect()
    }

    /// # Shapes
    /// - input and output: `[.., d]`
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        let norm = match self.is_invertible {
            true => invertible_norm,
            false => layer_norm,
        };
        let [gamma, beta] = self.weights();
        norm(x, gamma, beta, self.epsilon)
    }

    /// [`forward`](Self::forward) of the sum of x and a residual.
    pub fn forward_sum<const D: usize>(
        &self,
        x: Tensor<B, D>,
        residual: Tensor<B, D>,
    ) -> Tensor<B, D> {
        if !self.is_invertible {
            return self.forward(x + residual);
        }
        let [gamma, beta] = self.weights();
        invertible_sum_norm(x, residual, gamma, beta, self.epsilon)
    }

    fn weights(&self) -> [Tensor<B, 1>; 2] {
        let gamma = self.gamma.val();
        let beta = match &self.beta {
            Some(beta) => beta.val(),
            None => gamma.zeros_like(),
        };
        [gamma, beta]
    }
}

/// `gamma x / sqrt(mean(x^2) + epsilon)` over the last dimension (arXiv 1910.07467).
#[derive(Module, Debug)]
pub struct FrozenRmsNorm<B: Backend> {
    /// `[d]`
    pub gamma: Param<Tensor<B, 1>>,
    #[module(skip)]
    epsilon: f64,
    /// The number added to the stored weight.
    #[module(skip)]
    offset: f32,
}

impl<B: VbLoraBackend> FrozenRmsNorm<B> {
    /// `offset` is added to the stored weight: 1 for Gemma, else 0.
    pub(crate) fn build<S: WeightSource>(
        builder: &mut Builder<'_, B, S>,
        name: &str,
        d: usize,
        epsilon: f64,
        offset: f32,
    ) -> Result<Self> {
        Ok(Self {
            gamma: builder.norm_weight(&format!("{name}.weight"), d, offset)?,
            epsilon,
            offset,
        })
    }

    /// # Shapes
    /// - input and output: `[.., d]`
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        rms_norm(x, self.gamma.val(), self.epsilon)
    }

    /// The weight as it is stored.
    pub(crate) fn stored(&self) -> Tensor<B, 1> {
        self.gamma.val().sub_scalar(self.offset)
    }
}

/// A normalisation of either form.
#[derive(Module, Debug)]
pub enum FrozenNorm<B: Backend> {
    /// By mean and variance.
    Layer(FrozenLayerNorm<B>),
    /// By the root mean square.
    Rms(FrozenRmsNorm<B>),
}

impl<B: VbLoraBackend> FrozenNorm<B> {
    pub(crate) fn build<S: WeightSource>(
        builder: &mut Builder<'_, B, S>,
        name: &str,
        form: NormForm,
        d: usize,
        epsilon: f64,
    ) -> Result<Self> {
        Ok(match form {
            NormForm::Layer => Self::Layer(FrozenLayerNorm::build(builder, name, d, epsilon)?),
            NormForm::Rms { offset } => {
                Self::Rms(FrozenRmsNorm::build(builder, name, d, epsilon, offset)?)
            }
        })
    }

    /// # Shapes
    /// - input and output: `[.., d]`
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        match self {
            Self::Layer(norm) => norm.forward(x),
            Self::Rms(norm) => norm.forward(x),
        }
    }

    /// The normalisation as an operation of a step takes it.
    pub(crate) fn of_step(&self) -> StepNorm<Tensor<B, 1>> {
        match self {
            Self::Layer(norm) => StepNorm {
                gamma: norm.gamma.val(),
                beta: norm.beta.as_ref().map(Param::val),
                is_centred: true,
                epsilon: norm.epsilon,
            },
            Self::Rms(norm) => StepNorm {
                gamma: norm.gamma.val(),
                beta: None,
                is_centred: false,
                epsilon: norm.epsilon,
            },
        }
    }

    /// Its tensors as they are stored.
    pub(crate) fn tensors(&self, name: &str) -> Vec<(String, HostTensor)> {
        match self {
            Self::Layer(norm) => norm.tensors(name),
            Self::Rms(norm) => vec![(format!("{name}.weight"), host_tensor(norm.stored()))],
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::backend::{Autodiff, Flex};

    use super::*;

    /// One weight out of four rules the way back from the output out, and the gradient stays a number.
    #[test]
    fn an_input_that_the_output_does_not_give_back_is_kept() {
        let device = Default::default();
        for (gamma, beta, expected) in [
            ([1.0, -0.5, 2.0, 0.1], [0.0, 8.0, 1.0, -1.6], true),
            ([1.0, 0.0, 2.0, 0.1], [0.0, 0.0, 1.0, 0.0], false),
            ([1.0, -0.5, 2.0, 0.1], [0.0, 8.1, 1.0, 0.0], false),
        ] {
            let [gamma, beta] = [gamma, beta].map(|w: [f32; 4]| {
                let weight = Tensor::<Autodiff<Flex>, 1>::from_floats(w, &device);
                Param::from_tensor(weight).set_require_grad(false)
            });
            let norm = FrozenLayerNorm {
                is_invertible: is_invertible(&gamma, Some(&beta)),
                gamma,
                beta: Some(beta),
                epsilon: 1e-5,
            };
            assert_eq!(norm.is_invertible, expected);
            let x = Tensor::<Autodiff<Flex>, 2>::from_floats([[3.0, -1.0, 0.5, 7.0]], &device);
            let x = x.require_grad();
            let grads = norm.forward(x.clone()).square().sum().backward();
            let found = host_tensor(x.grad(&grads).expect("it requires one")).values;
            assert!(found.iter().all(|v| v.is_finite()), "{found:?}");
        }
    }
}
