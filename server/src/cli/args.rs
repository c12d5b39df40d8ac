//! Every option of the command line, which is also every option of the environment and of the configuration file.

mod reading;
mod serve;
mod trace;

pub use reading::ReadArgs;
pub use serve::{AccessArgs, ListenArgs, LogFormat, ServeArgs, TimeArgs};
pub use trace::{CompareArgs, ReplayArgs, TraceArgs, TraceCommand};

use crate::cli::bench::Work;
use crate::config::{
    ByteSize, ExpertCacheSize, KvCacheSize, Seconds, parse_kernels, parse_kv_format,
};
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use odmoe_backend::KvFormat;
use odmoe_backend_cpu::KernelSet;
use odmoe_convert::random_model::{Preset, Quantisation};
use odmoe_expert_store::residency::eviction::Eviction;
use odmoe_formats::BlockFormat;
use std::path::PathBuf;

/// Serves mixture-of-experts language models that do not fit in memory: the experts are paged in and out.
///
/// Without a command it serves the small embedded model on 127.0.0.1:8000.
#[derive(Debug, Parser)]
#[command(name = "odmoe", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a model over HTTP, as OpenAI's API.
    Serve(Box<ServeArgs>),
    /// Continue one prompt, or each prompt of a file.
    Generate(Box<GenerateArgs>),
    /// Convert a GGUF file or a Hugging Face folder to a store that can be paged from.
    Convert(ConvertArgs),
    /// Say what is in a model: a store, a GGUF file or a Hugging Face folder.
    Inspect(InspectArgs),
    /// Measure a model on this machine.
    Bench(Box<BenchArgs>),
    /// Record which experts a model uses, and judge eviction policies and predictions by it.
    Trace(TraceArgs),
    /// Make a random model of a given shape.
    Synth(SynthArgs),
    /// Pack a store into one deterministic archive: how the embedded model is made.
    #[command(hide = true)]
    Pack(PackArgs),
}

impl Command {
    /// The configuration file that was named.
    pub fn config_file(&self) -> Option<PathBuf> {
        match self {
            Self::Serve(args) => args.model.config.clone(),
            Self::Generate(args) => args.model.config.clone(),
            Self::Bench(args) => args.model.config.clone(),
            Self::Convert(_)
            | Self::Inspect(_)
            | Self::Trace(_)
            | Self::Synth(_)
            | Self::Pack(_) => None,
        }
    }

    /// Whether the configuration file has a say.
    pub fn is_configurable(&self) -> bool {
        matches!(self, Self::Serve(_) | Self::Generate(_) | Self::Bench(_))
    }
}

/// Which model, and what it may use.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model and memory")]
pub struct ModelArgs {
    /// A store made by `odmoe convert`, or a GGUF file or Hugging Face folder, which is converted once into the cache folder.
    /// Without it, the small embedded model.
    #[arg(long, env = "ODMOE_MODEL", value_name = "PATH")]
    pub model: Option<PathBuf>,

    /// Memory for experts: auto (all, or what the memory limit leaves), a size (128MiB, 6GB), or a share of all experts
    /// (25%). [default: auto; 25% for the embedded model]
    #[arg(long, env = "ODMOE_EXPERT_CACHE", value_name = "auto|SIZE|PERCENT")]
    pub expert_cache: Option<ExpertCacheSize>,

    /// Keep the whole process within this, besides what the machine and its control groups allow.
    #[arg(long, env = "ODMOE_MEMORY_LIMIT", value_name = "SIZE")]
    pub memory_limit: Option<ByteSize>,

