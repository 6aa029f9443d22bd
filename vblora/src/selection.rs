//! The rules by which sub-vectors choose among the bank's vectors in training (paper 4.5): top-k and its alternatives.
//!
//! | rule | weights in training | at inference and in files |
//! | --- | --- | --- |
//! | `topk` | softmax over the k largest of sigma | the same |
//! | `select-all` | softmax of sigma over all h | the same |
//! | `noisy-topk` | softmax over the k largest of `sigma + eps softplus(nu)`, eps normal, nu trained (arXiv 1701.06538) | top-k of sigma |
//! | `gumbel-softmax` | `softmax((sigma + g) / tau)` over all h, g Gumbel (arXiv 1611.01144) | top-k of sigma |
//! | `straight-through` | one at the largest of `sigma + g`; gradients as of `gumbel-softmax` | top-k of sigma |
//!
//! The functions here take random draws as tensors. They check nothing, like
//! [`admixture_unchecked`](crate::admixture::admixture_unchecked).

use std::{fmt, str::FromStr};

use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    admixture::mix,
    backend::{VbLoraBackend, matmul, primitive},
    ops::{log_softmax, softmax},
    rng::Key,
};

/// The rule by which a sub-vector chooses bank vectors in training. The table of this module lists the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// The k largest logits: the method itself.
    #[default]
    #[serde(rename = "topk")]
    TopK,
    /// Every vector, weighted by the softmax of all logits.
    SelectAll,
    /// The k largest logits after noise of a trained size.
    #[serde(rename = "noisy-topk")]
    NoisyTopK,
    /// Every vector, by a softmax of logits with Gumbel noise.
    GumbelSoftmax,
    /// One vector drawn with Gumbel noise, with the gradients of `GumbelSoftmax`.
    StraightThrough,
}

impl Selection {
    /// Every rule.
    pub const ALL: [Self; 5] = [
        Self::TopK,
        Self::SelectAll,
        Self::NoisyTopK,
        Self::GumbelSoftmax,
        Self::StraightThrough,
    ];

    /// The name in recipes and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::TopK => "topk",
            Self::SelectAll => "select-all",
            Self::NoisyTopK => "noisy-topk",
            Self::GumbelSoftmax => "gumbel-softmax",
            Self::StraightThrough => "straight-through",
        }
    }

    /// True if a logit, or noise logit, that a step does not select has a gradient of exactly zero in that step.
    pub fn is_sparse(self) -> bool {
        matches!(self, Self::TopK | Self::NoisyTopK)
    }

    /// The `n` values that this rule draws for one optimizer step, in row-major order: normal values, Gumbel values or none. They depend on
    /// `key` alone.
    pub fn draws(self, key: Key, n: usize) -> Option<Vec<f32>> {
        match self {
            Self::TopK | Self::SelectAll => None,
            Self::NoisyTopK => Some(key.normal(n, 1.0)),
            Self::GumbelSoftmax | Self::StraightThrough => Some(key.gumbel(n)),
        }
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Selection {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|rule| rule.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::setting("selection", format!("one of {names}"), text)
        })
    }
}

/// Noisy top-k. With `H = logits + normals softplus(noise_logits)`, it mixes the k vectors with the largest H by the softmax over those k.
/// The choice is not differentiated. Logits and noise logits that are not chosen get gradients of exactly zero.
///
/// # Shapes
/// - logits, noise_logits, normals: `[S, h]`, bank: `[h, b]`
/// - output: `[S, b]`
pub fn noisy_top_k<B: VbLoraBackend>(
    logits: Tensor<B, 2>,
    noise_logits: Tensor<B, 2>,
    normals: Tensor<B, 2>,
    bank: Tensor<B, 2>,
    k: usize,
) -> Tensor<B, 2> {
    let noisy =
        |logits: Tensor<B, 2>, noise_logits, normals| logits + normals * softplus(noise_logits);
    // The choice is made outside the graph. The graph has only the k chosen of each row.
    let all = noisy(
        apart(logits.clone()),
        apart(noise_logits.clone()),
        normals.clone(),
    );
    let indices = Tensor::<B, 2, Int>::from_primitive(B::top_k_indices(primitive(all), k));
    let [logits, noise_logits, normals] =
        [logits, noise_logits, normals].map(|tensor| tensor.gather(1, indices.clone()));
    let weights = softmax(noisy(logits, noise_logits, normals));
    mix(bank, weights, indices)
}

/// Gumbel-softmax: the mixture of all vectors by `softmax((logits + gumbels) / tau)`.
///
/// # Shapes
/// - logits, gumbels: `[S, h]`, bank: `[h, b]`
/// - output: `[S, b]`
pub fn gumbel_softmax<B: VbLoraBackend>(
    logits: Tensor<B, 2>,
    gumbels: Tensor<B, 2>,
    bank: Tensor<B, 2>,
    tau: f64,
) -> Tensor<B, 2> {
    matmul(softmax((logits + gumbels).mul_scalar(1.0 / tau)), bank)
}

