//! AdamW's moments of a matrix whose rows get gradients in few columns. Moments are stored only for elements that once had a gradient.

use burn::tensor::{Bool, IndexingUpdateOp, Int, Tensor, TensorData, backend::Backend};
use vblora::backend::VbLoraBackend;
use vblora_models::host_tensor;

/// The number of steps between checks of the device for free slots.
const STEPS_BETWEEN_LOOKS: usize = 8;

/// The moments of the touched elements of an `[S, h]` matrix, in slots. Row s has moments for its columns `indices[s, ..used[s]]`.
///
/// An element that never had a gradient has moments of zero, and AdamW without decay subtracts zero from it. Updating only the touched
/// elements therefore gives AdamW's result, bit by bit. VB-LoRA's logits get a gradient only where they are selected, at k of h columns. A
/// row selects few columns during a whole training (paper, Fig. 3).
#[derive(Debug, Clone)]
pub struct Touched<B: Backend> {
    /// Columns, `[S, C]`; 0 in free slots.
    indices: Tensor<B, 2, Int>,
    /// Number of used slots of each row, `[S, 1]`.
    used: Tensor<B, 2, Int>,
    /// First and second moment, `[S, C]`; 0 in free slots.
    pub(super) moments: [Tensor<B, 2>; 2],
    /// h
    columns: usize,
    /// An upper bound on the used slots of a row, known to the host without a read from the device.
    at_most: usize,
}

impl<B: VbLoraBackend> Touched<B> {
    /// Creates moments for an `[S, h]` matrix without touched elements.
    pub(super) fn none([rows, columns]: [usize; 2], device: &B::Device) -> Self {
        Self {
            indices: Tensor::zeros([rows, 1], device),
            used: Tensor::zeros([rows, 1], device),
            moments: [0, 1].map(|_| Tensor::zeros([rows, 1], device)),
            columns,
            at_most: 0,
        }
    }

    /// Creates moments from flat ones, for the elements that are not zero.
    pub(super) fn of_whole(whole: &[Tensor<B, 1>; 2], [rows, columns]: [usize; 2]) -> Self {
        let device = whole[0].device();
        let [first, second] = whole
            .each_ref()
            .map(|moment| host_tensor(moment.clone()).values);
        let taken: Vec<Vec<usize>> = (0..rows)
            .map(|row| {
                let is_taken = |&at: &usize| first[at] != 0.0 || second[at] != 0.0;
                (row * columns..(row + 1) * columns)
                    .filter(is_taken)
                    .collect()
            })
            .collect();
        let at_most = taken.iter().map(Vec::len).max().unwrap_or(0);
        let slots = at_most.max(1);
        let floats = |moment: &[f32]| {
            let values = padded(&taken, slots, |at| moment[at]);
            Tensor::<B, 2>::from_data(TensorData::new(values, [rows, slots]), &device)
        };
        let ints = |values: Vec<i32>, shape: [usize; 2]| {
            Tensor::<B, 2, Int>::from_data(TensorData::new(values, shape), &device)
        };
        let indices = padded(&taken, slots, |at| (at % columns) as i32);
        let used = taken.iter().map(|taken| taken.len() as i32).collect();
        Self {
            indices: ints(indices, [rows, slots]),
            used: ints(used, [rows, 1]),
            moments: [&first[..], &second[..]].map(floats),
            columns,
            at_most,
        }
    }

    /// The moments of all elements, flat.
    pub(super) fn to_whole(&self) -> [Tensor<B, 1>; 2] {
        let [rows, _] = self.indices.dims();
        self.moments.each_ref().map(|moment| {
            // Free slots add zero to column 0.
            Tensor::<B, 2>::zeros([rows, self.columns], &moment.device())
                .scatter(
                    1,
                    self.indices.clone(),
                    moment.clone(),
                    IndexingUpdateOp::Add,
                )
                .reshape([rows * self.columns])
        })
    }

    /// Bytes on the device, with four per number.
    pub fn bytes(&self) -> usize {
        let [rows, slots] = self.indices.dims();
        4 * (3 * rows * slots + rows)
    }

