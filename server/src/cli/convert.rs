//! `odmoe convert`.

use crate::cli::Failure;
use crate::cli::args::{ConvertArgs, Weights};
use crate::cli::progress::ConversionReporter;
use odmoe_convert::{ConvertOptions, WeightFormat, convert, open_source};

/// Converts, with progress on standard error and the result on standard output.
pub fn run(args: &ConvertArgs) -> Result<(), Failure> {
    let source = open_source(&args.input).map_err(Failure::failed)?;
    let options = ConvertOptions {
        weights: match args.weights {
            Weights::Keep => WeightFormat::Source,
            Weights::Q8_0 => WeightFormat::Q8_0,
        },
        name: args.name.clone(),
        overwrite: args.overwrite,
        ..ConvertOptions::default()
    };
    let reporter = ConversionReporter::new();
    let converted = convert(&*source, &args.output, &options, &reporter);
    reporter.finish();
    let summary = converted.map_err(Failure::failed)?;
    println!("{}", summary.store.display());
    println!("  store     {}", summary.store_bytes);
    println!("  resident  {}", summary.resident_bytes);
    println!(
        "  experts   {} in {} files",
        summary.expert_bytes, summary.experts
    );
    if summary.kept_matrices > 0 {
        println!(
            "  {} matrices stay as they were: their rows are not whole blocks",
            summary.kept_matrices
        );
    }
    println!(
        "serve it with: odmoe serve --model {}",
        summary.store.display()
    );
    Ok(())
}
