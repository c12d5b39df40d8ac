//! Listening, draining, stopping.

use super::app::App;
use super::lifecycle::LifePhase;
use super::router::router;
use super::{HttpConfig, Limits, peer};
use crate::metrics::{MetricsHandle, UPKEEP_INTERVAL};
use crate::state::ModelSlot;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};

/// How long idle or stuck connections may take to close after the last answer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Waiting after an accept that failed, as it does when file descriptors run out.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Serves until SIGTERM or ctrl-c, then drains: `/ready` and new completions say 503 while accepted ones end, at most
/// [`HttpConfig::drain_timeout`]; what is left then ends with an error. A second signal ends at once.
///
/// The listener may accept before the model is loaded; until it appears in `slot`, completions say 503.
pub async fn serve(
    listener: TcpListener,
    config: HttpConfig,
    slot: ModelSlot,
    metrics: MetricsHandle,
) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, stops) = mpsc::channel(2);
    let watch = tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if sender.send(()).await.is_err() {
                break;
            }
        }
    });
    let served = serve_until(listener, config, slot, metrics, stops).await;
    watch.abort();
    served
}

/// As [`serve`], with messages of `stops` in place of signals. The sender must live as long as the server should.
pub async fn serve_until(
    listener: TcpListener,
    config: HttpConfig,
    slot: ModelSlot,
    metrics: MetricsHandle,
    mut stops: mpsc::Receiver<()>,
) -> io::Result<()> {
    let on_loopback = listener.local_addr()?.ip().to_canonical().is_loopback();
    let drain_timeout = config.drain_timeout;
    let app = Arc::new(App::new(config, slot, metrics.clone(), on_loopback));
    let upkeep = AbortOnDrop(tokio::spawn(keep_up(metrics)));
    let connections = Connections::new(&app);
    let accepting = connections.accept(&listener, router(Arc::clone(&app)));
    tokio::pin!(accepting);
    tokio::select! {
        () = &mut accepting => unreachable!("accepting never ends"),
        _ = stops.recv() => {}
    }
    tracing::info!("draining: new completions are refused, accepted ones go on");
    app.lifecycle.advance(LifePhase::Draining);
    // Accepting goes on, so that probes and late clients are told.
    let is_forced = tokio::select! {
        () = &mut accepting => unreachable!("accepting never ends"),
        () = app.lifecycle.is_idle() => false,
        () = tokio::time::sleep(drain_timeout) => false,
        _ = stops.recv() => true,
    };
    app.lifecycle.advance(LifePhase::Stopping);
    if !is_forced {
        connections.close().await;
    }
    drop(upkeep);
    Ok(())
}

async fn keep_up(metrics: MetricsHandle) {
    loop {
        tokio::time::sleep(UPKEEP_INTERVAL).await;
        metrics.upkeep();
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// All connections, a bounded number.
struct Connections {
    protocol: http1::Builder,
    peer_timeout: Duration,
    places: Arc<Semaphore>,
    graceful: std::sync::Mutex<Option<GracefulShutdown>>,
}

impl Connections {
    fn new(app: &App) -> Self {
        let limits = &app.config.limits;
        let mut protocol = http1::Builder::new();
        protocol
            .timer(TokioTimer::new())
            .header_read_timeout(limits.receive_timeout)
            .max_headers(limits.headers)
            .max_header_size(limits.head_bytes);
        Self {
            protocol,
            peer_timeout: limits.peer_timeout,
            places: Arc::new(Semaphore::new(connection_limit(limits, open_file_limit()))),
            graceful: std::sync::Mutex::new(Some(GracefulShutdown::new())),
        }
    }

    /// Accepts for ever; an error of one connection is no error of the listener.
    async fn accept(&self, listener: &TcpListener, router: Router) {
        loop {
            let place = Arc::clone(&self.places)
                .acquire_owned()
                .await
                .expect("never closed");
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            self.spawn(stream, router.clone(), place);
        }
    }

    fn spawn(&self, stream: TcpStream, router: Router, place: impl Send + 'static) {
        // Tokens are small and must not wait for each other.
        let _ = stream.set_nodelay(true);
        if let Err(error) = peer::give_up_after(&stream, self.peer_timeout) {
            tracing::debug!(%error, "a connection goes without time-outs of its peer");
        }
        let service = TowerToHyperService::new(router);
        let connection = self
            .protocol
            .serve_connection(TokioIo::new(stream), service);
        let graceful = self
            .graceful
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        let Some(graceful) = graceful.as_ref() else {
            return;
        };
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }

    /// Lets answers end and closes what is idle.
    async fn close(&self) {
        let graceful = self
            .graceful
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
            .take();
        if let Some(graceful) = graceful {
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, graceful.shutdown()).await;
        }
    }
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
