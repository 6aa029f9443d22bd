//! The method in plain f64 loops, as slow and as clear as possible.

/// A row-major matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    pub rows: usize,
    pub columns: usize,
    pub values: Vec<f64>,
}

impl Matrix {
    pub fn new(rows: usize, columns: usize, values: Vec<f64>) -> Self {
        assert_eq!(values.len(), rows * columns);
        Self {
            rows,
            columns,
            values,
        }
    }

    pub fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.columns..][..self.columns]
    }

    pub fn transposed(&self) -> Self {
        let values = (0..self.columns)
            .flat_map(|j| (0..self.rows).map(move |i| (i, j)))
            .map(|(i, j)| self.row(i)[j]);
        Self::new(self.columns, self.rows, values.collect())
    }

    pub fn times(&self, other: &Self) -> Self {
        assert_eq!(self.columns, other.rows);
        let mut values = vec![0.0; self.rows * other.columns];
        for i in 0..self.rows {
            for (l, &x) in self.row(i).iter().enumerate() {
                for (j, &y) in other.row(l).iter().enumerate() {
                    values[i * other.columns + j] += x * y;
                }
            }
        }
        Self::new(self.rows, other.columns, values)
    }

    pub fn plus(&self, other: &Self) -> Self {
        let values = self
            .values
            .iter()
            .zip(&other.values)
            .map(|(a, b)| a + b)
            .collect();
        Self::new(self.rows, self.columns, values)
    }

    pub fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self::new(
            self.rows,
            self.columns,
            self.values.iter().map(|&v| f(v)).collect(),
        )
    }
}

/// The k largest of a row, largest first, ties to the lowest index, with the softmax over them.
pub fn top_k(row: &[f64], k: usize) -> (Vec<usize>, Vec<f64>) {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&i, &j| {
        row[j]
            .partial_cmp(&row[i])
            .expect("finite logits")
            .then(i.cmp(&j))
    });
    order.truncate(k);
    let powers: Vec<f64> = order
        .iter()
        .map(|&i| (row[i] - row[order[0]]).exp())
        .collect();
    let sum: f64 = powers.iter().sum();
    (order, powers.iter().map(|p| p / sum).collect())
}

/// Equation 3.3 for every row of the logits.
pub fn admixture(logits: &Matrix, bank: &Matrix, k: usize) -> Matrix {
    let mut out = Vec::new();
    for s in 0..logits.rows {
        let (indices, weights) = top_k(logits.row(s), k);
        for j in 0..bank.columns {
            out.push(
                indices
                    .iter()
                    .zip(&weights)
                    .map(|(&i, w)| w * bank.row(i)[j])
                    .sum(),
            );
        }
    }
    Matrix::new(logits.rows, bank.columns, out)
}

/// The gradients of `sum(admixture * grad)` to logits and bank (paper notes 1.3).
pub fn admixture_gradients(
    logits: &Matrix,
    bank: &Matrix,
    k: usize,
    grad: &Matrix,
) -> (Matrix, Matrix) {
    let mut d_logits = logits.map(|_| 0.0);
    let mut d_bank = bank.map(|_| 0.0);
    for s in 0..logits.rows {
        let (indices, weights) = top_k(logits.row(s), k);
        let dots: Vec<f64> = indices
            .iter()
            .map(|&i| {
                bank.row(i)
                    .iter()
                    .zip(grad.row(s))
                    .map(|(a, g)| a * g)
                    .sum()
            })
            .collect();
        let mean: f64 = dots.iter().zip(&weights).map(|(d, w)| d * w).sum();
        for ((&i, w), dot) in indices.iter().zip(&weights).zip(&dots) {
            d_logits.values[s * logits.columns + i] = w * (dot - mean);
            for (j, g) in grad.row(s).iter().enumerate() {
                d_bank.values[i * bank.columns + j] += w * g;
            }
        }
    }
    (d_logits, d_bank)
}

/// The slope of `f` at each value of `at`, by central differences.
pub fn finite_differences(at: &Matrix, step: f64, f: impl Fn(&Matrix) -> f64) -> Matrix {
    let slope = |i: usize| {
        let moved = |by: f64| {
            let mut moved = at.clone();
            moved.values[i] += by;
            f(&moved)
        };
        (moved(step) - moved(-step)) / (2.0 * step)
    };
    Matrix::new(
        at.rows,
        at.columns,
        (0..at.values.len()).map(slope).collect(),
    )
}

/// The sum of elementwise products.
pub fn dot(a: &Matrix, b: &Matrix) -> f64 {
    a.values.iter().zip(&b.values).map(|(a, b)| a * b).sum()
}
