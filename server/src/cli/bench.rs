//! `odmoe bench`: the one harness for speed, hit rates and bytes moved, on the engine itself.

mod count;
mod figures;
mod machine;

use crate::cli::answers::Answer;
use crate::cli::args::BenchArgs;
use crate::cli::progress::OpeningReporter;
use crate::cli::{Failure, settings, terminal};
use crate::model::open::{OpenModel, prepare};
use count::{Counter, Counts};
use figures::{Figure, Measured};
use odmoe_engine::{Request, SamplingParams, TokenEvent};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Decides prompts and samples: the same command does the same work.
const SEED: u64 = 0x0d_0e;

/// Measures and prints.
pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    let mut model_args = args.model.clone();
    model_args.max_running = model_args.max_running.max(args.streams);
    let reporter = OpeningReporter::new();
    let show = |progress| reporter.show(&progress);
    let settings = settings::settings(&model_args, None)?;
    let prepared = prepare(settings, &show, reporter.conversion()).map_err(Failure::failed)?;
    let wanted = args.prompt_tokens as usize + args.generate_tokens as usize;
    if wanted > prepared.context_tokens() {
        let room = prepared.context_tokens();
        return Err(Failure::Usage(format!(
            "{} prompt and {} new tokens do not fit into a context of {room}",
            args.prompt_tokens, args.generate_tokens
        )));
    }
    let counter = Arc::new(Counter::default());
    let model = prepared
        .start(counter.clone(), &show)
        .map_err(Failure::failed)?;
    reporter.finish();
    let bench = Bench {
        args,
        text: text_ids(args, &model)?,
        model,
        counter,
    };
    let measured = bench.measure()?;
    bench.print(&measured)
}

/// Token ids of `--text`.
fn text_ids(args: &BenchArgs, model: &OpenModel) -> Result<Option<Vec<u32>>, Failure> {
    let Some(path) = &args.text else {
        return Ok(None);
    };
    let named =
        |error: &dyn std::fmt::Display| Failure::Failed(format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| named(&error))?;
    let ids = model
        .prepared
        .text
        .tokenizer
        .encode(&text, false)
        .map_err(|error| named(&error))?;
    if ids.len() < args.prompt_tokens as usize {
        return Err(named(&format!(
            "only {} tokens, {} are asked for",
            ids.len(),
            args.prompt_tokens
        )));
    }
    Ok(Some(ids))
}

struct Bench<'a> {
    args: &'a BenchArgs,
    model: OpenModel,
    counter: Arc<Counter>,
    text: Option<Vec<u32>>,
}

/// When the tokens of one round came.
struct Round {
    start: Instant,
    /// Of each stream: its tokens' times.
    tokens: Vec<Vec<Instant>>,
    counts: Counts,
}

impl Bench<'_> {
    fn measure(&self) -> Result<Measured, Failure> {
        self.round(0)?;
        let mut measured = Measured::default();
        for repeat in 1..=u64::from(self.args.repeats) {
            measured.add(&self.round(repeat)?, self.args.prompt_tokens);
        }
        Ok(measured)
    }

    fn round(&self, repeat: u64) -> Result<Round, Failure> {
        let before = self.counter.counts();
        let start = Instant::now();
        let answers: Result<Vec<Answer>, Failure> = (0..u64::from(self.args.streams))
            .map(|stream| {
                Answer::of(&self.model.engine, self.request(repeat, stream))
                    .map_err(Failure::failed)
            })
            .collect();
        let mut tokens = Vec::new();
        for answer in answers? {
            let mut times = Vec::new();
            while let Some(timed) = answer.next() {
                match timed.event {
                    TokenEvent::Token { .. } => times.push(timed.at),
                    TokenEvent::Finished { .. } => break,
                    TokenEvent::Failed { error } => return Err(Failure::failed(error)),
                }
            }
            tokens.push(times);
        }
        Ok(Round {
            start,
            tokens,
            counts: self.counter.counts().since(&before),
        })
    }

    /// Sampled at temperature 1, since greedy text falls into loops that flatter a cache; ends by length alone.
    fn request(&self, repeat: u64, stream: u64) -> Request {
        let length = self.args.prompt_tokens as usize;
        let mut random = SplitMix(SEED ^ (repeat << 32) ^ stream);
        let prompt = match &self.text {
            Some(ids) => {
                let first = random.below((ids.len() - length + 1) as u64) as usize;
                ids[first..first + length].to_vec()
            }
            None => {
                let vocabulary = u64::from(self.model.prepared.manifest.config.vocab_size);
                (0..length)
                    .map(|_| random.below(vocabulary) as u32)
                    .collect()
            }
        };
        Request {
            prompt,
            sampling: SamplingParams {
                seed: SEED ^ repeat,
                choice: stream as u32,
                ..SamplingParams::default()
            },
            max_new_tokens: self.args.generate_tokens,
            stop_token_ids: Vec::new(),
            logprobs: None,
        }
    }

    fn print(&self, measured: &Measured) -> Result<(), Failure> {
        let prepared = &self.model.prepared;
        let report = json!({
            "prefill_tokens_per_s": measured.prefill_tokens_per_s.json(),
            "decode_tokens_per_s": measured.decode_tokens_per_s.json(),
            "ttft_s": measured.ttft_s.json(),
            "hit_rate_prefill": measured.hit_rate_prefill.json(),
            "hit_rate_decode": measured.hit_rate_decode.json(),
            "bytes_read": measured.bytes_read.json(),
            "stall_s": measured.stall_s.json(),
            "peak_rss_bytes": machine::peak_rss_bytes(Path::new("/")),
            "expert_cache_bytes": prepared.plan.experts.0,
            "threads": prepared.settings.threads,
            "model": prepared.name(),
            "commit": machine::commit(),
            "machine": machine::describe(Path::new("/")),
        });
        if self.args.json {
            return terminal::print(&format!("{report}\n"));
        }
        terminal::print(&self.human(measured))
    }

    fn human(&self, measured: &Measured) -> String {
        let line = |name: &str, figure: &Figure, unit: &str| {
            format!("  {name:<9} {}\n", figure.human(unit))
        };
        [
            format!(
                "{} on {}\n",
                self.model.prepared.name(),
                machine::describe(Path::new("/"))
            ),
            line("prefill", &measured.prefill_tokens_per_s, "tokens/s"),
            line("decode", &measured.decode_tokens_per_s, "tokens/s"),
            line("first", &measured.ttft_s, "s to the first token"),
            line("hits", &measured.hit_rate_prefill, "of lookups in prefill"),
            line("", &measured.hit_rate_decode, "of lookups in decode"),
            line("read", &measured.bytes_read, "bytes"),
            line("stalled", &measured.stall_s, "s"),
            format!(
                "  {} streams, {} repeats; median (least to most)\n",
                self.args.streams, self.args.repeats
            ),
        ]
        .concat()
    }
}

/// Sebastiano Vigna's SplitMix64: enough for prompts.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        ((u128::from(mixed) * u128::from(bound)) >> 64) as u64
    }
}
