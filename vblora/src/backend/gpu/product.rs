//! Products with frozen weights by our own CUDA kernel. On an H100, CubeCL's fastest kernel has half its throughput in either dtype
//! (docs/performance.md).

use std::fmt;

use burn::tensor::{DType, Shape};
use burn_cubecl::{CubeRuntime, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{
    CompilationError, Compiler, CubeTask,
    ir::{ElemType, FloatKind},
    prelude::*,
    server::{KernelArguments, MetadataBindingInfo},
};

use super::{
    super::{HeadForm, HeadProduct},
    MAX_CUBES, empty,
};

/// The kernel's source, without the names that [`Product`] defines in front.
const SOURCE: &str = include_str!("product.cu");
/// Rows and columns of the output that one block makes.
const TILE: usize = 128;
/// Bytes of the slices of both operands that a block holds. Each slice has 128 bytes of a tile's rows.
const SHARED_BYTES: usize = 3 * 2 * TILE * 128;
/// Bytes of one copy, to which tensors are aligned.
const PIECE_BYTES: usize = 16;
/// The fewest columns for which tiles pay.
const MIN_COLUMNS: usize = 64;
/// The fewest rows for which they do. With 16 rows of RoBERTa-base, Burn's product takes 55 us on an H100.
const MIN_ROWS: usize = 16;

/// The term that a product adds to its output: `narrow factor`, in f32.
///
/// # Shapes
/// - narrow: `[n, r]`, factor: `[r, d_out]`
#[derive(Clone)]
pub(in crate::backend) struct RankUpdate<R: CubeRuntime> {
    pub(in crate::backend) narrow: CubeTensor<R>,
    pub(in crate::backend) factor: CubeTensor<R>,
}

/// x times weight, plus the added terms, on tensor cores. The cores round f32 to TF32 and return f32. Returns `None` if the device cannot
/// do this, or if the operands are small or oddly shaped.
///
/// # Shapes
/// - x: `[n, d_in]`, weight: `[d_in, d_out]`, bias: `[d_out]`; output: `[n, d_out]`
pub(in crate::backend) fn tensor_core_product<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weight: &CubeTensor<R>,
    bias: Option<&CubeTensor<R>>,
    update: Option<&RankUpdate<R>>,
) -> Option<CubeTensor<R>> {
    tensor_core_product_onto(x, weight, bias, update, None)
}

/// [`tensor_core_product`] plus a matrix of the output's shape, in f32.
pub(in crate::backend) fn tensor_core_product_onto<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weight: &CubeTensor<R>,
    bias: Option<&CubeTensor<R>>,
    update: Option<&RankUpdate<R>>,
    added: Option<&CubeTensor<R>>,
) -> Option<CubeTensor<R>> {
    let ([rows, inner], [_, columns]) = (x.meta.shape().dims(), weight.meta.shape().dims());
    let element = Element::of(x.dtype)?;
    let fits = (MIN_ROWS..=TILE * MAX_CUBES).contains(&rows)
        && columns >= MIN_COLUMNS
        && columns.is_multiple_of(PIECE_BYTES / 2)
        && inner.is_multiple_of(element.depth())
        && [bias, added]
            .into_iter()
            .flatten()
            .all(|term| term.dtype == DType::F32);
    if !fits || weight.dtype != x.dtype || !has_instructions(&x.client, element) {
        return None;
    }
    let launch = Launch {
        element,
        sizes: [rows, inner, columns],
        batch: [1, 1],
        group: 1,
        x: Operand::matrix(x.clone())?,
        w: Operand::either(weight.clone())?,
        out: Layout::of_rows(columns),
        scale: 1.0,
        bias: bias.cloned(),
        update,
        added: added.cloned(),
    };
    Some(launch.run(Shape::new([rows, columns])))
}

/// A product of each head's matrices on tensor cores in TF32, read and written in place. Returns `None` as [`tensor_core_product`] does.
pub(in crate::backend) fn tensor_core_head_product<R: CubeRuntime>(
    a: &CubeTensor<R>,
    b: &CubeTensor<R>,
    mask: Option<&CubeTensor<R>>,
    product: HeadProduct,
) -> Option<CubeTensor<R>> {
    tensor_core_group_product(a, b, mask, product, product.heads)
}

