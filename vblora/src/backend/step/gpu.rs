//! Steps of decoding on GPUs: one launch for maps with their norm and what follows, one more for narrow products, one for attention.

mod attention;
mod kernels;
mod tensor_cores;

use burn::tensor::{DType, Shape, ops::FloatTensor};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, kernel::into_contiguous,
    tensor::CubeTensor,
};
use cubecl::prelude::*;

use super::{StepForm, StepMap, StepNorm, StepOps, StepPlaces, default};
use crate::backend::{
    CausalSettings, Gate, GeluForm,
    gpu::{array, empty, product::multiplies_tf32},
};
use kernels::{End, Form, MAX_MAPS, UNITS};
use tensor_cores::{LANES, TILE_ROWS};

/// The most rows of a step. More have enough work for the products of a text.
const MAX_ROWS: usize = 16;
/// The highest rank of an update whose sums fit in a unit's registers.
const MAX_RANK: usize = 16;
/// Bytes of shared memory that the kernels take at most.
const SHARED_BYTES: usize = 20 << 10;
/// Cubes that keep the memory of a large GPU busy.
const BUSY_CUBES: usize = 128;
/// Neighbouring bytes of a weight's row that a cube may read, at most a line of the cache and at least a sector of it.
const PIECES: [usize; 3] = [128, 64, 32];
/// Sums that fit in a unit's registers.
const MAX_SUMS: usize = 64;

impl<R, F, I, T> StepOps for CubeBackend<R, F, I, T>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    fn takes_steps(rows: usize) -> bool {
        (1..=MAX_ROWS).contains(&rows)
    }

    fn step_maps(
        x: FloatTensor<Self>,
        norm: Option<StepNorm<FloatTensor<Self>>>,
        maps: Vec<StepMap<Self>>,
        form: StepForm<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        let found = Maps::of::<Self>(&x, norm.as_ref(), &maps, &form);
        match found {
            Some(found) => found.run(),
            None => default::step_maps::<Self>(x, norm, maps, form),
        }
    }

    fn step_attention(
        qkv: FloatTensor<Self>,
        cache: [FloatTensor<Self>; 2],
        places: StepPlaces<Self>,
        settings: CausalSettings,
    ) -> (FloatTensor<Self>, [FloatTensor<Self>; 2]) {
        let (angles, first) = (places.angles.as_ref(), places.first.as_ref());
        if !is_attended(&qkv, &cache, angles, first, settings) {
            return default::step_attention::<Self>(qkv, cache, places, settings);
        }
        attend(&qkv, cache, angles, first, places.query_scale, settings)
    }
}

/// The launches of some maps.
struct Maps<'a, R: CubeRuntime> {
    x: &'a CubeTensor<R>,
    norm: Option<&'a StepNorm<CubeTensor<R>>>,
    weights: Vec<&'a CubeTensor<R>>,
    biases: Vec<&'a CubeTensor<R>>,
    updates: Vec<Factors<'a, R>>,
    added: Option<(&'a CubeTensor<R>, f64)>,
    /// Values of a weight that a unit reads at once.
    vector: usize,
    /// Width of the output.
    width: usize,
    cubes: usize,
    form: Form,
    downs_swapped: u32,
}

/// The factors of an update and its scales, of all rows or of each.
struct Factors<'a, R: CubeRuntime> {
    down: &'a CubeTensor<R>,
    up: &'a CubeTensor<R>,
    scale: f64,
    scales: Option<&'a CubeTensor<R>>,
}

