//! Which path leads where, and through which layers.

use super::app::App;
use super::error::ApiError;
use super::hosts::{self, HostRule};
use super::{
    access, admin, anthropic, chat, completions, docs, embeddings, experts, record, responses,
    service, tokens, trace,
};
use axum::Router;
use axum::extract::Request;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post};
use std::sync::Arc;
use utoipa_swagger_ui::SwaggerUi;

/// What the path of a client's route begins with. Clients differ in whether their base URL has it.
const PREFIX: &str = "/v1";

pub(crate) const METRICS: &str = "/metrics";
/// What a listener for metrics serves.
const BESIDE_METRICS: [&str; 3] = ["/health", "/ready", METRICS];

type Routes = Router<Arc<App>>;

/// All routes for clients, with all layers. The last layer here is the outermost.
pub(crate) fn router(app: Arc<App>, rule: HostRule, with_metrics: bool) -> Router {
    declare_series(&app);
    let clients = client_routes()
        .into_iter()
        .fold(Router::new(), |routes, (path, _, handler)| {
            routes
                .route(path, handler.clone())
                .route(&format!("{PREFIX}{path}"), handler)
        });
    let service = service_routes()
        .into_iter()
        .filter(|(path, ..)| with_metrics || *path != METRICS);
    service
        .fold(clients, |routes, (path, _, handler)| {
            routes.route(path, handler)
        })
        .merge(documentation(&app))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_route)
        .layer(from_fn_with_state(Arc::clone(&app), access::check_key))
        .layer(from_fn_with_state(Arc::clone(&app), access::check_origin))
        .layer(from_fn_with_state(Arc::new(rule), hosts::check_host))
        .layer(from_fn(anthropic::shape))
        .layer(from_fn_with_state(Arc::clone(&app), record::keep_record))
        .with_state(app)
}

/// The routes of a listener for metrics: no key is asked for, and no page of any site is answered.
pub(crate) fn metrics_router(app: Arc<App>, rule: HostRule) -> Router {
    let routes = service_routes()
        .into_iter()
        .filter(|(path, ..)| BESIDE_METRICS.contains(path));
    routes
        .fold(Router::new(), |routes, (path, _, handler)| {
            routes.route(path, handler)
        })
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_route)
        .layer(from_fn_with_state(Arc::clone(&app), access::check_origin))
        .layer(from_fn_with_state(Arc::new(rule), hosts::check_host))
        .layer(from_fn_with_state(Arc::clone(&app), record::keep_record))
        .with_state(app)
}

/// Path, method and handler of a route.
type Route = (&'static str, &'static str, MethodRouter<Arc<App>>);

/// What clients of the API call, each with [`PREFIX`] and without.
fn client_routes() -> Vec<Route> {
    vec![
        ("/chat/completions", "POST", post(chat::chat_completions)),
        ("/completions", "POST", post(completions::completions)),
        ("/messages", "POST", post(anthropic::messages)),
        (
            "/messages/count_tokens",
            "POST",
            post(anthropic::count_tokens),
        ),
        ("/responses", "POST", post(responses::create)),
        ("/responses/{id}", "GET", get(responses::retrieve)),
        ("/responses/{id}", "DELETE", delete(responses::delete)),
        ("/responses/{id}/cancel", "POST", post(responses::cancel)),
        (
            "/responses/{id}/input_items",
            "GET",
            get(responses::input_items),
        ),
        ("/embeddings", "POST", post(embeddings::embeddings)),
        ("/tokenize", "POST", post(tokens::tokenize)),
        ("/detokenize", "POST", post(tokens::detokenize)),
        ("/apply-template", "POST", post(tokens::apply_template)),
        ("/models", "GET", get(service::list_models)),
        ("/models/{*id}", "GET", get(service::get_model)),
    ]
}

/// What operators and their programs call.
fn service_routes() -> Vec<Route> {
    vec![
        ("/health", "GET", get(service::health)),
        ("/ready", "GET", get(service::ready)),
        (
            "/v1/loading/progress",
            "GET",
            get(service::loading_progress),
        ),
        (METRICS, "GET", get(service::metrics)),
        ("/admin/cache", "GET", get(admin::cache)),
        ("/admin/cache", "PATCH", patch(admin::change_cache)),
        ("/admin/experts", "GET", get(experts::experts)),
        ("/admin/trace", "GET", get(trace::trace)),
    ]
}

/// Every route by its full path, and its method.
pub(crate) fn paths() -> impl Iterator<Item = (String, &'static str)> {
    let clients = client_routes().into_iter();
    let clients = clients.map(|(path, method, _)| (format!("{PREFIX}{path}"), method));
    let service = service_routes().into_iter();
    clients.chain(service.map(|(path, method, _)| (path.to_owned(), method)))
}

/// The document and a page that shows it, from files inside the binary.
fn documentation(app: &App) -> Routes {
    let document = docs::openapi_document(&app.config.limits);
    let page = SwaggerUi::new("/docs").url("/openapi.json", document);
    Router::from(page).layer(from_fn(shape_missing_file))
}

/// The page's own 404 has no body.
async fn shape_missing_file(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    match response.status() {
        StatusCode::NOT_FOUND => ApiError::unknown_route(method.as_str(), &path).into_response(),
        _ => response,
    }
}

fn declare_series(app: &App) {
    for (handler, method) in paths() {
        let statuses: &[u16] = match method {
            "POST" => &[200, 400, 404, 429, 499, 500, 503],
            _ => &[200],
        };
        app.metrics.declare_route(&handler, method, statuses);
    }
}

async fn unknown_route(method: Method, uri: Uri) -> Response {
    ApiError::unknown_route(method.as_str(), uri.path()).into_response()
}

async fn wrong_method(method: Method) -> Response {
    ApiError::wrong_method(method.as_str()).into_response()
}
