//! Penn Treebank tokens of Latin text, as the Stanford tokenizer 3.4.1 makes them with `-preserveLines -lowerCase`.
//!
//! The rules were found by trying texts on that program. Lists of words are those that it was seen to know.

mod abbreviations;
mod ending;
mod lexer;
mod patterns;
mod words;

use ending::After;
use lexer::Lexer;

/// The tokens of each line in lower case, with a blank between tokens.
///
/// A full stop at the end of a line can depend on the next line: "Inc." also ends a sentence if a capital follows.
///
/// The tokens are held to recorded ones of English text: words with accents, contractions, abbreviations, currency, hyphens, quotes and
/// numbers. Addresses on the web, emoji, and scripts without blanks between words are only done roughly. Lines must not contain line ends.
pub fn ptb_lines(lines: &[String]) -> Vec<String> {
    let next = lines.iter().skip(1).map(|line| Some(line.as_str()));
    let pairs = lines.iter().zip(next.chain([None]));
    pairs
        .map(|(text, next)| Lexer::new(After { text, next }).tokens().join(" "))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> String {
        ptb_lines(&[text.to_owned()]).remove(0)
    }

    #[test]
    fn contractions_are_two_tokens() {
        for (text, expected) in [
            (
                "It's don't can't I'm they've",
                "it 's do n't ca n't i 'm they 've",
            ),
            (
                "shouldn't've Hall’s kids' 20's",
                "should n't 've hall 's kids ' 20 's",
            ),
            (
                "cannot gonna 'tis 'twas y'all",
                "can not gon na 't is 't was y' all",
            ),
            (
                "O'Neill o'clock d'Artagnan rock'n'roll",
                "o'neill o'clock d'artagnan rock 'n' roll",
            ),
            ("the '90s and 'em", "the '90s and 'em"),
            ("child's-play x'y x'yz", "child 's - play x ' y x ` yz"),
        ] {
            assert_eq!(tokens(text), expected, "{text}");
        }
    }

    #[test]
    fn a_full_stop_belongs_to_abbreviations() {
        for (text, expected) in [
            ("St. John at 5 p.m. then", "st. john at 5 p.m. then"),
            ("Ltd. x and Ltd. The", "ltd. x and ltd. . the"),
            ("La. Then ill. Then", "la. . then ill . then"),
            ("U.S. he, U.S. He is", "u.s. he , u.s. . he is"),
            ("No. 5 but no. Then", "no. 5 but no . then"),
            ("food., food. x", "food. , food . x"),
            (
                "centre.It is city-centre.It",
                "centre.it is city-centre . it",
            ),
        ] {
            assert_eq!(tokens(text), expected, "{text}");
        }
    }

    #[test]
    fn an_abbreviation_at_the_end_of_a_line_looks_at_the_next_line() {
        let found =
            ptb_lines(&["Foo Inc.", "It is", "Foo Inc.", "it is", "Foo Inc."].map(str::to_owned));
        assert_eq!(
            found,
            ["foo inc. .", "it is", "foo inc.", "it is", "foo inc."]
        );
    }

    #[test]
    fn currency_numbers_and_hyphens() {
        for (text, expected) in [
            (
                "£20-25 £20-£25 €5 5¢ US$5",
                "# 20-25 # 20 - # 25 $ 5 5 cents us$ 5",
            ),
            (
                "1,000.50 10:30am 5pm 5% ½ 1/2",
                "1,000.50 10:30 am 5pm 5 % 1/2 1/2",
            ),
            (
                "family-friendly - low -- x–y x-",
                "family-friendly - low -- x -- y x -",
            ),
            (
                "riverside/centre café/bar w/ 5/5.",
                "riverside/centre café / bar w / 5/5 .",
            ),
            ("2+2 -5 x:5 foo,5 -8.5", "2 +2 -5 x :5 foo ,5 -8.5"),
            ("1 1/2 cups", "1\u{a0}1/2 cups"),
        ] {
            assert_eq!(tokens(text), expected, "{text}");
        }
    }

    #[test]
    fn quotes_brackets_and_points() {
        for (text, expected) in [
            (
                "\"Hi\" (x) [y] “z”",
                "`` hi '' -lrb- x -rrb- -lsb- y -rsb- `` z ''",
            ),
            (
                "to... be.... . . . or!! d?!",
                "to ... be ... ... or !! d ?!",
            ),
            ("x–y --- ------", "x -- y -- ------"),
            (
                "foo... <b>x</b> &amp; AT&T a&b",
                "foo ... <b> x </b> & at&t a & b",
            ),
            ("", ""),
            ("  \t ", ""),
            ("😀 ok", "ok"),
        ] {
            assert_eq!(tokens(text), expected, "{text}");
        }
    }

    /// Tokens have no blanks within, and no character makes the lexer stop or fail.
    #[test]
    fn every_character_passes() {
        for code in (0..0x3000).chain(0x1f600..0x1f610) {
            let Some(c) = char::from_u32(code) else {
                continue;
            };
            for text in [format!("{c}"), format!("a{c}b"), format!("1{c}2. {c}X'{c}")] {
                let found = tokens(&text);
                assert!(
                    !found.contains("  ") && found.trim_matches(' ') == found,
                    "{text:?} {found:?}"
                );
            }
        }
    }
}
