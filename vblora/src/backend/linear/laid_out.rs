//! Copies of a frozen weight that a backend keeps beside the weight.

#[cfg(feature = "flex")]
use std::sync::{Arc, OnceLock};

#[cfg(feature = "flex")]
use super::flex::Kept;

/// The place for copies of a frozen weight and of its transpose, in the order in which a CPU's products read them. The first product fills
/// it, and all clones of the weight share it. So a weight is laid out once and not in every step. Other backends leave it empty.
///
/// A transient weight has no place (`default()`).
#[derive(Debug, Clone, Default)]
pub struct LaidOut {
    #[cfg(feature = "flex")]
    places: Option<Arc<[OnceLock<Kept>; 2]>>,
    #[cfg(feature = "flex")]
    is_turned: bool,
}

impl LaidOut {
    /// An empty place for a weight that stays.
    pub fn place() -> Self {
        Self {
            #[cfg(feature = "flex")]
            places: Some(Arc::default()),
            ..Self::default()
        }
    }

    /// The place of the transpose.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            #[cfg(feature = "flex")]
            is_turned: !self.is_turned,
            ..self
        }
    }

    /// The place, if there is one.
    #[cfg(feature = "flex")]
    pub(super) fn get(&self) -> Option<&OnceLock<Kept>> {
        let places = self.places.as_ref()?;
        Some(&places[usize::from(self.is_turned)])
    }
}
