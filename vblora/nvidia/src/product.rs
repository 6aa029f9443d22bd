//! Products, each as one or two kernels of the library. Where it has none, the caller's kernel runs.

use std::{cell::RefCell, collections::HashMap, ffi::c_void, ptr, sync::OnceLock};

use cubecl::{
    CubeCount, CubeTask, Runtime,
    cuda::{CudaCompiler, CudaRuntime},
    device::Device,
    device_handle::DeviceHandle,
    prelude::ExecutionMode,
    server::{Binding, ComputeServer, KernelArguments},
    stream_id::StreamId,
};
use cudarc::{
    cublaslt::{
        result::{self as lt, CublasError},
        sys::{
            self, cublasComputeType_t as Compute, cublasLtEpilogue_t as Epilogue,
            cublasLtMatmulDescAttributes_t as Attribute,
            cublasLtMatmulPreferenceAttributes_t as Preference, cudaDataType as Type,
        },
    },
    driver::{
        DriverError,
        sys::{CUcontext, CUdeviceptr},
    },
};

use crate::lane::{Lane, current_context, has_context_events};

type Server = <CudaRuntime as Runtime>::Server;

/// Device memory that kernels of cuBLASLt may use, as NVIDIA advises for this generation of cards.
const WORKSPACE_BYTES: usize = 32 << 20;
/// The highest alignment that a kernel asks of its operands.
const MAX_ALIGNMENT: u64 = 256;
/// Products of fewer multiplications are over before the hand-over pays.
const MIN_MULTIPLICATIONS: usize = 1 << 23;

/// `out = x weight + bias + narrow factor + added`, sums in f32.
///
/// # Shapes
/// - x: `[rows, inner]`, weight: `[inner, columns]`, bias: `[columns]`, narrow: `[rows, rank]`, factor: `[rank, columns]`
/// - added and out: `[rows, columns]`
#[derive(Debug, Clone)]
pub struct Product {
    /// The type of x and weight.
    pub element: Element,
    /// Rows, inner and columns.
    pub sizes: [usize; 3],
    /// The distance of x's rows in memory, in values.
    pub x_row: usize,
    /// The same of the weight's rows as they lie in memory.
    pub weight_row: usize,
    /// True if memory holds the weight's columns as rows.
    pub weight_is_transposed: bool,
    /// True if a bias is added.
    pub has_bias: bool,
    /// The rank of the update and its factor's strides, one of which is 1. The narrow operand is contiguous.
    pub update: Option<(usize, [u64; 2])>,
    /// True if a matrix of the output's shape is added.
    pub has_added: bool,
}

/// The type of x and weight. Everything else is f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// Rounded to TF32 by the tensor cores.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

/// True if products can be given to the library: it is there, and so is a driver that orders a stream of our own.
pub fn is_present() -> bool {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    *PRESENT.get_or_init(|| {
        // SAFETY: this loads the library, whose initialisers do nothing but set up its own data.
        has_context_events() && unsafe { sys::is_culib_present() }
    })
}

/// Queues the product. The buffers of `arguments` are x, weight, bias, narrow, factor, added and the output, without those that are not there.
/// `kernel` does the same work with these arguments. It runs if the library cannot.
pub fn submit<D: Device>(
    device: &D,
    product: Product,
    kernel: Box<dyn CubeTask<CudaCompiler>>,
    count: CubeCount,
    arguments: KernelArguments,
) {
    let stream = StreamId::current();
    DeviceHandle::<Server>::new(device.to_id()).submit(move |server| {
        if product.run(server, &arguments.buffers, stream).is_err() {
            // SAFETY: kernel and arguments are those of a checked launch through CubeCL's client.
            unsafe { server.launch(kernel, count, arguments, ExecutionMode::Checked, stream) };
        }
    });
}

impl Product {
    /// True if the product is large enough for the hand-over to pay.
    pub fn pays(&self) -> bool {
        self.sizes.iter().product::<usize>() >= MIN_MULTIPLICATIONS
    }

