//! `odmoe synth`: a random model of a given shape, as a GGUF file or a Hugging Face folder.

use crate::cli::args::{Naming, SynthArgs, SynthRouting};
use crate::cli::progress::ConversionReporter;
use crate::cli::{Failure, terminal};
use crate::model::report::human_count;
use odmoe_convert::random_model::{
    ExpertNaming, GgufOptions, Quantisation, RandomModel, RandomModelError, Routing, WriteOptions,
    Written,
};
use odmoe_formats::{BlockFormat, ByteCount};
use serde_json::json;
use std::path::Path;

/// As many as a store takes.
const MAX_EXPERTS: u64 = 1 << 18;

/// Makes it, with progress on standard error and the result on standard output.
pub fn run(args: &SynthArgs) -> Result<(), Failure> {
    let mut model = shape(args)?;
    let gguf = is_gguf(&args.output);
    let quantisation = args.quant.unwrap_or(match gguf {
        true => Quantisation::Q4KM,
        false => Quantisation::All(BlockFormat::BF16),
    });
    if !gguf {
        model.format = float_format(quantisation)?;
        if args.naming != Naming::Stacked {
            return Err(usage(
                "--naming is for GGUF files; give an --output that ends in .gguf",
            ));
        }
    }
    let reporter = ConversionReporter::of("writing");
    let options = WriteOptions {
        parts: args.split as usize,
        overwrite: args.overwrite,
        progress: &reporter,
    };
    let written = match gguf {
        true => {
            let naming = match args.naming {
                Naming::Stacked => ExpertNaming::Stacked,
                Naming::PerExpert => ExpertNaming::PerExpert,
                Naming::Legacy => ExpertNaming::Legacy,
            };
            let gguf = GgufOptions {
                quantisation,
                naming,
            };
            model.write_gguf(&args.output, gguf, options)
        }
        false => model.write_hugging_face(&args.output, options),
    };
    reporter.finish();
    let written = written.map_err(|error| match error {
        RandomModelError::ReuseTooNarrow(_)
        | RandomModelError::ReuseByChance { .. }
        | RandomModelError::ReuseWithoutExperts => usage(format!("--routing reuse: {error}")),
        other => Failure::failed(other),
    })?;
    terminal::print(&describe(args, &model, quantisation, &written))
}

fn is_gguf(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

fn usage(text: impl Into<String>) -> Failure {
    Failure::Usage(text.into())
}

fn float_format(quantisation: Quantisation) -> Result<BlockFormat, Failure> {
    match quantisation {
        Quantisation::All(format) if format.is_float() => Ok(format),
        other => Err(usage(format!(
            "--quant {other} is for GGUF files; a Hugging Face folder has F32, F16 or BF16"
        ))),
    }
}

/// The preset with what was asked for in its place.
fn shape(args: &SynthArgs) -> Result<RandomModel, Failure> {
    let mut model = args.preset.model();
    let dense = model.experts == 0;
    if dense && (args.experts.is_some() || args.top_k.is_some()) {
        let preset = args.preset.name();
        return Err(usage(format!(
            "{preset} is dense; --experts and --top-k are for the others"
        )));
    }
    if let Some(hidden) = args.hidden {
        model = model.with_hidden(hidden);
    }
    let width = match dense {
        true => &mut model.dense_ffn,
        false => &mut model.expert_ffn,
    };
    *width = args.expert_ffn.unwrap_or(*width);
    model.layers = args.layers.unwrap_or(model.layers);
    model.experts = args.experts.unwrap_or(model.experts);
    // Fewer experts than a token has by default would be no model.
    model.top_k = args.top_k.unwrap_or(model.top_k.min(model.experts));
    model.vocab = args.vocab.unwrap_or(model.vocab);
    model.seed = args.seed;
    model.routing = match args.routing {
        SynthRouting::Uniform => Routing::Uniform,
        SynthRouting::Reuse => Routing::Reuse,
    };
    let checked = model.model_config().check();
    checked.map_err(|error| usage(error.to_string()))?;
    let experts = u64::from(model.layers) * u64::from(model.experts);
    if experts > MAX_EXPERTS {
        return Err(usage(format!(
            "{experts} experts in all are more than the {MAX_EXPERTS} that a model may have; lower --layers or --experts"
        )));
    }
    Ok(model)
}

fn describe(
    args: &SynthArgs,
    model: &RandomModel,
    quantisation: Quantisation,
    written: &Written,
) -> String {
    let first = written.files.first();
    let serve = match is_gguf(&args.output) {
        true => first.map_or(&*args.output, |file| file),
        false => &args.output,
    };
    if args.json {
        let files: Vec<String> = written
            .files
            .iter()
            .map(|f| f.display().to_string())
            .collect();
        let report = json!({
            "output": serve.display().to_string(),
            "files": files,
            "bytes": written.bytes,
            "parameters": written.parameters,
            "architecture": model.family.architecture(),
            "quantisation": quantisation.to_string(),
            "config": model.model_config(),
            "seed": args.seed,
        });
        return format!("{report}\n");
    }
    format!(
        "{}\n  {}, {} parameters, {quantisation}, {} in {} file{}\n\
         serve it with: odmoe serve --model {}\n",
        args.output.display(),
        model.family.architecture(),
        human_count(written.parameters),
        ByteCount(written.bytes),
        written.files.len(),
        if written.files.len() == 1 { "" } else { "s" },
        terminal::shell_word(serve),
    )
}
