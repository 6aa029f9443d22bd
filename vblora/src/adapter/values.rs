//! Checks values on the host and makes trained parameters of them.

use burn::{
    module::Param,
    tensor::{Tensor, TensorData, backend::Backend},
};

use crate::{Error, Result, Site, SitePlan, admixture::check_values};

/// A trained parameter.
pub(super) fn parameter<B: Backend, const D: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    device: &B::Device,
) -> Param<Tensor<B, D>> {
    Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device))
}

/// Refuses a wrong number of tensors, tensors of a wrong size, and values that are not finite. There must be one tensor per site. `part`
/// follows the site's name in the tensors' names.
pub(super) fn check_per_site(
    plan: &SitePlan,
    part: &str,
    values: &[Vec<f32>],
    shape: impl Fn(&Site) -> [usize; 2],
) -> Result<()> {
    let sites = plan.sites();
    check_number(part, values, sites.len())?;
    let mut pairs = sites.iter().zip(values);
    pairs.try_for_each(|(site, values)| {
        check_values(&format!("{}.{part}", site.name), shape(site), values)
    })
}

/// Refuses a wrong number of tensors.
pub(super) fn check_number(part: &str, values: &[Vec<f32>], expected: usize) -> Result<()> {
    if values.len() == expected {
        return Ok(());
    }
    Err(Error::Shape {
        tensor: part.into(),
        expected: vec![expected],
        found: vec![values.len()],
    })
}
