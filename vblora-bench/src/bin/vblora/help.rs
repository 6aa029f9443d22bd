//! The first page of help: all subcommands by group, on one screen.

use std::fmt::Write;

use clap::Command;

/// Subcommands that serve one purpose.
struct Group {
    heading: &'static str,
    commands: &'static [&'static str],
}

/// Every subcommand is listed here exactly once; a test checks it.
const GROUPS: [Group; 4] = [
    Group {
        heading: "Train",
        commands: &["train", "plan", "verify"],
    },
    Group {
        heading: "Use",
        commands: &["generate", "evaluate", "completions"],
    },
    Group {
        heading: "Files",
        commands: &["inspect", "convert", "merge", "diff"],
    },
    Group {
        heading: "Research",
        commands: &["sweep", "report", "figures", "view"],
    },
];

const TEMPLATE: &str = "\
{about}

{usage-heading} {usage}{after-help}

Options:
{options}

`vblora COMMAND --help` shows examples and every option.";

/// The same command with a help page that lists subcommands by group.
pub(crate) fn grouped(command: Command) -> Command {
    let groups = listing(&command);
    command
        .help_template(TEMPLATE)
        .after_help(groups)
        .max_term_width(100)
}

fn listing(command: &Command) -> String {
    let header = *command.get_styles().get_header();
    let literal = *command.get_styles().get_literal();
    let names = GROUPS.iter().flat_map(|group| group.commands);
    let width = names.map(|name| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for group in &GROUPS {
        let _ = writeln!(text, "{header}{}:{header:#}", group.heading);
        for name in group.commands {
            let about = command.find_subcommand(name).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(text, "  {literal}{name:width$}{literal:#}  {about}");
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use crate::command;

    use super::*;

    /// The subcommands that a user sees, without `help` itself.
    fn visible() -> Vec<Command> {
        let command = command();
        let all = command.get_subcommands();
        all.filter(|command| !command.is_hide_set())
            .cloned()
            .collect()
    }

    #[test]
    fn every_subcommand_stands_in_exactly_one_group() {
        let names = GROUPS.iter().flat_map(|group| group.commands);
        let mut listed: Vec<_> = names.map(|name| (*name).to_owned()).collect();
        listed.sort();
        let mut all: Vec<_> = visible()
            .iter()
            .map(|command| command.get_name().to_owned())
            .collect();
        all.sort();
        assert_eq!(listed, all);
    }

    #[test]
    fn the_first_page_fits_a_screen() {
        for help in [command().render_help(), command().render_long_help()] {
            let help = help.to_string();
            assert!(help.lines().count() <= 40, "{help}");
            let widest = help.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(100), "{help}");
            for command in visible() {
                let about = command.get_about().unwrap().to_string();
                assert!(help.contains(&about), "{about:?} in {help}");
            }
        }
    }

    /// Commands and their own subcommands, each with its words behind `vblora`.
    fn nested(commands: Vec<Command>) -> Vec<(String, Command)> {
        let mut found = Vec::new();
        for command in commands {
            let name = command.get_name().to_owned();
            let inner = command.get_subcommands().cloned();
            found.extend(inner.map(|inner| (format!("{name} {}", inner.get_name()), inner)));
            found.push((name, command));
        }
        found
    }

    /// The first two lines can be pasted into a shell, and the parser accepts them.
    #[test]
    fn every_subcommand_opens_with_two_runnable_lines() {
        for (name, mut subcommand) in nested(visible()) {
            let help = subcommand.render_long_help().to_string();
            let lines: Vec<_> = help.lines().take(3).collect();
            let start = format!("vblora {name} ");
            for line in &lines[..2] {
                assert!(line.starts_with(&start), "{line:?} in {help}");
                let words = shlex::split(line).unwrap().into_iter();
                let words = words.take_while(|word| word != ">");
                let parsed = command().try_get_matches_from(words);
                assert!(parsed.is_ok(), "{line:?}: {}", parsed.unwrap_err());
            }
            assert_eq!(lines[2], "", "{help}");
        }
    }

    #[test]
    fn every_argument_of_every_subcommand_has_a_help_text() {
        for (name, subcommand) in nested(command().get_subcommands().cloned().collect()) {
            for argument in subcommand.get_arguments() {
                let help = argument.get_help().map(ToString::to_string);
                let id = argument.get_id();
                assert!(help.is_some_and(|help| !help.is_empty()), "{name} {id}");
            }
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }
}