    /// Gives a slot to every element that has a gradient and no slot yet. At most `per_row` elements of a row have a gradient.
    ///
    /// # Shapes
    /// - grad: `[S, h]`
    pub(super) fn touch(&mut self, grad: &Tensor<B, 2>, per_row: usize) {
        self.make_room(per_row);
        let sizes = grad.clone().abs().into_primitive().tensor();
        let chosen = B::top_k_indices(sizes, per_row);
        let chosen = Tensor::<B, 2, Int>::from_primitive(chosen);
        let shape = self.indices.dims();
        for chosen in chosen.split(1, 1) {
            let has_gradient = grad.clone().gather(1, chosen.clone()).not_equal_elem(0.0);
            let chosen = chosen.expand(shape);
            let known = self.indices.clone().equal(chosen.clone());
            let known = known.bool_and(self.is_taken()).any_dim(1);
            let is_new = known.bool_not().bool_and(has_gradient);
            let next = self.slots().equal(self.used.clone().expand(shape));
            let place = next.bool_and(is_new.clone().expand(shape));
            self.indices = self.indices.clone().mask_where(place, chosen);
            self.used = self.used.clone() + is_new.int();
        }
        self.at_most = self.columns.min(self.at_most + per_row);
    }

    /// Makes room for `per_row` more columns in every row. Only the device knows if slots are missing. It is asked once in many steps, when
    /// slots could be missing.
    fn make_room(&mut self, per_row: usize) {
        let [rows, slots] = self.indices.dims();
        if self.columns.min(self.at_most + per_row) <= slots {
            return;
        }
        let used = self.used.clone().max().into_data().convert::<i64>();
        self.at_most = used
            .as_slice::<i64>()
            .map_or(slots, |used| used[0] as usize);
        let wanted = self.at_most + (STEPS_BETWEEN_LOOKS * per_row).max(self.at_most / 2);
        let missing = self.columns.min(wanted).saturating_sub(slots);
        if missing == 0 {
            return;
        }
        let device = self.indices.device();
        let free = Tensor::<B, 2, Int>::zeros([rows, missing], &device);
        self.indices = Tensor::cat(vec![self.indices.clone(), free], 1);
        self.moments = self.moments.each_ref().map(|moment| {
            let free = Tensor::zeros([rows, missing], &device);
            Tensor::cat(vec![moment.clone(), free], 1)
        });
    }

    /// The slot numbers, `[S, C]`.
    fn slots(&self) -> Tensor<B, 2, Int> {
        let shape = self.indices.dims();
        let numbers = Tensor::<B, 1, Int>::arange(0..shape[1] as i64, &self.indices.device());
        numbers.unsqueeze::<2>().expand(shape)
    }

    fn is_taken(&self) -> Tensor<B, 2, Bool> {
        let used = self.used.clone().expand(self.indices.dims());
        self.slots().lower(used)
    }

    /// The slots' elements of a matrix, 0 for free slots.
    ///
    /// # Shapes
    /// - whole: `[S, h]`; output: `[S, C]`
    pub(super) fn read(&self, whole: Tensor<B, 2>) -> Tensor<B, 2> {
        let found = whole.gather(1, self.indices.clone());
        found.mask_fill(self.is_taken().bool_not(), 0.0)
    }

    /// Subtracts a step from the slots' elements of a matrix.
    ///
    /// # Shapes
    /// - whole and output: `[S, h]`, step: `[S, C]`, 0 in free slots
    pub(super) fn subtract(&self, whole: Tensor<B, 2>, step: Tensor<B, 2>) -> Tensor<B, 2> {
        // Free slots add -0 to column 0, which leaves its bits unchanged.
        whole.scatter(1, self.indices.clone(), step.neg(), IndexingUpdateOp::Add)
    }
}

/// The used values of each row, padded to `slots` per row.
fn padded<T: Default>(taken: &[Vec<usize>], slots: usize, value: impl Fn(usize) -> T) -> Vec<T> {
    let mut all = Vec::with_capacity(taken.len() * slots);
    for (row, taken) in taken.iter().enumerate() {
        all.extend(taken.iter().map(|&at| value(at)));
        all.resize_with((row + 1) * slots, T::default);
    }
    all
}
