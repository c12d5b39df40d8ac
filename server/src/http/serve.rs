//! Listening, draining, stopping.

use super::app::App;
use super::connections::Connections;
use super::hosts::HostRule;
use super::lifecycle::LifePhase;
use super::router::{metrics_router, router};
use super::tls::Tls;
use super::{HttpConfig, Limits};
use crate::metrics::{MetricsHandle, UPKEEP_INTERVAL};
use crate::state::ModelSlot;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Connections of the listener for metrics: a few scrapers and probes.
const METRICS_CONNECTIONS: usize = 16;

/// Where the server listens.
pub struct Listeners {
    /// For clients.
    pub clients: TcpListener,
    /// If clients are to speak TLS. SIGHUP makes [`serve`] read its files again.
    pub tls: Option<Tls>,
    /// For `/metrics`, which then is nowhere else, and for probes. It asks for no key.
    pub metrics: Option<TcpListener>,
}

impl From<TcpListener> for Listeners {
    fn from(clients: TcpListener) -> Self {
        Self {
            clients,
            tls: None,
            metrics: None,
        }
    }
}

/// Serves until SIGTERM or ctrl-c, then drains: `/ready` and new completions say 503 while accepted ones end, at most
/// [`HttpConfig::drain_timeout`]; what is left then ends with an error. A second signal ends at once.
///
/// The listeners may accept before the model is loaded; until it appears in `slot`, completions say 503.
pub async fn serve(
    listeners: impl Into<Listeners>,
    config: HttpConfig,
    slot: ModelSlot,
    metrics: MetricsHandle,
) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listeners = listeners.into();
    let reloading = match listeners.tls.clone() {
        Some(tls) => Some(AbortOnDrop(tokio::spawn(reload(
            tls,
            signal(SignalKind::hangup())?,
        )))),
        None => None,
    };
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
    let served = serve_until(listeners, config, slot, metrics, stops).await;
    watch.abort();
    drop(reloading);
    served
}

async fn reload(tls: Tls, mut hangups: Signal) {
    while hangups.recv().await.is_some() {
        match tls.reload() {
            Ok(()) => tracing::info!("the certificate was read again"),
            Err(error) => tracing::error!(%error, "the old certificate stays"),
        }
    }
}

/// As [`serve`], with messages of `stops` in place of signals. The sender must live as long as the server should.
pub async fn serve_until(
    listeners: impl Into<Listeners>,
    config: HttpConfig,
    slot: ModelSlot,
    metrics: MetricsHandle,
    mut stops: mpsc::Receiver<()>,
) -> io::Result<()> {
    let listeners = listeners.into();
    let drain_timeout = config.drain_timeout;
    let app = Arc::new(App::new(config, slot, metrics.clone()));
    let upkeep = AbortOnDrop(tokio::spawn(keep_up(metrics)));
    let longest_request = app.config.timeouts.longest();
    let connections = Connections::new(&app.config.limits, longest_request);
    let metrics_alone = start_metrics(&app, listeners.metrics)?;
    let names = &app.config.allowed_hosts;
    let on_loopback = is_loopback(listeners.clients.local_addr()?);
    let rule = HostRule::new(app.accounts.needs_key(), on_loopback, names);
    let router = router(Arc::clone(&app), rule, metrics_alone.is_none());
    let accepting = connections.accept(&listeners.clients, router, listeners.tls.as_ref());
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
    drop((upkeep, metrics_alone));
    Ok(())
}

fn start_metrics(app: &Arc<App>, listener: Option<TcpListener>) -> io::Result<Option<AbortOnDrop>> {
    let Some(listener) = listener else {
        return Ok(None);
    };
    let on_loopback = is_loopback(listener.local_addr()?);
    let rule = HostRule::new(false, on_loopback, &app.config.allowed_hosts);
    let router = metrics_router(Arc::clone(app), rule);
    let limits = Limits {
        connections: METRICS_CONNECTIONS,
        ..app.config.limits.clone()
    };
    let connections = Connections::new(&limits, Some(limits.receive_timeout));
    let accepting = async move { connections.accept(&listener, router, None).await };
    Ok(Some(AbortOnDrop(tokio::spawn(accepting))))
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
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
