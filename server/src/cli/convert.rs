//! `odmoe convert`.

use crate::cli::args::{ConvertArgs, Weights};
use crate::cli::progress::ConversionReporter;
use crate::cli::{Failure, terminal};
use odmoe_convert::{ConvertOptions, Summary, WeightFormat, convert, open_source};

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
    terminal::print(&describe(&summary))
}

fn describe(summary: &Summary) -> String {
    let store = summary.store.display();
    let kept = match summary.kept_matrices {
        0 => String::new(),
        kept => format!("  {kept} matrices stay as they were: their rows are not whole blocks\n"),
    };
    format!(
        "{store}\n  store     {}\n  resident  {}\n  experts   {} in {} files\n{kept}\
         serve it with: odmoe serve --model {store}\n",
        summary.store_bytes, summary.resident_bytes, summary.expert_bytes, summary.experts
    )
}
