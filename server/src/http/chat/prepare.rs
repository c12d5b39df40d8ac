//! From a chat request to a job: every endpoint that holds a conversation comes through here.

use super::super::Limits;
use super::super::app::App;
use super::super::constraint::{self, Bound};
use super::super::error::ApiError;
use super::super::job::{self, Delivery, Job, Sampling};
use super::messages;
use super::tools::{ToolChoice, Tools};
use crate::state::ServedModel;
use odmoe_engine::TokenRules;
use odmoe_openapi::{ChatCompletionRequest, SamplingFields};
use odmoe_text::grammar::{AnswerGrammar, GrammarBody};
use odmoe_text::output::{CallFormat, OutputFormat};
use odmoe_text::{ChatTemplate, RenderOptions};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Checks a request and words its prompt. Errors name the fields as this endpoint does.
pub(crate) fn job(
    app: &App,
    model: &ServedModel,
    mut request: ChatCompletionRequest,
    sampling: SamplingFields,
) -> Result<Job, ApiError> {
    let limits = &app.config.limits;
    job::check_model(request.model.as_deref(), model, &app.config.model_aliases)?;
    let sampling = Sampling::new(sampling, model, limits)?;
    let delivery = Delivery::new(request.stream, request.stream_options.as_ref())?;
    let logprobs = logprobs(&request, limits)?;
    let max_new_tokens = match request.max_completion_tokens {
        Some(max) => job::max_new_tokens("max_completion_tokens", Some(max))?,
        None => job::max_new_tokens("max_tokens", request.max_tokens)?,
    };
    check_supported(&request)?;
    job::check_capacity(1, sampling.n, model)?;
    let tools = Tools::new(&mut request, limits)?;
    let bound = constraint::bound(request.response_format.as_ref(), &request.structured)?;
    let (choice, is_parallel) = (tools.choice, tools.is_parallel);
    let (prompt, mut output) = word(request, tools, model, limits, true)?;
    output.is_single_call = !is_parallel;
    let tokens = job::encode(model, &prompt, false, "messages", max_new_tokens)?;
    let rules = rules(bound, choice, is_parallel, &output, app, model)?;
    Ok(Job {
        prompts: vec![tokens],
        prompt_param: "messages",
        sampling,
        max_new_tokens,
        logprobs,
        rules,
        output,
        delivery,
    })
}

/// Binds the answer to its format, to a call where one must come, or to either where tools are offered as well.
fn rules(
    bound: Option<Bound>,
    choice: ToolChoice,
    is_parallel: bool,
    output: &OutputFormat,
    app: &App,
    model: &ServedModel,
) -> Result<Option<Arc<dyn TokenRules>>, ApiError> {
    let (body, param) = match (choice, bound) {
        (ToolChoice::Required, _) => (GrammarBody::Calls, "tools"),
        (_, Some(bound)) => (bound.body, bound.param),
        (_, None) => return Ok(None),
    };
    let mut grammar = AnswerGrammar::new(body, output.clone(), &model.tokenizer);
    grammar.or_calls = !output.tools.is_empty() && output.calls.is_some();
    grammar.several_calls = is_parallel;
    constraint::rules(grammar, param, model, app.config.retry_after).map(Some)
}

fn logprobs(request: &ChatCompletionRequest, limits: &Limits) -> Result<Option<u32>, ApiError> {
    let wanted = request.logprobs.unwrap_or(false);
    match request.top_logprobs {
        Some(top) if top > 0 && !wanted => Err(ApiError::invalid(
            "top_logprobs",
            "top_logprobs is allowed only together with \"logprobs\": true",
        )),
        top => {
            let top = job::top_logprobs("top_logprobs", top.unwrap_or(0), limits)?;
            Ok(wanted.then_some(top))
        }
    }
}

fn check_supported(request: &ChatCompletionRequest) -> Result<(), ApiError> {
    let mut modalities = request.modalities.iter().flatten();
    if modalities.any(|modality| modality != "text") {
        return Err(ApiError::unsupported(
            "modalities",
            "only \"text\" is supported",
        ));
    }
    Ok(())
}

/// The prompt of a conversation alone, perhaps with the opening of the assistant's turn.
pub(crate) fn prompt(
    model: &ServedModel,
    mut request: ChatCompletionRequest,
    limits: &Limits,
    opens_turn: bool,
) -> Result<String, ApiError> {
    let tools = Tools::new(&mut request, limits)?;
    word(request, tools, model, limits, opens_turn).map(|(prompt, _)| prompt)
}

/// The prompt as the model's template words it, and how the answer to it is read.
fn word(
    request: ChatCompletionRequest,
    tools: Tools,
    model: &ServedModel,
    limits: &Limits,
    opens_turn: bool,
) -> Result<(String, OutputFormat), ApiError> {
    let Some(template) = &model.template else {
        let message = "this model has no chat template; use /v1/completions";
        return Err(ApiError::unsupported("messages", message));
    };
    let mut extra = request.chat_template_kwargs.unwrap_or_default();
    if extra.len() > limits.template_variables {
        let most = limits.template_variables;
        let message = format!(
            "chat_template_kwargs has {} entries; at most {most} fit",
            extra.len()
        );
        return Err(ApiError::invalid("chat_template_kwargs", message));
    }
    if let Some(effort) = &request.reasoning_effort {
        set_effort(&mut extra, effort, template)?;
    }
    let options = RenderOptions {
        tools: tools.shown,
        add_generation_prompt: opens_turn,
        extra,
        ..RenderOptions::default()
    };
    let mut messages = messages::for_template(request.messages, limits)?;
    if let Some(CallFormat::Mistral { .. }) = template.output_format().calls {
        messages::shorten_ids(&mut messages);
    }
    let prompt = template
        .render(&messages, &options)
        .map_err(|error| ApiError::invalid("messages", error.to_string()))?;
    let output = template.output_format().clone();
    let output = output.after_prompt(&prompt).with_tools(tools.specs);
    Ok((prompt, output))
}

/// Tells the template how much to think, by the names that families use; a request's own variables win.
fn set_effort(
    variables: &mut Map<String, Value>,
    effort: &str,
    template: &ChatTemplate,
) -> Result<(), ApiError> {
    let is_channels = template.output_format().calls == Some(CallFormat::Channels);
    let told = match effort {
        // gpt-oss knows three degrees.
        "none" | "minimal" if is_channels => "low",
        "xhigh" if is_channels => "high",
        "none" | "minimal" | "low" | "medium" | "high" | "xhigh" => effort,
        _ => {
            let message = "reasoning_effort must be \"none\", \"minimal\", \"low\", \"medium\", \"high\" or \"xhigh\"";
            return Err(ApiError::invalid("reasoning_effort", message));
        }
    };
    let thinks = Value::from(effort != "none");
    let told = [
        ("reasoning_effort", told.into()),
        ("enable_thinking", thinks.clone()),
        ("thinking", thinks),
    ];
    for (name, value) in told {
        variables.entry(name).or_insert(value);
    }
    Ok(())
}
