//! Causal attention by products on tensor cores that read and write heads where they lie. Heads may share keys.

use burn::tensor::{TensorMetadata, ops::FloatTensor};
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};

use super::super::{AttentionOps, CausalSettings, HeadForm, HeadProduct, default};
use crate::backend::{float, gpu::product::tensor_core_group_product, primitive};

/// The output and the weights before dropout. Returns `None`, like the function below, if the device has no kernel for the products.
pub(super) fn forward<B, R>(
    [q, k, v]: [&CubeTensor<R>; 3],
    first: Option<&CubeTensor<R>>,
    settings: CausalSettings,
) -> Option<(FloatTensor<B>, FloatTensor<B>)>
where
    B: AttentionOps<FloatTensorPrimitive = CubeTensor<R>, IntTensorPrimitive = CubeTensor<R>>,
    R: CubeRuntime,
{
    let products = Products::of(q, settings)?;
    let all = settings.offset + q.meta.shape()[1];
    let [k, v] = [k, v].map(|x| primitive(default::seen::<B>(x.clone(), all)));
    let scores = products.shared(q, &k, HeadForm::TimesTransposed, products.scale)?;
    let weights = B::causal_weights(scores, first.cloned(), settings);
    let dropped = products.dropped::<B>(weights.clone());
    let output = products.shared(&dropped, &v, HeadForm::Times, 1.0)?;
    Some((output, weights))
}

/// The gradients to q, k and v.
pub(super) fn backward<B, R>(
    [q, k, v]: [&CubeTensor<R>; 3],
    weights: &CubeTensor<R>,
    settings: CausalSettings,
    grad: &CubeTensor<R>,
) -> Option<[FloatTensor<B>; 3]>
where
    B: AttentionOps<FloatTensorPrimitive = CubeTensor<R>>,
    R: CubeRuntime,
{
    // The slope of the cap needs the scores again.
    if settings.cap.is_some() {
        return None;
    }
    let products = Products::of(q, settings)?;
    let d_weights = products.shared(grad, v, HeadForm::TimesTransposed, 1.0)?;
    let d_weights = products.dropped::<B>(d_weights);
    let d_scores = B::row_softmax_backward(weights.clone(), d_weights);
    let dq = products.shared(&d_scores, k, HeadForm::Times, products.scale)?;
    let dk = products.summed::<B, R>(&d_scores, q, products.scale)?;
    let dv = products.summed::<B, R>(&products.dropped::<B>(weights.clone()), grad, 1.0)?;
    Some([dq, dk, dv])
}

/// The products of one attention.
struct Products {
    settings: CausalSettings,
    /// The factor on the scores.
    scale: f64,
}

impl Products {
    /// Returns `None` for a number of tokens that the backward pass could not multiply by. So few tokens gain nothing either.
    fn of<R: CubeRuntime>(q: &CubeTensor<R>, settings: CausalSettings) -> Option<Self> {
        let [_, t, d] = q.meta.shape().dims();
        let scale = 1.0 / ((d / settings.heads) as f64).sqrt();
        t.is_multiple_of(4).then_some(Self { settings, scale })
    }

    fn product(&self, form: HeadForm, scale: f64) -> HeadProduct {
        HeadProduct {
            form,
            heads: self.settings.heads,
            scale,
        }
    }

    fn dropped<B: AttentionOps>(&self, weights: FloatTensor<B>) -> FloatTensor<B> {
        let weights = float::<B, 4>(weights);
        primitive(default::drop_weights(weights, self.settings.dropout))
    }

    /// A product with keys or values, which groups of heads share.
    fn shared<R: CubeRuntime>(
        &self,
        a: &CubeTensor<R>,
        b: &CubeTensor<R>,
        form: HeadForm,
        scale: f64,
    ) -> Option<CubeTensor<R>> {
        let kv_heads = self.settings.kv_heads;
        tensor_core_group_product(a, b, None, self.product(form, scale), kv_heads)
    }

    /// `scale a^T b`, summed over the heads that share a key.
    ///
    /// # Shapes
    /// - a: `[n, heads, t, t]`, b: `[n, t, heads size]`; output: `[n, t, kv_heads size]`
    fn summed<B, R>(
        &self,
        a: &CubeTensor<R>,
        b: &CubeTensor<R>,
        scale: f64,
    ) -> Option<CubeTensor<R>>
    where
        B: AttentionOps<FloatTensorPrimitive = CubeTensor<R>>,
        R: CubeRuntime,
    {
        let CausalSettings {
            heads, kv_heads, ..
        } = self.settings;
        let product = self.product(HeadForm::TransposedTimes, scale);
        let each = tensor_core_group_product(a, b, None, product, heads)?;
        if heads == kv_heads {
            return Some(each);
        }
        let [n, t, d] = each.shape().dims();
        let groups = [n * t, kv_heads, heads / kv_heads, d / heads];
        let each = float::<B, 3>(each).reshape(groups).sum_dim(2);
        Some(primitive(each.reshape([n, t, d / heads * kv_heads])))
    }
}