/// [`tensor_core_head_product`] where b has fewer heads, `b_heads`, a divisor of a's. Heads of a that share one of b follow one another.
pub(in crate::backend) fn tensor_core_group_product<R: CubeRuntime>(
    a: &CubeTensor<R>,
    b: &CubeTensor<R>,
    mask: Option<&CubeTensor<R>>,
    product: HeadProduct,
    b_heads: usize,
) -> Option<CubeTensor<R>> {
    let HeadProduct { form, heads, scale } = product;
    let element = Element::F32;
    let [items, t, of_b] = b.meta.shape().dims();
    let size = of_b / b_heads;
    let d = heads * size;
    let is_f32 = [a, b]
        .into_iter()
        .chain(mask)
        .all(|tensor| tensor.dtype == DType::F32);
    let last = a.meta.shape()[a.meta.rank() - 1];
    let fits = [t, size, last]
        .iter()
        .all(|n| n.is_multiple_of(PIECE_BYTES / 4));
    let is_filled = a.meta.num_elements() > 0 && b.meta.num_elements() > 0;
    if !is_f32
        || !fits
        || !is_filled
        || items * heads > MAX_CUBES
        || !has_instructions(&a.client, element)
    {
        return None;
    }
    let w = Operand::joined(b, b_heads)?;
    // The dimension of a that has the output's tokens.
    let tokens = |dimension: usize| a.meta.shape()[dimension];
    let joined = |tokens: usize| Layout {
        row: d,
        item: tokens * d,
        head: size,
    };
    let (x, w, sizes, layout) = match form {
        HeadForm::TimesTransposed => {
            let scores = Layout {
                row: t,
                item: heads * tokens(1) * t,
                head: tokens(1) * t,
            };
            let x = Operand::joined(a, heads)?;
            (x, w.transposed(), [tokens(1), size, t], scores)
        }
        HeadForm::Times => {
            let sizes = [tokens(2), t, size];
            (Operand::of_heads(a)?, w, sizes, joined(tokens(2)))
        }
        HeadForm::TransposedTimes => {
            let (x, sizes) = (Operand::of_heads(a)?.transposed(), [tokens(3), t, size]);
            (x, w, sizes, joined(tokens(3)))
        }
    };
    let launch = Launch {
        element,
        sizes,
        batch: [items, heads],
        group: heads / b_heads,
        x,
        w,
        out: layout,
        scale,
        bias: mask.cloned(),
        update: None,
        added: None,
    };
    let (a, b) = (a.meta.shape(), b.meta.shape());
    Some(launch.run(match form {
        HeadForm::TimesTransposed => Shape::new([items, heads, a[1], b[1]]),
        HeadForm::Times => Shape::new([items, a[2], d]),
        HeadForm::TransposedTimes => Shape::new([items, a[3], d]),
    }))
}

/// The distances in memory, in values, between rows of a matrix, between items of a batch, and between heads.
#[derive(Clone, Copy)]
struct Layout {
    row: usize,
    item: usize,
    head: usize,
}

impl Layout {
    fn of_rows(row: usize) -> Self {
        Self {
            row,
            item: 0,
            head: 0,
        }
    }

    fn values(self) -> [u64; 3] {
        [self.row, self.item, self.head].map(|n| n as u64)
    }
}

/// One matrix, or one for each head.
struct Operand<R: CubeRuntime> {
    tensor: CubeTensor<R>,
    /// Strides of the matrix as it lies in memory.
    layout: Layout,
    /// True if memory holds the matrix with its dimensions swapped.
    is_transposed: bool,
}

impl<R: CubeRuntime> Operand<R> {
    /// One matrix. This function and those below return `None` if its memory does not start at a piece.
    fn matrix(matrix: CubeTensor<R>) -> Option<Self> {
        let tensor = whole_rows(matrix)?;
        let layout = Layout::of_rows(tensor.meta.strides()[0]);
        Some(Self {
            tensor,
            layout,
            is_transposed: false,
        })
    }

