//! Which path leads where, and through which layers.

use super::app::App;
use super::error::ApiError;
use super::hosts::{self, HostRule};
use super::{access, admin, chat, completions, docs, record, service};
use axum::Router;
use axum::extract::Request;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::sync::Arc;
use utoipa_swagger_ui::SwaggerUi;

pub(crate) const CHAT: &str = "/v1/chat/completions";
pub(crate) const COMPLETIONS: &str = "/v1/completions";
const ADMIN_CACHE: &str = "/admin/cache";
/// The routes that only read.
pub(crate) const READING: [&str; 6] = [
    "/v1/models",
    "/v1/models/{*id}",
    "/health",
    "/ready",
    "/v1/loading/progress",
    "/metrics",
];

/// All routes for clients, with all layers. The last layer here is the outermost.
pub(crate) fn router(app: Arc<App>, rule: HostRule, with_metrics: bool) -> Router {
    declare_series(&app);
    let mut routes = Router::new()
        .route(CHAT, post(chat::chat_completions))
        .route(COMPLETIONS, post(completions::completions))
        .route(READING[0], get(service::list_models))
        .route(READING[1], get(service::get_model))
        .route(READING[2], get(service::health))
        .route(READING[3], get(service::ready))
        .route(READING[4], get(service::loading_progress))
        .route(ADMIN_CACHE, get(admin::cache))
        .merge(documentation(&app));
    if with_metrics {
        routes = routes.route(READING[5], get(service::metrics));
    }
    routes
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_route)
        .layer(from_fn_with_state(Arc::clone(&app), access::check_key))
        .layer(from_fn_with_state(Arc::clone(&app), access::check_origin))
        .layer(from_fn_with_state(Arc::new(rule), hosts::check_host))
        .layer(from_fn_with_state(Arc::clone(&app), record::keep_record))
        .with_state(app)
}

/// The routes of a listener for metrics: no key is asked for, and no page of any site is answered.
pub(crate) fn metrics_router(app: Arc<App>, rule: HostRule) -> Router {
    Router::new()
        .route(READING[2], get(service::health))
        .route(READING[3], get(service::ready))
        .route(READING[5], get(service::metrics))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_route)
        .layer(from_fn_with_state(Arc::clone(&app), access::check_origin))
        .layer(from_fn_with_state(Arc::new(rule), hosts::check_host))
        .layer(from_fn_with_state(Arc::clone(&app), record::keep_record))
        .with_state(app)
}

/// The document and a page that shows it, from files inside the binary.
fn documentation(app: &App) -> Router<Arc<App>> {
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
    for handler in [CHAT, COMPLETIONS] {
        app.metrics
            .declare_route(handler, "POST", &[200, 400, 404, 429, 499, 500, 503]);
    }
    for handler in READING {
        app.metrics.declare_route(handler, "GET", &[200]);
    }
}

async fn unknown_route(method: Method, uri: Uri) -> Response {
    ApiError::unknown_route(method.as_str(), uri.path()).into_response()
}

async fn wrong_method(method: Method) -> Response {
    ApiError::wrong_method(method.as_str()).into_response()
}