    /// Runs on the thread that owns the device.
    fn run(
        &self,
        server: &mut Server,
        buffers: &[Binding],
        stream: StreamId,
    ) -> Result<(), Failure> {
        let held = buffers
            .iter()
            .map(|buffer| server.get_resource(buffer.clone(), stream))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| Failure)?;
        let at: Vec<CUdeviceptr> = held.iter().map(|held| held.resource().ptr).collect();
        let context = current_context()?;
        LIBRARY.with_borrow_mut(|library| {
            let library = library
                .get_or_make(context, || Library::new(context))
                .ok_or(Failure)?;
            library.run(self, &at)
        })
    }

    /// The steps of this product, in their order, over operands at these addresses.
    fn steps(&self, at: &[CUdeviceptr]) -> Vec<Step> {
        let mut buffers = at.iter().copied();
        let mut next = || buffers.next().expect("a buffer for each operand");
        let [rows, inner, columns] = self.sizes.map(|n| n as u64);
        let (x, weight) = (next(), next());
        let bias = self.has_bias.then(&mut next);
        let factors = self.update.map(|update| (update, next(), next()));
        let added = self.has_added.then(&mut next);
        let out = next();
        let of = |element, row: u64, is_transposed, at| Matrix {
            element,
            row,
            is_transposed,
            at,
        };
        // The update is written first, with the other terms, and the product adds to it.
        let mut steps = Vec::with_capacity(2);
        if let Some(((rank, strides), narrow, factor)) = factors {
            let is_transposed = strides[1] != 1;
            let factor_row = if is_transposed {
                strides[1]
            } else {
                strides[0]
            };
            steps.push(Step {
                sizes: [rows, rank as u64, columns],
                left: of(Element::F32, rank as u64, false, narrow),
                right: of(Element::F32, factor_row, is_transposed, factor),
                out,
                bias,
                term: added,
                is_exact: true,
            });
        }
        let has_update = !steps.is_empty();
        steps.push(Step {
            sizes: [rows, inner, columns],
            left: of(self.element, self.x_row as u64, false, x),
            right: of(
                self.element,
                self.weight_row as u64,
                self.weight_is_transposed,
                weight,
            ),
            out,
            bias: bias.filter(|_| !has_update),
            term: if has_update { Some(out) } else { added },
            is_exact: false,
        });
        steps
    }
}

/// Why a product was not done. Our own kernel does it then, so nobody reads more.
#[derive(Debug)]
struct Failure;

impl From<DriverError> for Failure {
    fn from(_: DriverError) -> Self {
        Self
    }
}

impl From<CublasError> for Failure {
    fn from(_: CublasError) -> Self {
        Self
    }
}

/// A matrix in row-major order.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Matrix {
    element: Element,
    /// The distance of rows in memory, in values.
    row: u64,
    is_transposed: bool,
    at: CUdeviceptr,
}

/// `out = left right`, plus a bias, plus a term of the output's shape, which may be `out` itself. Term and out are contiguous.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Step {
    sizes: [u64; 3],
    left: Matrix,
    right: Matrix,
    out: CUdeviceptr,
    bias: Option<CUdeviceptr>,
    term: Option<CUdeviceptr>,
    /// True if f32 factors are not rounded to TF32.
    is_exact: bool,
}

/// What a kernel is chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    sizes: [u64; 3],
    elements: [Element; 2],
    rows: [u64; 2],
    is_transposed: [bool; 2],
    /// Of left, right, term and out.
    alignments: [u32; 4],
    has_bias: bool,
    has_term: bool,
    is_exact: bool,
}

impl Step {
    /// The address of the term. The library asks for one without a term too, and does not read it then.
    fn term(&self) -> CUdeviceptr {
        self.term.unwrap_or(self.out)
    }

    fn key(&self) -> Key {
        let aligned = |at: CUdeviceptr| 1u32 << (at | MAX_ALIGNMENT).trailing_zeros();
        Key {
            sizes: self.sizes,
            elements: [self.left.element, self.right.element],
            rows: [self.left.row, self.right.row],
            is_transposed: [self.left.is_transposed, self.right.is_transposed],
            alignments: [self.left.at, self.right.at, self.term(), self.out].map(aligned),
            has_bias: self.bias.is_some(),
            has_term: self.term.is_some(),
            is_exact: self.is_exact,
        }
    }
}

/// A kernel with the descriptions that the library takes. They live as long as the process.
struct Plan {
    description: sys::cublasLtMatmulDesc_t,
    left: sys::cublasLtMatrixLayout_t,
    right: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    kernel: sys::cublasLtMatmulAlgo_t,
}

/// Values made once for each context. A context that failed is not tried again.
struct ByContext<T>(HashMap<usize, Option<T>>);

