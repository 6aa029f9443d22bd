//! Host tensors onto a device, in its compute dtype, none of them larger than the device can hold, and back.

use burn::tensor::{DType, Tensor, TensorData};
use vblora::{FrozenLinear, backend::VbLoraBackend, nf4::Nf4Host};

use crate::{BaseDtype, HostTensor, Result};

/// Moves a tensor onto the device.
///
/// # Errors
/// It is larger than the device can hold in one piece.
pub(crate) fn upload<B: VbLoraBackend, const D: usize>(
    name: &str,
    tensor: HostTensor,
    device: &B::Device,
) -> Result<Tensor<B, D>> {
    upload_as(name, tensor, BaseDtype::F32, device)
}

/// [`upload`] in a dtype of its own: converted on the host, so that the device never holds the tensor twice.
///
/// # Errors
/// As [`upload`].
pub(crate) fn upload_as<B: VbLoraBackend, const D: usize>(
    name: &str,
    tensor: HostTensor,
    dtype: BaseDtype,
    device: &B::Device,
) -> Result<Tensor<B, D>> {
    upload_within(name, tensor, dtype, B::max_tensor_bytes(device), device)
}

fn upload_within<B: VbLoraBackend, const D: usize>(
    name: &str,
    tensor: HostTensor,
    dtype: BaseDtype,
    limit: Option<usize>,
    device: &B::Device,
) -> Result<Tensor<B, D>> {
    let dtype = DType::from(dtype.dtype());
    check_size::<B>(name, dtype.size() * tensor.values.len(), limit, device)?;
    Ok(Tensor::from_data(
        TensorData::new(tensor.values, tensor.shape).convert_dtype(dtype),
        (device, dtype),
    ))
}

/// Moves a weight in 4 bits onto the device, as the map of a site. Products with it are computed in the dtype.
///
/// # Errors
/// It is larger than the device can hold in one piece; the base is to be dense in half precision.
pub(crate) fn upload_nf4<B: VbLoraBackend>(
    site: &str,
    name: &str,
    weight: &Nf4Host,
    bias: Option<Tensor<B, 1>>,
    dtype: BaseDtype,
    device: &B::Device,
) -> Result<FrozenLinear<B>> {
    match dtype {
        BaseDtype::F32 | BaseDtype::Nf4(_) | BaseDtype::Stored4Bit(_) => {}
        BaseDtype::F16 | BaseDtype::Bf16 => {
            return Err(vblora::Error::Setting {
                setting: "base_dtype",
                expected: format!("nf4, or none: {name} is stored in 4 bits"),
                found: dtype.name().into(),
            }
            .into());
        }
    }
    check_size::<B>(name, weight.bytes(), B::max_tensor_bytes(device), device)?;
    let compute = dtype.dtype();
    Ok(FrozenLinear::from_nf4(site, weight, bias, compute, device))
}

fn check_size<B: VbLoraBackend>(
    name: &str,
    bytes: usize,
    limit: Option<usize>,
    device: &B::Device,
) -> Result<()> {
    match limit {
        Some(limit) if bytes > limit => Err(vblora::Error::TooLarge {
            tensor: name.into(),
            bytes,
            limit,
            backend: B::name(device),
        }
        .into()),
        _ => Ok(()),
    }
}

/// Moves a table `[rows, d]` onto the device in as many pieces of whole rows as it takes.
///
/// # Errors
/// One row is larger than the device can hold.
pub(crate) fn upload_rows<B: VbLoraBackend>(
    name: &str,
    table: HostTensor,
    dtype: BaseDtype,
    device: &B::Device,
) -> Result<Vec<Tensor<B, 2>>> {
    upload_rows_within(name, table, dtype, B::max_tensor_bytes(device), device)
}

fn upload_rows_within<B: VbLoraBackend>(
    name: &str,
    table: HostTensor,
    dtype: BaseDtype,
    limit: Option<usize>,
    device: &B::Device,
) -> Result<Vec<Tensor<B, 2>>> {
    let [rows, d] = [table.shape[0], table.shape[1]];
    let most = limit
        .map_or(rows, |limit| {
            limit / (DType::from(dtype.dtype()).size() * d)
        })
        .clamp(1, rows.max(1));
    let piece = |values: &[f32]| {
        let shape = vec![values.len() / d, d];
        upload_within(
            name,
            HostTensor {
                shape,
                values: values.to_vec(),
            },
            dtype,
            limit,
            device,
        )
    };
    if most >= rows {
        return Ok(vec![upload_within(name, table, dtype, limit, device)?]);
    }
    table.values.chunks(most * d).map(piece).collect()
}

/// A tensor's values on the host.
pub fn host_tensor<B: VbLoraBackend, const D: usize>(tensor: Tensor<B, D>) -> HostTensor {
    let shape = tensor.dims().to_vec();
    let values = tensor
        .into_data()
        .convert::<f32>()
        .into_vec()
        .expect("converted to f32 just above");
    HostTensor { shape, values }
}

