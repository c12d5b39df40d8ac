//! The options of `odmoe trace`.

use super::GenerateArgs;
use clap::{Args, Subcommand};
use odmoe_bench::policies::Policy;
use std::path::PathBuf;

/// `odmoe trace`.
#[derive(Args, Clone, Debug)]
pub struct TraceArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: TraceCommand,
}

/// What to do with traces.
#[derive(Clone, Debug, Subcommand)]
pub enum TraceCommand {
    /// Answer prompts and record which experts they are routed to. `odmoe serve --record-trace FILE` records a server.
    Record(Box<GenerateArgs>),
    /// Replay one policy over a trace.
    Replay(ReplayArgs),
    /// Compare policies over a range of budgets beside the best that any could do.
    Compare(CompareArgs),
}

/// `odmoe trace replay`.
#[derive(Args, Clone, Debug)]
pub struct ReplayArgs {
    /// A trace.
    #[arg(value_name = "FILE")]
    pub trace: PathBuf,

    /// lru, next-turn, decayed-frequency, lfru or s3-fifo.
    #[arg(long, value_name = "POLICY", default_value = "next-turn")]
    pub eviction: Policy,

    /// Memory for experts, in percent of all of them; may be a list.
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', default_value = "12.5,25,50", value_parser = percent)]
    pub budgets: Vec<f64>,

    /// Predictions that are followed of each hint, a row for each number.
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "1,2,4,8,16"
    )]
    pub predictions: Vec<usize>,

    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// `odmoe trace compare`.
#[derive(Args, Clone, Debug)]
pub struct CompareArgs {
    /// A trace.
    #[arg(value_name = "FILE")]
    pub trace: PathBuf,

    /// The policies. [default: all]
    #[arg(long, value_name = "POLICY", value_delimiter = ',')]
    pub policies: Vec<Policy>,

    /// Memory for experts, in percent of all of them.
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', default_value = "6.25,12.5,25,37.5,50,75,100", value_parser = percent)]
    pub budgets: Vec<f64>,

    /// Draw hit rate over budget into this file, as SVG.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,

    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|n| *n > 0.0 && *n <= 100.0);
    number.ok_or_else(|| format!("{text:?} is no percentage above 0 and up to 100"))
}
