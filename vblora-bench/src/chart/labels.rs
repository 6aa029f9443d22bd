//! Placement of labels next to their points, away from points, lines and one another.

use super::canvas::At;

/// A rectangle: left, top, right, bottom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) left: i32,
    pub(crate) top: i32,
    pub(crate) right: i32,
    pub(crate) bottom: i32,
}

/// A label to place: its point and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) point: At,
    pub(crate) width: i32,
    pub(crate) height: i32,
}

/// A label's distance from its point, and the steps by which it may move away.
const NEAR: i32 = 9;
const STEP: i32 = 12;
const STEPS: i32 = 14;

/// The number of times that each label is placed.
const PASSES: usize = 4;

/// Lines are split into pieces of this length to find overlaps.
const PIECE: i32 = 4;

impl Area {
    /// The area around a point.
    pub(super) fn around((x, y): At, half_width: i32, half_height: i32) -> Self {
        Self {
            left: x - half_width,
            top: y - half_height,
            right: x + half_width,
            bottom: y + half_height,
        }
    }

    /// The size of the overlap with another area.
    fn shared(&self, other: &Self) -> i64 {
        let width = self.right.min(other.right) - self.left.max(other.left);
        let height = self.bottom.min(other.bottom) - self.top.max(other.top);
        i64::from(width.max(0)) * i64::from(height.max(0))
    }

    fn over(&self, others: &[Self]) -> i64 {
        others.iter().map(|other| self.shared(other)).sum()
    }

    fn holds(&self, other: &Self) -> bool {
        (self.left <= other.left && other.right <= self.right)
            && (self.top <= other.top && other.bottom <= self.bottom)
    }

    /// The point of this area that is nearest to another point.
    pub(super) fn nearest(&self, (x, y): At) -> At {
        (
            x.clamp(self.left, self.right),
            y.clamp(self.top, self.bottom),
        )
    }
}

/// Returns an area within `frame` for each label, close to its point and free of overlap if possible. In a few passes, each label moves to
/// the best area given the others. The result is deterministic.
pub(crate) fn place(wanted: &[Wanted], taken: &[Area], frame: Area) -> Vec<Area> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|&at| (-wanted[at].point.0, wanted[at].point.1, at));
    let mut places: Vec<Option<Area>> = vec![None; wanted.len()];
    for _ in 0..PASSES {
        for &at in &order {
            places[at] = None;
            let mut taken = taken.to_vec();
            for (label, area) in wanted.iter().zip(&places) {
                taken.extend(area.iter().flat_map(|area| leader(label.point, *area)));
                taken.extend(area);
            }
            places[at] = Some(best(wanted[at], &taken, frame));
        }
    }
    places
        .into_iter()
        .map(|place| place.unwrap_or(frame))
        .collect()
}

/// The area with the lowest cost: covered objects, objects that its leader line crosses, and the length of that line.
fn best(label: Wanted, taken: &[Area], frame: Area) -> Area {
    // The label's own point does not obstruct its leader line.
    let point = Area::around(label.point, 0, 0);
    let others: Vec<Area> = taken
        .iter()
        .filter(|area| !area.holds(&point))
        .copied()
        .collect();
    let mut best = (i64::MAX, beside(label, (NEAR, 0)));
    for steps in 0..STEPS {
        // Areas further away have a longer line than this.
        if best.0 <= i64::from(STEP / PIECE * (steps - 1)) {
            break;
        }
        for area in at_distance(label, steps).filter(|area| frame.holds(area)) {
            let line = leader(label.point, area);
            let cost = line.len() as i64 + 10 * area.over(taken);
            if cost >= best.0 {
                continue;
            }
            let cost = cost + 10 * line.iter().map(|piece| piece.over(&others)).sum::<i64>();
            if cost < best.0 {
                best = (cost, area);
            }
        }
    }
    best.1
}

/// Candidate areas for a label at a number of steps: right, left, above, below and diagonal.
fn at_distance(label: Wanted, steps: i32) -> impl Iterator<Item = Area> {
    let sides = [
        (1, 0),
        (-1, 0),
        (0, -1),
        (0, 1),
        (1, -1),
        (1, 1),
        (-1, -1),
        (-1, 1),
    ];
    let all = (0..=steps).flat_map(move |up| {
        sides.map(|(dx, dy)| {
            let across = dx * (NEAR + (steps - up) * STEP);
            // A label right or left of its point needs a gap; a label above or below needs none.
            let near = if dx == 0 { NEAR } else { 0 };
            (across, dy * (near + up * STEP))
        })
    });
    all.map(move |way| beside(label, way))
}

/// The leader line from a point to a label further away, in small pieces.
fn leader(point: At, label: Area) -> Vec<Area> {
    let end = label.nearest(point);
    let (dx, dy) = (end.0 - point.0, end.1 - point.1);
    let pieces = dx.abs().max(dy.abs()) / PIECE;
    if !needs_leader(point, label) {
        return Vec::new();
    }
    let piece = |i: i32| Area::around((point.0 + dx * i / pieces, point.1 + dy * i / pieces), 2, 2);
    (2..pieces).map(piece).collect()
}

/// Returns true if a label is so far from its point that a leader line must join them.
pub(super) fn needs_leader(point: At, label: Area) -> bool {
    let end = label.nearest(point);
    (end.0 - point.0).abs().max((end.1 - point.1).abs()) > NEAR + 5
}

/// The area of a label at an offset from its point.
fn beside(label: Wanted, (dx, dy): (i32, i32)) -> Area {
    let (x, y) = (label.point.0 + dx, label.point.1 + dy);
    let left = match dx.signum() {
        1 => x,
        0 => x - label.width / 2,
        _ => x - label.width,
    };
    let top = match (dx, dy.signum()) {
        (0, 1) => y,
        (0, _) => y - label.height,
        _ => y - label.height / 2,
    };
    Area {
        left,
        top,
        right: left + label.width,
        bottom: top + label.height,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Area = Area {
        left: 0,
        top: 0,
        right: 500,
        bottom: 300,
    };

    fn label(x: i32, y: i32) -> Wanted {
        Wanted {
            point: (x, y),
            width: 90,
            height: 16,
        }
    }

    #[test]
    fn labels_of_close_points_lie_apart_and_inside() {
        let wanted: Vec<Wanted> = (0..16)
            .map(|i| label(100 + 15 * (i % 4), 100 + 9 * i))
            .collect();
        let points: Vec<Area> = wanted
            .iter()
            .map(|one| Area::around(one.point, 6, 6))
            .collect();
        let places = place(&wanted, &points, FRAME);
        for (i, area) in places.iter().enumerate() {
            assert!(FRAME.holds(area), "{area:?}");
            assert!(points.iter().all(|point| point.shared(area) == 0), "{i}");
            assert!(
                places[..i].iter().all(|other| other.shared(area) == 0),
                "{i}"
            );
        }
        assert_eq!(places, place(&wanted, &points, FRAME));
    }

    #[test]
    fn a_lonely_point_has_its_label_on_the_right_and_at_the_edge_on_the_left() {
        let places = place(&[label(100, 100), label(495, 200)], &[], FRAME);
        assert_eq!((places[0].left, places[1].right), (109, 486));
    }

    #[test]
    fn where_nothing_is_free_a_label_still_has_a_place() {
        let tiny = Area { right: 20, ..FRAME };
        assert_eq!(place(&[label(10, 10)], &[FRAME], tiny).len(), 1);
    }
}
