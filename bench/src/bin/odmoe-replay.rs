//! Prints hit rates and predictor recall of recorded routing traces, as Markdown tables.
#![forbid(unsafe_code)]

use clap::Parser;
use odmoe_bench::belady::belady;
use odmoe_bench::foreseen::{Predictor, foresight_by_layer};
use odmoe_bench::judge::Foresight;
use odmoe_bench::policies::Policy;
use odmoe_bench::recall;
use odmoe_bench::replay::replay;
use odmoe_bench::steps::Steps;
use odmoe_bench::trace::{Ranking, TraceShape};
use std::error::Error;
use std::path::{Path, PathBuf};

/// Hit rates of every policy and of Belady's optimum over recorded routing, and the recall of recorded predictions.
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
    #[arg(long, value_delimiter = ',', default_value = "50,25,12.5")]
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
    println!(
        "| trace | budget | slots | policy | hit rate | of the gap |\n|---|---|---|---|---|---|"
    );
    for name in &arguments.names {
        let steps = read(&arguments.traces, &format!("{name}.top8.u8"), shape)?.decode_steps();
        for &percent in &arguments.budgets {
            let slots = ((shape.layers * shape.experts) as f64 * percent / 100.0) as usize;
            print_policies(
                &steps,
                slots.max(steps.widest()),
                &format!("| {name} | {percent} %"),
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
    println!(
        "\n| trace | budget | prediction | recall on misses by layer | wanted of what is read, by layer |\n|---|---|---|---|---|"
    );
    for name in &arguments.names {
        for percent in [25.0, 50.0] {
            let slots = ((shape.layers * shape.experts) as f64 * percent / 100.0) as usize;
            print_foresight(
                &arguments,
                shape,
                name,
                slots,
                &format!("| {name} | {percent} %"),
            )?;
        }
    }
    Ok(())
}

/// Recall on misses at 8 of the recorded gates and of a table of tokens.
fn print_foresight(
    arguments: &Arguments,
    shape: TraceShape,
    name: &str,
    slots: usize,
    row: &str,
) -> Result<(), Box<dyn Error>> {
    let of = |file: &str, shape| read(&arguments.traces, &format!("{name}.{file}.u8"), shape);
    let chosen = of("top8", shape)?;
    let gate = TraceShape {
        layers: shape.layers - 1,
        ..shape
    };
    let (a, b) = (of("predA", gate)?, of("predB", gate)?);
    let ids = std::fs::read(arguments.traces.join(format!("{name}.tokens.u16")))?;
    let ids: Vec<u16> = ids
        .chunks_exact(2)
        .map(|id| u16::from_le_bytes([id[0], id[1]]))
        .collect();
    let predictors = [
        ("predA", Predictor::Gate(&a)),
        ("predB", Predictor::Gate(&b)),
        ("token", Predictor::Token(&ids)),
    ];
    for (predictor, how) in predictors {
        let found = foresight_by_layer(&chosen, &how, Policy::ALL[0], slots, 8);
        let list = |of: fn(Foresight) -> Option<f64>| {
            let shares = found.iter().map(|f| of(*f));
            let shares = shares.map(|s| s.map_or("none".to_owned(), |s| format!("{s:.3}")));
            shares.collect::<Vec<String>>().join(", ")
        };
        let (recall, precision) = (list(Foresight::recall), list(Foresight::precision));
        println!("{row} | {predictor} | {recall} | {precision} |");
    }
    Ok(())
}

fn print_policies(steps: &Steps, slots: usize, row: &str) {
    let best = belady(steps, slots);
    let of = |policy: Policy| replay(policy.policy(slots), steps, slots);
    let lru = of(Policy::ALL[0]);
    for policy in Policy::ALL {
        let (name, found) = (policy.name(), of(policy));
        let (rate, closed) = (found.rate(), 100.0 * found.gap_closed(lru, best));
        println!("{row} | {slots} | {name} | {rate:.4} | {closed:.1} % |");
    }
    println!("{row} | {slots} | Belady | {:.4} | 100 % |", best.rate());
}

fn read(folder: &Path, file: &str, shape: TraceShape) -> Result<Ranking, Box<dyn Error>> {
    let path = folder.join(file);
    let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(
        Ranking::from_bytes(bytes, shape)
            .map_err(|error| format!("{}: {error}", path.display()))?,
    )
}