/// Waits for the device and turns what went wrong on it into an error; GPU backends report nothing before.
///
/// # Errors
/// The device failed.
pub(crate) fn sync<B: VbLoraBackend>(device: &B::Device, during: &str) -> Result<()> {
    B::sync(device).map_err(|e| {
        let reason = format!("{e:?}");
        vblora::Error::DeviceFailed {
            during: during.into(),
            reason,
        }
        .into()
    })
}

/// A matrix with rows and columns exchanged, on the host, so that the device holds it in the order in which it is used.
pub(crate) fn transposed(matrix: HostTensor) -> HostTensor {
    let [rows, columns] = [matrix.shape[0], matrix.shape[1]];
    HostTensor {
        shape: vec![columns, rows],
        values: vblora_kernels::transposed(&matrix.values, columns),
    }
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "flex")]
    use burn::tensor::backend::Backend;

    use super::*;

    fn counted(rows: usize, d: usize) -> HostTensor {
        HostTensor {
            shape: vec![rows, d],
            values: (0..rows * d).map(|i| i as f32).collect(),
        }
    }

    #[cfg(feature = "flex")]
    type B = burn::backend::Flex;

    #[cfg(feature = "flex")]
    #[test]
    fn a_table_is_cut_into_the_fewest_pieces_of_whole_rows() {
        let table = counted(7, 3);
        // A row has 12 bytes.
        for (limit, rows) in [
            (None, vec![7]),
            (Some(84), vec![7]),
            (Some(83), vec![6, 1]),
            (Some(40), vec![3, 3, 1]),
            (Some(12), vec![1; 7]),
        ] {
            let pieces = upload_rows_within::<B>(
                "words",
                table.clone(),
                BaseDtype::F32,
                limit,
                &Default::default(),
            )
            .unwrap();
            assert_eq!(
                pieces.iter().map(|piece| piece.dims()).collect::<Vec<_>>(),
                rows.iter().map(|&n| [n, 3]).collect::<Vec<_>>()
            );
            let values = pieces
                .into_iter()
                .flat_map(|piece| piece.into_data().into_vec::<f32>().unwrap());
            assert_eq!(values.collect::<Vec<_>>(), table.values, "limit {limit:?}");
        }
    }

    #[cfg(feature = "flex")]
    #[test]
    fn what_is_too_large_is_refused_by_name() {
        let message = upload_rows_within::<B>(
            "words",
            counted(7, 3),
            BaseDtype::F32,
            Some(11),
            &Default::default(),
        )
        .unwrap_err()
        .to_string();
        assert_eq!(
            message,
            format!(
                "words: 12 bytes, more than the 11 bytes that a tensor may have on backend {}",
                B::name(&Default::default())
            )
        );
        let dense = |dtype, limit| {
            upload_within::<B, 2>(
                "dense",
                counted(7, 3),
                dtype,
                Some(limit),
                &Default::default(),
            )
        };
        let message = dense(BaseDtype::F32, 83).unwrap_err().to_string();
        assert!(
            message.starts_with("dense: 84 bytes, more than the 83 bytes"),
            "{message}"
        );
        assert!(dense(BaseDtype::F32, 84).is_ok());
        assert!(dense(BaseDtype::Bf16, 42).is_ok() && dense(BaseDtype::Bf16, 41).is_err());
        assert!(upload::<B, 2>("dense", counted(7, 3), &Default::default()).is_ok());
    }

    /// The limit that the backend itself names, on the backend that has one.
    #[cfg(feature = "wgpu")]
    #[test]
    fn wgpu_splits_or_refuses_beyond_its_limit() {
        type Gpu = vblora::backend::Wgpu;
        let device = Default::default();
        let (rows, d) = (33, 1 << 20);
        let mut table = HostTensor {
            shape: vec![rows, d],
            values: vec![0.0; rows * d],
        };
        (0..rows).for_each(|row| table.values[row * d] = row as f32);
        let message = upload::<Gpu, 2>("dense", table.clone(), &device)
            .unwrap_err()
            .to_string();
        assert!(
            message.starts_with("dense: 138412032 bytes, more than the 134217728 bytes"),
            "{message}"
        );
        let pieces = upload_rows::<Gpu>("words", table, BaseDtype::F32, &device).unwrap();
        assert_eq!(
            pieces
                .iter()
                .map(|piece| piece.dims()[0])
                .collect::<Vec<_>>(),
            [32, 1]
        );
        let firsts = pieces
            .into_iter()
            .map(|piece| piece.narrow(1, 0, 1).into_data().into_vec::<f32>().unwrap());
        assert_eq!(
            firsts.flatten().collect::<Vec<_>>(),
            (0..rows).map(|row| row as f32).collect::<Vec<_>>()
        );
        sync::<Gpu>(&device, "reading back").unwrap();
    }
}
