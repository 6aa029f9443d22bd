//! MetaMathQA's rows, and GSM8K's rows in the same form.

use super::{form::without_input, rows::Row};
use crate::Result;

/// The text before the answer in MetaMathQA's responses.
const ANSWER: &str = "\nThe answer is: ";

/// The text before the answer in GSM8K's solutions.
const MARKER: &str = "#### ";

/// MetaMathQA: `query` and `response`. The two are joined without a blank, as in the authors' code.
pub(super) fn metamath(row: &Row<'_>) -> Result<(String, String)> {
    let prompt = without_input(row.text("query")?);
    Ok((prompt, row.text("response")?.to_owned()))
}

/// GSM8K: `question` and `answer`. The response is the solution without its calculator marks, and MetaMathQA's last line.
///
/// # Errors
/// A field is missing; the answer has no "#### N".
pub(super) fn gsm8k(row: &Row<'_>) -> Result<(String, String)> {
    let prompt = without_input(row.text("question")?);
    let solution = without_marks(row.text("answer")?.trim());
    let number = solution
        .rsplit_once(MARKER)
        .map(|(_, number)| number.trim());
    let Some(number) = number.filter(|number| !number.is_empty()) else {
        let found = super::rows::shown(&solution);
        return Err(row.error("an answer with \"#### N\" in field \"answer\"", found));
    };
    let response = format!("{solution}{ANSWER}{number}");
    Ok((prompt, response))
}

/// The text without calculator marks such as `<<48/2=24>>`.
fn without_marks(text: &str) -> String {
    let mut parts = text.split("<<");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut plain, part| {
        match part.split_once(">>") {
            Some((_, rest)) => plain += rest,
            None => {
                plain += "<<";
                plain += part;
            }
        }
        plain
    })
}

#[cfg(test)]
mod tests {
    use crate::tasks::causal::{Text, parse_texts};

    const PROMPT: &str = "Below is an instruction that describes a task. \
        Write a response that appropriately completes the request.\n\n\
        ### Instruction:\nHow many?\n\n### Response:";

    fn text(form: &str, row: &str) -> crate::Result<Text> {
        let texts = parse_texts(row, "jsonl", "data", &form.parse().unwrap());
        Ok(texts?.texts.remove(0))
    }

    #[test]
    fn metamath_joins_prompt_and_response_without_a_blank() {
        let row = r#"{"query": "How many?", "response": "Two. The answer is: 2"}"#;
        let Text {
            prompt, response, ..
        } = text("metamath", row).unwrap();
        assert_eq!((&*prompt, &*response), (PROMPT, "Two. The answer is: 2"));
    }

    #[test]
    fn gsm8k_gets_metamaths_last_line_and_loses_its_marks() {
        let row = r#"{"question": "How many?", "answer": "2+1=<<2+1=3>>3 << in all\n#### 3"}"#;
        let Text {
            prompt, response, ..
        } = text("gsm8k-metamath", row).unwrap();
        assert_eq!(prompt, PROMPT);
        assert_eq!(response, "2+1=3 << in all\n#### 3\nThe answer is: 3");
        for wrong in ["3", "#### "] {
            let row = format!(r#"{{"question": "How many?", "answer": "{wrong}"}}"#);
            let error = text("gsm8k-metamath", &row).unwrap_err().to_string();
            assert!(
                error.starts_with("data, line 1: ") && error.contains("#### N"),
                "{error}"
            );
        }
    }
}
