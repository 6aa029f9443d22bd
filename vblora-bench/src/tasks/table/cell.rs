//! The value of a row in a column.

use std::borrow::Cow;

use crate::tasks::place::shown;

/// The maximum number of characters of a value in a message.
const SHOWN: usize = 60;

/// The value of a row in a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Nothing: JSON's `null`, or no value in Parquet.
    Missing,
    /// Text. Every cell of a CSV file is text.
    Text(String),
    /// A whole number.
    Integer(i128),
    /// Another number, or one that is not finite.
    Float(f64),
    /// A number of JSON beyond 64 bits, whose last digits are lost.
    Rounded(f64),
    /// True or false.
    Bool(bool),
    /// A list.
    List(Vec<Self>),
    /// A value of another kind, by the name of its kind.
    Other(&'static str),
}

impl Cell {
    /// The value as text: numbers as Python prints them, `true` and `false`. `None` for missing values, rounded numbers, lists and
    /// other kinds.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Text(text) => Some(text.into()),
            Self::Integer(number) => Some(number.to_string().into()),
            Self::Float(number) => Some(format!("{number:?}").into()),
            Self::Bool(value) => Some(value.to_string().into()),
            Self::Missing | Self::Rounded(_) | Self::List(_) | Self::Other(_) => None,
        }
    }

    /// The value as a number, also from text.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Text(text) => text.trim().parse().ok(),
            Self::Integer(number) => Some(*number as f64),
            Self::Float(number) | Self::Rounded(number) => Some(*number),
            Self::Missing | Self::Bool(_) | Self::List(_) | Self::Other(_) => None,
        }
    }

    /// The value for messages, shortened.
    pub fn shown(&self) -> String {
        match self {
            Self::Missing => "nothing".into(),
            Self::Text(text) if text.trim().is_empty() => "an empty text".into(),
            Self::Text(text) => format!("{:?}", shown(text, SHOWN)),
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => format!("{number:?}"),
            Self::Rounded(number) => {
                format!("a number of more than 64 bits, about {number:e}; quotes keep its digits")
            }
            Self::Bool(value) => value.to_string(),
            Self::List(items) => {
                let items: Vec<String> = items.iter().take(SHOWN).map(Self::shown).collect();
                format!("the list [{}]", shown(&items.join(", "), SHOWN))
            }
            Self::Other(kind) => (*kind).into(),
        }
    }
}
