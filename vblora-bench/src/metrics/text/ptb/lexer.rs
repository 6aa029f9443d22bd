//! Takes one token after another from a line.

use super::{
    abbreviations::{Stop, stop},
    ending::After,
    patterns,
    words::{self, Division, is_apostrophe},
};

/// The rest of a line and the tokens before it.
pub(super) struct Lexer<'a> {
    rest: After<'a>,
    tokens: Vec<String>,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(line: After<'a>) -> Self {
        Self {
            rest: line,
            tokens: Vec::new(),
        }
    }

    /// The tokens of the line.
    pub(super) fn tokens(mut self) -> Vec<String> {
        while let Some(first) = self.rest.text.chars().next() {
            if first.is_whitespace() {
                self.drop(first.len_utf8());
            } else if is_word(first) {
                self.word();
            } else {
                self.sign(first);
            }
        }
        self.tokens
    }

    fn drop(&mut self, bytes: usize) {
        self.rest = self.rest.skip(bytes);
    }

    /// Takes some bytes as a token that is written otherwise.
    fn put(&mut self, bytes: usize, token: &str) {
        self.tokens.push(token.to_owned());
        self.drop(bytes);
    }

    /// Takes some bytes as a token.
    fn take(&mut self, bytes: usize) {
        let token = &self.rest.text[..bytes];
        // White space within a token is written so that it does not divide the token.
        let token = token.to_lowercase().replace(char::is_whitespace, "\u{a0}");
        self.put(bytes, &token.replace('(', "-lrb-").replace(')', "-rrb-"));
    }

    fn word(&mut self) {
        let text = self.rest.text;
        let end = text.find(|c: char| !is_word(c)).unwrap_or(text.len());
        let run = &text[..end];
        let Some(next) = text[end..].chars().next() else {
            return self.plain(run);
        };
        if is_apostrophe(next) && run.chars().all(char::is_alphabetic) {
            match words::divide(text, run) {
                Division::At(bytes) => return self.take(bytes),
                Division::Not(bytes) => return self.put(bytes, "n't"),
            }
        }
        if next == '.' {
            return self.before_stop(run);
        }
        let may_go_on = ends_in_digit(run);
        let is_apart = next.is_whitespace() || matches!(next, ',' | ';' | ')' | '"');
        if is_apart && !may_go_on {
            return self.plain(run);
        }
        match patterns::word(text) {
            Some(word) if word.len() > end => self.pattern(word),
            _ => self.plain(run),
        }
    }

    /// Takes a word of letters and digits that nothing belongs to.
    fn plain(&mut self, run: &str) {
        if let Some((start, end)) = words::parts(run) {
            self.put(start.len(), start);
            return self.put(end.len(), end);
        }
        // A fraction has a token of its own by its sign: this is a whole number before it.
        self.take(run.len());
    }

    /// Takes a token that a pattern found, and its full stop.
    fn pattern(&mut self, word: &str) {
        if patterns::is_acronym(word) && self.rest.text[word.len()..].starts_with('.') {
            return self.with_stop(word, Stop::Initial);
        }
        let after = &self.rest.text[word.len()..];
        if word.chars().all(|c| is_word(c) || c == '-') && is_inner_stop(after) {
            return self.take(word.len() + 1);
        }
        self.take(word.len());
    }

    /// Takes a word before a full stop.
    fn before_stop(&mut self, run: &str) {
        let text = self.rest.text;
        if let Some(word) = patterns::word(text).filter(|word| word.len() > run.len()) {
            return self.pattern(word);
        }
        if is_inner_stop(&text[run.len()..]) {
            return self.take(run.len() + 1);
        }
        if run.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return self.with_stop(run, stop(run));
        }
        self.plain(run);
    }

    /// Takes a word, and its full stop if that belongs to it.
    fn with_stop(&mut self, word: &str, stop: Stop) {
        let after = self.rest.skip(word.len() + 1);
        let is_acronym = word.contains('.');
        let is_degree = word.len() > 3 && word.to_ascii_lowercase().ends_with("h.d")
            || word.eq_ignore_ascii_case("ed.d");
        let (belongs, ends) = match stop {
            Stop::Never => (false, false),
            Stop::Always => (true, false),
            Stop::OrEnd => (true, after.is_new_sentence()),
            Stop::BeforeNumber => (after.is_number(), false),
            Stop::Initial if is_degree => (true, after.is_new_sentence()),
            Stop::Initial if is_acronym => (true, after.is_usual_start()),
            Stop::Initial => (!after.is_usual_start(), false),
        };
        if !belongs {
            return self.plain(word);
        }
        self.take(word.len() + 1);
        if ends {
            self.tokens.push(".".to_owned());
        }
    }

    fn sign(&mut self, first: char) {
        let text = self.rest.text;
        let behind = &text[first.len_utf8()..];
        match first {
            _ if is_apostrophe(first) => self.apostrophe(first, behind),
            '"' => {
                let opens = behind.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '$');
                self.put(1, if opens { "``" } else { "''" });
            }
            '.' => self.points(),
            '-' | '–' | '—' => self.dashes(first),
            _ if let Some((bytes, token)) = written_otherwise(text) => match token {
                "" => self.drop(bytes),
                token => self.put(bytes, token),
            },
            _ => match patterns::sign(text) {
                Some(sign) if !sign.is_empty() => self.take(sign.len()),
                _ => self.take(first.len_utf8()),
            },
        }
    }

    fn apostrophe(&mut self, first: char, behind: &str) {
        let bytes = first.len_utf8();
        if first == '\'' && behind.starts_with('\'') {
            return self.put(2, "''");
        }
        if words::is_ending(behind) {
            let ending = words::letters(behind);
            return self.put(bytes + ending.len(), &format!("'{}", ending.to_lowercase()));
        }
        if let Some(more) = words::after_apostrophe(first, behind) {
            return self.take(bytes + more);
        }
        let mut next = behind.chars();
        let opens = next.next().is_some_and(|c| c.is_ascii_alphabetic())
            && next.next().is_some_and(|c| !c.is_whitespace());
        self.put(bytes, if opens && first == '\'' { "`" } else { "'" });
    }

    /// Takes one full stop, an ellipsis, or a number that starts with a point.
    fn points(&mut self) {
        let text = self.rest.text;
        if let Some(rest) = text.strip_prefix("...") {
            // A fourth point before a blank belongs to the ellipsis.
            let has_fourth = rest.starts_with(". ") || rest.starts_with(".\t");
            self.put(3 + usize::from(has_fourth), "...");
        } else if let Some(bytes) = spaced_points(text) {
            self.put(bytes, "...");
        } else if text[1..].starts_with(|c: char| c.is_ascii_digit()) {
            self.number();
        } else {
            self.put(1, ".");
        }
    }

    /// Takes a dash, which two to four hyphens are, a longer line, or a number with a sign.
    fn dashes(&mut self, first: char) {
        let text = self.rest.text;
        let hyphens = text.bytes().take_while(|&byte| byte == b'-').count();
        match hyphens {
            0 => self.put(first.len_utf8(), "--"),
            1 if text[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number(),
            2..=4 => self.put(hyphens, "--"),
            1 | 5.. => self.take(hyphens),
        }
    }

    fn number(&mut self) {
        match patterns::sign(self.rest.text) {
            Some(number) if !number.is_empty() => self.take(number.len()),
            _ => self.take(1),
        }
    }
}

