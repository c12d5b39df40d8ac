//! `odmoe generate`: prompts in, text out, without HTTP.

use crate::cli::answers::Answer;
use crate::cli::args::{GenerateArgs, SamplingArgs};
use crate::cli::progress::OpeningReporter;
use crate::cli::{Failure, quiet, settings, terminal};
use crate::model::open::{OpenModel, prepare};
use crate::state::SamplingDefaults;
use odmoe_engine::{ClientId, FinishReason, Request, RequestTimings, SamplingParams, TokenEvent};
use odmoe_text::{IncrementalDetokenizer, RenderOptions, StopMatcher};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

/// A longer file of prompts is refused.
const PROMPTS_LIMIT_BYTES: u64 = 64 << 20;
const NO_TEMPLATE: &str =
    "the model has no chat template; leave --chat out, and the prompt is continued as it is";

/// Answers every prompt, in order; as many at once as the engine runs.
pub fn run(args: &GenerateArgs) -> Result<(), Failure> {
    let prompts = prompts(args)?;
    let reporter = OpeningReporter::new();
    let show = |progress| reporter.show(&progress);
    let settings = settings::settings(&args.model, None)?;
    let prepared = prepare(settings, &show, reporter.conversion()).map_err(Failure::failed)?;
    let model = prepared
        .start(Arc::new(quiet::Quiet), &show)
        .map_err(Failure::failed)?;
    reporter.finish();
    let generator = Generator {
        args,
        model: &model,
    };
    let mut waiting = prompts.iter();
    let mut running: VecDeque<(&str, usize, Answer)> = VecDeque::new();
    loop {
        while running.len() < args.model.max_running as usize {
            let Some(prompt) = waiting.next() else { break };
            match generator.submit(prompt) {
                Ok(answer) => running.push_back(answer),
                // What was asked before is answered all the same.
                Err(failure) => {
                    for (prompt, prompt_tokens, answer) in running {
                        generator.print(prompt, prompt_tokens, &answer)?;
                    }
                    return Err(failure);
                }
            }
        }
        let Some((prompt, prompt_tokens, answer)) = running.pop_front() else {
            return Ok(());
        };
        generator.print(prompt, prompt_tokens, &answer)?;
    }
}

fn prompts(args: &GenerateArgs) -> Result<Vec<String>, Failure> {
    if let Some(prompt) = &args.prompt {
        return Ok(vec![prompt.clone()]);
    }
    let path = args
        .prompts
        .as_deref()
        .expect("clap asks for one of the two");
    let named = |error: io::Error| Failure::Failed(format!("{}: {error}", path.display()));
    let reader: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(named)?)
    };
    let mut text = String::new();
    reader
        .take(PROMPTS_LIMIT_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(named)?;
    if text.len() as u64 > PROMPTS_LIMIT_BYTES {
        return Err(named(io::Error::other(format!(
            "more than {PROMPTS_LIMIT_BYTES} bytes"
        ))));
    }
    Ok(text
        .lines()
        .filter(|line| !line.is_empty())
        .map(prompt_of_line)
        .collect())
}

/// A JSON string may hold newlines; everything else is taken as it stands.
fn prompt_of_line(line: &str) -> String {
    serde_json::from_str(line).unwrap_or_else(|_| line.to_owned())
}

struct Generator<'a> {
    args: &'a GenerateArgs,
    model: &'a OpenModel,
}

