//! A weight in 4 bits on a device, and its plain decoding in tensor operations.

#[cfg(feature = "gpu")]
mod gpu;
mod random;

use burn::{
    module::{Param, ParamId},
    tensor::{
        DType, ElementConversion, FloatDType, Int, Shape, Tensor, TensorData, TensorMetadata,
        backend::{AutodiffBackend, Backend},
        ops::{FloatTensor, IntTensor},
    },
};

use vblora_kernels::nf4::{
    NESTED_BLOCK, Nf4Host, Nf4Scales,
    lanes::{CODES, LANES, from_lanes, tiles, to_lanes},
};

use crate::backend::{float, primitive};

#[cfg(feature = "gpu")]
pub(super) use gpu::decoded;

/// A weight `[d_in, d_out]` in 4 bits, as the device holds it.
#[derive(Debug, Clone)]
pub struct Nf4Weight<B: Backend> {
    /// `[d_out, d_in]`
    shape: [usize; 2],
    block: usize,
    compute: FloatDType,
    /// The codes, in the order of [`lanes`](vblora_kernels::nf4::lanes).
    words: IntTensor<B>,
    /// The code that ends an odd number of values in the format.
    last: u8,
    /// `[16]`
    code: FloatTensor<B>,
    scales: DeviceScales<B>,
}

/// The scales of the blocks. Words have the bytes of [`Nf4Scales`] in little-endian order.
#[derive(Debug, Clone)]
pub(super) enum DeviceScales<B: Backend> {
    Single(FloatTensor<B>),
    Double {
        codes: IntTensor<B>,
        map: FloatTensor<B>,
        nested: FloatTensor<B>,
        offset: f32,
    },
}

