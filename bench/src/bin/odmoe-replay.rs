//! Prints hit rates and predictor recall of recorded routing traces, as Markdown tables.
#![forbid(unsafe_code)]

use clap::Parser;
use odmoe_bench::trace::{Ranking, TraceShape};
use odmoe_bench::{belady, recall, replay};
use std::error::Error;
use std::path::{Path, PathBuf};

/// Hit rates of LRU and of Belady's optimum over recorded routing, and the recall of recorded predictions.
#[derive(Parser)]
struct Arguments {
    /// Folder with NAME.top8.u8 and, for recall, NAME.predA.u8 and NAME.predB.u8
    traces: PathBuf,
    /// The traces in it, by name
    #[arg(long, value_delimiter = ',', default_value = "heldout,heldout_chat")]
    names: Vec<String>,
    /// Sparse layers of the traced model
    #[arg(long, default_value_t = 6)]
    layers: usize,
    /// Experts a layer
    #[arg(long, default_value_t = 32)]
    experts: usize,
    /// Experts recorded for each token and layer
    #[arg(long, default_value_t = 8)]
    ranked: usize,
    /// Of them, experts that the token was sent to
    #[arg(long, default_value_t = 4)]
    active: usize,
    /// Cache sizes in percent of all experts
    #[arg(long, value_delimiter = ',', default_value = "100,50,25,12.5")]
    budgets: Vec<f64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let shape = TraceShape {
        layers: arguments.layers,
        ranked: arguments.ranked,
        active: arguments.active,
        experts: arguments.experts,
    };
    println!("| trace | budget | slots | LRU | Belady |\n|---|---|---|---|---|");
    for name in &arguments.names {
        let uses = read(&arguments.traces, &format!("{name}.top8.u8"), shape)?.decode_order();
        for &percent in &arguments.budgets {
            let slots = ((shape.layers * shape.experts) as f64 * percent / 100.0) as usize;
            let (lru, best) = (
                replay::lru(&uses, slots.max(1)),
                belady::belady(&uses, slots.max(1)),
            );
            println!(
                "| {name} | {percent} % | {slots} | {:.4} | {:.4} |",
                lru.rate(),
                best.rate()
            );
        }
    }
    println!(
        "\n| trace | prediction | recall@4 | recall@6 | recall@8 | recall@8 by layer |\n|---|---|---|---|---|---|"
    );
    for name in &arguments.names {
        let chosen = read(&arguments.traces, &format!("{name}.top8.u8"), shape)?;
        for kind in ["predA", "predB"] {
            let shape = TraceShape {
                layers: shape.layers - 1,
                ..shape
            };
            let predicted = read(&arguments.traces, &format!("{name}.{kind}.u8"), shape)?;
            let mean = |k| recall::recall_at(&chosen, &predicted, k).mean();
            let by_layer = recall::recall_at(&chosen, &predicted, 8).by_layer;
            let by_layer: Vec<String> =
                by_layer.iter().map(|share| format!("{share:.3}")).collect();
            let (at4, at6, at8) = (mean(4), mean(6), mean(8));
            println!(
                "| {name} | {kind} | {at4:.4} | {at6:.4} | {at8:.4} | {} |",
                by_layer.join(", ")
            );
        }
    }
    Ok(())
}

fn read(folder: &Path, file: &str, shape: TraceShape) -> Result<Ranking, Box<dyn Error>> {
    let path = folder.join(file);
    let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(
        Ranking::from_bytes(bytes, shape)
            .map_err(|error| format!("{}: {error}", path.display()))?,
    )
}
