//! Jinja templates from outside, run as Python runs them and within limits.
//!
//! Chat templates and templates of prompts are programs that somebody else wrote. Each runs on a thread of its own, whose stack is large
//! enough for all that the limits allow. A template that exceeds a limit ends with an error:
//!
//! | limit | |
//! | --- | --- |
//! | length of the template | 256 KiB |
//! | steps of the engine | 1,000,000, or fewer where the text between two tags is over 1 KiB: together they can write 1 GiB |
//! | texts and lists that operators, filters and output make, together | 256 MiB |
//! | result | 16 MiB |
//! | nesting of expressions | 150 |
//! | time | 30 s |

mod budget;
mod filters;
mod json;
mod marks;
mod methods;
mod python;
mod rewrite;

use std::ops::Range;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};

use crate::contain::contain;

/// The name of the only template in its environment.
const NAME: &str = "template";
const MAX_SOURCE: usize = 256 << 10;
const MAX_STEPS: u64 = 1_000_000;
/// Bytes that steps which write a text can come to.
const MAX_TEXT: u64 = 1 << 30;
const MAX_RESULT: usize = 16 << 20;
/// As much as the deepest value that the steps can build needs to be dropped. Only pages that are touched count.
const STACK: usize = 256 << 20;
const TIME: Duration = Duration::from_secs(30);

/// Why a template does not parse, or does not give a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The template's line, from 1, when known.
    pub line: Option<usize>,
    /// The cause.
    pub text: String,
}

impl Problem {
    fn new(line: Option<usize>, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { line, text }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let text = match (error.kind(), error.detail()) {
            (ErrorKind::OutOfFuel, _) => {
                format!("takes more steps than are allowed (at most {MAX_STEPS})")
            }
            (ErrorKind::WriteFailure, _) => {
                format!("the text is longer than the {MAX_RESULT} bytes allowed")
            }
            (kind, Some(detail)) => format!("{kind}: {detail}"),
            (kind, None) => kind.to_string(),
        };
        Self::new(error.line(), text)
    }
}

/// How a template is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// As transformers reads chat templates: line breaks after blocks and blanks before them are dropped, and names without a value are
    /// empty.
    Chat,
    /// As it stands; a name without a value is an error.
    Strict,
}

/// A template that parsed. Clones share it.
#[derive(Debug, Clone)]
pub struct Template {
    environment: Arc<Environment<'static>>,
    marks: bool,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// Syntax, with the line; a template that is too long, or that needs another one (`include`, `import`, `extends`).
    pub fn parse(source: &str, style: Style) -> Result<Self, Problem> {
        Self::with(source, style, |_| {})
    }

    /// Parses a template for an environment with more functions.
    pub(crate) fn with(
        source: &str,
        style: Style,
        add: impl FnOnce(&mut Environment<'static>) + Send + 'static,
    ) -> Result<Self, Problem> {
        if source.len() > MAX_SOURCE {
            let found = source.len();
            let problem = format!("{found} bytes long, more than the {MAX_SOURCE} allowed");
            return Err(Problem::new(None, problem));
        }
        let source = source.to_owned();
        on_own_stack(move || {
            let rewritten = rewrite::rewrite(&source)?;
            let mut environment = environment(style);
            add(&mut environment);
            let texts = MAX_TEXT / rewritten.longest_text.max(1) as u64;
            environment.set_fuel(Some(texts.min(MAX_STEPS)));
            environment.add_template_owned(NAME, rewritten.source)?;
            Ok(Self {
                environment: Arc::new(environment),
                marks: rewritten.marks,
            })
        })
    }

    /// The text for these values.
    ///
    /// # Errors
    /// What the template refuses, what it uses that is not there, and limits, with the line when known.
    pub fn render(&self, values: Value) -> Result<String, Problem> {
        self.render_marked(values).map(|(text, _)| text)
    }

    /// The text for these values, and the byte ranges that its `{% generation %}` blocks wrote, ascending. A block that wrote nothing has
    /// none; so has one inside a macro or a captured text, whose place is not known.
    pub(crate) fn render_marked(
        &self,
        values: Value,
    ) -> Result<(String, Vec<Range<usize>>), Problem> {
        let environment = Arc::clone(&self.environment);
        on_own_stack(move || {
            let mut out = Written::default();
            let template = environment.get_template(NAME)?;
            template.render_captured_to(values, &mut out)?;
            Ok((out.text()?, marks::take()))
        })
    }

    /// Returns true if it has `{% generation %}` blocks.
    pub(crate) fn marks(&self) -> bool {
        self.marks
    }

    /// The texts of blocks by their names, in the order of the names.
    ///
    /// # Errors
    /// As [`render`](Self::render), and a block that the template does not have.
    pub fn render_blocks<const N: usize>(
        &self,
        values: Value,
        blocks: [&'static str; N],
    ) -> Result<[String; N], Problem> {
        let environment = Arc::clone(&self.environment);
        on_own_stack(move || {
            let template = environment.get_template(NAME)?;
            let mut whole = template.render_captured_to(values, Written::default())?;
            let mut texts = [const { String::new() }; N];
            for (text, block) in texts.iter_mut().zip(blocks) {
                let mut out = Written::default();
                whole.with_state_mut(|state| state.render_block_to_write(block, &mut out))?;
                *text = out.text()?;
            }
            Ok(texts)
        })
    }

    /// Names that the template uses and does not set itself, sorted.
    pub fn names(&self) -> Vec<String> {
        let environment = Arc::clone(&self.environment);
        let names = on_own_stack(move || {
            let names = environment.get_template(NAME)?.undeclared_variables(false);
            let known = |name: &String| environment.globals().any(|(global, _)| global == name);
            Ok(names.into_iter().filter(|name| !known(name)).collect())
        });
        let mut names: Vec<String> = names.unwrap_or_default();
        names.sort_unstable();
        names
    }
}

fn environment(style: Style) -> Environment<'static> {
    let mut environment = Environment::new();
    // The texts are for a model.
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(filters::write);
    environment.set_unknown_method_callback(methods::call);
    environment.set_undefined_behavior(match style {
        Style::Chat => UndefinedBehavior::Lenient,
        Style::Strict => UndefinedBehavior::Strict,
    });
    environment.set_trim_blocks(style == Style::Chat);
    environment.set_lstrip_blocks(style == Style::Chat);
    environment.remove_global("debug");
    minijinja_contrib::add_to_environment(&mut environment);
    python::add_operators(&mut environment);
    marks::add(&mut environment);
    filters::add(&mut environment);
    environment
}

/// Runs a template's code where it can neither overflow the stack nor hold up or end the program.
fn on_own_stack<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("template".to_owned())
        .stack_size(STACK)
        .spawn(move || {
            budget::start(TIME);
            // Nobody listens if the time is over.
            let _ = sender.send(contain(work));
        });
    thread.map_err(|cause| Problem::new(None, format!("cannot start a thread: {cause}")))?;
    match receiver.recv_timeout(TIME) {
        Ok(Ok(done)) => done,
        Ok(Err(panic)) => Err(Problem::new(None, format!("the engine failed: {panic}"))),
        Err(_) => Err(Problem::new(None, budget::out_of_time(TIME))),
    }
}

/// The text that a template writes, up to its limit.
#[derive(Default)]
struct Written(Vec<u8>);

impl Written {
    fn text(self) -> Result<String, Problem> {
        String::from_utf8(self.0).map_err(|error| Problem::new(None, error.to_string()))
    }
}

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len().saturating_add(bytes.len()) > MAX_RESULT {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        marks::written(self.0.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
