//! Dropout masks by tensor operations. They have the bits of the kernels' loop, [`Mask`].

use burn::tensor::{ElementConversion, Int, Tensor, backend::Backend};
use vblora_kernels::dropout::Mask;

/// The mask of `n` elements by tensor operations, without an upload.
pub(super) fn on_device<B: Backend>(
    n: usize,
    device: &B::Device,
    key: u64,
    p: f64,
) -> Tensor<B, 1> {
    let mask = Mask::new(key, p);
    let index = Tensor::<B, 1, Int>::arange(0..n as i64, device);
    let mut left = index.clone().bitwise_right_shift_scalar(16.elem());
    let mut right = index.bitwise_and_scalar(0xffff.elem());
    for (multiplier, addend) in mask.rounds {
        let mixed = right
            .clone()
            .mul_scalar(multiplier as i32)
            .add_scalar(addend as i32);
        let mixed = mixed
            .bitwise_right_shift_scalar(11.elem())
            .bitwise_and_scalar(0xffff.elem());
        (left, right) = (right, left.bitwise_xor(mixed));
    }
    let dropped = right.lower_elem(mask.threshold as i32);
    Tensor::<B, 1>::full([n], mask.keep, device).mask_fill(dropped, 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The default body, on whichever CPU backend is there, against the loop that overrides it.
    #[cfg(any(feature = "flex", feature = "ndarray"))]
    #[test]
    fn tensor_operations_give_the_same_bits_as_the_loop() {
        #[cfg(feature = "flex")]
        type B = burn::backend::Flex;
        #[cfg(not(feature = "flex"))]
        type B = burn::backend::NdArray;
        let n = 70_000;
        let found: Vec<f32> = on_device::<B>(n, &Default::default(), 5, 0.3)
            .into_data()
            .into_vec()
            .unwrap();
        let mask = Mask::new(5, 0.3);
        assert!(
            found
                .iter()
                .enumerate()
                .all(|(i, &v)| v == mask.value(i as u32))
        );
    }
}
