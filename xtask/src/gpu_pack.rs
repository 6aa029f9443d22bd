//! `cargo xtask gpu-pack`: packs the tests, the example and the comparison for a GPU machine without Rust.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::Value;
use vblora_bench::program::say;

/// The binaries to build: Cargo package, target, and name in the pack.
const BINARIES: [(&str, &str, &str); 5] = [
    ("vblora", "backends", "tests/vblora"),
    ("vblora-models", "backends", "tests/vblora-models"),
    ("vblora-bench", "training", "tests/vblora-bench"),
    ("examples", "roberta_glue", "roberta_glue"),
    ("xtask", "xtask", "xtask"),
];

/// Files next to the archive: the script that runs it, and those that it uses.
const SCRIPTS: [(&str, &str); 3] = [
    ("run.sh", include_str!("../scripts/gpu_run.sh")),
    ("trace.c", include_str!("../scripts/trace.c")),
    ("trace.py", include_str!("../scripts/trace.py")),
];

/// The maximum size of a pack on a device machine.
const MAX_MIB: u64 = 60;

/// Pack release binaries for CUDA and small inputs into one folder, which another machine runs with run.sh
#[derive(Args)]
pub(crate) struct Arguments {
    /// Folder for the pack; its content is replaced
    #[arg(long, default_value = "gpu-pack")]
    out: PathBuf,
    /// Folder with recorded values for the tests; left out if it does not exist
    #[arg(long, default_value = "../shared/fixtures")]
    fixtures: PathBuf,
    /// Model directory to fine-tune there. The pack then has no tests, because there is no room for both
    #[arg(long, requires = "data", value_name = "DIR")]
    model: Option<PathBuf>,
    /// GLUE directory; only mrpc and cola are packed
    #[arg(long, requires = "model", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Comma-separated Cargo features in addition to cuda, for example autotune
    #[arg(long, value_delimiter = ',')]
    features: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let out = &arguments.out;
    // A folder that this command did not make must not be lost. The check comes before minutes of building.
    ensure!(
        !out.exists() || out.join(SCRIPTS[0].0).is_file(),
        "{} is there and is no earlier pack",
        out.display()
    );
    let built = build(&arguments.features)?;
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| out.display().to_string())?;
    }
    let content = out.join("content");
    let has_tests = arguments.model.is_none();
    let packed = built
        .iter()
        .filter(|(_, name)| has_tests || !name.starts_with("tests/"));
    for (path, name) in packed {
        let to = content.join(name);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        // Copying keeps the execute permission.
        fs::copy(path, &to).with_context(|| path.display().to_string())?;
        tool(Command::new("strip").arg(&to))?;
    }
    if has_tests && arguments.fixtures.is_dir() {
        copy(&arguments.fixtures, &content.join("fixtures"))?;
    }
    if let (Some(model), Some(data)) = (&arguments.model, &arguments.data) {
        copy(model, &content.join("model"))?;
        for task in ["mrpc", "cola"] {
            copy(&data.join(task), &content.join("data").join(task))?;
        }
    }
    // The binaries share most of their code. A compression window over all of them finds it.
    let archive = out.join("pack.tar.xz");
    tool(
        Command::new("tar")
            .args(["--create", "--use-compress-program"])
            .arg("xz --threads=1 --lzma2=preset=4,dict=512MiB")
            .arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(&content)
            .arg("."),
    )?;
    fs::remove_dir_all(&content)?;
    for (name, text) in SCRIPTS {
        fs::write(out.join(name), text)?;
    }
    let mib = fs::metadata(&archive)?.len() >> 20;
    ensure!(
        mib < MAX_MIB,
        "{}: {mib} MiB, more than the {MAX_MIB} MiB that a pack may have",
        archive.display()
    );
    say(format!(
        "{} ({mib} MiB); there: bash {0}/run.sh",
        out.display()
    ));
    Ok(())
}

/// Builds the binaries in one call, so that Cargo unifies their features once. Returns their paths and names in the pack.
fn build(features: &[String]) -> Result<Vec<(PathBuf, &'static str)>> {
    let features = features
        .iter()
        .fold("cuda".to_owned(), |all, f| all + "," + f);
    let output = Command::new(env!("CARGO"))
        .args(["build", "--release", "--workspace", "--features", &features])
        .args(["--message-format", "json-render-diagnostics"])
        .args(["--bin", "xtask", "--example", "roberta_glue"])
        .args(["--test", "backends", "--test", "training"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "the build failed");
    let messages: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let built = BINARIES.iter().map(|(package, target, name)| {
        let found = messages.iter().find_map(|m| executable(m, package, target));
        let path = found.with_context(|| format!("cargo built no {target} of {package}"))?;
        Ok((path, *name))
    });
    built.collect()
}

/// The executable that a Cargo message announces, if it is this target's.
fn executable(message: &Value, package: &str, target: &str) -> Option<PathBuf> {
    let id = message["package_id"].as_str()?;
    // path+file:///somewhere/vblora-bench#0.1.0
    let is_package = id.rsplit('/').next()?.split('#').next()? == package;
    (is_package && message["target"]["name"] == target)
        .then(|| message["executable"].as_str().map(PathBuf::from))?
}

/// Copies a file, or a folder with its content.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    tool(
        Command::new("cp")
            .args([
                "--recursive",
                "--dereference",
                "--no-preserve=mode,ownership",
            ])
            .arg("--")
            .arg(from)
            .arg(to),
    )?;
    Ok(())
}

fn tool(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("{name} failed ({status})"),
        Err(e) => bail!("cannot run {name}: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_executable_is_known_by_package_and_target() {
        let message = |id: &str, name: &str| json!({"package_id": id, "target": {"name": name}, "executable": "/x/backends-1f"});
        let of = |m: &Value| executable(m, "vblora", "backends");
        assert_eq!(
            of(&message("path+file:///w/vblora#0.1.0", "backends")),
            Some("/x/backends-1f".into())
        );
        assert_eq!(
            of(&message("path+file:///w/vblora-models#0.1.0", "backends")),
            None
        );
        assert_eq!(of(&message("path+file:///w/vblora#0.1.0", "cli")), None);
        assert_eq!(of(&json!({"reason": "build-finished"})), None);
    }
}
