//! Statistics of recorded selections: the bank vectors in use, their users, their weight, and its change over time. All are pure functions
//! on host data.

mod footprint;
mod groups;
mod projection;
mod uses;

pub use footprint::{Cells, Overlap, Window, footprint, overlap, spread, windows};
pub use groups::{Group, Side, by_role_and_side, by_third, row_places};
pub use projection::{Projection, project, sub_vectors};
pub use uses::{by_norm, churn, dead, entropy, mass, mean_uses, popular, uses};
