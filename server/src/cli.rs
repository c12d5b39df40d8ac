//! The command line: one definition of every option, and what each command does.

mod access;
mod answers;
pub mod args;
mod bench;
mod convert;
mod generate;
mod inspect;
mod pack;
mod progress;
mod quiet;
mod serve;
mod settings;
mod synth;
mod terminal;
mod trace;

use crate::config::file::{self, ConfigFileError};
use args::{Cli, Command};
use clap::{CommandFactory, FromArgMatches};
use std::ffi::OsString;
use std::process::ExitCode;

/// A command that did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// It ran and failed: exit code 1.
    Failed(String),
    /// It was called wrongly: exit code 2.
    Usage(String),
    /// Standard output was closed by its reader, who has what he wanted: exit code 0.
    NobodyReads,
}

impl Failure {
    /// From any error, with its causes.
    pub fn failed(error: impl std::error::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Runs the program. Exit codes: 0 done, 1 failed, 2 wrong usage.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match parse(with_default_command(arguments)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come as errors too; clap knows their exit codes.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let outcome = match &cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Trace(args) => trace::run(args),
        Command::Synth(args) => synth::run(args),
        Command::Pack(args) => pack::run(args),
    };
    match outcome {
        Ok(()) | Err(Failure::NobodyReads) => ExitCode::SUCCESS,
        Err(Failure::Failed(message)) => {
            terminal::error(&message);
            ExitCode::FAILURE
        }
        Err(Failure::Usage(message)) => {
            terminal::error(&message);
            ExitCode::from(2)
        }
    }
}

/// `odmoe` and `odmoe --port 9000` serve.
fn with_default_command(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let is_command = |first: &OsString| {
        let first = first.to_string_lossy();
        !first.starts_with('-') || matches!(&*first, "-h" | "--help" | "-V" | "--version")
    };
    if !arguments.get(1).is_some_and(is_command) {
        arguments.insert(arguments.len().min(1), "serve".into());
    }
    arguments
}

/// Parses twice: the first pass finds the configuration file, whose values are the defaults of the second.
fn parse(arguments: Vec<OsString>) -> Result<Cli, clap::Error> {
    let first = Cli::command().try_get_matches_from(&arguments)?;
    let cli = Cli::from_arg_matches(&first)?;
    if !cli.command.is_configurable() {
        return Ok(cli);
    }
    let named = cli.command.config_file();
    let path = match &named {
        Some(path) => Some(path.clone()),
        None => file::default_path(&|name| std::env::var_os(name)).filter(|path| path.exists()),
    };
    let Some(path) = path else {
        return Cli::from_arg_matches(&first);
    };
    let usage =
        |error: ConfigFileError| Cli::command().error(clap::error::ErrorKind::InvalidValue, error);
    let pairs = file::read(&path).map_err(usage)?;
    let command = file::apply(Cli::command(), &path, &pairs).map_err(usage)?;
    let matches = command.try_get_matches_from(&arguments).map_err(|error| {
        let text = error.to_string();
        let text = text
            .trim_start_matches("error: ")
            .lines()
            .next()
            .unwrap_or_default();
        Cli::command().error(error.kind(), format!("{}: {text}", path.display()))
    })?;
    Cli::from_arg_matches(&matches)
}