impl<'a, R: CubeRuntime> Maps<'a, R> {
    /// Returns `None` if the kernels do not take these tensors.
    fn of<B>(
        x: &'a CubeTensor<R>,
        norm: Option<&'a StepNorm<CubeTensor<R>>>,
        maps: &'a [StepMap<B>],
        form: &'a StepForm<CubeTensor<R>>,
    ) -> Option<Self>
    where
        B: StepOps<FloatTensorPrimitive = CubeTensor<R>>,
    {
        let [n, d] = x.meta.shape().dims();
        let (end, most) = match form {
            StepForm::Joined => (End::Joined, MAX_MAPS),
            StepForm::Gated(Gate::Silu) => (End::Silu, 2),
            StepForm::Gated(Gate::GeluTanh) => (End::GeluUnit, 2),
            StepForm::Gelu(GeluForm::Erf) => (End::Gelu, 1),
            StepForm::Gelu(GeluForm::Tanh) => (End::GeluTanh, 1),
            StepForm::Added { .. } => (End::Added, 1),
        };
        let is_count = match form {
            StepForm::Joined => (1..=MAX_MAPS).contains(&maps.len()),
            _ => maps.len() == most,
        };
        if !is_count || !(1..=MAX_ROWS).contains(&n) || d == 0 || !has_room(x) {
            return None;
        }
        let weights: Option<Vec<_>> = maps.iter().map(|map| map.map.weight.as_dense()).collect();
        let weights = weights?;
        let widths: Vec<usize> = weights.iter().map(|w| w.meta.shape()[1]).collect();
        let dtype = weights[0].dtype;
        let is_float = matches!(dtype, DType::F32 | DType::BF16 | DType::F16);
        if !is_float
            || weights
                .iter()
                .any(|w| w.dtype != dtype || w.meta.strides()[1] != 1)
        {
            return None;
        }
        let is_unit = matches!(form, StepForm::Gated(_));
        if widths.contains(&0) || (is_unit && widths[0] != widths[1]) {
            return None;
        }
        let cubes = |columns: usize| -> usize {
            match is_unit {
                true => widths[0].div_ceil(columns),
                false => widths.iter().map(|width| width.div_ceil(columns)).sum(),
            }
        };
        let parts = if is_unit { 2 } else { 1 };
        let share = Share::on_tensor_cores(&weights, n, cubes)
            .or_else(|| Share::on_units(&weights, n, parts, cubes))?;
        let biases = maps.iter().filter_map(|map| map.map.bias.as_ref());
        let mut found = Self {
            x,
            norm,
            biases: biases.collect(),
            updates: Vec::new(),
            added: match form {
                StepForm::Added { to, scale } => Some((to, *scale)),
                _ => None,
            },
            vector: share.vector,
            width: if is_unit {
                widths[0]
            } else {
                widths.iter().sum()
            },
            cubes: cubes(share.lanes * share.vector),
            form: Form {
                rows: share.rows,
                lanes: share.lanes,
                is_centred: norm.is_some_and(|norm| norm.is_centred),
                biased: mask(maps, |map| map.map.bias.is_some()),
                ranks: [0; MAX_MAPS],
                swapped: mask(maps, |map| {
                    map.update
                        .as_ref()
                        .is_some_and(|update| is_swapped(&update.up))
                }),
                on_tensor_cores: share.on_tensor_cores,
                end,
            },
            downs_swapped: mask(maps, |map| {
                map.update
                    .as_ref()
                    .is_some_and(|update| is_swapped(&update.down))
            }),
            weights,
        };
        for (map, rank) in maps.iter().zip(&mut found.form.ranks) {
            let Some(update) = &map.update else {
                continue;
            };
            *rank = update.up.meta.shape()[0];
            if !(1..=MAX_RANK).contains(rank) {
                return None;
            }
            found.updates.push(Factors {
                down: &update.down,
                up: &update.up,
                scale: update.scale,
                scales: map.scales.as_ref(),
            });
        }
        found.is_supported().then_some(found)
    }

    fn is_supported(&self) -> bool {
        let norm = self
            .norm
            .iter()
            .flat_map(|norm| norm.beta.iter().chain([&norm.gamma]));
        let factors = self.updates.iter();
        let factors = factors.flat_map(|f| [f.down, f.up].into_iter().chain(f.scales));
        let of_rows = self.updates.iter().filter(|f| f.scales.is_some()).count();
        let others = norm.chain(self.biases.iter().copied());
        let mut others = others.chain(factors).chain(self.added.map(|(to, _)| to));
        let is_f32 = self.x.dtype == DType::F32 && others.all(|t| t.dtype == DType::F32);
        let hardware = &self.x.client.properties().hardware;
        // x, output, norm, narrow values, what is added, the lengths; and three for each map.
        let is_bound = 7 + 3 * self.weights.len() <= hardware.max_bindings as usize;
        let cubes = hardware.max_cube_count.0 as usize;
        is_f32 && is_bound && self.cubes <= cubes && (of_rows == 0 || of_rows == self.updates.len())
    }

    fn norm_args(&self) -> SequenceArg<R, Array<f32>> {
        let norm = self.norm.iter();
        norm.flat_map(|norm| [Some(&norm.gamma), norm.beta.as_ref()])
            .flatten()
            .map(array)
            .collect()
    }

    fn epsilon(&self) -> f32 {
        self.norm.map_or(0.0, |norm| norm.epsilon as f32)
    }

