//! Right-hand sides that are laid out once and kept.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::product::{Matrix, pack_panels, width};
use crate::backend::kernels::Aligned;

/// The most values that are kept of all weights together: 2 GiB. Further weights are laid out in each product.
const LIMIT: usize = 1 << 29;

/// Values that are kept now.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// A matrix's columns in panels of one tile's width.
#[derive(Debug)]
pub(in crate::backend::linear) struct Panels {
    values: Aligned,
    /// The share of these panels in all kept values.
    _share: Share,
}

impl Panels {
    /// Lays a matrix out if keeping its panels pays. A row-major matrix is not kept, because it is read as fast as its panels.
    pub(in crate::backend::linear) fn keep(w: Matrix<'_>) -> Option<Self> {
        let [inner, columns] = w.shape;
        if w.strides[1] == 1 {
            return None;
        }
        let width = width();
        let len = columns.next_multiple_of(width) * inner;
        let share = Share::of(len)?;
        let mut values = Aligned::zeros(len);
        pack_panels(w, 0, width, true, &mut values);
        Some(Self {
            values,
            _share: share,
        })
    }

    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }
}

/// A number of kept values, given back when dropped.
#[derive(Debug)]
struct Share(usize);

impl Share {
    fn of(len: usize) -> Option<Self> {
        let taken = KEPT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |kept| {
            kept.checked_add(len).filter(|&sum| sum <= LIMIT)
        });
        taken.ok().map(|_| Self(len))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::linear::kernels::{Added, product},
        rng::Key,
    };

    #[test]
    fn kept_panels_give_the_same_bits() {
        let [rows, inner, columns, rank] = [37, 800, 150, 3];
        let draw = |name: &str, len| Key::new(1).name(name).normal(len, 1.0);
        let (x, turned) = (draw("x", rows * inner), draw("w", inner * columns));
        let (narrow, up) = (draw("narrow", rows * rank), draw("up", rank * columns));
        let bias = draw("bias", columns);
        let w = Matrix {
            values: &turned,
            shape: [inner, columns],
            strides: [1, inner],
        };
        let added = Added {
            bias: Some(&bias),
            narrow: Some((&narrow, Matrix::rows(&up, [rank, columns]))),
        };
        let panels = Panels::keep(w);
        assert!(panels.is_some());
        for added in [added, Added::default()] {
            let [mut kept, mut anew] = [(); 2].map(|()| vec![f32::NAN; rows * columns]);
            product(&x, w, panels.as_ref(), added, &mut kept);
            product(&x, w, None, added, &mut anew);
            assert_eq!(kept, anew);
        }
    }

    #[test]
    fn no_more_than_the_limit_is_kept() {
        assert!(Share::of(LIMIT + 1).is_none());
        assert!(Share::of(usize::MAX).is_none());
        assert!(Share::of(1).is_some());
    }
}
