//! VeRA in host memory.

use burn::{module::Param, tensor::Tensor};

use super::HostLora;
use crate::{
    Result, ValidVera, Vera, adapter::Projection, admixture::host, backend::VbLoraBackend,
};

/// VeRA's vectors and the random matrices that they scale.
#[derive(Debug, Clone, PartialEq)]
pub struct HostVera {
    settings: ValidVera,
    projection: Projection,
    lambda_d: Vec<Vec<f32>>,
    lambda_b: Vec<Vec<f32>>,
}

impl HostVera {
    /// Makes an adapter from given values.
    ///
    /// # Shapes
    /// - lambda_d: per site `[r]`, lambda_b: per site `[d_out]`
    ///
    /// # Errors
    /// A wrong number of values, or one that is not finite.
    pub fn new(
        settings: ValidVera,
        projection: Projection,
        lambda_d: Vec<Vec<f32>>,
        lambda_b: Vec<Vec<f32>>,
    ) -> Result<Self> {
        settings.check_values(&projection, &lambda_d, &lambda_b)?;
        Ok(Self {
            settings,
            projection,
            lambda_d,
            lambda_b,
        })
    }

    /// An adapter's present values.
    pub(crate) fn read<B: VbLoraBackend>(adapter: &Vera<B>) -> Result<Self> {
        let values =
            |parameters: &[Param<Tensor<B, 1>>]| parameters.iter().map(|p| host(p.val())).collect();
        let [a, b] = adapter.frozen().map(host);
        Self::new(
            adapter.settings().clone(),
            Projection { a, b },
            values(&adapter.lambda_d),
            values(&adapter.lambda_b),
        )
    }

    /// The adapter as a module whose vectors can be trained.
    pub(super) fn trainable<B: VbLoraBackend>(&self, device: &B::Device) -> Result<Vera<B>> {
        self.settings
            .load(&self.projection, &self.lambda_d, &self.lambda_b, device)
    }

    /// The settings and sites.
    pub fn settings(&self) -> &ValidVera {
        &self.settings
    }

    /// The frozen matrices.
    pub fn projection(&self) -> &Projection {
        &self.projection
    }

    /// Per site `[r]`.
    pub fn lambda_d(&self) -> &[Vec<f32>] {
        &self.lambda_d
    }

    /// Per site `[d_out]`.
    pub fn lambda_b(&self) -> &[Vec<f32>] {
        &self.lambda_b
    }

    /// The same factors as LoRA with `alpha = r`.
    pub(super) fn to_lora(&self) -> HostLora {
        let (rank, plan) = (self.settings.config().rank, self.settings.plan());
        let [d_in, d_out] = self.settings.largest();
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for (site, (d, b_scales)) in plan
            .sites()
            .iter()
            .zip(self.lambda_d.iter().zip(&self.lambda_b))
        {
            let rows = self.projection.a.chunks(d_in).zip(d);
            a.push(
                rows.flat_map(|(row, d)| row[..site.d_in].iter().map(move |a| a * d))
                    .collect(),
            );
            let rows = self.projection.b.chunks(d_out);
            b.push(
                rows.flat_map(|row| row.iter().zip(b_scales).map(|(b, scale)| b * scale))
                    .collect(),
            );
        }
        HostLora::of_factors(plan, rank, a, b)
    }
}
