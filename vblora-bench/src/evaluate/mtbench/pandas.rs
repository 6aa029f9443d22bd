//! A column of scores as pandas prints it, so that tables can be compared with FastChat's by their text.

/// Digits after the point before zeros are trimmed (`display.precision`).
const DIGITS: usize = 6;
/// Above this value a column of long numbers is printed with exponents.
const LARGE: f64 = 1e6;

/// An index of one or two columns and a column `score`. The index has a name for each of its columns.
///
/// Unlike pandas, tables of more than 60 rows are printed in full.
pub(super) fn frame(names: &[&str], rows: &[(Vec<String>, f64)]) -> String {
    if rows.is_empty() {
        return "Empty DataFrame\nColumns: [score]\nIndex: []\n".into();
    }
    let scores = column(&rows.iter().map(|(_, score)| *score).collect::<Vec<_>>());
    // A positive number has a blank where the sign of a negative one stands; so has the header.
    let longest = scores.iter().map(|score| score.len() + 1).max();
    let wide = longest.unwrap_or(0).max(" score".len());
    let widths: Vec<usize> = (0..names.len())
        .map(|at| {
            let cells = rows.iter().map(|(index, _)| index[at].chars().count());
            cells.chain([names[at].len()]).max().unwrap_or(0)
        })
        .collect();
    let index = |cells: &[&str]| {
        let padded = cells.iter().zip(&widths);
        let padded: Vec<_> = padded
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        padded.join(" ")
    };
    let blank = vec![""; names.len()];
    let mut text = format!("{} {:>wide$}\n", index(&blank), "score");
    text += &format!("{} {:wide$}\n", index(names), "");
    for ((cells, _), score) in rows.iter().zip(scores) {
        let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
        text += &format!("{} {score:>wide$}\n", index(&cells));
    }
    text
}

/// All numbers with as many digits as the longest needs, at most [`DIGITS`].
fn column(scores: &[f64]) -> Vec<String> {
    let mut texts: Vec<_> = scores
        .iter()
        .map(|score| format!("{score:.DIGITS$}"))
        .collect();
    while texts
        .iter()
        .all(|text| text.ends_with('0') && !text.ends_with(".0"))
    {
        for text in &mut texts {
            text.pop();
        }
    }
    let is_long = texts.iter().any(|text| text.len() + 1 > DIGITS + 6);
    let is_large = is_long && scores.iter().any(|score| *score > LARGE);
    let is_small = |score: &f64| *score > 0.0 && *score < 10_f64.powi(-(DIGITS as i32));
    match is_large || scores.iter().any(is_small) {
        true => scores.iter().copied().map(exponential).collect(),
        false => texts,
    }
}

/// Python's `e` format: an exponent of two digits with its sign.
fn exponential(score: f64) -> String {
    let text = format!("{score:.DIGITS$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts are pandas 3.1.1's, each without the last line feed.
    #[test]
    fn tables_are_those_of_pandas() {
        let turns = |rows: &[(&str, f64)]| {
            let row =
                |(model, score): &(&str, f64)| (vec![(*model).to_owned(), "1".into()], *score);
            frame(
                &["model", "turn"],
                &rows.iter().map(row).collect::<Vec<_>>(),
            )
        };
        let models = |rows: &[(&str, f64)]| {
            let row = |(model, score): &(&str, f64)| (vec![(*model).to_owned()], *score);
            frame(&["model"], &rows.iter().map(row).collect::<Vec<_>>())
        };
        for (found, expected) in [
            (
                turns(&[("b", 8.0), ("a", 7.0)]),
                "            score\nmodel turn       \nb     1       8.0\na     1       7.0",
            ),
            (
                models(&[("b", 8.0), ("a", 7.0)]),
                "       score\nmodel       \nb        8.0\na        7.0",
            ),
            (
                models(&[("b", 8.0), ("a", 1.2e-7)]),
                "              score\nmodel              \nb      8.000000e+00\na      1.200000e-07",
            ),
            (
                models(&[("a", 123456789.5), ("b", 8.0)]),
                "             score\nmodel             \na      123456789.5\nb              8.0",
            ),
            (
                turns(&[("a", 12.5), ("a-very-long-model-name", 8.0)]),
                "                             score\nmodel                  turn       \na                      1      12.5\na-very-long-model-name 1       8.0",
            ),
            (
                models(&[("名前", 85.0), ("b", 0.5)]),
                "       score\nmodel       \n名前      85.0\nb        0.5",
            ),
            (
                models(&[("a", 0.0)]),
                "       score\nmodel       \na        0.0",
            ),
            (models(&[]), "Empty DataFrame\nColumns: [score]\nIndex: []"),
        ] {
            assert_eq!(found, format!("{expected}\n"));
        }
    }
}
