//! The options of `odmoe serve`.

use super::{ModelArgs, positive};
use crate::config::{Patience, Seconds};
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, ValueEnum};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// `odmoe serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub listen: ListenArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub access: AccessArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub time: TimeArgs,

    /// Neither load what the last run used most, nor keep beside the store what this one uses.
    #[arg(long, env = "ODMOE_NO_WARM_START", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new(), help_heading = "Model and memory")]
    pub no_warm_start: bool,

    /// The name that clients use for the model. [default: the store's]
    #[arg(
        long,
        env = "ODMOE_SERVED_MODEL_NAME",
        value_name = "NAME",
        help_heading = "Server"
    )]
    pub served_model_name: Option<String>,

    /// Keep the expert cache as large as it was asked for, also where the machine or a control group runs short of memory.
    #[arg(long, env = "ODMOE_IGNORE_MEMORY_PRESSURE", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new(), help_heading = "Server")]
    pub ignore_memory_pressure: bool,

    /// Log the text of prompts and answers too. Without it no line holds any.
    #[arg(long, env = "ODMOE_LOG_TEXT", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new(), help_heading = "Server")]
    pub log_text: bool,

    /// Send a span for each request to this OTLP collector, such as http://127.0.0.1:4318.
    #[arg(
        long,
        env = "ODMOE_OTLP_ENDPOINT",
        value_name = "URL",
        help_heading = "Server"
    )]
    pub otlp_endpoint: Option<String>,

    /// How log lines are written, on standard error.
    #[arg(long, env = "ODMOE_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text, help_heading = "Server")]
    pub log_format: LogFormat,
}

/// Where it listens.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Server")]
pub struct ListenArgs {
    /// The address to listen on. Beyond loopback an API key is required.
    #[arg(
        long,
        env = "ODMOE_HOST",
        value_name = "ADDRESS",
        default_value = "127.0.0.1"
    )]
    pub host: IpAddr,

    /// The port to listen on; 0 takes any that is free.
    #[arg(long, env = "ODMOE_PORT", value_name = "PORT", default_value_t = 8000)]
    pub port: u16,

    /// Speak TLS to clients, with this PEM file of certificates, the server's own first. SIGHUP reads it again.
    #[arg(
        long,
        env = "ODMOE_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,

    /// The private key of --tls-cert, as a PEM file.
    #[arg(
        long,
        env = "ODMOE_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,

    /// Serve /metrics here, without a key, and no longer beside the API.
    #[arg(long, env = "ODMOE_METRICS_LISTEN", value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<SocketAddr>,
}

/// Who may call.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Access")]
pub struct AccessArgs {
    /// Ask for this key on every route but /health and /ready. May be repeated; in the environment, where other users of
    /// the machine do not see it, several are separated by commas.
    #[arg(
        long,
        env = "ODMOE_API_KEY",
        value_name = "KEY",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub api_key: Vec<String>,

    /// A TOML file of named keys: a table for each, with `key` or `sha256`, and limits of its own as
    /// `requests-per-minute`, `tokens-per-minute` and `concurrent-requests`.
    #[arg(long, env = "ODMOE_API_KEYS_FILE", value_name = "FILE")]
    pub api_keys_file: Option<PathBuf>,

    /// The key for /admin/ and /metrics. Without it there is no /admin/.
    #[arg(
        long,
        env = "ODMOE_ADMIN_KEY",
        value_name = "KEY",
        hide_env_values = true
    )]
    pub admin_key: Option<String>,

    /// Listen beyond loopback without a key: everybody who reaches the port can use the model.
    #[arg(long, env = "ODMOE_ALLOW_UNAUTHENTICATED", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub allow_unauthenticated: bool,

    /// A web origin that may call from a browser, such as https://chat.example.org; several are separated by commas.
    #[arg(
        long,
        env = "ODMOE_CORS_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ','
    )]
    pub cors_origin: Vec<String>,

    /// A host name that is answered where no key is needed, besides localhost and addresses; * is every name. Several are
    /// separated by commas.
    #[arg(
        long,
        env = "ODMOE_ALLOWED_HOSTS",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub allowed_hosts: Vec<String>,

    /// Requests that generate, in a minute and for each key that has no limit of its own.
    #[arg(long, env = "ODMOE_REQUESTS_PER_MINUTE", value_name = "N", value_parser = positive(1 << 20))]
    pub requests_per_minute: Option<u32>,

    /// Tokens of prompts and answers, in a minute and for each key that has no limit of its own.
    #[arg(long, env = "ODMOE_TOKENS_PER_MINUTE", value_name = "N", value_parser = positive(1 << 30))]
    pub tokens_per_minute: Option<u32>,

    /// Requests at once, for each key that has no limit of its own.
    #[arg(long, env = "ODMOE_CONCURRENT_REQUESTS", value_name = "N", value_parser = positive(1 << 20))]
    pub concurrent_requests: Option<u32>,
}

/// How long things may take.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Time")]
pub struct TimeArgs {
    /// End a request whose whole answer takes longer than this, in seconds; none is never.
    #[arg(
        long,
        env = "ODMOE_REQUEST_TIMEOUT",
        value_name = "SECONDS|none",
        default_value = "3600"
    )]
    pub request_timeout: Patience,

    /// End a stream that takes longer than this.
    #[arg(
        long,
        env = "ODMOE_STREAM_TIMEOUT",
        value_name = "SECONDS|none",
        default_value = "3600"
    )]
    pub stream_timeout: Patience,

    /// End a request for which no token came for this long, waiting and prefill included.
    #[arg(
        long,
        env = "ODMOE_STALL_TIMEOUT",
        value_name = "SECONDS|none",
        default_value = "600"
    )]
    pub stall_timeout: Patience,

    /// Send a comment into a stream that was silent for this long, so that proxies see life.
    #[arg(
        long,
        env = "ODMOE_KEEP_ALIVE",
        value_name = "SECONDS",
        default_value = "10"
    )]
    pub keep_alive: Seconds,

    /// How long accepted requests may go on after the first signal to stop, in seconds.
    #[arg(
        long,
        env = "ODMOE_DRAIN_TIMEOUT",
        value_name = "SECONDS",
        default_value = "45"
    )]
    pub drain_timeout: Seconds,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