    /// One matrix. A transposed one with contiguous columns is read in place.
    fn either(mut matrix: CubeTensor<R>) -> Option<Self> {
        if matrix.meta.strides()[0] != 1 {
            return Self::matrix(matrix);
        }
        matrix.meta.swap(0, 1);
        Self::matrix(matrix).map(Self::transposed)
    }

    /// `[n, t, d]`, heads side by side in d
    fn joined(tensor: &CubeTensor<R>, heads: usize) -> Option<Self> {
        let tensor = whole_rows(tensor.clone())?;
        let layout = Layout {
            row: tensor.meta.strides()[1],
            item: tensor.meta.strides()[0],
            head: tensor.meta.shape()[2] / heads,
        };
        Some(Self {
            tensor,
            layout,
            is_transposed: false,
        })
    }

    /// `[n, heads, t, u]`
    fn of_heads(tensor: &CubeTensor<R>) -> Option<Self> {
        let tensor = whole_rows(tensor.clone())?;
        let [item, head, row] = [0, 1, 2].map(|d| tensor.meta.strides()[d]);
        let layout = Layout { row, item, head };
        Some(Self {
            tensor,
            layout,
            is_transposed: false,
        })
    }

    fn transposed(self) -> Self {
        Self {
            is_transposed: !self.is_transposed,
            ..self
        }
    }
}

/// A tensor whose rows are contiguous and start at pieces. Returns `None` if its memory starts elsewhere.
fn whole_rows<R: CubeRuntime>(tensor: CubeTensor<R>) -> Option<CubeTensor<R>> {
    let values = PIECE_BYTES / tensor.dtype.size();
    let has_rows = |tensor: &CubeTensor<R>| {
        let (last, others) = tensor.meta.strides().split_last()?;
        (*last == 1 && others.iter().all(|n| n.is_multiple_of(values))).then_some(())
    };
    let tensor = match has_rows(&tensor) {
        Some(()) => tensor,
        None => into_contiguous(tensor),
    };
    has_rows(&tensor)?;
    let start = tensor.handle.offset_start.unwrap_or(0);
    start.is_multiple_of(PIECE_BYTES as u64).then_some(tensor)
}

/// One launch of the kernel.
struct Launch<'a, R: CubeRuntime> {
    element: Element,
    /// Rows, inner and columns of each product.
    sizes: [usize; 3],
    /// Rows of the batch, and heads.
    batch: [usize; 2],
    /// The heads of x that share one of w.
    group: usize,
    x: Operand<R>,
    w: Operand<R>,
    out: Layout,
    scale: f64,
    /// The bias, one for every item of the batch if there are many. It is added after the scale.
    bias: Option<CubeTensor<R>>,
    update: Option<&'a RankUpdate<R>>,
    /// A matrix of the output's shape, for a batch of one.
    added: Option<CubeTensor<R>>,
}

