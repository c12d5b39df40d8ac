//! The OpenAPI document, made from the routes and types themselves.

use super::{
    Limits, admin, anthropic, chat, completions, embeddings, experts, responses, service, tokens,
    trace,
};
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "odmoe",
        description = "Serves mixture-of-experts models that do not fit in memory, by OpenAI's API. \
            Paths under `/v1` answer without that prefix too.",
    ),
    paths(
        chat::chat_completions,
        completions::completions,
        anthropic::messages,
        anthropic::count_tokens,
        responses::create,
        responses::retrieve,
        responses::delete,
        responses::cancel,
        responses::input_items,
        embeddings::embeddings,
        tokens::tokenize,
        tokens::detokenize,
        tokens::apply_template,
        service::list_models,
        service::get_model,
        service::health,
        service::ready,
        service::loading_progress,
        service::metrics,
        admin::cache,
        admin::change_cache,
        experts::experts,
        trace::trace,
    ),
    // The requests flatten them, and they are not found through them.
    components(schemas(
        odmoe_openapi::ConversationFields,
        odmoe_openapi::SamplingFields,
        odmoe_openapi::StructuredFields,
    )),
    security(("key" = []), ()),
    modifiers(&KeyScheme),
    tags(
        (name = "completions", description = "Answers, whole or streamed"),
        (name = "anthropic", description = "Answers in the words of Anthropic's API"),
        (name = "responses", description = "Answers as lists of items, which can be kept"),
        (name = "embeddings", description = "Vectors of texts"),
        (name = "tokens", description = "The text side of the model, without an answer"),
        (name = "models", description = "What is served"),
        (name = "service", description = "For operators; /health and /ready never need a key"),
    ),
)]
struct Document;

struct KeyScheme;

impl utoipa::Modify for KeyScheme {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("key", SecurityScheme::Http(scheme.clone()));
        components.add_security_scheme("admin", SecurityScheme::Http(scheme));
    }
}

/// What `GET /openapi.json` answers.
pub fn openapi_document(limits: &Limits) -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    let what = document.info.description.take().unwrap_or_default();
    document.info.description = Some(format!("{what}\n\n{}", limits.describe()));
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    document
}
