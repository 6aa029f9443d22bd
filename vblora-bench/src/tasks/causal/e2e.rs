//! The E2E challenge's meaning representations.

use super::rows::{Row, shown};
use crate::Result;

/// The challenge's slot names that are spelled differently in LoRA's data for GPT-2.
const RENAMED: [(&str, &str); 3] = [
    ("eatType", "Type"),
    ("familyFriendly", "family friendly"),
    ("priceRange", "price"),
];

/// Writes `name[Alimentum], area[city centre]` as `name : Alimentum | area : city centre ||`.
///
/// # Errors
/// The field `mr` is missing, or is not a list of slots.
pub(super) fn prompt(row: &Row<'_>) -> Result<String> {
    let mr = row.text("mr")?;
    let slots = slots(mr).ok_or_else(|| {
        let expected = "slots as \"name[value], area[value]\" in field \"mr\"";
        row.error(expected, format!("\"{}\"", shown(mr)))
    })?;
    let slots: Vec<_> = slots
        .into_iter()
        .map(|(slot, value)| format!("{} : {value}", renamed(slot)))
        .collect();
    Ok(slots.join(" | ") + " ||")
}

fn slots(mr: &str) -> Option<Vec<(&str, &str)>> {
    let inner = mr.trim().strip_suffix(']')?;
    let slot = |part| {
        let (slot, value): (&str, &str) = str::split_once(part, '[')?;
        let (slot, value) = (slot.trim(), value.trim());
        let plain = !slot.is_empty() && !value.is_empty() && !value.contains(['[', ']']);
        plain.then_some((slot, value))
    };
    inner.split("],").map(slot).collect()
}

fn renamed(slot: &str) -> &str {
    let found = RENAMED.iter().find(|(name, _)| *name == slot);
    found.map_or(slot, |(_, renamed)| renamed)
}

#[cfg(test)]
mod tests {
    use crate::tasks::causal::{Form, parse_texts};

    fn prompt(mr: &str) -> crate::Result<String> {
        let text = format!("mr,ref\n\"{mr}\",yes");
        Ok(parse_texts(&text, "csv", "data", &Form::E2e)?.texts[0]
            .prompt
            .clone())
    }

    #[test]
    fn slots_are_written_as_in_the_data_of_lora() {
        let mr = "name[The Vaults], eatType[pub], priceRange[more than £30], customer rating[5 out of 5], familyFriendly[no], near[Café Adriatic]";
        let expected = "name : The Vaults | Type : pub | price : more than £30 | customer rating : 5 out of 5 | family friendly : no | near : Café Adriatic ||";
        assert_eq!(prompt(mr).unwrap(), expected);
        assert_eq!(
            prompt("name[A],near[B] ").unwrap(),
            "name : A | near : B ||"
        );
    }

    #[test]
    fn other_texts_are_refused() {
        for mr in [
            "",
            "name",
            "name[A",
            "name[A], near",
            "name[], near[B]",
            "[A]",
            "name[A]]",
            "name[A] near[B]",
        ] {
            let error = prompt(mr).unwrap_err().to_string();
            assert!(
                error.starts_with("data, line 2: expected slots as")
                    && error.ends_with(&format!("\"{mr}\"")),
                "{error}"
            );
        }
    }
}
