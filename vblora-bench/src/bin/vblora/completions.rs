//! `vblora completions`: the script that lets a shell complete command lines.

use anyhow::Result;
use clap::{Args, Command};
use clap_complete::{Shell, generate};

const NAME: &str = "vblora";

/// Print a shell script that completes vblora's command lines
#[derive(Args)]
#[command(before_help = "\
vblora completions bash > ~/.local/share/bash-completion/completions/vblora
vblora completions fish > ~/.config/fish/completions/vblora.fish")]
pub(crate) struct Arguments {
    /// The shell to complete in
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) -> Result<String> {
    // Completions would also offer hidden subcommands.
    let command = crate::command();
    let shown = command.get_subcommands().filter(|one| !one.is_hide_set());
    let mut command = Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .subcommands(shown.cloned());
    let mut script = Vec::new();
    generate(arguments.shell, &mut command, NAME, &mut script);
    Ok(String::from_utf8(script)?)
}
