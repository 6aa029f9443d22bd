//! METEOR 1.5 and the Stanford tokenizer, as programs of their own.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Error, Result,
    metrics::text::{Segment, Tokenized},
};

/// Where METEOR is to be had.
pub const HOW_TO_GET_METEOR: &str = "METEOR needs Java and --java-metrics DIR with meteor-1.5.jar and data/paraphrase-en.gz: \
`pip download --no-deps pycocoevalcap==1.2`, then unzip the file and give its folder pycocoevalcap";

/// How long a program may take for its next line, the start included.
const PATIENCE: Duration = Duration::from_secs(300);

/// Bytes of a program's error output that an error shows.
const LAST_WORDS: usize = 400;

/// How long an error waits for the next line of a program's error output.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// The jars of METEOR and, if it is there, of the Stanford tokenizer.
#[derive(Debug, Clone)]
pub struct JavaMetrics {
    meteor: PathBuf,
    tokenizer: Option<PathBuf>,
    /// How long a program may take for its next line.
    patience: Duration,
    /// The program that runs jars.
    java: PathBuf,
}

/// METEOR of a corpus.
#[derive(Debug)]
pub(super) struct Meteor {
    pub(super) corpus: f64,
    pub(super) segments: Vec<f64>,
}

impl JavaMetrics {
    /// Finds the jars in a folder, or in `meteor` and `tokenizer` below it, as the package pycocoevalcap has them.
    ///
    /// # Errors
    /// The folder has no `meteor-1.5.jar`, or no `data/paraphrase-en.gz` beside it.
    pub fn open(dir: &Path) -> Result<Self> {
        let find = |folder: &str, name: &str| {
            let places = [dir.join(name), dir.join(folder).join(name)];
            places.into_iter().find(|place| place.is_file())
        };
        let missing = |name: &str| {
            failed(
                "METEOR",
                format!("no {name} in {}; {HOW_TO_GET_METEOR}", dir.display()),
            )
        };
        let meteor = find("meteor", "meteor-1.5.jar").ok_or_else(|| missing("meteor-1.5.jar"))?;
        // METEOR scores without its paraphrases where they are missing, and lower.
        if !meteor
            .with_file_name("data")
            .join("paraphrase-en.gz")
            .is_file()
        {
            return Err(missing("data/paraphrase-en.gz beside meteor-1.5.jar"));
        }
        Ok(Self {
            meteor,
            tokenizer: find("tokenizer", "stanford-corenlp-3.4.1.jar"),
            patience: PATIENCE,
            java: "java".into(),
        })
    }

