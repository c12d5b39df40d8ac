//! What the HTTP surface is told at start, and its limits.

use super::keys::{ApiKey, KeyLimits, SecretDigest};
use crate::grammars;
use crate::traces::Traces;
use odmoe_openapi::{EMBEDDING_INPUTS_MAX, PROMPTS_MAX};
use odmoe_text::grammar;
use std::net::SocketAddr;
use std::time::Duration;

/// Settings of the HTTP surface. Not `Debug`: it holds keys.
#[derive(Clone)]
pub struct HttpConfig {
    /// Other names that the model answers to.
    pub model_aliases: Vec<String>,
    /// Any of these opens every route but `/admin/`; with none, no route asks for a key.
    pub api_keys: Vec<ApiKey>,
    /// Limits of keys that have none of their own, and of everybody where there are no keys.
    pub key_limits: KeyLimits,
    /// Opens `/admin/` and `/metrics`; without one there is no `/admin/`.
    pub admin_key: Option<SecretDigest>,
    /// Web origins (`https://host:port`) that may call from a browser, besides the server's own pages.
    pub allowed_origins: Vec<String>,
    /// `Host` names answered where no key is needed, besides `localhost` and addresses; `*` is every name.
    pub allowed_hosts: Vec<String>,
    /// Silence in a stream after which a comment is sent.
    pub keep_alive: Duration,
    /// How long accepted requests may go on after the first signal to stop.
    pub drain_timeout: Duration,
    /// When a request that is accepted ends without its client's doing.
    pub timeouts: Timeouts,
    /// What `Retry-After` says when the queue is full, the model loads or the server stops.
    pub retry_after: Duration,
    /// Where spans of requests go, if anywhere.
    pub traces: Option<Traces>,
    /// Whether prompts and answers are logged, in full.
    pub log_text: bool,
    /// What a request may hold.
    pub limits: Limits,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            model_aliases: Vec::new(),
            api_keys: Vec::new(),
            key_limits: KeyLimits::default(),
            admin_key: None,
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            keep_alive: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(45),
            timeouts: Timeouts::default(),
            retry_after: Duration::from_secs(1),
            traces: None,
            log_text: false,
            limits: Limits::default(),
        }
    }
}

/// When a request that is accepted ends without its client's doing; None is never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the arrival of a request to its whole answer.
    pub request: Option<Duration>,
    /// From the arrival of a request to the end of its stream.
    pub stream: Option<Duration>,
    /// From one token to the next; to the first one from acceptance, in the queue and in prefill.
    pub stall: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request: Some(Duration::from_secs(3600)),
            stream: Some(Duration::from_secs(3600)),
            stall: Some(Duration::from_secs(600)),
        }
    }
}

impl Timeouts {
    /// The longest that any answer may take; None if one may take for ever.
    pub(crate) fn longest(&self) -> Option<Duration> {
        Some(self.request?.max(self.stream?))
    }
}

/// What a request may hold. Each is refused by a 4xx that names the field and the limit.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one request body.
    pub body_bytes: usize,
    /// Bytes of all request bodies held at once; more are answered 503. At least one whole body always fits. The
    /// memory plan's overhead must bear this sum and what the bodies become when they are read.
    pub bodies_total_bytes: usize,
    /// Bytes that all answers hold at once which clients have not taken yet, beside a little for each.
    pub output_total_bytes: usize,
    /// JSON values of one body: commas and brackets outside of strings and of the member `prompt`. A value of one byte
    /// may take hundreds in memory, so bytes alone are no bound.
    pub json_values: usize,
    /// Time for a request's head, also the longest idle time of a kept connection, and again for its body.
    pub receive_timeout: Duration,
    /// How long a peer may leave the kernel's probes, or what is sent to it, without an answer.
    pub peer_timeout: Duration,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// Header lines.
    pub headers: usize,
    /// Connections at once; further ones wait to be accepted. Lowered to half of the open-file limit.
    pub connections: usize,
    /// Messages of a conversation.
    pub messages: usize,
    /// Parts of one message.
    pub content_parts: usize,
    /// Tools.
    pub tools: usize,
    /// Variables for the chat template.
    pub template_variables: usize,
    /// Stop strings.
    pub stops: usize,
    /// Bytes of one stop string.
    pub stop_bytes: usize,
    /// Stop token ids.
    pub stop_token_ids: usize,
    /// Answers to one prompt.
    pub n: u32,
    /// Entries of `logit_bias`.
    pub logit_bias: usize,
    /// Most likely tokens reported at each place.
    pub top_logprobs: u32,
    /// Prompts in one completions request, not above [`PROMPTS_MAX`].
    pub prompts: usize,
    /// Answers of one request: prompts times `n`.
    pub answers: usize,
    /// Texts of one embeddings request, not above [`EMBEDDING_INPUTS_MAX`].
    pub embedding_inputs: usize,
    /// Bytes of all embeddings held at once, four a number; more are answered 503.
    pub embeddings_total_bytes: usize,
    /// Responses kept for retrieval; the oldest go first.
    pub stored_responses: usize,
    /// Bytes that they and their conversations may take.
    pub stored_responses_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 8 << 20,
            bodies_total_bytes: 16 << 20,
            output_total_bytes: 64 << 20,
            json_values: 32 << 10,
            receive_timeout: Duration::from_secs(30),
            peer_timeout: Duration::from_secs(60),
            head_bytes: 64 << 10,
            headers: 100,
            connections: 1024,
            messages: 4096,
            content_parts: 1024,
            tools: 256,
            template_variables: 64,
            stops: 16,
            stop_bytes: 256,
            stop_token_ids: 128,
            n: 16,
            logit_bias: 1024,
            top_logprobs: 20,
            prompts: PROMPTS_MAX,
            answers: 128,
            embedding_inputs: EMBEDDING_INPUTS_MAX,
            embeddings_total_bytes: 16 << 20,
            stored_responses: 1024,
            stored_responses_bytes: 8 << 20,
        }
    }
}

