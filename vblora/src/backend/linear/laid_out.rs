//! What a backend keeps of a frozen weight besides the weight.

#[cfg(feature = "flex")]
use std::sync::{Arc, OnceLock};

#[cfg(feature = "flex")]
use super::flex::Kept;

/// The place for a frozen weight, and for its transpose, in the order in which a CPU's products read it. Filled at the first product, shared by
/// every clone of the weight, so that a weight is laid out once and not in every step. Other backends leave it empty.
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
