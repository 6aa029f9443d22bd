//! The rule for a base whose head is its token embedding, and an adapter that saved tables of its own for either end.

/// The tables of a base whose token embedding and head are one, after an adapter's saved tables have taken their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tie {
    /// The two ends are one table still.
    Kept,
    /// The two ends are tables of their own.
    Broken,
    /// The adapter saved two values for one table.
    Contradiction,
}

impl Tie {
    /// Decides as PEFT does. `saved` has an entry for the embedding and one for the head. An entry is `None` if the adapter saved no such
    /// table, and `Some(true)` if `modules_to_save` names it. A table that was saved unasked stands for both ends; one of `modules_to_save`
    /// stands for one. `are_equal` is called only if both tables were saved.
    pub fn of_saved(saved: [Option<bool>; 2], are_equal: impl FnOnce() -> bool) -> Self {
        match saved {
            [None, None] | [Some(false), None] | [None, Some(false)] => Self::Kept,
            [Some(true), None] | [None, Some(true)] => Self::Broken,
            [Some(_), Some(_)] if are_equal() => Self::Kept,
            [Some(false), Some(false)] => Self::Contradiction,
            [Some(_), Some(_)] => Self::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_saved_unasked_is_both_ends_and_one_asked_for_is_one() {
        let unasked = Some(false);
        let own = Some(true);
        for (saved, equal, expected) in [
            ([None, None], false, Tie::Kept),
            ([unasked, None], false, Tie::Kept),
            ([None, unasked], false, Tie::Kept),
            ([own, None], false, Tie::Broken),
            ([None, own], false, Tie::Broken),
            ([own, own], true, Tie::Kept),
            ([unasked, unasked], true, Tie::Kept),
            ([unasked, unasked], false, Tie::Contradiction),
            ([own, unasked], false, Tie::Broken),
            ([unasked, own], false, Tie::Broken),
            ([own, own], false, Tie::Broken),
        ] {
            assert_eq!(Tie::of_saved(saved, || equal), expected, "{saved:?}");
        }
    }
}
