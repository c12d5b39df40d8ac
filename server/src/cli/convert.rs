//! `odmoe convert`.

use crate::cli::args::{ConvertArgs, Layout, Weights};
use crate::cli::progress::ConversionReporter;
use crate::cli::{Failure, terminal};
use crate::model::settings::fastest_layout;
use odmoe_convert::{ConvertOptions, Summary, WeightFormat, convert, open_source};
use odmoe_formats::{ByteCount, WeightLayout};

/// Converts, with progress on standard error and the result on standard output.
pub fn run(args: &ConvertArgs) -> Result<(), Failure> {
    let source = open_source(&args.input).map_err(Failure::failed)?;
    let options = ConvertOptions {
        weights: match args.weights {
            Weights::Keep => WeightFormat::Source,
            Weights::Q8_0 => WeightFormat::Q8_0,
        },
        layout: match args.layout {
            Layout::Auto => fastest_layout(None),
            Layout::Rows => WeightLayout::RowMajor,
            Layout::Lanes => WeightLayout::Lanes16,
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
    let stays = |count, why| match count {
        0 => String::new(),
        count => format!("  {count} matrices stay as they were: {why}\n"),
    };
    let kept = stays(summary.kept_matrices, "their rows are not whole blocks");
    let already = stays(summary.quantised_already, "they are quantised already");
    let reused = match summary.reused_bytes {
        ByteCount(0) => String::new(),
        reused => format!("  reused    {reused} of a stopped conversion\n"),
    };
    format!(
        "{store}\n  store     {}\n  resident  {}\n  experts   {} in {} files\n{reused}{kept}{already}\
         serve it with: odmoe serve --model {}\n",
        summary.store_bytes,
        summary.resident_bytes,
        summary.expert_bytes,
        summary.experts,
        terminal::shell_word(&summary.store),
    )
}