    /// The KV cache: auto, a number of tokens, or a size.
    #[arg(
        long,
        env = "ODMOE_KV_CACHE",
        value_name = "auto|TOKENS|SIZE",
        default_value = "auto"
    )]
    pub kv_cache: KvCacheSize,

    /// How keys and values are stored. q8_0 takes 17/32 of f16's memory, for heads of a multiple of 32.
    #[arg(long, env = "ODMOE_KV_FORMAT", value_name = "f16|f32|q8_0", default_value = "f16", value_parser = parse_kv_format)]
    pub kv_format: KvFormat,

    /// Sequences that run at once.
    #[arg(long, env = "ODMOE_MAX_RUNNING", value_name = "N", default_value_t = 8, value_parser = positive(1024))]
    pub max_running: u32,

    /// Requests that may wait; more are refused with 429.
    #[arg(long, env = "ODMOE_MAX_QUEUE", value_name = "N", default_value_t = 64, value_parser = positive(1 << 20))]
    pub max_queue: u32,

    /// Prompt tokens that are worked on at once. [default: 512, or fewer where memory is short]
    #[arg(long, env = "ODMOE_PREFILL_CHUNK", value_name = "TOKENS", value_parser = positive(1 << 16))]
    pub prefill_chunk: Option<u32>,

    /// Threads that compute. [default: one a processor]
    #[arg(long, env = "ODMOE_THREADS", value_name = "N", value_parser = positive(1024))]
    pub threads: Option<u32>,

    /// CPU kernels: reference, portable, avx2, avx512, amx or neon; all give the same bits. [default: the fastest]
    #[arg(long, env = "ODMOE_CPU", value_name = "KERNELS", value_parser = parse_kernels)]
    pub cpu: Option<KernelSet>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub reading: ReadArgs,

    /// Give up on a read after this many seconds.
    #[arg(
        long,
        env = "ODMOE_READ_TIMEOUT",
        value_name = "SECONDS",
        default_value = "30"
    )]
    pub read_timeout: Seconds,

    /// Do not read experts ahead of demand.
    #[arg(long, env = "ODMOE_NO_PREFETCH", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub no_prefetch: bool,

    /// Which expert leaves memory when another needs its place: next-turn or lru.
    #[arg(long, env = "ODMOE_EVICTION", value_name = "POLICY", default_value_t = Eviction::default())]
    pub eviction: Eviction,

    /// A file of experts that stay in memory: LAYERS or LAYERS:EXPERTS a line, such as 0-3 or 5:0,7,12-15.
    #[arg(long, env = "ODMOE_PIN_EXPERTS", value_name = "FILE")]
    pub pin_experts: Option<PathBuf>,

    /// Record which experts are asked for in this file, for `odmoe trace`. No token and no text is in it.
    #[arg(long, env = "ODMOE_RECORD_TRACE", value_name = "FILE")]
    pub record_trace: Option<PathBuf>,

    /// Compute every prompt whole, even if an earlier one began alike.
    #[arg(long, env = "ODMOE_NO_PREFIX_CACHE", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub no_prefix_cache: bool,

    /// Let every API key profit from what was computed for the others. Whoever measures how long a first token takes
    /// then learns which prompts others have sent.
    #[arg(long, env = "ODMOE_SHARE_PREFIX_CACHE", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub share_prefix_cache: bool,

    /// Where converted models are kept. [default: odmoe in the user's cache folder]
    #[arg(long, env = "ODMOE_STORE_DIR", value_name = "FOLDER")]
    pub store_dir: Option<PathBuf>,

    /// A TOML file whose keys are these flags without dashes. [default: odmoe/config.toml in the user's configuration
    /// folder, if there is one]
    #[arg(long, env = "ODMOE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `odmoe generate`.
#[derive(Args, Clone, Debug)]
pub struct GenerateArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,

    /// The prompt.
    #[arg(
        long,
        value_name = "TEXT",
        required_unless_present = "prompts",
        conflicts_with = "prompts"
    )]
    pub prompt: Option<String>,

    /// A file with one prompt a line, JSON strings or plain; - is standard input. Answers come in the same order.
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,

    /// Take the prompt as a user's message and apply the model's chat template.
    #[arg(long)]
    pub chat: bool,

    /// New tokens at most.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = positive(1 << 20))]
    pub max_tokens: u32,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub sampling: SamplingArgs,

    /// End at this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,

    /// Print one JSON object a prompt, with token ids, in place of text.
    #[arg(long)]
    pub json: bool,
}

