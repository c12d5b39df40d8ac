//! A validated request, the same for both endpoints.

use super::Limits;
use super::error::ApiError;
use crate::state::ServedModel;
use odmoe_engine::{SamplingParams, TokenRules};
use odmoe_openapi::{SamplingFields, StreamOptions};
use odmoe_text::TokenizerError;
use odmoe_text::output::OutputFormat;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// What the engine and the answers' text need to know of a request.
pub(crate) struct Job {
    /// Token ids of each prompt.
    pub(crate) prompts: Vec<Vec<u32>>,
    /// The field that held them.
    pub(crate) prompt_param: &'static str,
    pub(crate) sampling: Sampling,
    /// None: what the context leaves.
    pub(crate) max_new_tokens: Option<u32>,
    /// As [`odmoe_engine::Request::logprobs`].
    pub(crate) logprobs: Option<u32>,
    /// What tokens the answers may have.
    pub(crate) rules: Option<Arc<dyn TokenRules>>,
    /// How the answers are read.
    pub(crate) output: OutputFormat,
    pub(crate) delivery: Delivery,
}

/// How an answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Whole,
    Streamed { with_usage: bool },
}

impl Delivery {
    pub(crate) fn new(
        stream: Option<bool>,
        options: Option<&StreamOptions>,
    ) -> Result<Self, ApiError> {
        match (stream.unwrap_or(false), options) {
            (true, options) => {
                let with_usage = options.and_then(|options| options.include_usage);
                Ok(Self::Streamed {
                    with_usage: with_usage.unwrap_or(false),
                })
            }
            (false, None) => Ok(Self::Whole),
            (false, Some(_)) => Err(ApiError::invalid(
                "stream_options",
                "stream_options is allowed only together with \"stream\": true",
            )),
        }
    }
}

/// How tokens are chosen and what ends an answer.
#[derive(Debug)]
pub(crate) struct Sampling {
    /// `choice` is 0.
    pub(crate) params: SamplingParams,
    pub(crate) n: u32,
    pub(crate) stops: Vec<String>,
    /// The model's own, unless ignored, and the request's.
    pub(crate) stop_token_ids: Vec<u32>,
}

impl Sampling {
    pub(crate) fn new(
        fields: SamplingFields,
        model: &ServedModel,
        limits: &Limits,
    ) -> Result<Self, ApiError> {
        let defaults = &model.sampling_defaults;
        let neutral = SamplingParams::default();
        let top_p = fields.top_p.or(defaults.top_p).unwrap_or(neutral.top_p);
        let repetition_penalty = fields
            .repetition_penalty
            .or(defaults.repetition_penalty)
            .unwrap_or(neutral.repetition_penalty);
        let params = SamplingParams {
            logit_bias: logit_bias(fields.logit_bias, model.vocabulary, limits.logit_bias)?,
            repetition_penalty: above_zero("repetition_penalty", repetition_penalty, 100.0)?,
            presence_penalty: within("presence_penalty", fields.presence_penalty, -2.0..=2.0)?,
            frequency_penalty: within("frequency_penalty", fields.frequency_penalty, -2.0..=2.0)?,
            temperature: within(
                "temperature",
                fields
                    .temperature
                    .or(defaults.temperature)
                    .or(Some(neutral.temperature)),
                0.0..=2.0,
            )?,
            top_k: match fields.top_k {
                Some(top_k) => top_k_of(top_k)?,
                None => defaults.top_k.unwrap_or(neutral.top_k),
            },
            top_p: above_zero("top_p", top_p, 1.0)?,
            min_p: within("min_p", fields.min_p.or(defaults.min_p), 0.0..=1.0)?,
            // The same 64 bits, read without a sign.
            seed: fields.seed.map_or_else(random_seed, |seed| seed as u64),
            choice: neutral.choice,
        };
        let n = fields.n.unwrap_or(1);
        if !(1..=limits.n).contains(&n) {
            return Err(ApiError::invalid(
                "n",
                format!("n is {n}; allowed are 1 to {}", limits.n),
            ));
        }
        let stops = fields.stop.map(|stop| stop.into_vec()).unwrap_or_default();
        check_stops(&stops, limits)?;
        let stop_token_ids = stop_token_ids(
            fields.stop_token_ids.unwrap_or_default(),
            fields.ignore_eos.unwrap_or(false),
            model,
            limits,
        )?;
        Ok(Self {
            params,
            n,
            stops,
            stop_token_ids,
        })
    }
}