/// Returns true for characters of words: letters, their marks, and decimal digits.
fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || !c.is_ascii()
            && (c.is_alphabetic()
                && !matches!(c, '\u{2160}'..='\u{2188}' | '\u{24b6}'..='\u{24e9}')
                || matches!(c, '\u{300}'..='\u{36f}'))
}

fn ends_in_digit(run: &str) -> bool {
    run.ends_with(|c: char| c.is_ascii_digit())
}

/// Returns true for a full stop before another sign of punctuation.
fn is_inner_stop(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next() == Some('.') && chars.next().is_some_and(|c| matches!(c, ',' | ';' | ':'))
}

/// The bytes of three or more full stops with a blank between them.
fn spaced_points(text: &str) -> Option<usize> {
    let mut end = 1;
    while text[end..].starts_with(" .") && end < 9 {
        end += 2;
    }
    (end > 4).then_some(end)
}

/// Signs and markup that have other names as tokens, with their bytes. An empty token is left out.
fn written_otherwise(text: &str) -> Option<(usize, &'static str)> {
    const NAMES: [(&str, &str); 37] = [
        ("&amp;", "&"),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "''"),
        ("&nbsp;", ""),
        ("``", "``"),
        ("“", "``"),
        ("”", "''"),
        ("«", "``"),
        ("»", "''"),
        ("‘", "`"),
        ("…", "..."),
        ("[", "-lsb-"),
        ("]", "-rsb-"),
        ("{", "-lcb-"),
        ("}", "-rcb-"),
        (")", "-rrb-"),
        ("£", "#"),
        ("€", "$"),
        ("¢", "cents"),
        ("½", "1/2"),
        ("¼", "1/4"),
        ("¾", "3/4"),
        ("⅓", "1/3"),
        ("⅔", "2/3"),
        ("⅛", "1/8"),
        ("⅜", "3/8"),
        ("⅝", "5/8"),
        ("⅞", "7/8"),
        ("\u{ad}", ""),
        ("\u{feff}", ""),
        ("\u{fe0f}", ""),
        ("\u{fe0e}", ""),
        ("\u{200b}", ""),
        ("\u{200c}", ""),
        ("\u{200d}", ""),
        ("\u{200e}", ""),
    ];
    let first = text.chars().next()?;
    // Emoji and control characters are no tokens.
    if first > '\u{ffff}' || first.is_control() {
        return Some((first.len_utf8(), ""));
    }
    let found = NAMES.iter().find(|(name, _)| text.starts_with(name));
    found.map(|(name, token)| (name.len(), *token))
}
