//! Python's operators in a template.
//!
//! The engine's own operators differ from Python's (`%` does not format, `7 // -2` is -3), and one of them can ask for all memory.
//! So `a + b` becomes `__math('+', a, b)` before the engine sees it, `a[1:]` becomes `__slice(a, 1, none, none)`, and `(a, b)` becomes
//! `__tuple(a, b)`. Lines stay where they are, so that errors name the author's own.

use super::Problem;
use super::marks::{BEGIN, END};

/// Operators by precedence, the weakest first. Each has one letter for `__math`.
const LEVELS: [&[(&str, char)]; 4] = [
    &[("+", '+'), ("-", '-')],
    &[("~", '~')],
    &[("*", '*'), ("/", '/'), ("//", 'f'), ("%", '%')],
    &[("**", '^')],
];
/// Words that stand between operands.
const KEYWORDS: [&str; 7] = ["and", "or", "not", "in", "if", "else", "is"];
/// Statements that would read another template.
const OTHER_TEMPLATES: [&str; 4] = ["include", "import", "from", "extends"];
/// The variable that takes what a mark returns.
const MARK: &str = "__generation";
/// The engine's own limit for nested expressions.
const MAX_DEPTH: usize = 150;

/// The engine folds constants in time that grows with the square of these.
const MAX_LOGIC: usize = 1000;

/// A template as the engine is to read it.
pub(super) struct Rewritten {
    pub(super) source: String,
    /// Bytes of the longest text between two tags.
    pub(super) longest_text: usize,
    /// True if it has `{% generation %}` blocks.
    pub(super) marks: bool,
}

/// Rewrites a whole template. Text that does not look like one is left to the engine, which reports it.
pub(super) fn rewrite(source: &str) -> Result<Rewritten, Problem> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len() * 2);
    let mut longest_text = 0;
    let mut marks = false;
    let mut at = 0;
    while let Some(start) = find_tag(&source, at) {
        out.push_str(&source[at..start]);
        longest_text = longest_text.max(start - at);
        let verbatim = match source.as_bytes()[start + 1] {
            b'#' => comment_end(&source, start),
            _ => raw_end(&source, start),
        };
        let end = match verbatim {
            Some(end) => {
                longest_text = longest_text.max(end - start);
                out.push_str(&source[start..end]);
                Some(end)
            }
            None => code(&source, start, &mut out, &mut marks)?,
        };
        let Some(end) = end else {
            at = start;
            break;
        };
        at = end;
    }
    longest_text = longest_text.max(source.len() - at);
    out.push_str(&source[at..]);
    Ok(Rewritten {
        source: out,
        longest_text,
        marks,
    })
}

fn find_tag(source: &str, from: usize) -> Option<usize> {
    let bytes = source.as_bytes();
    let opens =
        |at: &usize| bytes[*at] == b'{' && matches!(bytes.get(at + 1), Some(b'{' | b'%' | b'#'));
    (from..bytes.len()).find(opens)
}

fn comment_end(source: &str, start: usize) -> Option<usize> {
    let from = start + 2;
    source[from..].find("#}").map(|end| from + end + 2)
}

/// The end of a raw block that begins here.
fn raw_end(source: &str, start: usize) -> Option<usize> {
    let after = start + basic_tag(&source[start..], "raw")?;
    let mut at = after;
    loop {
        let found = at + source[at..].find("{%")?;
        match basic_tag(&source[found..], "endraw") {
            Some(length) => return Some(found + length),
            None => at = found + 2,
        }
    }
}

/// The length of a tag of one word.
fn basic_tag(text: &str, word: &str) -> Option<usize> {
    let inner = text.strip_prefix("{%")?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner);
    let inner = inner.trim_start().strip_prefix(word)?.trim_start();
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner);
    let rest = inner.strip_prefix("%}")?;
    Some(text.len() - rest.len())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Number,
    Text,
    Other,
}