impl Generator<'_> {
    fn submit<'p>(&self, prompt: &'p str) -> Result<(&'p str, usize, Answer), Failure> {
        let text = &self.model.text;
        let ids = if self.args.chat {
            let template = text.template.as_ref();
            let template = template.ok_or_else(|| Failure::Failed(NO_TEMPLATE.to_owned()))?;
            let messages = json!([{"role": "user", "content": prompt}]);
            let options = RenderOptions {
                add_generation_prompt: true,
                ..RenderOptions::default()
            };
            let rendered = template
                .render(&messages, &options)
                .map_err(Failure::failed)?;
            text.tokenizer.encode(&rendered, false)
        } else {
            text.tokenizer.encode(prompt, true)
        };
        let ids = ids.map_err(Failure::failed)?;
        let prompt_tokens = ids.len();
        let room = self
            .model
            .prepared
            .context_tokens()
            .saturating_sub(prompt_tokens)
            .max(1);
        let request = Request {
            client: ClientId::default(),
            prompt: ids,
            sampling: sampling(&self.args.sampling, text.sampling_defaults),
            max_new_tokens: self
                .args
                .max_tokens
                .min(u32::try_from(room).unwrap_or(u32::MAX)),
            stop_token_ids: self
                .model
                .prepared
                .manifest
                .text
                .end_of_sequence_ids
                .clone(),
            logprobs: None,
            rules: None,
        };
        let answer = Answer::of(&self.model.engine, request).map_err(Failure::failed)?;
        Ok((prompt, prompt_tokens, answer))
    }

    /// Streams one answer to standard output.
    fn print(&self, prompt: &str, prompt_tokens: usize, answer: &Answer) -> Result<(), Failure> {
        let mut detokenizer = IncrementalDetokenizer::new(self.model.text.tokenizer.clone(), true);
        let mut stops = StopMatcher::new(self.args.stop.clone());
        let mut out = Output {
            json: self.args.json,
            text: String::new(),
        };
        let mut ids = Vec::new();
        let mut is_stopped = false;
        let (reason, timings) = loop {
            let Some(timed) = answer.next() else {
                return Err(Failure::Failed("the engine went away".to_owned()));
            };
            match timed.event {
                TokenEvent::Prefilled { .. } => {}
                // What was on its way when the stop string was found.
                TokenEvent::Token { .. } if is_stopped => {}
                TokenEvent::Token { token, .. } => {
                    ids.push(token);
                    let outcome = stops.push(&detokenizer.push(token));
                    out.write(&outcome.text)?;
                    is_stopped = outcome.matched.is_some();
                    if is_stopped {
                        answer.close();
                    }
                }
                TokenEvent::Finished { timings, .. } if is_stopped => break ("stop", timings),
                TokenEvent::Finished { reason, timings } => {
                    out.write(&stops.push(&detokenizer.finish()).text)?;
                    out.write(&stops.finish())?;
                    break (reason_name(reason), timings);
                }
                TokenEvent::Failed { error } => return Err(Failure::failed(error)),
            }
        };
        out.end(|text| answer_json(prompt, prompt_tokens, text, &ids, reason, &timings))
    }
}

struct Output {
    json: bool,
    text: String,
}

impl Output {
    fn write(&mut self, text: &str) -> Result<(), Failure> {
        if self.json {
            self.text.push_str(text);
            return Ok(());
        }
        terminal::print(text)
    }

    fn end(self, json: impl FnOnce(&str) -> Value) -> Result<(), Failure> {
        if self.json {
            terminal::print(&format!("{}\n", json(&self.text)))
        } else {
            terminal::print("\n")
        }
    }
}

fn reason_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "cancelled",
    }
}

fn answer_json(
    prompt: &str,
    prompt_tokens: usize,
    text: &str,
    ids: &[u32],
    reason: &str,
    timings: &RequestTimings,
) -> Value {
    json!({
        "prompt": prompt,
        "prompt_tokens": prompt_tokens,
        "text": text,
        "token_ids": ids,
        "finish_reason": reason,
        "queue_s": timings.queue.as_secs_f64(),
        "prefill_s": timings.prefill.as_secs_f64(),
        "decode_s": timings.decode.as_secs_f64(),
        "expert_stall_s": timings.expert_stall.as_secs_f64(),
    })
}

/// What was asked for, else what the model's makers advise, else the plain distribution.
fn sampling(args: &SamplingArgs, advised: SamplingDefaults) -> SamplingParams {
    let plain = SamplingParams::default();
    SamplingParams {
        temperature: args
            .temperature
            .or(advised.temperature)
            .unwrap_or(plain.temperature),
        top_k: args.top_k.or(advised.top_k).unwrap_or(plain.top_k),
        top_p: args.top_p.or(advised.top_p).unwrap_or(plain.top_p),
        min_p: args.min_p.or(advised.min_p).unwrap_or(plain.min_p),
        repetition_penalty: advised
            .repetition_penalty
            .unwrap_or(plain.repetition_penalty),
        seed: args.seed,
        ..plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_json_string_or_itself() {
        assert_eq!(prompt_of_line(r#""two\nlines""#), "two\nlines");
        assert_eq!(prompt_of_line(r#"She said "hi""#), r#"She said "hi""#);
        assert_eq!(prompt_of_line("42"), "42");
    }

    #[test]
    fn what_is_asked_for_wins_over_advice() {
        let advised = SamplingDefaults {
            temperature: Some(0.7),
            top_k: Some(40),
            ..SamplingDefaults::default()
        };
        let args = SamplingArgs {
            temperature: Some(0.0),
            top_p: None,
            top_k: None,
            min_p: None,
            seed: 3,
        };
        let params = sampling(&args, advised);
        assert_eq!(
            (params.temperature, params.top_k, params.top_p, params.seed),
            (0.0, 40, 1.0, 3)
        );
    }
}
