//! The table of a session's summary.

use super::numbers::{grouped, human_bytes};
use super::{Align, Table, as_markdown, by_class_tables};
use crate::results::{Results, Spread, Stop, Summary, best_run};
use crate::tasks::Task;

/// The summary as Markdown: one table per task, with one row per method and targets. Notes below it state how best and last were chosen,
/// and name unfinished runs and cut rows.
///
/// If LoRA is among the methods, each row shows its stored bytes as a percentage of LoRA's. It refers to the LoRA row with the same
/// targets, or else to the first one.
pub fn summary_table(results: &Results) -> String {
    let mut tasks: Vec<&Task> = Vec::new();
    for row in &results.summary {
        if !tasks.contains(&&row.task) {
            tasks.push(&row.task);
        }
    }
    let parts = tasks.into_iter().map(|task| {
        let rows: Vec<&Summary> = results
            .summary
            .iter()
            .filter(|row| row.task == *task)
            .collect();
        format!(
            "{}\n{}{}",
            task_table(task, &rows),
            notes(task, results, &rows),
            classes(task, results)
        )
    });
    parts.collect::<Vec<_>>().join("\n")
}

fn task_table(task: &Task, rows: &[&Summary]) -> Table {
    let lora = rows.iter().any(|row| row.method == "lora");
    // Texts have a score before training and a speed. The other tasks have a head instead.
    let is_text = task.is_text();
    let metric = task.primary_metric;
    let mut columns = vec![
        ("method".to_string(), Align::Left),
        ("targets".into(), Align::Left),
        ("seeds".into(), Align::Right),
    ];
    if is_text {
        columns.push((format!("{task} {metric} before"), Align::Right));
    }
    // A task of one's own has its file's name. Scores of train.csv's task are not those of its rows.
    let best = match task.is_known() || task.name() != "train" {
        true => format!("{task} {metric}, best"),
        false => format!("{metric} on dev, best"),
    };
    columns.extend([
        (best, Align::Right),
        ("last".into(), Align::Right),
        ("trained".into(), Align::Right),
        ("stored".into(), Align::Right),
    ]);
    if lora {
        columns.push(("% of LoRA".into(), Align::Right));
    }
    let name = if is_text { "tokens/s" } else { "head" };
    columns.extend([
        (name.into(), Align::Right),
        ("seconds".into(), Align::Right),
    ]);
    let mut table = Table::new(columns);
    for row in rows {
        let mut cells = vec![
            row.method.clone(),
            row.targets.clone(),
            row.runs.to_string(),
        ];
        if is_text {
            cells.push(row.before.map_or("-".into(), |nll| format!("{nll:.4}")));
        }
        cells.extend([
            shown(row.best),
            shown(row.last),
            grouped(row.trained_parameters),
        ]);
        cells.push(human_bytes(row.stored_bytes));
        if lora {
            cells.push(percent_of_lora(row, rows));
        }
        cells.push(match (is_text, row.tokens_per_second) {
            (false, _) => human_bytes(row.head_bytes),
            (true, Some(rate)) => grouped(rate.round() as u64),
            (true, None) => "-".into(),
        });
        cells.push(format!("{:.1}", row.seconds));
        table.row(cells);
    }
    table
}

/// The scores of each class of the best run, for tasks of the user's own.
fn classes(task: &Task, results: &Results) -> String {
    if task.is_known() {
        return String::new();
    }
    let runs = results.runs.iter();
    let runs = runs.filter(|run| run.task == *task && run.by_class.is_some());
    let parts =
        best_run(runs).and_then(|run| Some((run, run.best.as_ref()?, run.by_class.as_ref()?)));
    parts.map_or(String::new(), |(run, best, by_class)| {
        let name = format!("{} {} seed {}", run.method, run.targets, run.seed);
        format!(
            "\nEach class on dev, epoch {} of {}:\n\n{}",
            best.epoch,
            as_markdown(&name),
            by_class_tables(by_class)
        )
    })
}