/// A value within a range; 0 when absent.
fn within(
    param: &'static str,
    value: Option<f32>,
    range: RangeInclusive<f32>,
) -> Result<f32, ApiError> {
    let value = value.unwrap_or(0.0);
    if range.contains(&value) {
        return Ok(value);
    }
    let (least, most) = range.into_inner();
    Err(ApiError::invalid(
        param,
        format!("{param} is {value}; allowed are {least} to {most}"),
    ))
}

fn above_zero(param: &'static str, value: f32, most: f32) -> Result<f32, ApiError> {
    if value > 0.0 && value <= most {
        return Ok(value);
    }
    let message = format!("{param} is {value}; it must be above 0 and at most {most}");
    Err(ApiError::invalid(param, message))
}

fn top_k_of(top_k: i64) -> Result<u32, ApiError> {
    match top_k {
        -1 => Ok(0),
        0.. => Ok(u32::try_from(top_k).unwrap_or(u32::MAX)),
        _ => {
            let message = format!("top_k is {top_k}; it must be at least -1 (-1 and 0: all)");
            Err(ApiError::invalid("top_k", message))
        }
    }
}

fn random_seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

fn logit_bias(
    given: Option<BTreeMap<String, f32>>,
    vocabulary: usize,
    limit: usize,
) -> Result<Vec<(u32, f32)>, ApiError> {
    let given = given.unwrap_or_default();
    let refuse = |message: String| Err(ApiError::invalid("logit_bias", message));
    if given.len() > limit {
        return refuse(format!(
            "logit_bias has {} entries; at most {limit} fit",
            given.len()
        ));
    }
    let mut biases = Vec::with_capacity(given.len());
    for (token, bias) in given {
        let id = token
            .parse::<u32>()
            .ok()
            .filter(|id| (*id as usize) < vocabulary);
        let Some(id) = id else {
            let token: String = token.chars().take(32).collect();
            return refuse(format!(
                "logit_bias names {token:?}; token ids go from 0 to {}",
                vocabulary - 1
            ));
        };
        if !(-100.0..=100.0).contains(&bias) {
            return refuse(format!(
                "logit_bias of token {id} is {bias}; allowed are -100 to 100"
            ));
        }
        biases.push((id, bias));
    }
    // Keys such as "7" and "07" are one token.
    biases.sort_by_key(|(id, _)| *id);
    if let Some(pair) = biases.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return refuse(format!("logit_bias names token {} twice", pair[0].0));
    }
    Ok(biases)
}

fn check_stops(stops: &[String], limits: &Limits) -> Result<(), ApiError> {
    if stops.len() > limits.stops {
        let message = format!(
            "stop has {} strings; at most {} fit",
            stops.len(),
            limits.stops
        );
        return Err(ApiError::invalid("stop", message));
    }
    match stops
        .iter()
        .find(|stop| !(1..=limits.stop_bytes).contains(&stop.len()))
    {
        Some(stop) => {
            let (length, most) = (stop.len(), limits.stop_bytes);
            let message = format!("a stop string has {length} bytes; allowed are 1 to {most}");
            Err(ApiError::invalid("stop", message))
        }
        None => Ok(()),
    }
}

