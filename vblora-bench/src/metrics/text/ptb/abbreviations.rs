//! Words whose full stop belongs to them.

/// The role of a full stop after a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// It always belongs to the word: "St.".
    Always,
    /// It belongs to the word, and ends a sentence too before a capital: "Ltd.".
    OrEnd,
    /// It belongs to the word before a number: "No. 5".
    BeforeNumber,
    /// It belongs to an initial, unless a usual first word of a sentence follows: "J.".
    Initial,
    /// It ends a sentence.
    Never,
}

/// The role of a full stop after this word of ASCII letters.
pub(super) fn stop(word: &str) -> Stop {
    if word.len() == 1 {
        return Stop::Initial;
    }
    // No abbreviation is longer.
    if word.len() > 7 {
        return Stop::Never;
    }
    let lower = word.to_ascii_lowercase();
    let is_in = |words: &[&str]| words.binary_search(&lower.as_str()).is_ok();
    if is_in(&ALWAYS) {
        Stop::Always
    } else if is_in(&OR_END) || word.starts_with(char::is_uppercase) && is_in(&OR_END_AS_NAME) {
        Stop::OrEnd
    } else if is_in(&BEFORE_NUMBER) {
        Stop::BeforeNumber
    } else {
        Stop::Never
    }
}

const ALWAYS: [&str; 65] = [
    "adj", "adm", "adv", "alex", "assoc", "asst", "attys", "ave", "brig", "capt", "cf", "cie",
    "cmdr", "col", "comdr", "cpl", "dept", "det", "dr", "drs", "elec", "ens", "ft", "gen", "gov",
    "govs", "hon", "insp", "invt", "jos", "lieut", "lt", "maj", "messrs", "mfg", "mlle", "mme",
    "mr", "mrs", "ms", "msgr", "mt", "mtg", "natl", "pfc", "ph", "pres", "prof", "profs", "pvt",
    "rep", "reps", "rev", "sen", "sens", "sfc", "sgt", "spc", "st", "ste", "supt", "supts",
    "treas", "vs", "wm",
];

const OR_END: [&str; 77] = [
    "al", "ala", "apr", "ariz", "assn", "aug", "bancorp", "bhd", "bldg", "blvd", "bros", "calif",
    "co", "colo", "conn", "corp", "cos", "ct", "dak", "dec", "esq", "est", "etc", "ext", "feb",
    "fla", "fri", "ga", "inc", "ind", "intl", "jan", "jr", "jul", "jun", "kan", "kans", "ky",
    "ltd", "mar", "md", "mich", "minn", "mo", "mon", "mont", "neb", "nev", "nov", "oct", "okla",
    "penn", "plc", "pte", "pty", "ptys", "rd", "rt", "sep", "sept", "seq", "sq", "sr", "sys",
    "tel", "tenn", "thu", "thurs", "tue", "tues", "univ", "va", "vt", "wed", "wis", "wisc", "wyo",
];

/// Words that are abbreviations only with a capital.
const OR_END_AS_NAME: [&str; 11] = [
    "ark", "az", "del", "ill", "la", "mass", "miss", "ore", "pa", "tex", "wash",
];

const BEFORE_NUMBER: [&str; 9] = ["art", "ca", "fig", "figs", "no", "nos", "op", "pp", "prop"];

/// Words that start a sentence after an initial or an acronym.
pub(super) fn starts_sentence(word: &str) -> bool {
    STARTS.binary_search(&word).is_ok()
}

const STARTS: [&str; 44] = [
    "A",
    "About",
    "According",
    "Additionally",
    "After",
    "An",
    "As",
    "At",
    "But",
    "Earlier",
    "He",
    "Her",
    "Here",
    "However",
    "If",
    "In",
    "It",
    "Last",
    "Many",
    "More",
    "Now",
    "Once",
    "One",
    "Other",
    "Our",
    "She",
    "Since",
    "So",
    "Some",
    "Such",
    "That",
    "The",
    "Their",
    "Then",
    "There",
    "These",
    "They",
    "This",
    "We",
    "What",
    "When",
    "While",
    "Yet",
    "You",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted() {
        for list in [
            &ALWAYS[..],
            &OR_END,
            &OR_END_AS_NAME,
            &BEFORE_NUMBER,
            &STARTS,
        ] {
            assert!(list.is_sorted(), "{list:?}");
        }
    }
}