/// Straight-through Gumbel-softmax: the vector with the largest `logits + gumbels`, ties to the lowest index. The bank gets the gradient of
/// this choice. The logits get the gradient of [`gumbel_softmax`]'s weights.
///
/// # Shapes
/// - as [`gumbel_softmax`]
pub fn straight_through<B: VbLoraBackend>(
    logits: Tensor<B, 2>,
    gumbels: Tensor<B, 2>,
    bank: Tensor<B, 2>,
    tau: f64,
) -> Tensor<B, 2> {
    let scores = logits + gumbels;
    let chosen = one_hot(apart(scores.clone()));
    let soft = softmax(scores.mul_scalar(1.0 / tau));
    // The difference is zero to the bit, so the sum is exactly the choice.
    let weights = chosen + (soft.clone() - apart(soft));
    matmul(weights, bank)
}

/// The same values outside the graph. (After `detach` a parameter still requires a gradient, so results would be tracked for nothing.)
fn apart<B: VbLoraBackend>(tensor: Tensor<B, 2>) -> Tensor<B, 2> {
    tensor.set_require_grad(false)
}

/// 1 at the largest value of each row, ties to the lowest index, else 0.
fn one_hot<B: VbLoraBackend>(scores: Tensor<B, 2>) -> Tensor<B, 2> {
    let ([s, h], device) = (scores.dims(), scores.device());
    let largest = Tensor::<B, 2, Int>::from_primitive(B::top_k_indices(primitive(scores), 1));
    let columns = Tensor::<B, 1, Int>::arange(0..h as i64, &device).unsqueeze::<2>();
    columns.expand([s, h]).equal(largest.expand([s, h])).float()
}

/// `log(1 + exp(x))` as the log-softmax of `[0, x]`, whose own backward is stable and needs no reciprocal.
fn softplus<B: VbLoraBackend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    let [rows, columns] = x.dims();
    let x = x.unsqueeze_dim::<3>(2);
    let both = Tensor::cat(vec![x.zeros_like(), x], 2);
    log_softmax(both)
        .slice([0..rows, 0..columns, 0..1])
        .reshape([rows, columns])
        .neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::step_key;

    #[test]
    fn names_are_those_of_recipes() {
        for rule in Selection::ALL {
            assert_eq!(rule.name().parse::<Selection>().unwrap(), rule);
            let json = serde_json::to_string(&rule).unwrap();
            assert_eq!(json, format!("{:?}", rule.name()));
        }
        let error = "top_k".parse::<Selection>().unwrap_err().to_string();
        assert!(
            error.contains("topk, select-all") && error.contains("top_k"),
            "{error}"
        );
    }

    /// With Gumbel noise the largest of sigma + g is vector i with probability softmax(sigma)_i: a chi-square test over many steps.
    #[test]
    fn gumbel_noise_picks_as_often_as_the_softmax_says() {
        let sigma = [0.5_f64, -1.0, 0.0, 1.5, 0.2];
        let sum: f64 = sigma.iter().map(|s| s.exp()).sum();
        let steps = 40_000;
        let mut picked = [0_u32; 5];
        for step in 0..steps {
            let draws = Selection::StraightThrough.draws(step_key(3, step), 5);
            let scores: Vec<f64> = sigma
                .iter()
                .zip(draws.unwrap())
                .map(|(s, g)| s + f64::from(g))
                .collect();
            let best = (0..5).max_by(|&i, &j| scores[i].total_cmp(&scores[j]));
            picked[best.unwrap()] += 1;
        }
        let chi_square: f64 = sigma
            .iter()
            .zip(picked)
            .map(|(s, n)| {
                let expected = f64::from(steps as u32) * s.exp() / sum;
                (f64::from(n) - expected).powi(2) / expected
            })
            .sum();
        // Four degrees of freedom: more than 23.5 has probability 1e-4.
        assert!(chi_square < 23.5, "{chi_square}: {picked:?}");
    }

    /// The correlation of neighbouring steps' draws, and of neighbouring elements of one step's.
    #[test]
    fn draws_of_different_steps_and_elements_are_independent() {
        let n = 20_000;
        for rule in [Selection::NoisyTopK, Selection::GumbelSoftmax] {
            let draws = |step| rule.draws(step_key(1, step), n).unwrap();
            for step in 0..5 {
                let (a, b) = (draws(step), draws(step + 1));
                assert_eq!(a, draws(step), "a function of (seed, step)");
                // Five standard deviations of a correlation of independent values.
                let bound = 5.0 / (n as f64).sqrt();
                for (what, with) in [("step", &b[..]), ("element", &a[1..])] {
                    let found = correlation(&a[..with.len()], with);
                    assert!(found.abs() < bound, "{rule} {step}: next {what} {found}");
                }
            }
        }
    }

    fn correlation(a: &[f32], b: &[f32]) -> f64 {
        let mean = |v: &[f32]| v.iter().map(|&x| f64::from(x)).sum::<f64>() / v.len() as f64;
        let (ma, mb) = (mean(a), mean(b));
        let moment = |f: &dyn Fn(f64, f64) -> f64| {
            let terms = a.iter().zip(b);
            terms
                .map(|(&a, &b)| f(f64::from(a) - ma, f64::from(b) - mb))
                .sum::<f64>()
        };
        moment(&|a, b| a * b) / (moment(&|a, _| a * a) * moment(&|_, b| b * b)).sqrt()
    }
}