/// How the next token is chosen. What is not given comes from the model's makers.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// 0 takes the most likely token.
    #[arg(long, value_name = "T", value_parser = parse_within::<0, 2>)]
    pub temperature: Option<f32>,

    /// Keep the smallest set whose probability reaches this.
    #[arg(long, value_name = "P", value_parser = parse_within::<0, 1>)]
    pub top_p: Option<f32>,

    /// Keep the k most likely; 0 keeps all.
    #[arg(long, value_name = "K")]
    pub top_k: Option<u32>,

    /// Keep tokens at least this fraction as likely as the most likely.
    #[arg(long, value_name = "P", value_parser = parse_within::<0, 1>)]
    pub min_p: Option<f32>,

    /// Decides every random number.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub seed: u64,
}

/// `odmoe convert`.
#[derive(Args, Clone, Debug)]
pub struct ConvertArgs {
    /// A GGUF file (any one of a set), or a Hugging Face folder with config.json, safetensors and tokenizer.
    pub input: PathBuf,

    /// The store to make; must not exist, or be empty, unless --overwrite is given.
    pub output: PathBuf,

    /// How weights are stored: as they are, or 8-bit blocks for all matrices that allow it.
    #[arg(long, value_enum, default_value_t = Weights::Keep)]
    pub weights: Weights,

    /// In which order the weights of a matrix lie. Every machine reads every order.
    #[arg(long, value_enum, default_value_t = Layout::Auto)]
    pub layout: Layout,

    /// The name that clients will see. [default: from the input]
    #[arg(long)]
    pub name: Option<String>,

    /// Replace what is in the output folder.
    #[arg(long)]
    pub overwrite: bool,
}

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Weights {
    /// As they are.
    Keep,
    /// 32 elements share a scale: 8.5 bits an element.
    #[value(name = "q8_0")]
    Q8_0,
}

impl Weights {
    /// The format, where one is asked for.
    pub fn format(self) -> Option<BlockFormat> {
        match self {
            Self::Keep => None,
            Self::Q8_0 => Some(BlockFormat::Q8_0),
        }
    }
}

/// In which order weights lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// What this machine's processor multiplies fastest.
    Auto,
    /// Row after row, as in the source.
    Rows,
    /// Sixteen rows beside each other, for AVX-512.
    Lanes,
}

/// `odmoe inspect`.
#[derive(Args, Clone, Debug)]
pub struct InspectArgs {
    /// A store, a GGUF file or a Hugging Face folder. Without it, the embedded model.
    pub input: Option<PathBuf>,

    /// Where converted models are kept. [default: odmoe in the user's cache folder]
    #[arg(long, env = "ODMOE_STORE_DIR", value_name = "FOLDER")]
    pub store_dir: Option<PathBuf>,

    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// `odmoe bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,

    /// Prompt tokens of each stream.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = positive(1 << 20))]
    pub prompt_tokens: u32,

    /// New tokens of each stream.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive(1 << 20))]
    pub generate_tokens: u32,

    /// Sequences at once.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive(1024))]
    pub streams: u32,

    /// Several measurements of one opened model in place of the one above, such as 1x512+1: one stream, 512 prompt
    /// tokens, one new token. Repeat it for each; each prints its own result.
    #[arg(long, value_name = "STREAMSxPROMPT+NEW", conflicts_with_all = ["prompt_tokens", "generate_tokens", "streams"])]
    pub work: Vec<Work>,

    /// Measure how fast experts can be read at random, with nothing else to do: alone, or before each repeat of each
    /// --work.
    #[arg(long)]
    pub disk: bool,

    /// How often each is measured, after a round of the first that is not.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = positive(1000))]
    pub repeats: u32,

    /// Take prompts from this text in place of random tokens.
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,

    /// Print one JSON object, or one a line for each --work. Figures are min, median and max over the repeats, but
    /// peak_rss_bytes is one number: a process has one peak.
    #[arg(long)]
    pub json: bool,
}

