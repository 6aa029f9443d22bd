//! Reads from a device that are asked for at one time and waited for at another.

use std::{
    future::poll_fn,
    task::{Context, Poll, Waker},
};

use burn::tensor::TensorData;
use burn_cubecl::{CubeRuntime, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{future::block_on, server::CopyDescriptor};

use crate::backend::Reading;

/// See [`VbLoraBackend::read_later`](crate::backend::VbLoraBackend::read_later).
///
/// # Panics
/// Nothing is asked for.
pub(super) fn read_later<R: CubeRuntime>(
    floats: Vec<CubeTensor<R>>,
    ints: Vec<CubeTensor<R>>,
) -> Reading {
    let tensors: Vec<_> = floats.into_iter().chain(ints).collect();
    let client = tensors[0].client.clone();
    let tensors = tensors.into_iter().map(into_contiguous);
    let (forms, copies): (Vec<_>, Vec<_>) = tensors
        .map(|tensor| {
            let (shape, strides) = (tensor.meta.shape().clone(), tensor.meta.strides().clone());
            let (dtype, binding) = (tensor.dtype, tensor.handle.binding());
            let copy = CopyDescriptor::new(binding, shape.clone(), strides, dtype.size());
            ((shape, dtype), copy)
        })
        .unzip();
    let mut reading = Box::pin(async move {
        let copies = client.read_tensor_async(copies);
        pause().await;
        copies.await
    });
    // Up to the pause: the copies are asked for here, before what follows in the stream.
    let first = reading
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    debug_assert!(first.is_pending());
    Box::new(move || {
        let read = block_on(reading).map_err(|error| error.to_string())?;
        let values = forms.into_iter().zip(read);
        let values =
            values.map(|((shape, dtype), bytes)| TensorData::from_bytes(bytes, shape, dtype));
        Ok(values.collect())
    })
}

/// Is ready when it is polled for the second time.
fn pause() -> impl Future<Output = ()> {
    let mut has_paused = false;
    poll_fn(move |_| match std::mem::replace(&mut has_paused, true) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
}
