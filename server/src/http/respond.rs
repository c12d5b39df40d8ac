//! Answers to HTTP: whole as one JSON body, or streamed as server-sent events.

use super::answer::{Piece, TokenScore};
use super::error::ApiError;
use super::generation::{Generation, Update};
use super::held;
use super::job::Delivery;
use axum::Json;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use odmoe_openapi::{FinishReason, Usage};
use odmoe_text::output::OutputMessage;
use serde::Serialize;
use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DONE: &str = "data: [DONE]\n\n";
/// A comment: clients skip it, proxies see life.
pub(crate) const KEEP_ALIVE: &str = ":\n\n";

/// How an endpoint words its answers.
pub(crate) trait Dialect: Send + Sync + 'static {
    type Chunk: Serialize;
    type Whole: Serialize;
    /// What an answer's stream begins with.
    fn opening(&mut self, index: u32) -> Vec<Self::Chunk>;
    /// More of an answer: at least one part.
    fn piece(&mut self, index: u32, piece: Piece) -> Vec<Self::Chunk>;
    /// The end, without parts; `scores` are of tokens that have no text.
    fn ending(&mut self, index: u32, scores: Vec<TokenScore>, end: End) -> Vec<Self::Chunk>;
    /// The counts, without choices, where a stream asked for them.
    fn usage(&mut self, usage: Usage) -> Vec<Self::Chunk>;
    /// Everything at once.
    fn whole(self, answers: Vec<WholeAnswer>, usage: Usage) -> Self::Whole;
    /// The name of a chunk's event, where events have names.
    fn name(_chunk: &Self::Chunk) -> Option<&'static str> {
        None
    }
    /// How a stream ends that fails in the middle.
    fn failure(&mut self, error: &ApiError) -> String {
        event(&error.to_body())
    }
    /// What follows the last event.
    fn farewell(&self) -> &'static str {
        DONE
    }
}

/// How an answer ended.
pub(crate) struct End {
    pub(crate) reason: FinishReason,
    /// The stop string that ended it.
    pub(crate) stop: Option<String>,
}

/// An answer that has ended.
pub(crate) struct WholeAnswer {
    pub(crate) message: OutputMessage,
    pub(crate) scores: Vec<TokenScore>,
    pub(crate) end: End,
}

/// What is the same on every chunk of a response.
pub(crate) struct ResponseHead {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) system_fingerprint: String,
}