fn percent_of_lora(row: &Summary, rows: &[&Summary]) -> String {
    let is_lora = |other: &&&Summary| other.method == "lora";
    let same = rows
        .iter()
        .filter(is_lora)
        .find(|other| other.targets == row.targets);
    match same.or_else(|| rows.iter().find(is_lora)) {
        Some(lora) if lora.stored_bytes > 0 => {
            format!(
                "{:.1}",
                100.0 * row.stored_bytes as f64 / lora.stored_bytes as f64
            )
        }
        _ => "-".into(),
    }
}

/// `median ± deviation`; only the median if a single value has no deviation; `-` without a value.
fn shown(spread: Option<Spread>) -> String {
    match spread {
        Some(Spread { median, sd, count }) if count > 1 => format!("{median:.4} ± {sd:.4}"),
        Some(Spread { median, .. }) => format!("{median:.4}"),
        None => "-".into(),
    }
}

fn notes(task: &Task, results: &Results, rows: &[&Summary]) -> String {
    let mut notes = match task.is_text() {
        true => vec![
            "Negative log-likelihood per predicted token on held-out texts, in nats, median ± sample standard deviation \
             over seeds. Best: each run's best evaluation, picked on these texts themselves; with --out, the adapter written is that one. \
             Last: its last evaluation."
                .to_string(),
        ],
        false => vec![
            "Dev scores, median ± sample standard deviation over seeds. Best: each run's best evaluation, picked on dev \
             itself; with --out, the adapter written is that one. Last: its last evaluation."
                .to_string(),
            "Trained and stored are of the adapter alone; the head is trained and stored beside it.".into(),
        ],
    };
    let undefined: usize = rows.iter().map(|row| row.undefined).sum();
    if undefined > 0 {
        let metric = task.primary_metric;
        notes.push(format!(
            "{metric} is undefined (constant labels or predictions) in {undefined} run(s) and counted as 0."
        ));
    }
    for run in results.runs.iter().filter(|run| run.task == *task) {
        let name = format!("{} {} seed {}", run.method, run.targets, run.seed);
        let evaluated = match run.is_by_epoch() {
            true => format!("{} epochs evaluated", run.epochs.len()),
            false => format!("{} evaluations", run.epochs.len()),
        };
        match &run.stop {
            Stop::Completed => {}
            early @ Stop::Early { .. } => {
                notes.push(format!("{} {early} ({evaluated}).", as_markdown(&name)));
            }
            stop @ (Stop::Interrupted | Stop::NonFiniteLoss { .. } | Stop::NonFinite { .. }) => {
                notes.push(format!(
                    "{} did not finish: {} ({evaluated}).",
                    as_markdown(&name),
                    as_markdown(&stop.to_string()),
                ));
            }
        }
    }
    let truncated = results
        .runs
        .iter()
        .filter(|run| run.task == *task)
        .map(|run| run.truncated)
        .max();
    if let Some(rows @ 1..) = truncated {
        notes.push(format!(
            "{} {} cut to the maximum length{}.",
            grouped(rows),
            if rows == 1 { "row was" } else { "rows were" },
            if task.is_text() {
                " or left out for it"
            } else {
                ""
            }
        ));
    }
    notes.iter().map(|note| format!("{note}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metric;
    use crate::results::{EpochScores, Speed, test_run as run};

    #[test]
    fn the_table_shows_medians_bytes_and_the_share_of_lora() {
        let mut lora = run("lora", "qv", 1, &[0.875]);
        lora.stored_bytes = 3_145_728;
        let runs = vec![
            run("vblora", "qv", 1, &[0.8, 0.75]),
            run("vblora", "qv", 2, &[0.9, 0.85]),
            lora,
        ];
        let text = summary_table(&Results::new("c", "flex", runs));
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        assert_eq!(rows[0][4], "mrpc accuracy, best");
        assert_eq!(
            rows[2][1..11],
            [
                "vblora",
                "qv",
                "2",
                "0.8500 ± 0.0707",
                "0.8000 ± 0.0707",
                "161,280",
                "101 kB",
                "3.2",
                "4.21 MB",
                "61.5"
            ]
        );
        assert_eq!(
            rows[3][4..9],
            ["0.8750", "0.8750", "161,280", "3.15 MB", "100.0"]
        );
        assert!(
            !text.contains("did not finish") && !text.contains("cut to"),
            "{text}"
        );
        assert!(text.contains("the adapter written is that one"), "{text}");
    }

    #[test]
    fn texts_have_a_score_before_and_a_speed_and_no_head() {
        let mut text = run("vblora", "all", 1, &[]);
        text.task = Task::text();
        let nll = |value| [(Metric::Nll, Some(value))].into_iter().collect();
        let scores = EpochScores {
            epoch: 1,
            step: None,
            metrics: nll(1.5),
        };
        (text.before, text.best, text.last) = (Some(nll(3.25)), Some(scores.clone()), Some(scores));
        text.speed = Some(Speed {
            tokens: 3_000,
            seconds: 2.5,
        });
        let table = summary_table(&Results::new("c", "flex", vec![text]));
        let cells = |line: usize| -> Vec<String> {
            let line = table.lines().nth(line).unwrap();
            line.split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        let (names, values) = (cells(0), cells(2));
        let value = |name: &str| &values[names.iter().position(|n| n == name).unwrap()];
        assert_eq!(value("text nll before"), "3.2500");
        assert_eq!(value("text nll, best"), "1.5000");
        assert_eq!(value("tokens/s"), "1,200");
        assert!(
            !names.contains(&"head".to_owned()) && !table.contains("head"),
            "{table}"
        );
    }

    #[test]
    fn scores_of_a_table_named_train_are_said_to_be_on_dev() {
        let mut own = run("vblora", "qv", 1, &[0.5]);
        let columns = crate::tasks::Columns {
            first: "x".into(),
            second: None,
            label: "y".into(),
        };
        for (name, heading) in [
            ("train", "| accuracy on dev, best"),
            ("reviews", "| reviews accuracy, best"),
        ] {
            let target = own.task.target().unwrap().clone();
            own.task = Task::own(name, columns.clone(), target);
            let text = summary_table(&Results::new("c", "flex", vec![own.clone()]));
            assert!(text.contains(heading), "{text}");
        }
    }

    #[test]
    fn without_lora_there_is_no_share_and_troubles_are_told() {
        let mut broken = run("vblora", "qv", 3, &[]);
        broken.stop = Stop::NonFiniteLoss { step: 7 };
        broken.truncated = 1_234;
        let mut constant = run("head", "none", 1, &[0.5]);
        constant.task = Task::stsb();
        constant.best.as_mut().unwrap().metrics = [(Metric::Pearson, None)].into_iter().collect();
        let text = summary_table(&Results::new("c", "flex", vec![broken, constant]));
        assert!(!text.contains("LoRA"), "{text}");
        assert!(
            text.contains("vblora qv seed 3 did not finish: non-finite loss at step 7 (0 epochs"),
            "{text}"
        );
        assert!(text.contains("1,234 rows were cut"), "{text}");
        assert!(
            text.contains("stsb pearson, best") && text.contains("counted as 0"),
            "{text}"
        );
        assert_eq!(summary_table(&Results::new("c", "flex", vec![])), "");
    }

    #[test]
    fn hostile_targets_stay_in_their_cell_and_their_line() {
        let mut broken = run("lora", "a|b`c<x>*d*\n# e", 1, &[0.5]);
        broken.stop = Stop::NonFinite {
            what: "head.`x`".into(),
            step: 3,
        };
        let text = summary_table(&Results::new("c", "flex", vec![broken]));
        let shown = "a\\|b\\`c&lt;x>\\*d\\* # e";
        assert!(text.contains(&format!("| lora   | {shown} |")), "{text}");
        let note = format!(
            "\nlora {shown} seed 1 did not finish: non-finite head.\\`x\\` after step 3 (1 epochs evaluated).\n"
        );
        assert!(text.contains(&note), "{text}");
    }
}