impl<T> ByContext<T> {
    fn new() -> Self {
        Self(HashMap::new())
    }

    fn get_or_make<E>(
        &mut self,
        context: CUcontext,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Option<&mut T> {
        let known = self.0.entry(context.addr()).or_insert_with(|| make().ok());
        known.as_mut()
    }
}

/// The library in one context.
struct Library {
    lane: Lane,
    handle: sys::cublasLtHandle_t,
    workspace: CUdeviceptr,
    /// `None` for products that the library has no kernel for.
    plans: HashMap<Key, Option<Plan>>,
}

thread_local! {
    /// One thread owns a device and gives it all work.
    static LIBRARY: RefCell<ByContext<Library>> = RefCell::new(ByContext::new());
}

impl Library {
    fn new(context: CUcontext) -> Result<Self, Failure> {
        let mut workspace = 0;
        // SAFETY: the pointer is valid for writes, and the context is current on this thread.
        unsafe { cudarc::driver::sys::cuMemAlloc_v2(&raw mut workspace, WORKSPACE_BYTES) }
            .result()?;
        Ok(Self {
            lane: Lane::new(context)?,
            handle: lt::create_handle()?,
            workspace,
            plans: HashMap::new(),
        })
    }

    fn run(&mut self, product: &Product, at: &[CUdeviceptr]) -> Result<(), Failure> {
        let steps = product.steps(at);
        // All are planned before the first runs, so that the output is whole or untouched.
        for step in &steps {
            self.plan(step)?;
        }
        let Self {
            lane,
            handle,
            workspace,
            plans,
        } = self;
        lane.between(|stream| {
            steps.iter().try_for_each(|step| {
                let plan = plans[&step.key()].as_ref().ok_or(Failure)?;
                plan.run(step, *handle, *workspace, stream.cast())
            })
        })
    }

    fn plan(&mut self, step: &Step) -> Result<(), Failure> {
        let key = step.key();
        let handle = self.handle;
        let plan = self
            .plans
            .entry(key)
            .or_insert_with(|| Plan::new(key, handle).ok());
        plan.as_ref().map(|_| ()).ok_or(Failure)
    }
}

impl Plan {
    /// The library counts columns first. So it is asked for the transposed output: `right^T left^T`.
    fn new(key: Key, handle: sys::cublasLtHandle_t) -> Result<Self, Failure> {
        let [rows, inner, columns] = key.sizes;
        let compute = if key.elements == [Element::F32; 2] && !key.is_exact {
            Compute::CUBLAS_COMPUTE_32F_FAST_TF32
        } else {
            Compute::CUBLAS_COMPUTE_32F
        };
        let description = lt::create_matmul_desc(compute, Type::CUDA_R_32F)?;
        let layout = |which: usize, [rows, columns]: [u64; 2]| {
            let memory = if key.is_transposed[which] {
                [columns, rows]
            } else {
                [rows, columns]
            };
            let row = key.rows[which].max(memory[1]);
            lt::create_matrix_layout(key.elements[which].data(), memory[1], memory[0], row as i64)
        };
        let left = layout(0, [rows, inner])?;
        let right = layout(1, [inner, columns])?;
        let out = lt::create_matrix_layout(Type::CUDA_R_32F, columns, rows, columns as i64)?;
        // CUBLAS_OP_N is 0 and CUBLAS_OP_T is 1.
        let [of_left, of_right] = key.is_transposed.map(i32::from);
        // SAFETY: the description is live, and each value has the type that its attribute has in NVIDIA's documentation.
        unsafe {
            set(
                description,
                Attribute::CUBLASLT_MATMUL_DESC_TRANSA,
                &of_right,
            )?;
            set(
                description,
                Attribute::CUBLASLT_MATMUL_DESC_TRANSB,
                &of_left,
            )?;
            if key.has_bias {
                let epilogue = Epilogue::CUBLASLT_EPILOGUE_BIAS;
                set(
                    description,
                    Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE,
                    &epilogue,
                )?;
            }
        }
        let preference = lt::create_matmul_pref()?;
        let [of_left, of_right, of_term, of_out] = key.alignments;
        // SAFETY: as above; the preference is destroyed here and used nowhere else.
        let found = unsafe {
            prefer(
                preference,
                Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                &WORKSPACE_BYTES,
            )?;
            prefer(
                preference,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                &of_right,
            )?;
            prefer(
                preference,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                &of_left,
            )?;
            prefer(
                preference,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                &of_term,
            )?;
            prefer(
                preference,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
                &of_out,
            )?;
            let found = lt::get_matmul_algo_heuristic(
                handle,
                description,
                right,
                left,
                out,
                out,
                preference,
            );
            lt::destroy_matmul_pref(preference)?;
            found?
        };
        Ok(Self {
            description,
            left,
            right,
            out,
            kernel: found.algo,
        })
    }

