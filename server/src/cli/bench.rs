//! `odmoe bench`: the one harness for speed, hit rates and bytes moved, on the engine itself.

mod count;
mod disk;
mod figures;
mod machine;
mod work;

use crate::cli::answers::Answer;
use crate::cli::args::BenchArgs;
use crate::cli::progress::OpeningReporter;
use crate::cli::{Failure, settings, terminal};
use crate::model::open::{OpenModel, prepare};
use count::{Counter, Counts};
use disk::DiskRounds;
use figures::{Figure, Measured};
use odmoe_engine::{ClientId, Request, SamplingParams, TokenEvent};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
pub use work::Work;

/// Decides prompts and samples: the same command does the same work.
const SEED: u64 = 0x0d_0e;

/// Measures and prints.
pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    let works = works(args);
    let most = |of: fn(&Work) -> u32| works.iter().map(of).max().expect("at least one");
    let mut model_args = args.model.clone();
    model_args.max_running = model_args.max_running.max(most(|work| work.streams));
    // Every prompt is to be computed whole.
    model_args.no_prefix_cache = true;
    let reporter = OpeningReporter::new();
    let show = |progress| reporter.show(&progress);
    let settings = settings::settings(&model_args, None)?;
    let prepared = prepare(settings, &show, reporter.conversion()).map_err(Failure::failed)?;
    if args.disk && args.work.is_empty() {
        reporter.finish();
        return disk::run(&prepared, args.repeats, args.json);
    }
    let room = prepared.context_tokens();
    if let Some(work) = works.iter().find(|work| work.context_tokens() > room) {
        return Err(Failure::Usage(format!(
            "{} prompt and {} new tokens do not fit into a context of {room}",
            work.prompt_tokens, work.generate_tokens
        )));
    }
    let counter = Arc::new(Counter::new(&prepared.manifest.objects));
    let model = prepared
        .start(counter.clone(), &show)
        .map_err(Failure::failed)?;
    reporter.finish();
    let disk = match args.disk {
        true => Some(DiskRounds::new(
            &model.prepared,
            &model.reader,
            model.reading,
        )?),
        false => None,
    };
    let mut bench = Bench {
        disk,
        args,
        text: text_ids(args, most(|work| work.prompt_tokens), &model)?,
        model,
        counter,
    };
    bench.round(works[0], 0)?;
    for work in works {
        let measured = bench.measure(work)?;
        bench.print(work, &measured)?;
    }
    Ok(())
}

/// What to measure, in order; at least one.
fn works(args: &BenchArgs) -> Vec<Work> {
    if !args.work.is_empty() {
        return args.work.clone();
    }
    vec![Work {
        streams: args.streams,
        prompt_tokens: args.prompt_tokens,
        generate_tokens: args.generate_tokens,
    }]
}

/// Token ids of `--text`, enough for a prompt of `length`.
fn text_ids(args: &BenchArgs, length: u32, model: &OpenModel) -> Result<Option<Vec<u32>>, Failure> {
    let Some(path) = &args.text else {
        return Ok(None);
    };
    let named =
        |error: &dyn std::fmt::Display| Failure::Failed(format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| named(&error))?;
    let ids = model
        .text
        .tokenizer
        .encode(&text, false)
        .map_err(|error| named(&error))?;
    if ids.len() < length as usize {
        return Err(named(&format!(
            "only {} tokens, {length} are asked for",
            ids.len()
        )));
    }
    Ok(Some(ids))
}

struct Bench<'a> {
    disk: Option<DiskRounds>,
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
    fn measure(&mut self, work: Work) -> Result<Measured, Failure> {
        let mut measured = Measured::default();
        self.disk.iter_mut().for_each(DiskRounds::clear);
        for repeat in 1..=u64::from(self.args.repeats) {
            if let Some(disk) = &mut self.disk {
                disk.round()?;
            }
            measured.add(&self.round(work, repeat)?, work.prompt_tokens);
        }
        Ok(measured)
    }

    fn round(&self, work: Work, repeat: u64) -> Result<Round, Failure> {
        let before = self.counter.counts();
        let start = Instant::now();
        let answers: Result<Vec<Answer>, Failure> = (0..u64::from(work.streams))
            .map(|stream| {
                Answer::of(&self.model.engine, self.request(work, repeat, stream))
                    .map_err(Failure::failed)
            })
            .collect();
        let mut tokens = Vec::new();
        for answer in answers? {
            let mut times = Vec::new();
            while let Some(timed) = answer.next() {
                match timed.event {
                    TokenEvent::Prefilled { .. } => {}
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
    fn request(&self, work: Work, repeat: u64, stream: u64) -> Request {
        let length = work.prompt_tokens as usize;
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
            client: ClientId::default(),
            prompt,
            sampling: SamplingParams {
                seed: SEED ^ repeat,
                choice: stream as u32,
                ..SamplingParams::default()
            },
            max_new_tokens: work.generate_tokens,
            stop_token_ids: Vec::new(),
            logprobs: None,
            rules: None,
        }
    }

    fn print(&self, work: Work, measured: &Measured) -> Result<(), Failure> {
        let prepared = &self.model.prepared;
        let mut report = json!({
            "streams": work.streams,
            "prompt_tokens": work.prompt_tokens,
            "generate_tokens": work.generate_tokens,
            "prefill_tokens_per_s": measured.prefill_tokens_per_s.json(),
            "decode_tokens_per_s": measured.decode_tokens_per_s.json(),
            "ttft_s": measured.ttft_s.json(),
            "hit_rate_prefill": measured.hit_rate_prefill.json(),
            "hit_rate_decode": measured.hit_rate_decode.json(),
            "missed_bytes_prefill": measured.missed_bytes_prefill.json(),
            "missed_bytes_decode": measured.missed_bytes_decode.json(),
            "bytes_read": measured.bytes_read.json(),
            "prefetch_used_bytes": measured.prefetch_used_bytes.json(),
            "prefetch_wasted_bytes": measured.prefetch_wasted_bytes.json(),
            "recall_on_misses": measured.recall_on_misses.json(),
            "stall_s": measured.stall_s.json(),
            "peak_rss_bytes": machine::peak_rss_bytes(Path::new("/")),
            "expert_cache_bytes": prepared.plan.experts.0,
            "threads": prepared.settings.threads,
            "model": prepared.name(),
            "commit": machine::commit(),
            "machine": machine::describe(Path::new("/")),
        });
        if let (Some(disk), Value::Object(fields)) = (&self.disk, &mut report) {
            fields.extend(disk.json());
        }
        if self.args.json {
            return terminal::print(&format!("{report}\n"));
        }
        terminal::print(&self.human(work, measured))
    }

    fn human(&self, work: Work, measured: &Measured) -> String {
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
            line("ahead", &measured.prefetch_used_bytes, "bytes, used"),
            line("", &measured.prefetch_wasted_bytes, "bytes, for nothing"),
            line("", &measured.recall_on_misses, "of misses predicted"),
            line("stalled", &measured.stall_s, "s"),
            self.disk.as_ref().map_or(String::new(), DiskRounds::human),
            format!(
                "  {} streams of {} and {} tokens, {} repeats; median (least to most)\n",
                work.streams, work.prompt_tokens, work.generate_tokens, self.args.repeats
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
