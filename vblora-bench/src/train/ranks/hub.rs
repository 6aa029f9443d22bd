//! An exchange of ranks that are threads of one process, for tests.

use std::sync::{Arc, Barrier, Mutex};

use burn::tensor::{Shape, Tensor, TensorData, TensorMetadata, TensorPrimitive, ops::FloatTensor};
use vblora::backend::{Exchange, VbLoraBackend};
use vblora_models::host_tensor;

/// Where the threads put their values.
#[derive(Debug)]
struct Table {
    values: Mutex<Vec<Vec<f32>>>,
    all: Barrier,
}

/// One of these threads.
#[derive(Debug, Clone)]
pub(super) struct Hub {
    rank: usize,
    table: Arc<Table>,
}

impl Hub {
    /// The ranks of an exchange of `size` threads.
    pub(super) fn group(size: usize) -> Vec<Self> {
        let table = Arc::new(Table {
            values: Mutex::new(vec![Vec::new(); size]),
            all: Barrier::new(size),
        });
        let of = |rank| Self {
            rank,
            table: Arc::clone(&table),
        };
        (0..size).map(of).collect()
    }

    /// Puts a tensor's values down, and makes another of what all have put down.
    fn over<B: VbLoraBackend>(
        &self,
        tensor: FloatTensor<B>,
        make: impl FnOnce(&[Vec<f32>]) -> Vec<f32>,
    ) -> FloatTensor<B> {
        let (shape, device) = (tensor.shape(), B::float_device(&tensor));
        let count = shape.num_elements();
        let flat = B::float_reshape(tensor, Shape::new([count]));
        let own = Tensor::<B, 1>::from_primitive(TensorPrimitive::Float(flat));
        self.table.values.lock().unwrap()[self.rank] = host_tensor(own).values;
        self.table.all.wait();
        let made = make(&self.table.values.lock().unwrap());
        self.table.all.wait();
        B::float_from_data(TensorData::new(made, shape), &device)
    }
}

impl<B: VbLoraBackend> Exchange<B> for Hub {
    fn broadcast(&self, tensors: Vec<FloatTensor<B>>) -> Vec<FloatTensor<B>> {
        let one = |tensor| self.over::<B>(tensor, |all| all[0].clone());
        tensors.into_iter().map(one).collect()
    }

    /// In the order in which rank 0 adds what messages carry.
    fn sum(&self, tensors: Vec<FloatTensor<B>>) -> Vec<FloatTensor<B>> {
        let one = |tensor| {
            self.over::<B>(tensor, |all| {
                let others = all[2..].iter().fold(all[1].clone(), |sum, next| {
                    sum.iter().zip(next).map(|(a, b)| a + b).collect()
                });
                let pairs = all[0].iter().zip(others);
                pairs.map(|(own, others)| own + others).collect()
            })
        };
        tensors.into_iter().map(one).collect()
    }

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}