    /// Tokenizes a corpus with the Stanford tokenizer, or with this crate's own without its jar.
    pub(super) fn tokenize(&self, corpus: &[Segment<'_>]) -> Result<Tokenized> {
        let Some(jar) = &self.tokenizer else {
            return Ok(Tokenized::new(corpus));
        };
        Tokenized::with(corpus, |lines| {
            let program = "edu.stanford.nlp.process.PTBTokenizer";
            let arguments = [program, "-preserveLines", "-lowerCase"];
            let mut java = self.start("the Stanford tokenizer", &["-cp"], jar, &arguments)?;
            java.send(lines.join("\n"));
            java.all_lines(lines)
        })
    }

    /// Scores a corpus with METEOR.
    pub(super) fn meteor(&self, corpus: &Tokenized) -> Result<Meteor> {
        let mut java = self.start(
            "METEOR",
            &["-Xmx2G", "-jar"],
            &self.meteor,
            &["-", "-", "-stdio", "-l", "en", "-norm"],
        )?;
        let mut stats = Vec::new();
        for (output, references) in corpus.outputs.iter().zip(&corpus.references) {
            let output = output.replace("|||", "").replace("  ", " ");
            java.send(format!(
                "SCORE ||| {} ||| {output}\n",
                references.join(" ||| ")
            ));
            stats.push(java.stats()?);
        }
        java.send(format!("EVAL ||| {}\n", stats.join(" ||| ")));
        let segments: Result<Vec<_>> = stats.iter().map(|_| java.score()).collect();
        let meteor = Meteor {
            segments: segments?,
            corpus: java.score()?,
        };
        Ok(meteor)
    }

    fn start(
        &self,
        name: &'static str,
        options: &[&str],
        jar: &Path,
        arguments: &[&str],
    ) -> Result<Running> {
        let mut command = Command::new(&self.java);
        // Numbers have a decimal point in English alone of many languages.
        command.args(["-Duser.language=en", "-Dfile.encoding=UTF-8"]);
        command.args(options).arg(jar).args(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            failed(
                name,
                format!(
                    "cannot start {}: {error}; it needs a Java runtime",
                    self.java.display()
                ),
            )
        })?;
        let (Some(input), Some(output), Some(error)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(failed(name, "java has no pipes".to_owned()));
        };
        let (to_program, texts) = channel();
        let (to_us, lines) = channel();
        thread::spawn(move || write(input, &texts));
        thread::spawn(move || {
            // The receiver is gone once the program is no longer needed.
            let lines = BufReader::new(output).lines();
            lines.map_while(|line| to_us.send(line).ok()).for_each(drop);
        });
        let (words, said) = channel();
        thread::spawn(move || {
            // Output that cannot be read is not shown.
            let lines = BufReader::new(error)
                .split(b'\n')
                .map_while(|line| line.ok());
            lines.map_while(|line| words.send(line).ok()).for_each(drop);
        });
        Ok(Running {
            name,
            child,
            input: Some(to_program),
            lines,
            said,
            patience: self.patience,
        })
    }
}

/// Writes texts as they come. A program that does not take them is found out by its missing answer.
fn write(mut input: ChildStdin, texts: &Receiver<String>) {
    for text in texts {
        if input
            .write_all(text.as_bytes())
            .and_then(|()| input.flush())
            .is_err()
        {
            return;
        }
    }
}

fn failed(program: &'static str, reason: String) -> Error {
    Error::Program { program, reason }
}

/// A program that answers lines. It ends with this value.
struct Running {
    name: &'static str,
    child: Child,
    input: Option<Sender<String>>,
    lines: Receiver<std::io::Result<String>>,
    /// The lines of its error output.
    said: Receiver<Vec<u8>>,
    patience: Duration,
}

impl Running {
    fn send(&self, text: String) {
        if let Some(input) = &self.input {
            // A dead program is found out by its missing answer.
            let _ = input.send(text);
        }
    }