/// A token and the white space before it.
#[derive(Debug, Clone, Copy)]
struct Token<'s> {
    space: &'s str,
    text: &'s str,
    kind: Kind,
}

/// Writes one `{{ }}` or `{% %}`; gives its end, or none if it has none.
fn code(
    source: &str,
    start: usize,
    out: &mut String,
    marks: &mut bool,
) -> Result<Option<usize>, Problem> {
    if source.as_bytes()[start + 1] == b'#' {
        return Ok(None);
    }
    let block = source.as_bytes()[start + 1] == b'%';
    let closing = if block { "%}" } else { "}}" };
    let mut from = start + 2;
    if source[from..].starts_with(['-', '+']) {
        from += 1;
    }
    let Some((tokens, end)) = tokens(source, from, closing) else {
        return Ok(None);
    };
    let line = || source[..start].matches('\n').count() + 1;
    let logic = tokens
        .iter()
        .filter(|token| matches!(token.text, "and" | "or" | "not"));
    if logic.count() > MAX_LOGIC {
        let problem = format!("more than {MAX_LOGIC} times and, or, not in one expression");
        return Err(Problem::new(Some(line()), problem));
    }
    let mut writer = Writer {
        tokens: &tokens,
        at: 0,
        depth: 0,
    };
    let text = if block {
        writer.statement(line)
    } else {
        writer.until(&[]).map(|(text, _)| text)
    };
    let text = text.map_err(|problem| Problem {
        line: Some(line()),
        ..problem
    })?;
    let written: usize = tokens.iter().map(|t| t.space.len() + t.text.len()).sum();
    let closing = &source[from + written..end];
    out.push_str(&source[start..from]);
    match mark(&tokens).filter(|_| block) {
        // The second tag closes as the first, for the white space behind it.
        Some(Mark::Begin) => {
            *marks = true;
            out.push_str(&format!(
                " with{closing}{{% set {MARK} = {BEGIN}() {}",
                closing.trim_start()
            ));
        }
        Some(Mark::End) => out.push_str(&format!(" set {MARK} = {END}() %}}{{% endwith{closing}")),
        None => out.extend([text.as_str(), closing]),
    }
    Ok(Some(end))
}

/// An end of a block whose text transformers marks for its masks of answers.
enum Mark {
    Begin,
    End,
}

fn mark(tokens: &[Token<'_>]) -> Option<Mark> {
    match tokens {
        [
            Token {
                text: "generation", ..
            },
        ] => Some(Mark::Begin),
        [
            Token {
                text: "endgeneration",
                ..
            },
        ] => Some(Mark::End),
        _ => None,
    }
}

/// The tokens of a tag and where the tag ends.
fn tokens<'s>(source: &'s str, from: usize, closing: &str) -> Option<(Vec<Token<'s>>, usize)> {
    let mut tokens = Vec::new();
    let mut open = 0_usize;
    let mut at = from;
    loop {
        let space = source[at..].len() - source[at..].trim_start().len();
        let start = at + space;
        let rest = &source[start..];
        if open == 0 {
            let bare = rest.strip_prefix(['-', '+']).unwrap_or(rest);
            if let Some(after) = bare.strip_prefix(closing) {
                return Some((tokens, source.len() - after.len()));
            }
        }
        let first = rest.chars().next()?;
        let (length, kind) = match first {
            '\'' | '"' => (text_length(rest, first)?, Kind::Text),
            '0'..='9' => (number_length(rest), Kind::Number),
            c if c.is_ascii_alphabetic() || c == '_' => {
                let other = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
                (rest.find(other).unwrap_or(rest.len()), Kind::Word)
            }
            c => {
                match c {
                    '(' | '[' | '{' => open += 1,
                    ')' | ']' | '}' => open = open.checked_sub(1)?,
                    _ => {}
                }
                let two = ["**", "//", "==", "!=", "<=", ">="];
                let length = match two.iter().any(|two| rest.starts_with(two)) {
                    true => 2,
                    false => c.len_utf8(),
                };
                (length, Kind::Other)
            }
        };
        tokens.push(Token {
            space: &source[at..start],
            text: &rest[..length],
            kind,
        });
        at = start + length;
    }
}