impl<R: CubeRuntime> Launch<'_, R> {
    /// Runs the kernel and returns the output in this shape.
    fn run(self, shape: Shape) -> CubeTensor<R> {
        #[cfg(feature = "cublaslt")]
        let product = self.in_library();
        let out = empty(&self.x.tensor, shape);
        let mut buffers = vec![self.x.tensor, self.w.tensor];
        let ([rows, _, columns], [items, heads]) = (self.sizes, self.batch);
        let has_bias = self.bias.is_some();
        buffers.extend(self.bias.map(into_contiguous));
        let mut factor_strides = [0, 0];
        if let Some(update) = self.update {
            buffers.push(into_contiguous(update.narrow.clone()));
            buffers.push(update.factor.clone());
            factor_strides = [0, 1].map(|d| update.factor.meta.strides()[d] as u64);
        }
        let has_added = self.added.is_some();
        buffers.extend(self.added.map(into_contiguous));
        buffers.push(out.clone());
        let buffers = buffers.into_iter().map(|tensor| tensor.handle.binding());
        let layouts = [self.x.layout, self.w.layout, self.out];
        let info: Vec<u64> = self
            .sizes
            .into_iter()
            .chain([heads, self.group])
            .map(|n| n as u64)
            .chain(layouts.into_iter().flat_map(Layout::values))
            .chain(factor_strides)
            .chain([self.scale.to_bits()])
            .collect();
        let fixed = info.len();
        let arguments = KernelArguments::new()
            .with_buffers(buffers.collect())
            .with_info(MetadataBindingInfo::new(info, fixed));
        let kernel = Product {
            element: self.element,
            x_is_transposed: self.x.is_transposed,
            w_is_transposed: self.w.is_transposed,
            rank: self
                .update
                .map_or(0, |update| update.narrow.meta.shape()[1]),
            has_bias,
            has_added,
            text: SOURCE,
        };
        let [across, down] = [columns, rows].map(|n| n.div_ceil(TILE) as u32);
        let count = CubeCount::new_3d(across, down, (items * heads) as u32);
        #[cfg(feature = "cublaslt")]
        if let Some(product) = product {
            vblora_nvidia::submit(&out.device, product, Box::new(kernel), count, arguments);
            return out;
        }
        out.client.launch(Box::new(kernel), count, arguments);
        out
    }

    /// The same product in the library's terms, if the library is there and the hand-over pays.
    #[cfg(feature = "cublaslt")]
    fn in_library(&self) -> Option<vblora_nvidia::Product> {
        let is_one_matrix = self.batch == [1, 1] && self.scale == 1.0;
        let strides =
            |update: &RankUpdate<R>| [0, 1].map(|d| update.factor.meta.strides()[d] as u64);
        let has_rows = self
            .update
            .is_none_or(|update| strides(update).contains(&1));
        if !is_one_matrix || self.x.is_transposed || !has_rows || !vblora_nvidia::is_present() {
            return None;
        }
        let product = vblora_nvidia::Product {
            element: self.element.in_library(),
            sizes: self.sizes,
            x_row: self.x.layout.row,
            weight_row: self.w.layout.row,
            weight_is_transposed: self.w.is_transposed,
            has_bias: self.bias.is_some(),
            update: self
                .update
                .map(|update| (update.narrow.meta.shape()[1], strides(update))),
            has_added: self.added.is_some(),
        };
        product.pays().then_some(product)
    }
}

/// True if the device has the kernel's instructions and memory.
fn has_instructions<R: CubeRuntime>(client: &ComputeClient<R>, element: Element) -> bool {
    multiplies(client, element)
        && client.properties().hardware.max_shared_memory_size >= SHARED_BYTES
}

/// True if tensor cores multiply TF32 by NVIDIA's instruction of 16 x 8 x 8, of compute capability 8.0 and later.
pub(in crate::backend) fn multiplies_tf32<R: CubeRuntime>(client: &ComputeClient<R>) -> bool {
    multiplies(client, Element::F32)
}

/// True if tensor cores multiply these factors by NVIDIA's instructions, of compute capability 8.0 and later.
fn multiplies<R: CubeRuntime>(client: &ComputeClient<R>, element: Element) -> bool {
    let mut known = client.properties().features.matmul.mma.iter();
    R::name(client) == "cuda"
        && known.any(|known| {
            (known.m, known.n, known.k) == (16, 8, element.step())
                && known.a_type == element.multiplied()
                && known.cd_type == ElemType::Float(FloatKind::F32).into()
        })
}

/// The type of the factors; sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Element {
    F32,
    Bf16,
    F16,
}

impl Element {
    fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(Self::F32),
            DType::BF16 => Some(Self::Bf16),
            DType::F16 => Some(Self::F16),
            _ => None,
        }
    }

    /// Values in 128 bytes.
    fn depth(self) -> usize {
        if self == Self::F32 { 32 } else { 64 }
    }

    /// The inner dimension of one instruction.
    fn step(self) -> u32 {
        if self == Self::F32 { 8 } else { 16 }
    }

    #[cfg(feature = "cublaslt")]
    fn in_library(self) -> vblora_nvidia::Element {
        match self {
            Self::F32 => vblora_nvidia::Element::F32,
            Self::Bf16 => vblora_nvidia::Element::Bf16,
            Self::F16 => vblora_nvidia::Element::F16,
        }
    }

    /// Threads of a block.
    fn threads(self) -> u32 {
        if self == Self::F32 { 128 } else { 256 }
    }

    fn multiplied(self) -> StorageType {
        ElemType::Float(match self {
            Self::F32 => FloatKind::TF32,
            Self::Bf16 => FloatKind::BF16,
            Self::F16 => FloatKind::F16,
        })
        .into()
    }
}

