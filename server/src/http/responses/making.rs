//! Making a response for which nobody waits.

use super::super::error::ApiError;
use super::super::generation::{Generation, Update};
use super::super::respond::{Dialect, named_event};
use super::turn::Turn;
use odmoe_openapi::ResponseEvent;
use std::sync::Arc;
use tokio::sync::Notify;

/// Makes it, whole or until `cancel` rings, and tells whoever follows its events.
pub(super) async fn make(mut generation: Generation, mut turn: Turn, cancel: Arc<Notify>) {
    let exhausted = ApiError::answers_exhausted(generation.retry_after());
    let opening = turn.opening(0);
    let mut has_room = tell(&turn, opening);
    while has_room {
        let update = tokio::select! {
            update = generation.next() => update,
            () = cancel.notified() => {
                turn.cancel();
                return end(&turn, Vec::new());
            }
        };
        has_room = match update {
            Some(Update::Piece { piece, .. }) => {
                let events = turn.take(piece);
                tell(&turn, events)
            }
            Some(Update::Ended { piece, reason, .. }) => {
                let mut events = turn.take(piece);
                events.extend(turn.end(reason));
                tell(&turn, events)
            }
            Some(Update::Failed(error)) => {
                let events = turn.fail(&error);
                return end(&turn, events);
            }
            None => {
                let events = turn.last(generation.usage());
                return end(&turn, events);
            }
        };
    }
    drop(generation);
    let events = turn.fail(&exhausted);
    end(&turn, events);
}

/// False where there is no room for more events.
fn tell(turn: &Turn, events: Vec<ResponseEvent>) -> bool {
    let log = turn.keeper.log.as_ref();
    log.is_none_or(|log| log.append(texts(&events)))
}

/// The response is kept before its last event is told: whoever then retrieves it finds it whole.
fn end(turn: &Turn, events: Vec<ResponseEvent>) {
    if let Some(log) = &turn.keeper.log {
        log.end(texts(&events));
    }
    turn.keep();
    if let Some(log) = &turn.keeper.log {
        log.tell_end();
    }
}

fn texts(events: &[ResponseEvent]) -> Vec<String> {
    events.iter().map(named_event::<Turn>).collect()
}