/// The tensors of a weight, each with its name. Those that the device does not hold as they are come into being when they are looked at.
pub(crate) struct Nf4Parts<B: Backend> {
    pub(crate) ints: Vec<(&'static str, Param<Tensor<B, 1, Int>>)>,
    pub(crate) floats: Vec<(&'static str, Param<Tensor<B, 1>>)>,
}

impl<B: Backend> Nf4Weight<B> {
    /// Moves a weight to the device. Products with it are computed in `compute`.
    pub fn from_host(host: &Nf4Host, compute: FloatDType, device: &B::Device) -> Self {
        let blocks = host.scales().len();
        let codes = to_lanes(host.packed(), host.shape());
        let scales = match host.scales() {
            Nf4Scales::Single(absmax) => DeviceScales::Single(floats::<B>(absmax, device)),
            Nf4Scales::Double {
                codes,
                map,
                nested,
                offset,
            } => DeviceScales::Double {
                codes: words_of::<B>(codes, blocks.next_multiple_of(4), device),
                map: floats::<B>(&map[..], device),
                nested: floats::<B>(nested, device),
                offset: *offset,
            },
        };
        Self {
            shape: host.shape(),
            block: host.block(),
            compute,
            words: ints::<B>(codes, device),
            last: host.packed().last().map_or(0, |byte| byte & 15),
            code: floats::<B>(host.code(), device),
            scales,
        }
    }

    /// `[d_in, d_out]`
    pub fn dims(&self) -> [usize; 2] {
        let [d_out, d_in] = self.shape;
        [d_in, d_out]
    }

    /// The dtype that products with the weight are computed in.
    pub fn dtype(&self) -> DType {
        self.compute.into()
    }

    /// The device that holds the weight.
    pub fn device(&self) -> B::Device {
        B::int_device(&self.words)
    }

    /// Its tensors by name, with the codes in the order of the format, in whole blocks. The offset of the scales comes as a tensor of one
    /// value.
    pub(crate) fn parts(&self) -> Nf4Parts<B> {
        let id = || ParamId::from(0);
        let int = |tensor: &IntTensor<B>| {
            let tensor = Tensor::from_primitive(tensor.clone());
            Param::initialized(id(), tensor)
        };
        let of = |tensor: &FloatTensor<B>| Param::initialized(id(), float(tensor.clone()));
        let whole = self.clone();
        let packed = move |_: &B::Device, _| whole.packed();
        let words = Shape::new([self.packed_bytes().div_ceil(4)]);
        let packed = Param::uninitialized(id(), packed, self.device(), false, words);
        let mut ints = vec![("packed", packed)];
        let mut floats = vec![("code", of(&self.code))];
        match &self.scales {
            DeviceScales::Single(absmax) => floats.push(("absmax", of(absmax))),
            DeviceScales::Double {
                codes,
                map,
                nested,
                offset,
            } => {
                ints.push(("absmax", int(codes)));
                let value = *offset;
                let offset = move |device: &B::Device, _| Tensor::from_floats([value], device);
                let one = Shape::new([1]);
                let offset = Param::uninitialized(id(), offset, self.device(), false, one);
                let named = [("map", of(map)), ("nested", of(nested)), ("offset", offset)];
                floats.extend(named);
            }
        }
        Nf4Parts { ints, floats }
    }

    /// The same weight with each of its tensors replaced.
    pub(crate) fn map<T: Backend>(
        self,
        ints: impl Fn(IntTensor<B>) -> IntTensor<T>,
        floats: impl Fn(FloatTensor<B>) -> FloatTensor<T>,
    ) -> Nf4Weight<T> {
        Nf4Weight {
            shape: self.shape,
            block: self.block,
            compute: self.compute,
            words: ints(self.words),
            last: self.last,
            code: floats(self.code),
            scales: match self.scales {
                DeviceScales::Single(absmax) => DeviceScales::Single(floats(absmax)),
                DeviceScales::Double {
                    codes,
                    map,
                    nested,
                    offset,
                } => DeviceScales::Double {
                    codes: ints(codes),
                    map: floats(map),
                    nested: floats(nested),
                    offset,
                },
            },
        }
    }

    pub(crate) fn moved_to(self, device: &B::Device) -> Self {
        self.map(
            |tensor| B::int_to_device(tensor, device),
            |tensor| B::float_to_device(tensor, device),
        )
    }

    /// The codes as words of the format's bytes, in whole blocks.
    fn packed(&self) -> Tensor<B, 1, Int> {
        let words = Tensor::<B, 1, Int>::from_primitive(self.words.clone());
        let words: Vec<i32> = words.into_data().iter().collect();
        let bytes = from_lanes(&words, self.shape, self.last);
        Tensor::from_primitive(words_of::<B>(&bytes, self.packed_bytes(), &self.device()))
    }

    /// Bytes of the codes in whole blocks.
    fn packed_bytes(&self) -> usize {
        self.blocks() * self.block / 2
    }

    /// The values, rounded once to the compute dtype, in plain tensor operations. Nothing keeps them.
    ///
    /// [`LinearOps::decoded`](super::LinearOps::decoded) is faster on some backends.
    ///
    /// # Shapes
    /// - output: `[d_in, d_out]`
    pub fn dequantised(&self) -> FloatTensor<B> {
        let ([d_out, d_in], [tiles, in_row]) = (self.shape, tiles(self.shape));
        let codes = bits::<B, CODES>(&self.words, 4, |code| 4 * code);
        let values = float::<B, 1>(self.code.clone()).select(0, codes);
        let values = values
            .reshape([tiles, in_row, LANES, CODES])
            .swap_dims(1, 2);
        let values = values.reshape([tiles * LANES, in_row * CODES]);
        let values = values.narrow(0, 0, d_out).narrow(1, 0, d_in);
        let values = self.scaled(values.reshape([d_out * d_in]));
        let values = values.reshape([d_out, d_in]);
        let values = match self.compute {
            FloatDType::F32 => values,
            other => values.cast(other),
        };
        primitive(values.transpose())
    }

    /// Values in the order of the format, times their scales.
    fn scaled(&self, values: Tensor<B, 1>) -> Tensor<B, 1> {
        let [n] = values.dims();
        let blocks = self.blocks();
        let rest = blocks * self.block - n;
        let values = match rest {
            0 => values,
            _ => Tensor::cat(vec![values, Tensor::zeros([rest], &self.device())], 0),
        };
        let values = values.reshape([blocks, self.block]) * self.absmax().reshape([blocks, 1]);
        values.reshape([blocks * self.block]).narrow(0, 0, n)
    }

    fn blocks(&self) -> usize {
        (self.shape[0] * self.shape[1]).div_ceil(self.block)
    }

    /// The scale of every block, in the order of operations of the format.
    fn absmax(&self) -> Tensor<B, 1> {
        let blocks = self.blocks();
        match &self.scales {
            DeviceScales::Single(absmax) => float(absmax.clone()),
            DeviceScales::Double {
                codes,
                map,
                nested,
                offset,
            } => {
                let codes = bits::<B, 4>(codes, 8, |byte| 8 * byte).narrow(0, 0, blocks);
                let within = float::<B, 1>(map.clone()).select(0, codes);
                let nested = float::<B, 1>(nested.clone());
                let groups = nested.dims()[0];
                let nested = nested
                    .reshape([groups, 1])
                    .expand([groups, NESTED_BLOCK])
                    .reshape([groups * NESTED_BLOCK])
                    .narrow(0, 0, blocks);
                (within * nested).add_scalar(*offset)
            }
        }
    }
}

impl<B: AutodiffBackend> Nf4Weight<B> {
    /// The weight without a graph.
    pub(crate) fn inner(self) -> Nf4Weight<B::InnerBackend> {
        self.map(B::int_inner, B::inner)
    }

    /// The weight as a constant of a graph.
    pub(crate) fn from_inner(weight: Nf4Weight<B::InnerBackend>) -> Self {
        weight.map(B::int_from_inner, B::from_inner)
    }
}

#[cfg(feature = "flex")]
mod flex {
    use burn::backend::Flex;
    use vblora_kernels::{linear::Quantised, nf4::ScalesView};

    use super::{DeviceScales, Nf4Weight};

    // Flex's memory then has the bytes of the words in the order of the format.
    const _: () = assert!(cfg!(target_endian = "little"));

    impl Nf4Weight<Flex> {
        /// The weight in flex's memory, as products take it.
        pub(in crate::backend::linear) fn view(&self) -> Quantised<'_> {
            let scales = match &self.scales {
                DeviceScales::Single(absmax) => ScalesView::Single(absmax.storage()),
                DeviceScales::Double {
                    codes,
                    map,
                    nested,
                    offset,
                } => ScalesView::Double {
                    codes: codes.bytes(),
                    map: &map.storage().as_chunks().0[0],
                    nested: nested.storage(),
                    offset: *offset,
                },
            };
            Quantised {
                shape: self.shape,
                block: self.block,
                words: self.words.storage(),
                code: self.code.storage::<f32>().as_chunks().0[0],
                scales,
                is_turned: false,
            }
        }
    }
}

/// Bytes as words of 32 bits, with zeros up to `len` bytes.
fn words_of<B: Backend>(bytes: &[u8], len: usize, device: &B::Device) -> IntTensor<B> {
    let word = |at: usize| {
        let byte = |i: usize| bytes.get(at + i).copied().unwrap_or(0);
        i32::from_le_bytes(std::array::from_fn(byte))
    };
    ints::<B>((0..len).step_by(4).map(word).collect(), device)
}

fn ints<B: Backend>(values: Vec<i32>, device: &B::Device) -> IntTensor<B> {
    let len = values.len();
    let data = TensorData::new(values, [len]);
    Tensor::<B, 1, Int>::from_data(data, (device, DType::I32)).into_primitive()
}

fn floats<B: Backend>(values: &[f32], device: &B::Device) -> FloatTensor<B> {
    let data = TensorData::new(values.to_vec(), [values.len()]);
    primitive(Tensor::<B, 1>::from_data(data, (device, DType::F32)))
}

/// The `PARTS` numbers of `width` bits in each word, the one numbered `i` from bit `place(i)` on, in one row.
fn bits<B: Backend, const PARTS: usize>(
    words: &IntTensor<B>,
    width: u32,
    place: impl Fn(usize) -> usize,
) -> Tensor<B, 1, Int> {
    let n = words.shape().num_elements();
    let words = Tensor::<B, 1, Int>::from_primitive(words.clone());
    let mask = (1i32 << width) - 1;
    let part = |i: usize| {
        let moved = words
            .clone()
            .bitwise_right_shift_scalar((place(i) as i32).elem());
        moved.bitwise_and_scalar(mask.elem())
    };
    let parts: [_; PARTS] = std::array::from_fn(part);
    Tensor::stack::<2>(parts.to_vec(), 1).reshape([PARTS * n])
}