impl Limits {
    /// The limits of a request in words, for the documentation page.
    pub(crate) fn describe(&self) -> String {
        let rows = [
            ("request body", format!("{} bytes", self.body_bytes)),
            (
                "all bodies held at once",
                format!(
                    "{} bytes; more are answered 503",
                    self.bodies_total_bytes.max(self.body_bytes)
                ),
            ),
            (
                "all answers that clients have not taken yet",
                format!(
                    "{} bytes; what is beyond ends with an error",
                    self.output_total_bytes
                ),
            ),
            (
                "JSON values of a body, without those of `prompt`",
                self.json_values.to_string(),
            ),
            (
                "head of a request",
                format!("{} bytes, {} headers", self.head_bytes, self.headers),
            ),
            (
                "time for a head, and again for a body",
                format!("{:?}", self.receive_timeout),
            ),
            (
                "connections",
                format!("{}, and half of the open-file limit", self.connections),
            ),
            (
                "`messages`",
                format!("{}, of {} parts each", self.messages, self.content_parts),
            ),
            ("`tools`, `tool_calls` of a message", self.tools.to_string()),
            (
                "schemas and grammars",
                format!(
                    "{} bytes, {} levels, {:?} to compile",
                    grammar::SOURCE_BYTES,
                    grammar::DEPTH,
                    grammars::TIME_LIMIT
                ),
            ),
            (
                "`chat_template_kwargs`",
                self.template_variables.to_string(),
            ),
            (
                "`stop`",
                format!("{} strings of {} bytes", self.stops, self.stop_bytes),
            ),
            ("`stop_token_ids`", self.stop_token_ids.to_string()),
            ("`n`", self.n.to_string()),
            ("`logit_bias`", self.logit_bias.to_string()),
            ("`top_logprobs`, `logprobs`", self.top_logprobs.to_string()),
            ("`prompt`", format!("{} in a list", self.prompts)),
            ("prompts times `n`", self.answers.to_string()),
            (
                "`input` of embeddings",
                format!("{} in a list", self.embedding_inputs),
            ),
            (
                "responses that are stored",
                format!(
                    "{} in {} bytes; the oldest go first",
                    self.stored_responses, self.stored_responses_bytes
                ),
            ),
            (
                "all embeddings held at once",
                format!(
                    "{} bytes, four a number; more are answered 503",
                    self.embeddings_total_bytes
                ),
            ),
        ];
        let rows = rows
            .map(|(what, limit)| format!("| {what} | {limit} |\n"))
            .concat();
        format!("| at most | |\n|---|---|\n{rows}")
    }
}

/// An address that would leave the server open to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "refusing to listen on {0} without an API key: anybody who reaches it could use the model; set --api-key, or listen \
     on 127.0.0.1, or pass --allow-unauthenticated if the network is trusted"
)]
pub struct OpenListenError(pub SocketAddr);

/// Whether `address` may be listened on. Beyond loopback that takes a key, or `allow_unauthenticated`.
pub fn check_listen(
    address: SocketAddr,
    config: &HttpConfig,
    allow_unauthenticated: bool,
) -> Result<(), OpenListenError> {
    let closed = address.ip().to_canonical().is_loopback() || !config.api_keys.is_empty();
    if closed || allow_unauthenticated {
        Ok(())
    } else {
        Err(OpenListenError(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_loopback_takes_a_key_or_a_flag() {
        let keyless = HttpConfig::default();
        let keyed = HttpConfig {
            api_keys: vec![ApiKey::new("k", "k")],
            ..HttpConfig::default()
        };
        for loopback in [
            "127.0.0.1:1",
            "127.9.9.9:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert_eq!(
                check_listen(loopback.parse().unwrap(), &keyless, false),
                Ok(())
            );
        }
        for open in ["0.0.0.0:1", "10.0.0.1:1", "[::]:1", "[::ffff:10.0.0.1]:1"] {
            let open: SocketAddr = open.parse().unwrap();
            assert_eq!(
                check_listen(open, &keyless, false),
                Err(OpenListenError(open))
            );
            assert_eq!(check_listen(open, &keyless, true), Ok(()));
            assert_eq!(check_listen(open, &keyed, false), Ok(()));
        }
    }
}
