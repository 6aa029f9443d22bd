//! `vblora completions`: what a shell needs to complete command lines.

use anyhow::Result;
use clap::Args;
use clap_complete::{Shell, generate};

/// Print the script with which a shell completes vblora's command lines
#[derive(Args)]
#[command(before_help = "\
vblora completions bash > ~/.local/share/bash-completion/completions/vblora
vblora completions fish > ~/.config/fish/completions/vblora.fish")]
pub(crate) struct Arguments {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) -> Result<String> {
    let mut script = Vec::new();
    generate(
        arguments.shell,
        &mut crate::command(),
        "vblora",
        &mut script,
    );
    Ok(String::from_utf8(script)?)
}