/// The kernel for one kind of operands.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Product {
    element: Element,
    x_is_transposed: bool,
    w_is_transposed: bool,
    /// Rank of the update; 0 without one.
    rank: usize,
    has_bias: bool,
    has_added: bool,
    /// [`SOURCE`] is part of the cache key, so that a kernel in CubeCL's cache does not outlive its source.
    text: &'static str,
}

impl Product {
    fn source(self) -> String {
        let names = [
            ("ELEMENT", self.element as usize),
            ("X_TRANSPOSED", self.x_is_transposed.into()),
            ("W_TRANSPOSED", self.w_is_transposed.into()),
            ("RANK", self.rank),
            ("HAS_BIAS", self.has_bias.into()),
            ("HAS_ADDED", self.has_added.into()),
        ];
        let names = names.map(|(name, value)| format!("#define {name} {value}\n"));
        names.concat() + self.text
    }
}

impl fmt::Debug for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = |is_marked: bool, text| if is_marked { text } else { "" };
        write!(
            f,
            "{:?}{}{} rank {}{}{}",
            self.element,
            mark(self.x_is_transposed, " x transposed"),
            mark(self.w_is_transposed, " w transposed"),
            self.rank,
            mark(self.has_bias, " bias"),
            mark(self.has_added, " added"),
        )
    }
}

impl KernelMetadata for Product {
    fn id(&self) -> KernelId {
        KernelId::new::<Self>()
            .info(*self)
            .cube_dim(CubeDim::new_1d(self.element.threads()))
    }

    fn address_type(&self) -> StorageType {
        u32::as_type_native_unchecked().storage_type()
    }
}

impl<C: Compiler> CubeTask<C> for Product {
    /// CubeCL takes the size of shared memory from its own form of a kernel. So a kernel that only holds this memory is compiled along.
    fn compile(
        &self,
        compiler: &mut C,
        options: &C::CompilationOptions,
        mode: ExecutionMode,
        address_type: StorageType,
    ) -> Result<CompiledKernel<C>, CompilationError> {
        let mut builder = KernelBuilder::new();
        AddressType::U32.register(&mut builder.scope);
        hold_shared_memory::expand(&mut builder.scope, SHARED_BYTES);
        let cube_dim = CubeDim::new_1d(self.element.threads());
        let definition = builder.build(KernelSettings::default().cube_dim(cube_dim));
        let held = compiler.compile(definition, options, mode, address_type)?;
        Ok(CompiledKernel {
            entrypoint_name: "product".into(),
            debug_name: Some(self.name()),
            source: self.source(),
            repr: Some(held),
            cube_dim,
            debug_info: None,
        })
    }
}

#[cube]
fn hold_shared_memory(#[comptime] bytes: usize) {
    let mut memory = SharedMemory::<u32>::new_aligned(bytes / 4, 128usize);
    memory[UNIT_POS as usize] = 0u32;
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use cubecl::cuda::CudaCompiler;

    use super::*;

    /// Asks the driver for the properties that the kernel's source assumes.
    #[test]
    fn shared_memory_goes_along() {
        for element in [Element::F32, Element::Bf16, Element::F16] {
            let product = Product {
                element,
                x_is_transposed: false,
                w_is_transposed: true,
                rank: 4,
                has_bias: true,
                has_added: true,
                text: SOURCE,
            };
            let options = Default::default();
            let mode = ExecutionMode::Checked;
            let compiled: CompiledKernel<CudaCompiler> = product
                .compile(
                    &mut CudaCompiler::default(),
                    &options,
                    mode,
                    product.address_type(),
                )
                .unwrap();
            assert_eq!(
                compiled.repr.unwrap().shared_memory_size(),
                SHARED_BYTES,
                "{element:?}"
            );
            assert!(compiled.source.contains("extern \"C\""));
        }
    }
}
