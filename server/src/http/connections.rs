//! Accepting: a bounded number of connections, of which idle ones make room for new ones.

use super::tls::Tls;
use super::{Limits, peer};
use axum::body::Body;
use axum::{Extension, Router};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::HttpService;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tower::Layer;

/// How long idle or stuck connections may take to close after the last answer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Waiting after an accept that failed, as it does when file descriptors run out.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// How often idle connections are looked for while all places are taken.
const ROOM_INTERVAL: Duration = Duration::from_millis(100);
/// A connection that was used within this time is not idle: its answer may still be on the way.
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// All connections.
pub(super) struct Connections {
    protocol: http1::Builder,
    peer_timeout: Duration,
    handshake_timeout: Duration,
    /// How long a connection may be busy with one request.
    longest_request: Option<Duration>,
    places: Arc<Semaphore>,
    open: Mutex<Vec<Weak<Usage>>>,
    graceful: Mutex<Option<GracefulShutdown>>,
}

/// Whether a connection is in use.
pub(super) struct Usage {
    state: Mutex<UsageState>,
    make_room: Notify,
}

struct UsageState {
    requests: usize,
    /// When the last request began or ended.
    last_used: Instant,
}

impl Usage {
    fn new() -> Self {
        let state = UsageState {
            requests: 0,
            last_used: Instant::now(),
        };
        Self {
            state: Mutex::new(state),
            make_room: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, UsageState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_idle(&self) -> bool {
        let state = self.state();
        state.requests == 0 && state.last_used.elapsed() >= IDLE_AFTER
    }

    /// Keeps the connection from being idle as long as the guard lives.
    pub(super) fn begin_request(self: &Arc<Self>) -> InUse {
        let mut state = self.state();
        state.requests += 1;
        state.last_used = Instant::now();
        drop(state);
        InUse(Arc::clone(self))
    }

    /// Ends once one request has taken longer than `longest`: its answer is over, and the peer takes it in drops.
    async fn is_overdue(&self, longest: Option<Duration>) {
        let Some(longest) = longest else {
            return std::future::pending().await;
        };
        loop {
            let left = {
                let state = self.state();
                let busy = if state.requests == 0 {
                    Duration::ZERO
                } else {
                    state.last_used.elapsed()
                };
                longest.saturating_sub(busy)
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}

/// A request of a connection.
pub(super) struct InUse(Arc<Usage>);

impl Drop for InUse {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.requests -= 1;
        state.last_used = Instant::now();
    }
}

impl Connections {
    /// `longest_request` is how long an answer may take to be made, if that is bounded.
    pub(super) fn new(limits: &Limits, longest_request: Option<Duration>) -> Self {
        let mut protocol = http1::Builder::new();
        protocol
            .timer(TokioTimer::new())
            .header_read_timeout(limits.receive_timeout)
            .max_headers(limits.headers)
            .max_header_size(limits.head_bytes);
        Self {
            protocol,
            peer_timeout: limits.peer_timeout,
            handshake_timeout: limits.receive_timeout,
            longest_request: longest_request
                .map(|longest| longest + limits.receive_timeout + limits.peer_timeout),
            places: Arc::new(Semaphore::new(connection_limit(limits, open_file_limit()))),
            open: Mutex::default(),
            graceful: Mutex::new(Some(GracefulShutdown::new())),
        }
    }

    /// Accepts for ever; an error of one connection is no error of the listener.
    pub(super) async fn accept(&self, listener: &TcpListener, router: Router, tls: Option<&Tls>) {
        loop {
            let place = self.place().await;
            match listener.accept().await {
                Ok((stream, _)) => self.spawn(stream, router.clone(), place, tls),
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    /// A place for one more connection. While there is none, idle connections are closed, so that a health probe
    /// does not wait for their time-out.
    async fn place(&self) -> OwnedSemaphorePermit {
        loop {
            let place = Arc::clone(&self.places).acquire_owned();
            match tokio::time::timeout(ROOM_INTERVAL, place).await {
                Ok(place) => return place.expect("never closed"),
                Err(_) => self.close_idle(),
            }
        }
    }

    fn close_idle(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|usage| usage.strong_count() > 0);
        for usage in open
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|usage| usage.is_idle())
        {
            usage.make_room.notify_one();
        }
    }

    fn remember(&self, usage: &Arc<Usage>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Amortised: the list is at most twice as long as there were connections.
        if open.len() == open.capacity() {
            open.retain(|usage| usage.strong_count() > 0);
        }
        open.push(Arc::downgrade(usage));
    }

    fn spawn(
        &self,
        stream: TcpStream,
        router: Router,
        place: OwnedSemaphorePermit,
        tls: Option<&Tls>,
    ) {
        // Tokens are small and must not wait for each other.
        let _ = stream.set_nodelay(true);
        if let Err(error) = peer::give_up_after(&stream, self.peer_timeout) {
            tracing::debug!(%error, "a connection goes without time-outs of its peer");
        }
        let usage = Arc::new(Usage::new());
        self.remember(&usage);
        let service = TowerToHyperService::new(Extension(Arc::clone(&usage)).layer(router));
        let graceful = self.graceful.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(watcher) = graceful.as_ref().map(GracefulShutdown::watcher) else {
            return;
        };
        drop(graceful);
        let protocol = self.protocol.clone();
        let handshake = tls.map(|tls| (tls.clone(), self.handshake_timeout));
        let connection = async move {
            match handshake {
                None => serve_stream(stream, protocol, service, watcher).await,
                Some((tls, patience)) => {
                    let shaken = tokio::time::timeout(patience, tls.acceptor.accept(stream)).await;
                    serve_stream(shaken??, protocol, service, watcher).await
                }
            }
        };
        let longest_request = self.longest_request;
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                },
                () = usage.make_room.notified() => {
                    tracing::debug!("an idle connection was closed to make room");
                }
                () = usage.is_overdue(longest_request) => {
                    tracing::debug!("a connection was cut: its peer did not read its answer in time");
                }
            }
        });
    }

    /// Lets answers end and closes what is idle.
    pub(super) async fn close(&self) {
        let graceful = self
            .graceful
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(graceful) = graceful {
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, graceful.shutdown()).await;
        }
    }
}

/// Anything that ends a connection, for the log.
type Ended = Result<(), Box<dyn std::error::Error + Send + Sync>>;

async fn serve_stream<S, R>(
    stream: S,
    protocol: http1::Builder,
    service: R,
    watcher: Watcher,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    R: HttpService<Incoming, ResBody = Body> + Send,
    R::Future: Send,
    R::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let connection = protocol.serve_connection(TokioIo::new(stream), service);
    Ok(watcher.watch(connection).await?)
}

/// The soft limit of open files.
fn open_file_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// At most half of the open files are connections; the rest is for shards and everything else.
fn connection_limit(limits: &Limits, open_files: Option<u64>) -> usize {
    let half = open_files.map_or(usize::MAX, |files| (files / 2) as usize);
    limits
        .connections
        .min(half)
        .clamp(1, Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_half_of_the_open_files() {
        let limits = Limits {
            connections: 1024,
            ..Limits::default()
        };
        assert_eq!(connection_limit(&limits, Some(128)), 64);
        assert_eq!(connection_limit(&limits, Some(1 << 20)), 1024);
        assert_eq!(connection_limit(&limits, None), 1024);
        assert_eq!(connection_limit(&limits, Some(0)), 1);
    }
}
