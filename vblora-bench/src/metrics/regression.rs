//! Errors of predicted numbers.

/// The mean squared error; `None` for no rows or unequal lengths.
pub fn mse(prediction: &[f64], gold: &[f64]) -> Option<f64> {
    mean_error(prediction, gold, |error| error * error)
}

/// The mean absolute error; `None` for no rows or unequal lengths.
pub fn mae(prediction: &[f64], gold: &[f64]) -> Option<f64> {
    mean_error(prediction, gold, f64::abs)
}

/// The coefficient of determination: 1 minus the squared error over that of the labels' mean.
///
/// Returns `None` for fewer than two rows or unequal lengths. Constant labels give 1 if every prediction is right, and 0 otherwise, as in
/// scikit-learn.
pub fn r2(prediction: &[f64], gold: &[f64]) -> Option<f64> {
    if gold.len() < 2 {
        return None;
    }
    let error = mse(prediction, gold)?;
    let mean = gold.iter().sum::<f64>() / gold.len() as f64;
    // A rounded mean would give constant labels a tiny spread, by which scikit-learn 1.9 divides.
    let is_constant = gold.iter().all(|value| *value == gold[0]);
    let spread = match is_constant {
        true => 0.0,
        false => mse(&vec![mean; gold.len()], gold)?,
    };
    Some(match (error == 0.0, spread == 0.0) {
        (true, _) => 1.0,
        (false, true) => 0.0,
        (false, false) => 1.0 - error / spread,
    })
}

fn mean_error(prediction: &[f64], gold: &[f64], of: impl Fn(f64) -> f64) -> Option<f64> {
    if prediction.len() != gold.len() || gold.is_empty() {
        return None;
    }
    let errors = prediction.iter().zip(gold).map(|(p, g)| of(p - g));
    Some(errors.sum::<f64>() / gold.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undefined_cases() {
        for metric in [mse, mae, r2] {
            assert_eq!(metric(&[], &[]), None);
            assert_eq!(metric(&[1.0], &[1.0, 2.0]), None);
        }
        assert_eq!(r2(&[1.0], &[1.0]), None);
        assert_eq!(r2(&[0.1, 0.1, 0.1], &[0.1, 0.1, 0.1]), Some(1.0));
        assert_eq!(r2(&[0.1, 0.2, 0.1], &[0.1, 0.1, 0.1]), Some(0.0));
    }
}
