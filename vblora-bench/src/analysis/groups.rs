//! Sub-vectors by their place in a model.

use vblora::{Site, SitePlan, ValidVbLora};

/// The factor of a site that a sub-vector belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// A, `[d_in, r]`, on the input side.
    A,
    /// B, `[r, d_out]`, on the output side.
    B,
}

impl Side {
    /// `A` or `B`.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }
}

/// Sub-vectors that are analysed together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The name for display: `layers 0-3`, `query A`.
    pub name: String,
    /// Rows of the selection.
    pub rows: Vec<usize>,
}

/// The site (its number in the plan) and side of each of the S rows.
pub fn row_places(settings: &ValidVbLora) -> Vec<(usize, Side)> {
    let sites = settings.spans().into_iter().enumerate();
    let places = sites.flat_map(|(site, spans)| {
        let down = spans.down.rows.map(move |_| (site, Side::A));
        down.chain(spans.up.rows.map(move |_| (site, Side::B)))
    });
    places.collect()
}

/// The first, middle and last third of the layers (Figure 6). Sites outside layers are in no group. A model with fewer than three layers
/// has fewer groups.
pub fn by_third(settings: &ValidVbLora) -> Vec<Group> {
    let layers = layers(settings.plan());
    let third = |layer: usize| {
        let place = layers.iter().position(|&l| l == layer);
        place.map(|place| 3 * place / layers.len())
    };
    let name = |number: usize| {
        let of: Vec<_> = layers
            .iter()
            .filter(|&&l| third(l) == Some(number))
            .collect();
        match of[..] {
            [first, .., last] => format!("layers {first}-{last}"),
            [one] => format!("layer {one}"),
            [] => String::new(),
        }
    };
    let group = |number: usize| Group {
        name: name(number),
        rows: rows(settings, |site, _| {
            site.layer().and_then(third) == Some(number)
        }),
    };
    let groups = (0..3).map(group);
    groups.filter(|group| !group.rows.is_empty()).collect()
}

/// Both factors of every role (Figure 7), in the order of the sites.
pub fn by_role_and_side(settings: &ValidVbLora) -> Vec<Group> {
    let mut roles: Vec<&str> = Vec::new();
    for role in settings.plan().sites().iter().map(Site::role) {
        if !roles.contains(&role) {
            roles.push(role);
        }
    }
    let of = |role: &str, side: Side| Group {
        name: format!("{role} {}", side.name()),
        rows: rows(settings, |site, s| site.role() == role && s == side),
    };
    let both = |role: &&str| [Side::A, Side::B].map(|side| of(role, side));
    roles.iter().flat_map(both).collect()
}

fn rows(settings: &ValidVbLora, is_in: impl Fn(&Site, Side) -> bool) -> Vec<usize> {
    let sites = settings.plan().sites();
    let places = row_places(settings).into_iter().enumerate();
    places
        .filter(|(_, (site, side))| is_in(&sites[*site], *side))
        .map(|(row, _)| row)
        .collect()
}

/// The layer numbers of the plan, ascending.
fn layers(plan: &SitePlan) -> Vec<usize> {
    let mut layers: Vec<usize> = plan.sites().iter().filter_map(Site::layer).collect();
    layers.sort_unstable();
    layers.dedup();
    layers
}

#[cfg(test)]
mod tests {
    use vblora::{Targets, VbLoraConfig};

    use super::*;
    use crate::recordings::tests::settings;

    fn names(groups: &[Group]) -> Vec<&str> {
        groups.iter().map(|group| group.name.as_str()).collect()
    }

    #[test]
    fn rows_are_those_of_the_down_factor_and_then_of_the_up_factor() {
        use Side::{A, B};
        let first = [(0, A), (0, A), (0, B), (1, A), (1, A), (1, B)];
        let places = row_places(&settings(5, 2));
        assert_eq!((&places[..6], places.len()), (&first[..], 12));
    }

    #[test]
    fn roles_have_an_a_and_a_b() {
        let groups = by_role_and_side(&settings(5, 2));
        assert_eq!(names(&groups), ["query A", "query B", "value A", "value B"]);
        assert_eq!(groups[0].rows, [0, 1, 6, 7]);
        assert_eq!(groups[3].rows, [5, 11]);
    }

    #[test]
    fn thirds_are_of_the_layers_there_are() {
        let of = |layers: &[usize]| {
            let mut sites: Vec<_> = layers
                .iter()
                .map(|l| Site::new(format!("layer.{l}.query"), 4, 4))
                .collect();
            sites.push(Site::new("outside", 4, 4));
            let plan = Targets::all_linear().select(&sites).unwrap();
            let config = VbLoraConfig {
                vector_length: 4,
                rank: 1,
                ..Default::default()
            };
            by_third(&config.check(&plan).unwrap())
        };
        let groups = of(&[4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(names(&groups), ["layers 4-6", "layers 7-8", "layers 9-10"]);
        assert_eq!(groups[1].rows, [6, 7, 8, 9]);
        assert_eq!(names(&of(&[0, 1])), ["layer 0", "layer 1"]);
        assert!(of(&[]).is_empty());
    }
}
