//! Mathematics: GSM8K and MATH, with several scorers side by side.
//!
//! Published accuracies depend on the scorer by whole points. So every scorer is reported, each under its own name.

mod equivalence;
mod gsm8k;
mod number;
mod problems;
mod python;

pub use equivalence::{is_equivalent, is_numerically_equivalent, last_box, normal_form};
pub use problems::{PromptForm, gsm8k_questions, math_questions};

use gsm8k::{authors_number, correct_by_authors, marked_number, same_text};

/// A rule that finds an answer in a text and compares it with the expected one.
#[derive(Debug, Clone, Copy)]
pub struct Scorer {
    /// The name in tables and results.
    pub name: &'static str,
    /// The rule in a few words.
    pub about: &'static str,
    judge: fn(&str, &str) -> Judgement,
}

/// The outcome of a scorer for one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The answer found in the text; `None` counts as invalid.
    pub found: Option<String>,
    /// True if that is the expected answer.
    pub correct: bool,
}

impl Scorer {
    /// Judges a text against the expected answer.
    pub fn judge(&self, text: &str, expected: &str) -> Judgement {
        (self.judge)(text, expected)
    }
}

/// The scorers of GSM8K. The first gives the headline.
pub const GSM8K: [Scorer; 6] = [
    Scorer {
        name: "paper",
        about: "the authors' rule: first number after the last \"The answer is: \", rounded",
        judge: |text, expected| {
            let found = authors_number(text);
            Judgement {
                correct: found.is_some_and(|found| correct_by_authors(found, expected)),
                found: found.map(|number| number.to_string()),
            }
        },
    },
    Scorer {
        name: "strict",
        about: "lm-evaluation-harness: first \"#### N\"",
        judge: |text, expected| exact(gsm8k::strict(text), expected),
    },
    Scorer {
        name: "flexible",
        about: "lm-evaluation-harness: last number of the text",
        judge: |text, expected| exact(gsm8k::flexible(text), expected),
    },
    Scorer {
        name: "cot-strict",
        about: "lm-evaluation-harness, gsm8k_cot_zeroshot: first \"The answer is N.\"",
        judge: |text, expected| exact(gsm8k::cot_strict(text), expected),
    },
    Scorer {
        name: "marked",
        about: "first number after the last \"####\" or \"the answer is\", in any case",
        judge: |text, expected| number_judgement(marked_number(text), expected),
    },
    Scorer {
        name: "boxed",
        about: "number in the last \\boxed{}",
        judge: |text, expected| {
            let found = last_box(text).content.and_then(number::first);
            number_judgement(found, expected)
        },
    },
];

/// The scorers of MATH. The first gives the headline.
pub const MATH: [Scorer; 3] = [
    Scorer {
        name: "paper-numeric",
        about: "text after the last \"The answer is: \"; the authors' normal form and numeric tolerance, without sympy",
        judge: |text, expected| compared(authors_text(text), expected, is_numerically_equivalent),
    },
    Scorer {
        name: "strict",
        about: "text after the last \"The answer is: \"; is_equiv of the MATH repository",
        judge: |text, expected| compared(authors_text(text), expected, is_equivalent),
    },
    Scorer {
        name: "boxed",
        about: "last \\boxed{}; is_equiv of the MATH repository",
        judge: |text, expected| compared(last_box(text).content, expected, is_equivalent),
    },
];

/// The authors' marker of an answer. Case, colon and blank count.
const AUTHORS_MARKER: &str = "The answer is: ";

/// The authors' extraction for MATH: after the last marker, up to the first full stop at a line's end, without one final full stop.
pub fn authors_text(text: &str) -> Option<&str> {
    let (_, after) = text.rsplit_once(AUTHORS_MARKER)?;
    let sentence = after.split(".\n").next().unwrap_or(after);
    let sentence = python::strip(sentence);
    Some(python::strip(
        sentence.strip_suffix('.').unwrap_or(sentence),
    ))
}

fn exact(found: Option<&str>, expected: &str) -> Judgement {
    Judgement {
        found: found.map(str::to_owned),
        correct: found.is_some_and(|found| same_text(found, expected)),
    }
}

fn number_judgement(found: Option<f64>, expected: &str) -> Judgement {
    let expected = number::first(expected);
    let equals = |found: f64| expected.is_some_and(|expected| (found - expected).abs() <= 1e-6);
    Judgement {
        found: found.map(|number| number.to_string()),
        correct: found.is_some_and(equals),
    }
}

fn compared(found: Option<&str>, expected: &str, equal: fn(&str, &str) -> bool) -> Judgement {
    Judgement {
        found: found.map(str::to_owned),
        correct: found.is_some_and(|found| equal(found, expected)),
    }
}
