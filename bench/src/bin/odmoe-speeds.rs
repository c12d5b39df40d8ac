//! Measures a model at several expert-cache budgets by `odmoe bench`, as a Markdown table.
#![forbid(unsafe_code)]

use clap::Parser;
use serde_json::Value;
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

/// Runs `odmoe bench --json` once for each budget and prints a row for each.
#[derive(Parser)]
struct Arguments {
    /// The odmoe binary, a release build
    odmoe: PathBuf,
    /// The model: a store or a Hugging Face folder
    model: PathBuf,
    /// Expert-cache budgets
    #[arg(long, value_delimiter = ',', default_value = "100%,50%,25%,12.5%")]
    budgets: Vec<String>,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 256)]
    prompt_tokens: usize,
    /// Tokens generated after it
    #[arg(long, default_value_t = 128)]
    generate_tokens: usize,
    /// Requests at once
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Measured runs, of which the median counts
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Further flags for `odmoe bench`, after `--`
    #[arg(last = true)]
    flags: Vec<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    println!(
        "| budget | prefill tokens/s | decode tokens/s | hit rate, prefill | hit rate, decode | MiB read | stall, s | peak RSS, MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut made_by = None;
    for budget in &arguments.budgets {
        let run = measure(&arguments, budget)?;
        let median = |name: &str| {
            run[name]["median"]
                .as_f64()
                .ok_or(format!("no {name} in {run}"))
        };
        const MIB: f64 = 1048576.0;
        println!(
            "| {budget} | {:.0} | {:.0} | {:.3} | {:.3} | {:.1} | {:.3} | {:.0} |",
            median("prefill_tokens_per_s")?,
            median("decode_tokens_per_s")?,
            median("hit_rate_prefill")?,
            median("hit_rate_decode")?,
            median("bytes_read")? / MIB,
            median("stall_s")?,
            run["peak_rss_bytes"].as_f64().ok_or("no peak_rss_bytes")? / MIB,
        );
        made_by = Some(format!(
            "commit {}, {}, {} threads",
            run["commit"], run["machine"], run["threads"]
        ));
    }
    println!("\n{}", made_by.ok_or("no budgets")?.replace('"', ""));
    Ok(())
}

/// One line of JSON from one run.
fn measure(arguments: &Arguments, budget: &str) -> Result<Value, Box<dyn Error>> {
    let output = Command::new(&arguments.odmoe)
        .arg("bench")
        .arg("--model")
        .arg(&arguments.model)
        .args(["--expert-cache", budget, "--json"])
        .args(["--prompt-tokens", &arguments.prompt_tokens.to_string()])
        .args(["--generate-tokens", &arguments.generate_tokens.to_string()])
        .args(["--streams", &arguments.streams.to_string()])
        .args(["--repeats", &arguments.repeats.to_string()])
        .args(&arguments.flags)
        .output()
        .map_err(|error| format!("{}: {error}", arguments.odmoe.display()))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