fn stop_token_ids(
    given: Vec<u32>,
    ignore_end: bool,
    model: &ServedModel,
    limits: &Limits,
) -> Result<Vec<u32>, ApiError> {
    let refuse = |message: String| Err(ApiError::invalid("stop_token_ids", message));
    if given.len() > limits.stop_token_ids {
        let (count, most) = (given.len(), limits.stop_token_ids);
        return refuse(format!(
            "stop_token_ids has {count} ids; at most {most} fit"
        ));
    }
    if let Some(unknown) = given.iter().find(|id| **id as usize >= model.vocabulary) {
        let most = model.vocabulary - 1;
        return refuse(format!(
            "stop_token_ids names {unknown}; token ids go from 0 to {most}"
        ));
    }
    let mut ids = given;
    if !ignore_end {
        ids.extend_from_slice(&model.end_ids);
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// Checks `max_tokens` and its other name.
pub(crate) fn max_new_tokens(
    param: &'static str,
    given: Option<u32>,
) -> Result<Option<u32>, ApiError> {
    match given {
        Some(0) => Err(ApiError::invalid(
            param,
            format!("{param} is 0; it must be at least 1"),
        )),
        other => Ok(other),
    }
}

/// Token ids of a prompt's text. One that cannot fit is refused without encoding all of it.
pub(crate) fn encode(
    model: &ServedModel,
    text: &str,
    add_special_tokens: bool,
    param: &'static str,
    max_new_tokens: Option<u32>,
) -> Result<Vec<u32>, ApiError> {
    let tokens = model
        .tokenizer
        .encode_within(text, add_special_tokens, model.context_tokens);
    tokens.map_err(|error| match error {
        TokenizerError::TooMany { at_least, limit } => {
            ApiError::too_long(at_least, max_new_tokens.unwrap_or(1) as usize, limit, param)
        }
        other => ApiError::invalid(param, other.to_string()),
    })
}

/// Refuses token ids that the model does not know.
pub(crate) fn check_token_ids<'a>(
    param: &'static str,
    ids: impl IntoIterator<Item = &'a u32>,
    model: &ServedModel,
) -> Result<(), ApiError> {
    let mut ids = ids.into_iter();
    match ids.find(|id| **id as usize >= model.vocabulary) {
        Some(unknown) => {
            let most = model.vocabulary - 1;
            let message = format!("{param} has token {unknown}; token ids go from 0 to {most}");
            Err(ApiError::invalid(param, message))
        }
        None => Ok(()),
    }
}

/// Refuses what would be told to come back for ever: more answers than the engine ever takes at once.
pub(crate) fn check_capacity(prompts: usize, n: u32, model: &ServedModel) -> Result<(), ApiError> {
    let (answers, most) = (prompts * n as usize, model.capacity_answers);
    if answers <= most {
        return Ok(());
    }
    let param = if n > 1 { "n" } else { "prompt" };
    let message = format!(
        "the request asks for {answers} answers, but this server holds at most {most} at once, running and waiting; \
         ask for fewer, or raise --max-queue"
    );
    Err(ApiError::invalid(param, message))
}

/// Checks how many of the most likely tokens are asked for.
pub(crate) fn top_logprobs(
    param: &'static str,
    given: u32,
    limits: &Limits,
) -> Result<u32, ApiError> {
    if given <= limits.top_logprobs {
        return Ok(given);
    }
    let message = format!(
        "{param} is {given}; allowed are 0 to {}",
        limits.top_logprobs
    );
    Err(ApiError::invalid(param, message))
}

/// Whether the request names the served model, or none.
pub(crate) fn check_model(
    asked: Option<&str>,
    model: &ServedModel,
    aliases: &[String],
) -> Result<(), ApiError> {
    match asked {
        Some(asked) if asked != model.name && !aliases.iter().any(|alias| alias == asked) => {
            Err(ApiError::unknown_model(asked, &model.name))
        }
        _ => Ok(()),
    }
}

/// JSON has no infinities; a token that cannot be chosen gets the value that other servers give it.
pub(crate) fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() {
        logprob
    } else {
        -9999.0
    }
}
