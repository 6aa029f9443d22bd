//! Splits examples into training and development.

use vblora::rng::Key;

/// Chooses about `share` of the rows for development, the same ones for the same rows and seed. Both lists are in the order of the file.
///
/// With classes, each class gives its share, rounded, but at least one row if it has two. A class with one row stays in training.
pub(super) fn split(
    rows: usize,
    classes: Option<&[u32]>,
    share: f64,
    seed: u64,
) -> (Vec<u32>, Vec<u32>) {
    let key = Key::new(seed).name("hold-out");
    let mut is_dev = vec![false; rows];
    let mut draw = |mut members: Vec<u32>, key: Key| {
        key.shuffle(&mut members);
        for row in &members[..taken(members.len(), share)] {
            is_dev[*row as usize] = true;
        }
    };
    match classes {
        Some(classes) => {
            let count = classes.iter().max().map_or(0, |most| *most as usize + 1);
            let mut counts = vec![0; count];
            classes
                .iter()
                .for_each(|class| counts[*class as usize] += 1);
            let mut members: Vec<_> = counts.into_iter().map(Vec::with_capacity).collect();
            for (row, class) in (0..).zip(classes) {
                members[*class as usize].push(row);
            }
            for (class, members) in (0..).zip(members) {
                draw(members, key.index(class));
            }
        }
        None => draw((0..rows as u32).collect(), key),
    }
    let held_out = is_dev.iter().filter(|is_dev| **is_dev).count();
    let mut train = Vec::with_capacity(rows - held_out);
    let mut dev = Vec::with_capacity(held_out);
    for (row, is_dev) in (0..).zip(is_dev) {
        if is_dev { &mut dev } else { &mut train }.push(row);
    }
    (train, dev)
}

/// The number of rows that a group gives.
fn taken(rows: usize, share: f64) -> usize {
    match rows {
        0 | 1 => 0,
        rows => ((rows as f64 * share).round() as usize).clamp(1, rows - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_gives_its_share_and_the_seed_decides_which_rows() {
        let classes: Vec<u32> = (0..1000)
            .map(|i| u32::from(i % 21 == 0) + 2 * u32::from(i == 500))
            .collect();
        let (train, dev) = split(1000, Some(&classes), 0.1, 0);
        let count = |rows: &[u32], class| {
            rows.iter()
                .filter(|&&row| classes[row as usize] == class)
                .count()
        };
        assert_eq!([count(&dev, 0), count(&dev, 1), count(&dev, 2)], [95, 5, 0]);
        assert_eq!(train.len() + dev.len(), 1000);
        assert!(dev.is_sorted() && train.is_sorted());
        assert_eq!(split(1000, Some(&classes), 0.1, 0), (train, dev.clone()));
        assert_ne!(split(1000, Some(&classes), 0.1, 1).1, dev);
    }

    #[test]
    fn numbers_give_a_share_of_all_rows() {
        assert_eq!(split(30, None, 0.1, 0).1.len(), 3);
        assert_eq!(split(2, None, 0.1, 0).1.len(), 1);
        assert_eq!(split(1, None, 0.1, 0).1.len(), 0);
    }
}