/// `odmoe synth`.
#[derive(Args, Clone, Debug)]
pub struct SynthArgs {
    /// The shape to start from: toy (about 2 MB), qwen3-30b-a3b, mixtral-8x7b, olmoe-7b, or llama-1b, which is dense.
    #[arg(value_parser = parse_preset)]
    pub preset: Preset,

    /// What to write: a file that ends in .gguf, or a Hugging Face folder.
    #[arg(long, value_name = "FILE.gguf|FOLDER")]
    pub output: PathBuf,

    /// Layers.
    #[arg(long, value_name = "N", value_parser = positive(1 << 10))]
    pub layers: Option<u32>,

    /// Routed experts a layer.
    #[arg(long, value_name = "N", value_parser = positive(1 << 16))]
    pub experts: Option<u32>,

    /// Experts a token.
    #[arg(long, value_name = "K", value_parser = positive(1 << 16))]
    pub top_k: Option<u32>,

    /// Width of the residual stream; the attention heads follow.
    #[arg(long, value_name = "N", value_parser = positive(1 << 24))]
    pub hidden: Option<u32>,

    /// Width of an expert; of the MLP, in a dense model.
    #[arg(long, value_name = "N", value_parser = positive(1 << 24))]
    pub expert_ffn: Option<u32>,

    /// Tokens of the vocabulary.
    #[arg(long, value_name = "N", value_parser = positive(1 << 21))]
    pub vocab: Option<u32>,

    /// How a GGUF file names its experts: all of a layer in one tensor, or one tensor an expert under today's or older
    /// names. llama.cpp loads the first alone.
    #[arg(long, value_enum, default_value_t = Naming::Stacked)]
    pub naming: Naming,

    /// How matrices are stored: a block format for all (F32, F16, BF16, Q8_0, Q4_0, Q4_K, ...), or a mix (Q3_K_M,
    /// Q4_K_M, Q5_K_M). Rows that are not whole blocks get the next best format. [default: Q4_K_M; BF16 in a Hugging
    /// Face folder]
    #[arg(long, value_name = "FORMAT")]
    pub quant: Option<Quantisation>,

    /// Which experts tokens are sent to: uniform follows the token alone, and neighbours share experts by chance; with
    /// reuse a token keeps 30 to 50 % of the experts of the one before, which takes at most a quarter of a layer's experts
    /// a token.
    #[arg(long, value_enum, default_value_t = SynthRouting::Uniform)]
    pub routing: SynthRouting,

    /// Decides every weight.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub seed: u64,

    /// Files that the tensors are spread over.
    #[arg(long, value_name = "PARTS", default_value_t = 1, value_parser = positive(9999))]
    pub split: u32,

    /// Replace what is there.
    #[arg(long)]
    pub overwrite: bool,

    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// How the experts of a GGUF file are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Naming {
    /// `blk.0.ffn_gate_exps.weight`.
    Stacked,
    /// `blk.0.ffn_gate.7.weight`.
    PerExpert,
    /// `blk.0.ffn.experts.7.w1.weight`.
    Legacy,
}

/// Which experts tokens are sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SynthRouting {
    /// By the token alone.
    Uniform,
    /// By a running mixture of the last tokens.
    Reuse,
}

/// `odmoe pack`.
#[derive(Args, Clone, Debug)]
pub struct PackArgs {
    /// The store.
    pub store: PathBuf,

    /// The archive to write; its SHA-256 goes beside it, into a file of the same name with .sha256 added.
    pub output: PathBuf,
}

fn positive(most: u32) -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(most))
}

fn parse_preset(name: &str) -> Result<Preset, String> {
    let found = Preset::ALL.into_iter().find(|preset| preset.name() == name);
    found.ok_or_else(|| format!("not one of {}", Preset::ALL.map(Preset::name).join(", ")))
}

fn parse_within<const LEAST: i32, const MOST: i32>(text: &str) -> Result<f32, String> {
    let number: f32 = text.parse().map_err(|_| "not a number".to_owned())?;
    let range = LEAST as f32..=MOST as f32;
    if range.contains(&number) {
        Ok(number)
    } else {
        Err(format!("must be from {LEAST} to {MOST}"))
    }
}
