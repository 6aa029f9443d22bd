//! Colours and marks.

use plotters::style::RGBColor;

/// The background of a picture.
pub(crate) const BACKGROUND: RGBColor = RGBColor(255, 255, 255);
/// Text, and the lines of methods that store nothing.
pub(crate) const INK: RGBColor = RGBColor(0, 0, 0);
/// Axes and secondary text.
pub(crate) const AXIS: RGBColor = RGBColor(89, 89, 89);
/// Grid lines.
pub(crate) const GREY: RGBColor = RGBColor(217, 217, 217);

// Okabe and Ito's colours, which colour-blind readers can tell apart.
pub(crate) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(crate) const VERMILLION: RGBColor = RGBColor(213, 94, 0);
pub(crate) const GREEN: RGBColor = RGBColor(0, 158, 115);
pub(crate) const PURPLE: RGBColor = RGBColor(204, 121, 167);
pub(crate) const ORANGE: RGBColor = RGBColor(230, 159, 0);
pub(crate) const SKY: RGBColor = RGBColor(86, 180, 233);

/// The colour of cells in both layers, blue and orange. It also differs from them in grey print.
pub(crate) const DARK_GREEN: RGBColor = RGBColor(0, 60, 45);

/// The shape of a mark. It tells methods apart without colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A disc.
    Circle,
    /// A square on its side.
    Square,
    /// A triangle that points up.
    Up,
    /// A square on its corner.
    Diamond,
    /// A triangle that points down.
    Down,
    /// An upright cross.
    Plus,
    /// A diagonal cross.
    Cross,
}

/// The look of a series' points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The colour of points, lines and bars.
    pub colour: RGBColor,
    /// The shape of points.
    pub shape: Shape,
}

/// The marks of the known methods, by name.
const METHODS: [(&str, Mark); 7] = [
    ("vblora", mark(BLUE, Shape::Circle)),
    ("lora", mark(VERMILLION, Shape::Square)),
    ("vera", mark(GREEN, Shape::Up)),
    ("tied-lora", mark(PURPLE, Shape::Diamond)),
    ("lora-xs", mark(ORANGE, Shape::Down)),
    ("full", mark(SKY, Shape::Plus)),
    ("head", mark(INK, Shape::Cross)),
];

const fn mark(colour: RGBColor, shape: Shape) -> Mark {
    Mark { colour, shape }
}

/// Returns a mark for each series of a picture, by its method. The first series of a known method gets the method's own mark, the same in
/// every picture. Other series get marks that no known method of the picture has. If there are not enough marks, they repeat.
pub fn marks<'a>(methods: impl IntoIterator<Item = &'a str>) -> Vec<Mark> {
    let mut taken = [false; METHODS.len()];
    let own: Vec<Option<usize>> = methods
        .into_iter()
        .map(|method| {
            let place = METHODS.iter().position(|(name, _)| *name == method)?;
            (!std::mem::replace(&mut taken[place], true)).then_some(place)
        })
        .collect();
    let free: Vec<usize> = (0..METHODS.len()).filter(|at| !taken[*at]).collect();
    let all: Vec<usize> = (0..METHODS.len()).collect();
    let mut others = free.into_iter().chain(all.into_iter().cycle());
    own.into_iter()
        .map(|place| METHODS[place.or_else(|| others.next()).unwrap_or(0)].1)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_method_looks_the_same_in_every_picture() {
        let one = marks(["head", "vblora"]);
        let other = marks(["vblora", "lora", "head"]);
        assert_eq!((one[0], one[1]), (other[2], other[0]));
        assert_eq!(one[1], mark(BLUE, Shape::Circle));
    }

    #[test]
    fn marks_repeat_only_when_all_are_used() {
        let found = marks(["vblora", "vblora", "new", "lora", "newer", "head", "other"]);
        for (i, mark) in found.iter().enumerate() {
            let shares = |other: &Mark| other.shape == mark.shape || other.colour == mark.colour;
            assert!(!found[..i].iter().any(shares), "{i}");
        }
        assert_eq!(marks(["x"; 20]).len(), 20);
    }
}