    fn run(self) -> CubeTensor<R> {
        let [n, d] = self.x.meta.shape().dims();
        let narrow: Option<CubeTensor<R>> = (!self.updates.is_empty()).then(|| self.narrow(n, d));
        let out = empty(self.x, Shape::new([n, self.width]));
        let ups = self.updates.iter().map(|factors| as_it_lies(factors.up));
        let widths = self
            .weights
            .iter()
            .map(|weight| weight.meta.shape()[1] / self.vector);
        let strides = self
            .weights
            .iter()
            .map(|weight| weight.meta.strides()[0] / self.vector);
        let weights = self
            .weights
            .iter()
            .map(|&weight| weight.clone().into_array_arg());
        let (added, scale) = match self.added {
            Some((to, scale)) => (Some(to), scale),
            None => (None, 1.0),
        };
        kernels::maps_of_rows::launch(
            &out.client,
            CubeCount::new_1d(self.cubes as u32),
            CubeDim::new_1d(UNITS as u32),
            array(self.x),
            self.norm_args(),
            weights.collect(),
            widths.collect(),
            strides.collect(),
            self.biases.iter().map(|&bias| array(bias)).collect(),
            narrow.iter().map(array).collect(),
            ups.collect(),
            added.into_iter().map(array).collect(),
            array(&out),
            n,
            d,
            self.epsilon(),
            scale as f32,
            self.form,
            self.weights[0].dtype.into(),
            self.vector,
        );
        out
    }

    /// The narrow products of all maps with an update, `[n, r]` each.
    fn narrow(&self, n: usize, d: usize) -> CubeTensor<R> {
        let columns: usize = self.form.ranks.iter().sum();
        let out = empty(self.x, Shape::new([n * columns]));
        let updates = || self.updates.iter();
        kernels::narrow_of_rows::launch(
            &out.client,
            CubeCount::new_2d(n as u32, self.updates.len() as u32),
            CubeDim::new_1d(UNITS as u32),
            array(self.x),
            self.norm_args(),
            updates().map(|factors| as_it_lies(factors.down)).collect(),
            updates().map(|factors| factors.scale_of_all()).collect(),
            updates()
                .filter_map(|factors| factors.scales.map(array))
                .collect(),
            array(&out),
            n,
            d,
            self.epsilon(),
            // The kernel reads nothing else of it, so others need not be compiled.
            Form {
                rows: 0,
                lanes: 0,
                biased: 0,
                swapped: 0,
                on_tensor_cores: false,
                end: End::Joined,
                ..self.form
            },
            self.downs_swapped,
        );
        out
    }
}

/// How units share the columns of weights.
struct Share {
    /// Values of a weight that a unit reads at once.
    vector: usize,
    /// Units side by side.
    lanes: usize,
    /// Rows that a cube has sums for.
    rows: usize,
    on_tensor_cores: bool,
}

impl Share {
    /// Returns `None` if the device has no such tensor cores, one row would leave them idle, or the weights do not lie in even pieces.
    fn on_tensor_cores<R: CubeRuntime>(
        weights: &[&CubeTensor<R>],
        n: usize,
        cubes: impl Fn(usize) -> usize,
    ) -> Option<Self> {
        if n == 1 || !multiplies_tf32(&weights[0].client) {
            return None;
        }
        let [wide, narrow] = [4, 2].map(|most| vector_size(weights, most));
        let is_busy = |vector: &usize| cubes(LANES * vector) >= BUSY_CUBES;
        let vector = wide.filter(is_busy).or(narrow)?;
        vector.is_multiple_of(2).then_some(Self {
            vector,
            lanes: LANES,
            rows: n.next_multiple_of(TILE_ROWS),
            on_tensor_cores: true,
        })
    }

    /// Returns `None` if a piece of the weights does not fit in registers.
    fn on_units<R: CubeRuntime>(
        weights: &[&CubeTensor<R>],
        n: usize,
        parts: usize,
        cubes: impl Fn(usize) -> usize,
    ) -> Option<Self> {
        let rows = n.next_power_of_two();
        let most = MAX_SUMS / (parts * rows);
        let vector = vector_size(weights, most.min(8))?;
        let lanes = PIECES.map(|bytes| (bytes / (vector * weights[0].dtype.size())).max(1));
        let is_busy = |&lanes: &usize| cubes(lanes * vector) >= BUSY_CUBES;
        let [.., narrowest] = lanes;
        Some(Self {
            vector,
            lanes: lanes.into_iter().find(is_busy).unwrap_or(narrowest),
            rows,
            on_tensor_cores: false,
        })
    }
}

impl<R: CubeRuntime> Factors<'_, R> {
    fn scale_of_all(&self) -> f32 {
        match self.scales {
            Some(_) => 1.0,
            None => self.scale as f32,
        }
    }
}

/// A bit for each map.
fn mask<T>(maps: &[T], is_set: impl Fn(&T) -> bool) -> u32 {
    let bits = maps.iter().enumerate();
    bits.map(|(i, map)| u32::from(is_set(map)) << i).sum()
}