    fn run(
        &self,
        step: &Step,
        handle: sys::cublasLtHandle_t,
        workspace: CUdeviceptr,
        stream: sys::cudaStream_t,
    ) -> Result<(), Failure> {
        let (one, kept) = (1.0f32, f32::from(u8::from(step.term.is_some())));
        let address = |at: CUdeviceptr| at as *mut c_void;
        // SAFETY: the descriptions are live and fit the operands. The operands' buffers are held by the caller until the work is queued, and
        // what CubeCL queues later waits for it.
        unsafe {
            if let Some(bias) = step.bias {
                set(
                    self.description,
                    Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                    &bias,
                )?;
            }
            lt::matmul(
                handle,
                self.description,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&kept).cast(),
                address(step.right.at),
                self.right,
                address(step.left.at),
                self.left,
                address(step.term()),
                self.out,
                address(step.out),
                self.out,
                &raw const self.kernel,
                address(workspace),
                WORKSPACE_BYTES,
                stream,
            )?;
        }
        Ok(())
    }
}

/// # Safety
/// The description is live, and T is the type of the attribute.
unsafe fn set<T>(
    description: sys::cublasLtMatmulDesc_t,
    attribute: Attribute,
    value: &T,
) -> Result<(), CublasError> {
    let (value, size) = (ptr::from_ref(value).cast(), size_of::<T>());
    // SAFETY: promised by the caller; the library copies the value.
    unsafe { lt::set_matmul_desc_attribute(description, attribute, value, size) }
}

/// # Safety
/// The preference is live, and T is the type of the attribute.
unsafe fn prefer<T>(
    preference: sys::cublasLtMatmulPreference_t,
    attribute: Preference,
    value: &T,
) -> Result<(), CublasError> {
    let (value, size) = (ptr::from_ref(value).cast(), size_of::<T>());
    // SAFETY: promised by the caller; the library copies the value.
    unsafe { lt::set_matmul_pref_attribute(preference, attribute, value, size) }
}

impl Element {
    fn data(self) -> Type {
        match self {
            Self::F32 => Type::CUDA_R_32F,
            Self::Bf16 => Type::CUDA_R_16BF,
            Self::F16 => Type::CUDA_R_16F,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(rank: usize, has_bias: bool, has_added: bool) -> Product {
        Product {
            element: Element::Bf16,
            sizes: [7, 5, 3],
            x_row: 5,
            weight_row: 3,
            weight_is_transposed: false,
            has_bias,
            update: (rank > 0).then_some((rank, [3, 1])),
            has_added,
        }
    }

    /// Each term is added by one step, and the last buffer alone is written.
    #[test]
    fn every_buffer_has_its_place() {
        for rank in [0, 2] {
            for [has_bias, has_added] in [[false; 2], [false, true], [true, false], [true; 2]] {
                let count = 3
                    + 2 * usize::from(rank > 0)
                    + [has_bias, has_added].map(usize::from).iter().sum::<usize>();
                let at: Vec<CUdeviceptr> = (1..=count as u64).collect();
                let steps = product(rank, has_bias, has_added).steps(&at);
                let out = at[count - 1];
                assert!(steps.iter().all(|step| step.out == out));
                let bias: Vec<_> = steps.iter().filter_map(|step| step.bias).collect();
                assert_eq!(bias, if has_bias { vec![3] } else { vec![] });
                let added = has_added.then(|| at[count - 2]);
                let first = steps[0];
                assert_eq!(first.term, added);
                let last = steps[steps.len() - 1];
                assert_eq!([last.left.at, last.right.at], [1, 2]);
                assert_eq!(steps.len(), 1 + usize::from(rank > 0));
                if rank > 0 {
                    let narrow = 3 + u64::from(has_bias);
                    assert_eq!([first.left.at, first.right.at], [narrow, narrow + 1]);
                    assert_eq!(last.term, Some(out));
                }
            }
        }
    }
}
