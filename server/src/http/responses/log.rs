//! The events of a response that is made in the background, for whoever follows it: at once, later, or again.

use super::super::backlog::Share;
use super::super::respond::KEEP_ALIVE;
use axum::body::Bytes;
use futures_util::{Stream, stream};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// What is handed to a reader at once: a slow one holds no more than this beside the log.
const PIECE_BYTES: usize = 64 << 10;

/// See the module. The place of an event is its sequence number.
pub(crate) struct EventLog {
    state: Mutex<State>,
    /// Rings when there is more to read, or when there will be no more.
    changed: watch::Sender<()>,
}

struct State {
    events: Vec<Bytes>,
    bytes: usize,
    /// Of what all answers may hold, until the response is whole and is counted among those that are kept.
    share: Option<Share>,
    is_over: bool,
}

impl EventLog {
    /// An empty one, which grows within `share`.
    pub(super) fn new(share: Share) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                events: Vec::new(),
                bytes: 0,
                share: Some(share),
                is_over: false,
            }),
            changed: watch::Sender::new(()),
        })
    }

    /// Adds events. False, and nothing is added, where there is no room.
    pub(super) fn append(&self, events: Vec<String>) -> bool {
        let mut state = self.lock();
        let bytes = bytes_of(&events);
        if state.share.as_mut().is_some_and(|share| !share.grow(bytes)) {
            return false;
        }
        state.add(events);
        drop(state);
        self.changed.send_replace(());
        true
    }

    /// Adds the last events, for which there is always room, and nothing from here on. Readers hear of it by
    /// [`EventLog::tell_end`], once the response can be retrieved as the events say it is.
    pub(super) fn end(&self, events: Vec<String>) {
        let mut state = self.lock();
        state.add(events);
        state.is_over = true;
        state.share = None;
    }

    /// See [`EventLog::end`].
    pub(super) fn tell_end(&self) {
        self.changed.send_replace(());
    }

    /// What it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// The events from `first` on, as they come; comments while none does. The stream ends with the log.
    pub(super) fn follow(
        self: Arc<Self>,
        first: usize,
        keep_alive: Duration,
    ) -> impl Stream<Item = Result<Bytes, Infallible>> {
        let changed = self.changed.subscribe();
        stream::unfold((self, first, changed), move |state| async move {
            let (log, next, mut changed) = state;
            loop {
                changed.borrow_and_update();
                let (piece, next) = log.piece(next)?;
                if !piece.is_empty() {
                    return Some((Ok(piece), (log, next, changed)));
                }
                if tokio::time::timeout(keep_alive, changed.changed())
                    .await
                    .is_err()
                {
                    let comment = Bytes::from_static(KEEP_ALIVE.as_bytes());
                    return Some((Ok(comment), (log, next, changed)));
                }
            }
        })
    }

    /// Events from `next` on, and the place after them; None where none will ever come.
    fn piece(&self, next: usize) -> Option<(Bytes, usize)> {
        let state = self.lock();
        let events = state.events.get(next..).unwrap_or_default();
        if events.is_empty() {
            return (!state.is_over).then(|| (Bytes::new(), next));
        }
        let mut piece = Vec::new();
        let mut taken = 0;
        for event in events {
            if taken > 0 && piece.len() + event.len() > PIECE_BYTES {
                break;
            }
            piece.extend_from_slice(event);
            taken += 1;
        }
        Some((piece.into(), next + taken))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, events: Vec<String>) {
        self.bytes += bytes_of(&events);
        self.events.extend(events.into_iter().map(Bytes::from));
    }
}

fn bytes_of(events: &[String]) -> usize {
    let of = |event: &String| event.len() + size_of::<Bytes>();
    events.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::super::super::backlog::OutputBudget;
    use super::*;
    use futures_util::StreamExt;

    const LONG: Duration = Duration::from_secs(60);

    fn log(limit_bytes: usize) -> Arc<EventLog> {
        EventLog::new(Share::new(&OutputBudget::new(limit_bytes)))
    }

    async fn all(log: &Arc<EventLog>, first: usize) -> String {
        let pieces = Arc::clone(log).follow(first, LONG);
        let pieces: Vec<_> = pieces.map(|piece| piece.unwrap()).collect().await;
        String::from_utf8(pieces.concat()).unwrap()
    }

    #[tokio::test]
    async fn whoever_follows_gets_all_from_where_he_begins() {
        let log = log(1 << 20);
        assert!(log.append(vec!["a".into(), "b".into()]));
        let early = {
            let log = Arc::clone(&log);
            tokio::spawn(async move { all(&log, 0).await })
        };
        tokio::task::yield_now().await;
        assert!(log.append(vec!["c".into()]));
        log.end(vec!["d".into()]);
        log.tell_end();
        assert_eq!(early.await.unwrap(), "abcd");
        assert_eq!(all(&log, 2).await, "cd");
        assert_eq!(all(&log, 4).await, "");
        assert_eq!(all(&log, usize::MAX).await, "", "far beyond the end");
    }

    #[tokio::test]
    async fn silence_is_filled_with_comments() {
        let log = log(1 << 20);
        let mut follower = std::pin::pin!(Arc::clone(&log).follow(0, Duration::from_millis(1)));
        assert_eq!(follower.next().await.unwrap().unwrap(), KEEP_ALIVE);
        log.append(vec!["a".into()]);
        assert_eq!(follower.next().await.unwrap().unwrap(), "a");
    }

    #[test]
    fn a_log_for_which_there_is_no_room_does_not_grow_but_ends() {
        let log = log(0);
        assert!(!log.append(vec!["x".repeat(1 << 20)]));
        log.end(vec!["end".into()]);
        assert_eq!(log.piece(0).unwrap().0, "end");
        assert!(log.piece(1).is_none());
    }

    #[test]
    fn much_is_read_in_pieces() {
        let log = log(1 << 24);
        let event = "x".repeat(PIECE_BYTES / 2 + 1);
        assert!(log.append(vec![event.clone(), event.clone(), event]));
        assert_eq!(log.piece(0).unwrap().1, 1);
    }
}