    /// The next line of the answer.
    fn line(&mut self) -> Result<String> {
        match self.lines.recv_timeout(self.patience) {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(error)) => Err(self.failed(&format!("java's answer cannot be read: {error}"))),
            Err(RecvTimeoutError::Timeout) => {
                let seconds = self.patience.as_secs_f64();
                Err(self.failed(&format!("java gave no answer for {seconds} s")))
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.failed("java ended early")),
        }
    }

    /// The counts of a segment, from which scores are made.
    fn stats(&mut self) -> Result<String> {
        let line = self.line()?;
        let numbers = line.split_whitespace().map(str::parse::<f64>);
        match numbers.collect::<std::result::Result<Vec<_>, _>>() {
            Ok(numbers) if numbers.len() > 1 => Ok(line.trim().to_owned()),
            Ok(_) | Err(_) => Err(self.failed(&format!(
                "expected the counts of a segment, java said {line:?}"
            ))),
        }
    }

    fn score(&mut self) -> Result<f64> {
        let line = self.line()?;
        let score = line
            .trim()
            .parse()
            .ok()
            .filter(|score: &f64| (0.0..=1.0).contains(score));
        score.ok_or_else(|| self.failed(&format!("expected a score in 0..=1, java said {line:?}")))
    }

    /// All lines of an answer that ends the program: one for each text. The last may be left out where their texts are blank.
    fn all_lines(&mut self, texts: &[String]) -> Result<Vec<String>> {
        let count = texts.len();
        self.input = None;
        let mut lines = Vec::new();
        loop {
            match self.lines.recv_timeout(self.patience) {
                Ok(Ok(line)) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Ok(Err(_)) | Err(RecvTimeoutError::Timeout) => {
                    return Err(self.failed("java did not end"));
                }
            }
        }
        let succeeded = self.child.wait().is_ok_and(|status| status.success());
        if !succeeded {
            return Err(self.failed("java failed"));
        }
        let is_extra = lines.iter().skip(count).any(|line| !line.is_empty());
        let mut left_out = texts.iter().skip(lines.len());
        if is_extra || left_out.any(|text| !text.trim().is_empty()) {
            let reason = format!("expected {count} lines of tokens, found {}", lines.len());
            return Err(self.failed(&reason));
        }
        lines.resize(count, String::new());
        Ok(lines)
    }

    /// The status of a program that ended by itself. One that closed its output gets a moment to end.
    fn ended(&mut self) -> Option<ExitStatus> {
        let start = Instant::now();
        let has_closed = || matches!(self.lines.try_recv(), Err(TryRecvError::Disconnected));
        loop {
            match self.child.try_wait() {
                Ok(None) if has_closed() && start.elapsed() < LAST_WAIT => {
                    thread::sleep(Duration::from_millis(5));
                }
                found => return found.ok().flatten(),
            }
        }
    }

    /// The error with the end of what the program wrote to its error output.
    fn failed(&mut self, reason: &str) -> Error {
        let ended = self.ended();
        // A second kill or wait has nothing left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A program that it started may keep the output open.
        let lines = std::iter::from_fn(|| self.said.recv_timeout(LAST_WAIT).ok());
        let said: Vec<u8> = lines.flat_map(|line| [line, vec![b' ']].concat()).collect();
        let said = String::from_utf8_lossy(&said);
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let start = said.len().saturating_sub(LAST_WORDS);
        let start = (start..=said.len())
            .find(|&at| said.is_char_boundary(at))
            .unwrap_or(0);
        let status = ended.map_or(String::new(), |status| format!(" ({status})"));
        let said = if said.is_empty() {
            "nothing"
        } else {
            &said[start..]
        };
        failed(
            self.name,
            format!("{reason}{status}; its error output: {said}"),
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;

    use super::*;

    /// A folder with empty jars and a program in place of java.
    fn with_java(script: &str, dir: &Path) -> JavaMetrics {
        fs::create_dir_all(dir.join("meteor/data")).unwrap();
        fs::create_dir_all(dir.join("tokenizer")).unwrap();
        for file in [
            "meteor/meteor-1.5.jar",
            "meteor/data/paraphrase-en.gz",
            "tokenizer/stanford-corenlp-3.4.1.jar",
        ] {
            fs::write(dir.join(file), "").unwrap();
        }
        let java = dir.join("java");
        // A process of its own makes the program. Otherwise a child that another test starts may hold it open for writing, and a file that is
        // open for writing cannot be started.
        let text = dir.join("script");
        fs::write(&text, format!("#!/bin/sh\n{script}\n")).unwrap();
        let mut install = Command::new("install");
        install.args(["-m", "755"]).args([&text, &java]);
        assert!(install.status().unwrap().success());
        JavaMetrics {
            java,
            patience: Duration::from_secs(20),
            ..JavaMetrics::open(dir).unwrap()
        }
    }

    fn corpus() -> Tokenized {
        let texts = |text: &str| vec![text.to_owned(); 2];
        Tokenized {
            outputs: texts("a b"),
            references: vec![texts("a c"), texts("b")],
        }
    }

    #[test]
    fn scores_are_read_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let script = "while read -r word rest; do
case $word in
SCORE) echo '1.0 2.0 3.0' ;;
EVAL) echo 0.25; echo 0.5; echo 0.375; echo \"$rest\" >&2 ;;
esac; done";
        let found = with_java(script, dir.path()).meteor(&corpus()).unwrap();
        assert_eq!(
            (found.corpus, &found.segments[..]),
            (0.375, &[0.25, 0.5][..])
        );
    }

    #[test]
    fn a_java_that_fails_is_one_line_with_its_own_words() {
        for (script, expected) in [
            (
                "echo 'Error: no\nheap' >&2; exit 3",
                "METEOR: java ended early (exit status: 3); its error output: Error: no heap",
            ),
            (
                "read -r line; exit 0",
                "METEOR: java ended early (exit status: 0); its error output: nothing",
            ),
            (
                "echo hello; sleep 60",
                "METEOR: expected the counts of a segment, java said \"hello\"; its error output",
            ),
            (
                "echo 1.0 2.0; echo 1.0 2.0; echo NaN; sleep 60",
                "METEOR: expected a score in 0..=1, java said \"NaN\"",
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let error = with_java(script, dir.path())
                .meteor(&corpus())
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with(expected) && !error.contains('\n'),
                "{error}"
            );
        }
    }

    #[test]
    fn a_java_that_hangs_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let java = JavaMetrics {
            patience: Duration::from_millis(300),
            ..with_java("exec sleep 60", dir.path())
        };
        let error = java.meteor(&corpus()).unwrap_err().to_string();
        assert!(
            error.starts_with("METEOR: java gave no answer for 0.3 s"),
            "{error}"
        );
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_tokenizer_must_succeed_and_give_no_more_lines_than_texts() {
        let references = ["x".to_owned()];
        let segment = Segment {
            output: "y",
            references: &references,
        };
        for (script, expected) in [
            (
                "cat; exit 1",
                "the Stanford tokenizer: java failed (exit status: 1)",
            ),
            (
                "cat; echo; echo z",
                "the Stanford tokenizer: expected 1 lines of tokens, found 2 (exit status: 0)",
            ),
            (
                "exit 0",
                "the Stanford tokenizer: expected 1 lines of tokens, found 0 (exit status: 0)",
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let error = with_java(script, dir.path())
                .tokenize(&[segment])
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        let dir = tempfile::tempdir().unwrap();
        let found = with_java("cat", dir.path()).tokenize(&[segment]).unwrap();
        assert_eq!(
            (&found.outputs[0][..], &found.references[0][0][..]),
            ("y", "x")
        );
        let blank = Segment {
            output: " ",
            references: &references,
        };
        let script = "read -r line; echo \"$line\"";
        let found = with_java(script, dir.path()).tokenize(&[segment, blank]);
        assert!(found.is_err(), "{found:?}");
        let script = "grep -v '^ *$'";
        let dir = tempfile::tempdir().unwrap();
        let found = with_java(script, dir.path()).tokenize(&[segment, blank]);
        assert_eq!(found.unwrap().outputs, ["y", ""]);
    }

    #[test]
    fn missing_jars_say_where_they_are_to_be_had() {
        let dir = tempfile::tempdir().unwrap();
        let error = JavaMetrics::open(dir.path()).unwrap_err().to_string();
        assert!(
            error.starts_with("METEOR: no meteor-1.5.jar in "),
            "{error}"
        );
        assert!(error.contains("pycocoevalcap"), "{error}");
        fs::write(dir.path().join("meteor-1.5.jar"), "").unwrap();
        let error = JavaMetrics::open(dir.path()).unwrap_err().to_string();
        assert!(
            error.starts_with("METEOR: no data/paraphrase-en.gz"),
            "{error}"
        );
        let whole = tempfile::tempdir().unwrap();
        let java = with_java("", whole.path());
        let java = JavaMetrics {
            java: "no-such-java".into(),
            ..java
        };
        let error = java.meteor(&corpus()).unwrap_err().to_string();
        assert!(
            error.starts_with("METEOR: cannot start no-such-java"),
            "{error}"
        );
    }
}