/// True if a matrix lies in memory as its transpose does.
fn is_swapped<R: CubeRuntime>(matrix: &CubeTensor<R>) -> bool {
    let [rows, columns] = matrix.meta.shape().dims();
    *matrix.meta.strides == [1, rows] && columns > 1
}

/// A matrix that lies row by row or column by column.
fn as_it_lies<R: CubeRuntime>(matrix: &CubeTensor<R>) -> ArrayArg<R> {
    match is_swapped(matrix) {
        true => matrix.clone().into_array_arg(),
        false => array(matrix),
    }
}

/// The most values, at most `most`, that a unit can read at once from each of these weights.
fn vector_size<R: CubeRuntime>(weights: &[&CubeTensor<R>], most: usize) -> Option<usize> {
    let bytes = weights[0].dtype.size();
    let fits = |vector: usize| {
        weights.iter().all(|weight| {
            let start = weight.handle.offset_start.unwrap_or(0) as usize;
            let end = weight.handle.offset_end.unwrap_or(0) as usize;
            weight.meta.shape()[1].is_multiple_of(vector)
                && weight.meta.strides()[0].is_multiple_of(vector)
                && (start % (vector * bytes), end % (vector * bytes)) == (0, 0)
        })
    };
    let mut sizes = weights[0].client.io_optimized_vector_sizes(bytes);
    sizes.find(|&vector| vector <= most && fits(vector))
}

/// True if the device has cubes as large as the kernels', and their shared memory.
fn has_room<R: CubeRuntime>(tensor: &CubeTensor<R>) -> bool {
    let hardware = &tensor.client.properties().hardware;
    hardware.max_units_per_cube as usize >= UNITS && hardware.max_shared_memory_size >= SHARED_BYTES
}

type Cache<R> = [CubeTensor<R>; 2];

/// True if the kernel takes these tensors.
fn is_attended<R: CubeRuntime>(
    qkv: &CubeTensor<R>,
    cache: &Cache<R>,
    angles: Option<&[CubeTensor<R>; 2]>,
    first: Option<&CubeTensor<R>>,
    settings: CausalSettings,
) -> bool {
    let [_, _, width] = cache[0].meta.shape().dims();
    let ([n, _], size) = (qkv.meta.shape().dims::<2>(), width / settings.kv_heads);
    let mut floats = cache
        .iter()
        .chain(angles.into_iter().flatten())
        .chain([qkv]);
    floats.all(|tensor| tensor.dtype == DType::F32)
        && (1..=MAX_ROWS).contains(&n)
        && (1..=UNITS).contains(&size)
        && settings.dropout.is_none()
        && first.is_none_or(|first| first.dtype == DType::I32)
        && has_room(qkv)
}

/// The output and the cache.
fn attend<R: CubeRuntime>(
    qkv: &CubeTensor<R>,
    cache: Cache<R>,
    angles: Option<&[CubeTensor<R>; 2]>,
    first: Option<&CubeTensor<R>>,
    query_scale: f64,
    settings: CausalSettings,
) -> (CubeTensor<R>, Cache<R>) {
    let [_, capacity, width] = cache[0].meta.shape().dims();
    let ([n, _], size) = (qkv.meta.shape().dims::<2>(), width / settings.kv_heads);
    let cache = cache.map(owned);
    let out = empty(qkv, Shape::new([n, settings.heads * size]));
    let turning = angles.map_or(0, |[cos, _]| 2 * cos.meta.shape()[2]);
    let [keys, values] = cache.each_ref().map(|cache| cache.clone().into_array_arg());
    attention::attention_of_rows::launch(
        &out.client,
        CubeCount::new_2d(settings.heads as u32, n as u32),
        CubeDim::new_1d(UNITS as u32),
        array(qkv),
        angles.into_iter().flatten().map(array).collect(),
        first.into_iter().map(array).collect(),
        keys,
        values,
        array(&out),
        settings.heads,
        capacity,
        settings.offset,
        settings.window.unwrap_or(capacity).min(capacity),
        turning,
        (query_scale / (size as f64).sqrt()) as f32,
        settings.cap.unwrap_or(1.0) as f32,
        attention::Form {
            size,
            group: settings.heads / settings.kv_heads,
            has_cap: settings.cap.is_some(),
        },
    );
    (out, cache)
}

/// A tensor whose memory lies in order and belongs to nothing else.
fn owned<R: CubeRuntime>(tensor: CubeTensor<R>) -> CubeTensor<R> {
    let tensor = into_contiguous(tensor);
    match tensor.can_mut() {
        true => tensor,
        false => tensor.copy(),
    }
}
