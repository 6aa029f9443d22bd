//! `vblora generate`: generates text with a causal model, with or without an adapter, and prints it token by token.

mod arguments;

use std::{io::Write, ops::ControlFlow, process::ExitCode, time::Instant};

use anyhow::{Context, Result, bail};
use vblora::{
    Factors,
    backend::{BackendJob, VbLoraBackend},
    storage::HostAdapter,
};
use vblora_models::{
    ChatTemplate, DecoderConfig, Error, Message, ModelFiles, SavedTensors, TextTokenizer,
    decoder::{AdaptedConfig, CachedLm, CausalLm},
    generate::{GeneratedText, GenerationConfig, GenerationDefaults, generate_text},
};

pub use arguments::Arguments;

use super::{adapter, models};
use crate::{
    card::is_conversational,
    program::{complain, is_closed_pipe, is_interrupted, listen},
    terminal::visible,
};

/// Generates on standard output. After this call a signal ends every text after the current token ([`listen`]).
///
/// # Errors
/// As [`write()`]. A closed pipe is no error: `vblora generate .. | head`.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    listen().context("cannot listen for Ctrl-C")?;
    match write(arguments, &mut std::io::stdout()) {
        Err(error) if error.downcast_ref().is_some_and(is_closed_pipe) => Ok(ExitCode::SUCCESS),
        done => done.map(|()| ExitCode::SUCCESS),
    }
}

/// Generates into `out`. One text is written token by token, several are written when all have ended.
///
/// # Errors
/// Model, adapter and flags do not fit together; the device does not work; `out` cannot be written.
pub fn write(arguments: &Arguments, out: &mut (dyn Write + Send)) -> Result<()> {
    let files = models::find(&arguments.model, arguments.revision.as_deref())?;
    let model = DecoderConfig::from_files(&files).map_err(|error| match error {
        Error::OtherArchitecture { .. } => {
            anyhow::Error::new(error).context("only a causal language model generates text")
        }
        other => other.into(),
    })?;
    let mut model = model.held_as(arguments.base_dtype)?;
    let mut files = files;
    let adapter = match &arguments.adapter {
        Some(path) => {
            adapter::check(path)?;
            if !arguments.chat && is_conversational(&path.join("README.md")) {
                complain(
                    "note: this adapter was trained on conversations: --chat gives the prompt their form",
                );
            }
            let found = AdaptedConfig::open(path, model)?;
            model = found.config;
            files = files.with_tokenizer_of(path);
            Some((found.adapter, found.saved))
        }
        None => None,
    };
    let tokenizer = TextTokenizer::from_files(&files)?.for_decoder(&model)?;
    let prompts = prompts(arguments, &files, &tokenizer)?;
    let defaults = GenerationDefaults::from_files(&files, &tokenizer)?;
    for note in arguments.set_aside(&defaults, GenerationDefaults::file(&files)) {
        complain(format!("note: {note}"));
    }
    let config = arguments.generation(defaults);
    config.check(model.vocab_size)?;
    let (adapter, saved) = adapter.unzip();
    let job = Job {
        files,
        model,
        tokenizer,
        adapter,
        saved: saved.unwrap_or_default(),
        merge: arguments.merge,
        prompts,
        config,
        out,
    };
    let device = &arguments.device;
    device.backend.dispatch(device.device, job)?
}

/// Encodes the prompts, as user messages of a chat or as plain text.
fn prompts(
    arguments: &Arguments,
    files: &ModelFiles,
    tokenizer: &TextTokenizer,
) -> Result<Vec<Vec<u32>>> {
    if !arguments.chat {
        let texts: Vec<&str> = arguments.prompts.iter().map(String::as_str).collect();
        return Ok(tokenizer.encode_prompts(&texts)?);
    }
    let Some(template) = ChatTemplate::from_files(files)? else {
        bail!(
            "{} has no chat template; omit --chat to continue the plain prompt",
            files.place()
        );
    };
    let turns = |prompt: &String| {
        let system = arguments
            .system
            .iter()
            .map(|text| Message::new("system", text));
        let turns: Vec<_> = system.chain([Message::new("user", prompt)]).collect();
        template.apply(&turns, true)
    };
    let texts: Vec<String> = arguments
        .prompts
        .iter()
        .map(turns)
        .collect::<Result<_, _>>()?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    Ok(tokenizer.encode_plain(&texts)?)
}

struct Job<'a> {
    files: ModelFiles,
    model: DecoderConfig,
    tokenizer: TextTokenizer,
    adapter: Option<HostAdapter>,
    saved: SavedTensors,
    merge: bool,
    prompts: Vec<Vec<u32>>,
    config: GenerationConfig,
    out: &'a mut (dyn Write + Send),
}

impl BackendJob for Job<'_> {
    type Output = Result<()>;

    fn run<B: VbLoraBackend>(mut self, device: B::Device) -> Result<()> {
        let saved = std::mem::take(&mut self.saved);
        let (model, _) =
            CausalLm::<B>::load_adapted(self.model.clone(), saved, &self.files, &device)?;
        let adapter = self.adapter.as_ref();
        let factors = adapter.map_or_else(Factors::none, |adapter| adapter.factors(&device));
        if self.merge {
            self.generate(&model.merged(&factors), Factors::none(), &device)
        } else {
            self.generate(&model, factors, &device)
        }
    }
}

impl Job<'_> {
    /// Streams one text. Several texts are printed when all have ended.
    fn generate<B: VbLoraBackend>(
        self,
        model: &CausalLm<B>,
        factors: Factors<B>,
        device: &B::Device,
    ) -> Result<()> {
        let prompts: Vec<&[u32]> = self.prompts.iter().map(Vec::as_slice).collect();
        let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
        let most = self.config.max_total_tokens.unwrap_or(usize::MAX);
        let capacity = longest.saturating_add(self.config.max_new_tokens).min(most);
        let mut decoding = CachedLm::new(model, factors, capacity, device);
        let streams = prompts.len() == 1;
        let mut written = Ok(());
        let start = Instant::now();
        let rows = generate_text(
            &mut decoding,
            &self.tokenizer,
            &prompts,
            &self.config,
            |_, piece| {
                if streams {
                    written =
                        write!(self.out, "{}", visible(piece)).and_then(|()| self.out.flush());
                }
                match written.is_err() || is_interrupted() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            },
        )?;
        let seconds = start.elapsed().as_secs_f64();
        let written = written.and_then(|()| match streams {
            true => writeln!(self.out),
            false => print(&rows, self.out),
        });
        written.context("cannot write standard output")?;
        report(&rows, seconds);
        Ok(())
    }
}

fn print(rows: &[GeneratedText], out: &mut dyn Write) -> std::io::Result<()> {
    for (number, row) in rows.iter().enumerate() {
        writeln!(out, "--- {}\n{}", number + 1, visible(&row.text))?;
    }
    Ok(())
}

/// Prints the number of tokens, the time and the reason for each end.
fn report(rows: &[GeneratedText], seconds: f64) {
    let tokens: usize = rows.iter().map(|row| row.tokens.len()).sum();
    let rate = tokens as f64 / seconds;
    let ends: Vec<String> = rows.iter().map(|row| row.ended.to_string()).collect();
    complain(format!(
        "[{tokens} tokens in {seconds:.1} s, {rate:.1} a second; ended by {}]",
        ends.join(", ")
    ));
}