fn text_length(rest: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

fn number_length(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let hexadecimal = rest.starts_with("0x") || rest.starts_with("0X");
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let exponent = at > 0 && matches!(bytes[at - 1], b'e' | b'E') && !hexadecimal;
        match byte {
            b'.' if digit(at + 1) && !rest[..at].contains('.') => {}
            b'+' | b'-' if exponent && digit(at + 1) => {}
            byte if byte.is_ascii_alphanumeric() || byte == b'_' => {}
            _ => break,
        }
        at += 1;
    }
    at
}

struct Writer<'t, 's> {
    tokens: &'t [Token<'s>],
    at: usize,
    depth: usize,
}

impl<'s> Writer<'_, 's> {
    fn peek(&self) -> Option<Token<'s>> {
        self.tokens.get(self.at).copied()
    }

    fn next_is(&self, text: &str) -> bool {
        self.peek()
            .is_some_and(|token| token.text == text && token.kind != Kind::Text)
    }

    /// The next token as it stands.
    fn copy(&mut self, out: &mut String) {
        if let Some(token) = self.peek() {
            out.push_str(token.space);
            out.push_str(token.text);
            self.at += 1;
        }
    }

    /// The inside of a `{% %}`.
    fn statement(&mut self, line: impl Fn() -> usize) -> Result<String, Problem> {
        let mut out = String::new();
        let Some(word) = self.peek() else {
            return Ok(out);
        };
        if OTHER_TEMPLATES.contains(&word.text) {
            let problem = format!("{:?} needs another template, and there is none", word.text);
            return Err(Problem::new(Some(line()), problem));
        }
        out.push_str(word.space);
        out.push_str(word.text);
        self.at += 1;
        match word.text {
            "for" => {
                self.copy_before(&mut out, &["in"]);
                self.copy(&mut out);
                let (each, _) = self.until(&["if", "recursive"])?;
                out.push_str(&format!(" __each({each})"));
            }
            "set" => self.copy_before(&mut out, &["="]),
            "call" if self.next_is("(") => self.copy_before(&mut out, &[")"]),
            _ => {}
        }
        let (rest, _) = self.until(&[])?;
        out.push_str(&rest);
        Ok(out)
    }

    /// Targets of an assignment are no values.
    fn copy_before(&mut self, out: &mut String, ends: &[&str]) {
        while self.peek().is_some() && !ends.iter().any(|end| self.next_is(end)) {
            self.copy(out);
        }
    }

    /// Everything before one of these; and whether there was a comma among it.
    fn until(&mut self, ends: &[&str]) -> Result<(String, bool), Problem> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Problem::new(None, "expressions are nested too deeply"));
        }
        let mut out = String::new();
        let mut comma = false;
        while let Some(token) = self.peek() {
            if ends.iter().any(|end| self.next_is(end)) {
                break;
            }
            let operand = match token.kind {
                Kind::Word => !KEYWORDS.contains(&token.text),
                Kind::Number | Kind::Text => true,
                Kind::Other => matches!(token.text, "(" | "[" | "{" | "-" | "+"),
            };
            if operand {
                out.push_str(&self.level(0)?);
            } else {
                comma |= token.text == ",";
                self.copy(&mut out);
            }
        }
        self.depth -= 1;
        Ok((out, comma))
    }

    /// Operands joined by operators of one precedence, as one call.
    fn level(&mut self, level: usize) -> Result<String, Problem> {
        let Some(operators) = LEVELS.get(level) else {
            return self.operand();
        };
        let mut arguments = self.level(level + 1)?;
        let mut letters = String::new();
        while let Some(token) = self.peek().filter(|token| token.kind == Kind::Other) {
            let Some((_, letter)) = operators.iter().find(|(text, _)| *text == token.text) else {
                break;
            };
            letters.push(*letter);
            self.at += 1;
            arguments.push_str(token.space);
            arguments.push(',');
            arguments.push_str(&self.level(level + 1)?);
        }
        Ok(match letters.is_empty() {
            true => arguments,
            false => format!(" __math('{letters}',{arguments})"),
        })
    }

    fn operand(&mut self) -> Result<String, Problem> {
        let mut out = self.signed()?;
        loop {
            if self.next_is("|") {
                self.copy(&mut out);
                self.name(&mut out);
                if self.next_is("(") {
                    self.brackets(&mut out)?;
                }
            } else if self.next_is("is") {
                self.copy(&mut out);
                if self.next_is("not") {
                    self.copy(&mut out);
                }
                self.name(&mut out);
                if self.next_is("(") {
                    self.brackets(&mut out)?;
                } else if self.peek().is_some_and(|token| match token.kind {
                    Kind::Word => !KEYWORDS.contains(&token.text),
                    Kind::Number | Kind::Text => true,
                    Kind::Other => matches!(token.text, "[" | "{"),
                }) {
                    out.push_str(&self.primary()?);
                }
            } else {
                return Ok(out);
            }
        }
    }

    /// The name of a filter or test.
    fn name(&mut self, out: &mut String) {
        self.copy(out);
        while self.next_is(".") {
            self.copy(out);
            self.copy(out);
        }
    }

    /// A value and the signs before it, which bind less than attributes do.
    fn signed(&mut self) -> Result<String, Problem> {
        let mut signs = String::new();
        let mut closing = 0;
        while let Some(token) = self.peek() {
            match token.text {
                "-" if token.kind == Kind::Other => {
                    signs.push_str(token.space);
                    let number = self.tokens.get(self.at + 1);
                    let number = number.is_some_and(|next| next.kind == Kind::Number);
                    signs.push_str(if number { "-" } else { "-(" });
                    closing += usize::from(!number);
                }
                "+" if token.kind == Kind::Other => signs.push_str(token.space),
                _ => break,
            }
            self.at += 1;
            if closing > MAX_DEPTH {
                return Err(Problem::new(None, "expressions are nested too deeply"));
            }
        }
        Ok(format!("{signs}{}{}", self.primary()?, ")".repeat(closing)))
    }

    /// A value with its attributes, items, slices and calls.
    fn primary(&mut self) -> Result<String, Problem> {
        let mut out = String::new();
        let Some(token) = self.peek() else {
            return Ok(out);
        };
        match (token.kind, token.text) {
            (Kind::Other, "(") => {
                let (inside, comma) = {
                    self.at += 1;
                    self.until(&[")"])?
                };
                out.push_str(token.space);
                if comma || inside.trim().is_empty() {
                    out.push_str(" __tuple");
                }
                out.push('(');
                out.push_str(&inside);
                self.copy(&mut out);
            }
            (Kind::Other, "[" | "{") => self.brackets(&mut out)?,
            (Kind::Text, _) => {
                while self.peek().is_some_and(|token| token.kind == Kind::Text) {
                    self.copy(&mut out);
                }
            }
            _ => self.copy(&mut out),
        }
        loop {
            if self.next_is(".") {
                self.copy(&mut out);
                self.copy(&mut out);
            } else if self.next_is("(") {
                self.brackets(&mut out)?;
            } else if self.next_is("[") {
                out = self.subscript(out)?;
            } else {
                return Ok(out);
            }
        }
    }

    /// Brackets with what is in them.
    fn brackets(&mut self, out: &mut String) -> Result<(), Problem> {
        let closing = match self.peek().map(|token| token.text) {
            Some("(") => ")",
            Some("[") => "]",
            _ => "}",
        };
        self.copy(out);
        let (inside, _) = self.until(&[closing])?;
        out.push_str(&inside);
        self.copy(out);
        Ok(())
    }

    /// An item, or a slice as a call.
    fn subscript(&mut self, value: String) -> Result<String, Problem> {
        let open = self.peek().map_or("", |token| token.space);
        self.at += 1;
        let mut parts = vec![self.until(&["]", ":"])?.0];
        let mut spaces = String::new();
        while let Some(colon) = self.peek().filter(|_| self.next_is(":")) {
            spaces.push_str(colon.space);
            self.at += 1;
            parts.push(self.until(&["]", ":"])?.0);
        }
        let close = self.peek();
        self.at += usize::from(close.is_some());
        let close = close.map_or(String::new(), |token| format!("{}]", token.space));
        if parts.len() == 1 {
            let mut value = value;
            value.extend([open, "[", &parts[0], &close]);
            return Ok(value);
        }
        let part = |at: usize| match parts.get(at) {
            Some(text) if !text.trim().is_empty() => text.clone(),
            // Its line breaks stay.
            Some(space) => format!("none{space}"),
            None => "none".to_owned(),
        };
        // More colons than a slice has are left to be refused.
        let extra = if parts.len() > 3 { ",]" } else { "" };
        let close = close.replace(']', ")");
        Ok(format!(
            " __slice({value}{open}{spaces},{},{},{}{extra}{close}",
            part(0),
            part(1),
            part(2)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(source: &str) -> String {
        let tight = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        tight(
            rewrite(source)
                .map(|r| r.source)
                .map_err(|p| p.text)
                .unwrap(),
        )
    }

    #[test]
    fn operators_become_calls_by_their_precedence() {
        for (source, expected) in [
            (
                "{{ a + b * c ~ d }}",
                "{{ __math('+', a , __math('~', __math('*', b , c) , d)) }}",
            ),
            (
                "{{ a | f(1 + 2) + b is odd }}",
                "{{ __math('+', a | f( __math('+',1 , 2)) , b is odd) }}",
            ),
            ("{{ -x.y // 2 }}", "{{ __math('f', -( x.y) , 2) }}"),
            (
                "{{ a if not b else c - 1 }}",
                "{{ a if not b else __math('-', c , 1) }}",
            ),
            (
                "{{ a[1:] }}{{ a[::-1] }}{{ a[0] }}",
                "{{ __slice( a,1,none,none) }}{{ __slice( a,none,none,-1) }}{{ a[0] }}",
            ),
            (
                "{{ (a, b) }}{{ () }}{{ (a) }}",
                "{{ __tuple( a, b) }}{{ __tuple() }}{{ (a) }}",
            ),
            (
                "{% set (a, b) = (1, 2) %}",
                "{% set (a, b) = __tuple( 1, 2) %}",
            ),
            (
                "{% for (a, b) in x + y if a % 2 %}",
                "{% for (a, b) in __each( __math('+', x , y)) if __math('%', a , 2) %}",
            ),
        ] {
            let close = |text: &str| text.replace(' ', "");
            assert_eq!(close(&rewritten(source)), close(expected), "{source}");
        }
    }

    #[test]
    fn texts_comments_and_raw_blocks_are_left_alone_and_lines_stay() {
        for source in [
            "a + b {# {% generation %} a + b #}",
            "{% raw %}{% generation %}{{ a + b }}{% endraw %}",
            "{{ '{% generation %} a + b' }}",
            "{{ \"it's \\\" a ~ b }}\" }}",
            "{{ unclosed + 1",
            "{% if x == 'a' and y in z %}t{% endif %}",
        ] {
            assert_eq!(
                rewrite(source).map(|r| r.source).unwrap_or_default(),
                source
            );
        }
        let source = "{{ a\n + b[1\n:\n] }}\n{%- generation -%}\n x {% endgeneration %}";
        let found = rewrite(source).map(|r| r.source).unwrap_or_default();
        assert_eq!(found.matches('\n').count(), source.matches('\n').count());
        assert!(
            found.contains("{%- with -%}") && found.ends_with("{% endwith %}"),
            "{found}"
        );
    }
}