impl ResponseHead {
    pub(crate) fn new(prefix: &str, model: &str) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            id: format!("{prefix}-{}", uuid::Uuid::new_v4().simple()),
            created: since.map_or(0, |since| since.as_secs()),
            model: model.to_owned(),
            system_fingerprint: concat!("odmoe-", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Turns the answers into a response.
pub(crate) async fn respond(
    generation: Generation,
    dialect: impl Dialect,
    delivery: Delivery,
    keep_alive: Duration,
) -> Result<Response, ApiError> {
    match delivery {
        Delivery::Whole => whole(generation, dialect).await,
        Delivery::Streamed { with_usage } => {
            Ok(streamed(generation, dialect, with_usage, keep_alive))
        }
    }
}

async fn whole(mut generation: Generation, dialect: impl Dialect) -> Result<Response, ApiError> {
    let new = || WholeAnswer {
        message: OutputMessage::default(),
        scores: Vec::new(),
        end: End {
            reason: FinishReason::Stop,
            stop: None,
        },
    };
    let mut answers: Vec<_> = (0..generation.answers()).map(|_| new()).collect();
    let mut share = generation.share();
    let exhausted = ApiError::answers_exhausted(generation.retry_after());
    while let Some(update) = generation.next().await {
        let (index, piece, reason) = match update {
            Update::Piece { index, piece } => (index, piece, None),
            Update::Ended {
                index,
                piece,
                reason,
            } => (index, piece, Some(reason)),
            Update::Failed(error) => return Err(error),
        };
        if !share.grow(piece.size_bytes()) {
            return Err(exhausted);
        }
        let answer = &mut answers[index as usize];
        answer.message.extend(piece.parts);
        answer.scores.extend(piece.scores);
        if let Some(reason) = reason {
            let stop = generation.matched_stop(index);
            answer.end = End { reason, stop };
        }
    }
    let response = Json(dialect.whole(answers, generation.usage())).into_response();
    let length = response.body().size_hint().exact().unwrap_or(0);
    if !share.set(usize::try_from(length).unwrap_or(usize::MAX)) {
        return Err(exhausted);
    }
    Ok(held::until_sent(response, (generation, share)))
}

fn streamed<D: Dialect>(
    generation: Generation,
    dialect: D,
    with_usage: bool,
    keep_alive: Duration,
) -> Response {
    let events = EventStream {
        generation,
        dialect,
        with_usage,
        keep_alive,
        stage: StreamStage::Opening,
    };
    let body = stream::unfold(events, |mut events| async move {
        events
            .next()
            .await
            .map(|bytes| (Ok::<_, Infallible>(bytes), events))
    });
    event_stream_response(Body::from_stream(body))
}

/// A response of server-sent events that proxies pass on at once.
pub(crate) fn event_stream_response(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

#[derive(Clone, Copy, PartialEq)]
enum StreamStage {
    Opening,
    Running,
    Over,
}

/// A stream ends exactly once, by `[DONE]`, after either every ending or one error.
struct EventStream<D> {
    generation: Generation,
    dialect: D,
    with_usage: bool,
    keep_alive: Duration,
    stage: StreamStage,
}

impl<D: Dialect> EventStream<D> {
    async fn next(&mut self) -> Option<Bytes> {
        match self.stage {
            StreamStage::Opening => {
                self.stage = StreamStage::Running;
                let opening = self.opening();
                if opening.is_empty() {
                    self.run().await
                } else {
                    Some(opening.into())
                }
            }
            StreamStage::Running => self.run().await,
            StreamStage::Over => None,
        }
    }

    fn opening(&mut self) -> String {
        let answers = 0..self.generation.answers();
        answers
            .map(|index| events::<D>(self.dialect.opening(index)))
            .collect()
    }

    async fn run(&mut self) -> Option<Bytes> {
        let next = tokio::time::timeout(self.keep_alive, self.generation.next());
        let Ok(update) = next.await else {
            return Some(Bytes::from_static(KEEP_ALIVE.as_bytes()));
        };
        Some(Bytes::from(match update {
            Some(Update::Piece { index, piece }) => events::<D>(self.dialect.piece(index, piece)),
            Some(Update::Ended {
                index,
                piece,
                reason,
            }) => self.ending(index, piece, reason),
            Some(Update::Failed(error)) => {
                self.stage = StreamStage::Over;
                self.dialect.failure(&error) + self.dialect.farewell()
            }
            None => {
                self.stage = StreamStage::Over;
                let usage = self
                    .with_usage
                    .then(|| self.dialect.usage(self.generation.usage()));
                usage.map(events::<D>).unwrap_or_default() + self.dialect.farewell()
            }
        }))
    }

    fn ending(&mut self, index: u32, piece: Piece, reason: FinishReason) -> String {
        let stop = self.generation.matched_stop(index);
        let end = End { reason, stop };
        if piece.parts.is_empty() {
            return events::<D>(self.dialect.ending(index, piece.scores, end));
        }
        let last = events::<D>(self.dialect.piece(index, piece));
        last + &events::<D>(self.dialect.ending(index, Vec::new(), end))
    }
}

/// A stream that is whole before it begins.
pub(crate) fn all_at_once<D: Dialect>(dialect: &D, chunks: Vec<D::Chunk>) -> Response {
    event_stream_response(Body::from(events::<D>(chunks) + dialect.farewell()))
}

fn events<D: Dialect>(chunks: Vec<D::Chunk>) -> String {
    chunks.iter().map(named_event::<D>).collect()
}

/// One server-sent event, with its name where events have names.
pub(crate) fn named_event<D: Dialect>(chunk: &D::Chunk) -> String {
    match D::name(chunk) {
        Some(name) => format!("event: {name}\n{}", event(chunk)),
        None => event(chunk),
    }
}

/// JSON of an object whose last member is an empty list, with that list's items written only as they are sent.
pub(crate) fn json_in_pieces<T: Serialize>(
    object: &impl Serialize,
    items: impl Iterator<Item = T> + Send + 'static,
) -> Response {
    let json = serde_json::to_string(object).expect("our own types become JSON");
    let head = json.strip_suffix("]}").expect("a list comes last");
    let items = items.enumerate().map(|(place, item)| {
        let json = serde_json::to_string(&item).expect("our own types become JSON");
        if place == 0 { json } else { format!(",{json}") }
    });
    let head = std::iter::once(head.to_owned());
    let pieces = head.chain(items).chain(std::iter::once("]}".to_owned()));
    let pieces = pieces.map(|piece| Ok::<_, Infallible>(Bytes::from(piece)));
    let mut response = Response::new(Body::from_stream(stream::iter(pieces)));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// One server-sent event.
pub(crate) fn event(payload: &impl Serialize) -> String {
    let json = serde_json::to_string(payload).expect("our own types become JSON");
    format!("data: {json}\n\n")
}
